"""Several adapters on one base in memory: changed in an instant, or answering side by side in one batch."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tunesmith.errors import ModelError
from tunesmith.models.adapter import Target, target_tokenizer
from tunesmith.models.attach import put_on, saves_embedding
from tunesmith.models.folders import METHOD_OF_TYPE, read_object
from tunesmith.models.generate import Decoding, generate_ids
from tunesmith.models.load import load_model

BASE = "base"
PEFT_BASE = "__base__"
# Types whose layers can give each row of a batch an adapter of its own, and settings with which they cannot.
MIXABLE_TYPES = ("LORA", "TUNESMITH_BOTTLENECK")
UNMIXABLE_SETTINGS = ("use_dora", "modules_to_save", "trainable_token_indices")


@dataclass(frozen=True, slots=True)
class Request:
    """One question to one adapter.

    Attributes:
        adapter: its name, or `base`.
        prompt: token ids, rendered as that adapter was trained.
    """

    adapter: str
    prompt: Sequence[int]


class AdapterSwitch:
    """One base, several adapters under names, one of them active.

    Attributes:
        model: computes as the active adapter says.
        tokenizers: of each adapter, and of `base`.
        names: of the adapters, in the order they were given.
        active: name of the active adapter, or `base`.
        is_mixable: whether rows of one batch may use different adapters.
        pad_id: fills batches.
    """

    def __init__(
        self, model: PeftModel, inner: Mapping[str, str], tokenizers: Mapping[str, PreTrainedTokenizerBase]
    ) -> None:
        self.model = cast(PreTrainedModel, model)
        self.tokenizers = tokenizers
        self.names = tuple(inner)
        self.is_mixable = all(_is_mixable(config) for config in model.peft_config.values())
        self._inner = inner
        self._off = ExitStack()
        self.switch(self.names[0])

    @property
    def pad_id(self) -> int:
        """Id that fills batches; never attended to, so any id is right."""
        pad = self.tokenizers[BASE].pad_token_id
        return int(pad if pad is not None else 0)

    def switch(self, name: str) -> None:
        """Make `name` the active adapter; `base` switches all off. No weight is loaded or moved.

        Raises:
            ModelError: if there is no such adapter.
        """
        if name not in (*self.names, BASE):
            raise ModelError(
                f"no adapter is called `{name}`", hint=f"there are: {', '.join((*self.names, BASE))}"
            )
        self._off.close()
        model: Any = self.model
        if name != BASE:
            model.set_adapter(self._inner[name], inference_mode=True)
        elif model.active_peft_config.is_prompt_learning:
            self._off.enter_context(model.disable_adapter())
        else:
            # What `disable_adapter` does after looking through all layers for irregular states.
            model.base_model.disable_adapter_layers()
            self._off.callback(model.base_model.enable_adapter_layers)
        self.active = name

    def answer(
        self,
        requests: Sequence[Request],
        *,
        decoding: Decoding,
        stop_ids: Mapping[str, Sequence[int]],
        batch_rows: int = 16,
        on_rows: Callable[[int], None] = lambda rows: None,
    ) -> list[list[int]]:
        """The answer to each request by its own adapter, in order; the active adapter stays what it was.

        Where the method allows it, requests of different adapters share batches; else each adapter answers
        its own in turn.

        Args:
            requests: adapter and prompt of each.
            decoding: how tokens are chosen.
            stop_ids: for each adapter and `base`, the tokens that end its answers.
            batch_rows: rows in one batch.
            on_rows: told the rows of each batch when it is done.

        Raises:
            ModelError: if a request names no adapter that is there.
        """
        before = self.active
        for name in {request.adapter for request in requests}:
            self.switch(name)
        answers: dict[int, list[int]] = {}
        for indices in self._batches(requests, stop_ids, batch_rows):
            batch = [requests[index] for index in indices]
            found = generate_ids(
                self.model,
                [request.prompt for request in batch],
                decoding=decoding,
                stop_ids=stop_ids[batch[0].adapter],
                pad_id=self.pad_id,
                batch_rows=len(batch),
                on_rows=on_rows,
                adapter_names=self._settled([request.adapter for request in batch]),
            )
            answers |= zip(indices, found, strict=True)
        self.switch(before)
        return [answers[index] for index in range(len(requests))]

    def _batches(
        self, requests: Sequence[Request], stop_ids: Mapping[str, Sequence[int]], batch_rows: int
    ) -> list[list[int]]:
        """Indices of requests that are answered together, long prompts first.

        Rows of one batch end at the same tokens; where rows cannot mix, they are of one adapter.
        """

        def kind(index: int) -> tuple[list[int], str]:
            name = requests[index].adapter
            return sorted(stop_ids[name]), "" if self.is_mixable else name

        ordered = sorted(range(len(requests)), key=lambda i: (kind(i), -len(requests[i].prompt)))
        groups = [list(group) for _, group in groupby(ordered, key=kind)]
        return [group[at : at + batch_rows] for group in groups for at in range(0, len(group), batch_rows)]

    def _settled(self, names: Sequence[str]) -> list[str] | None:
        """Ready for a batch whose rows ask these adapters: one is switched to, several are peft's names."""
        if len(set(names)) == 1:
            self.switch(names[0])
            return None
        self.switch(self.names[0])  # with all switched off, rows could not choose
        return [self._inner.get(name, PEFT_BASE) for name in names]


