"""What many prompts begin with, computed once: its keys and values are laid under each batch of answers.

Layout of a batch: shared tokens, then padding, then what is each row's own. Positions count real tokens, so
a row's own part goes on where the shared part ends; padding is never attended to.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from inspect import signature
from itertools import takewhile
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

LEAST_SAVED_TOKENS = 32  # reading so many tokens takes longer than one more forward pass; measured on a CPU


class RoomyLayer(DynamicLayer):
    """One layer's keys and values, with room for all that will come.

    Upstream's layer copies all it holds at each new token; this one writes the new token behind the others.
    Shapes are (rows, heads, tokens, width of a head).
    """

    def __init__(self, room_tokens: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.room_tokens = room_tokens

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Take the room; nothing is held yet."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self._key_room, self._value_room = self._room_like(key_states), self._room_like(value_states)
        self._hold(0)
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write behind what is held, and return all that is held then."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        self._key_room[:, :, start:end] = key_states
        self._value_room[:, :, start:end] = value_states
        return self._hold(end)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows, and their room."""
        keys, values = (tensor[indices] for tensor in self.states())
        self.lazy_initialization(keys, values)
        self.update(keys, values)

    def states(self) -> tuple[Tensor, Tensor]:
        """Keys and values held, views of the room."""
        return cast(Tensor, self.keys), cast(Tensor, self.values)

    def _room_like(self, states: Tensor) -> Tensor:
        rows, heads, _, width = states.shape
        return states.new_empty(rows, heads, self.room_tokens, width)

    def _hold(self, tokens: int) -> tuple[Tensor, Tensor]:
        self.keys, self.values = self._key_room[:, :, :tokens], self._value_room[:, :, :tokens]
        return self.states()


def bare_model(model: PreTrainedModel) -> PreTrainedModel:
    """The model under its adapters."""
    return cast(PreTrainedModel, model.get_base_model()) if isinstance(model, PeftModel) else model


def can_keep(model: PreTrainedModel, *, tokens: int) -> bool:
    """Whether keys and values of rows of so many tokens, prompt and answer, may be kept by this module.

    They may where every layer is attention over plain keys and values, where positions can be told, and
    where no adapter brings keys of its own (prefix tuning) or starts at a token (activated LoRA). A sliding
    window would count padding, so no row may be longer than the window.
    """
    bare: Any = bare_model(model)
    adapter: Any = model.active_peft_config if isinstance(model, PeftModel) else None
    if adapter and (adapter.is_prompt_learning or getattr(adapter, "alora_invocation_tokens", None)):
        return False
    layers = DynamicCache(config=bare.config).layers
    is_plain = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)
    if not layers or not is_plain or "position_ids" not in signature(bare.forward).parameters:
        return False
    windows = [layer.sliding_window for layer in layers if isinstance(layer, DynamicSlidingWindowLayer)]
    return all(tokens <= window for window in windows)


def shared_tokens(prompts: Sequence[Sequence[int]]) -> int:
    """Tokens all prompts begin with, but of no prompt its last; 0 where computing them once is no gain."""
    ordered = sorted(map(list, prompts))  # what the first and the last share, all share
    pairs = zip(ordered[0], ordered[-1], strict=False)
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    shared = min(same, min(map(len, prompts)) - 1)
    return shared if shared * (len(prompts) - 1) >= LEAST_SAVED_TOKENS else 0


@dataclass(frozen=True, slots=True)
class Prefix:
    """Keys and values of what all prompts begin with.

    Attributes:
        tokens: how many; may be none.
        states: keys and values of each layer, shape (1, heads, tokens, width of a head); none for no tokens.
        layers: of the model's cache.
    """

    tokens: int
    states: tuple[tuple[Tensor, Tensor], ...]
    layers: int

    def cache(self, *, rows: int, room_tokens: int) -> Cache:
        """A cache of `rows` rows that all begin with the prefix, with room for so many tokens in all."""
        layers = [RoomyLayer(room_tokens) for _ in range(self.layers)]
        for layer, states in zip(layers, self.states, strict=False):
            keys, values = (tensor.expand(rows, -1, -1, -1) for tensor in states)
            layer.update(keys, values)
        return Cache(layers=list(layers))


def compute_prefix(model: PreTrainedModel, ids: Sequence[int]) -> Prefix:
    """One forward pass of one row; none for no ids."""
    nothing = Prefix(0, (), len(DynamicCache(config=bare_model(model).config).layers))
    if not ids:
        return nothing
    cache = nothing.cache(rows=1, room_tokens=len(ids))
    ids_1T = torch.tensor([list(ids)], device=model.device)
    model(input_ids=ids_1T, past_key_values=cache, use_cache=True, logits_to_keep=1)
    states = tuple(layer.states() for layer in cast(list[RoomyLayer], cache.layers))
    return replace(nothing, tokens=len(ids), states=states)