def load_switch(targets: Mapping[str, Target], *, dtype: torch.dtype, device: str) -> AdapterSwitch:
    """Load the base once and put every adapter on it.

    Args:
        targets: adapters by the names they shall have; the first becomes active.
        dtype: number type of the base.
        device: `cpu`, `cuda` or `mps`.

    Raises:
        ModelError: if one is no adapter, or they differ in base, method or how the base is held; if one
            does not fit or brings an embedding of its own.
    """
    if not targets or BASE in targets:
        raise ModelError(
            f"adapters need names other than `{BASE}`, and at least one is needed",
            hint=f"rename the folder; `{BASE}` means the model without adapter",
        )
    _check_alike(targets)
    first = next(iter(targets.values()))
    base = load_model(first.base, dtype=dtype, device=device, four_bit=first.four_bit)
    tokenizers = {name: target_tokenizer(target) for name, target in targets.items()}
    # Names of modules may hold no dot, and peft looks for them inside of paths.
    inner = {name: f"slot{number:03d}x" for number, name in enumerate(targets)}
    model: Any = base.model
    for name, target in targets.items():
        folder = cast(Path, target.adapter)
        model = put_on(
            model, folder, base_name=target.base.name, tokenizer=tokenizers[name], name=inner[name]
        )
        _check_no_embedding(name, folder, model)
    return AdapterSwitch(model.to(device).eval(), inner, tokenizers | {BASE: base.tokenizer})


def _check_alike(targets: Mapping[str, Target]) -> None:
    """Each adapter must be what the first one is."""
    facts = {name: _facts(name, target) for name, target in targets.items()}
    first_name, first = next(iter(facts.items()))
    for name, other in facts.items():
        for what, value in other.items():
            if value != first[what]:
                raise ModelError(
                    f"adapters on one base must be alike: {what} of `{first_name}` is {first[what]}, "
                    f"of `{name}` {value}",
                    hint="leave one of them out; each kind needs a process of its own",
                )


def _facts(name: str, target: Target) -> dict[str, str]:
    if target.adapter is None:
        raise ModelError(
            f"`{name}` has no adapter to switch to", hint="give runs of LoRA, QLoRA, prefix or adapter"
        )
    kind = str(read_object(target.adapter / "adapter_config.json").get("peft_type"))
    revision = f" at {target.base.revision}" if target.base.revision else ""
    return {
        "the base": target.base.path + revision,
        "the method": METHOD_OF_TYPE.get(kind, kind),
        "the base's number type": "4 bit" if target.four_bit else "whole",
    }


def _check_no_embedding(name: str, folder: Path, model: PeftModel) -> None:
    if saves_embedding(folder, model):
        raise ModelError(
            f"`{name}` brings an embedding of its own, so it cannot share a base",
            hint="load it alone",
        )


def _is_mixable(config: Any) -> bool:
    kind = getattr(config.peft_type, "value", config.peft_type)
    return kind in MIXABLE_TYPES and not any(getattr(config, key, None) for key in UNMIXABLE_SETTINGS)
