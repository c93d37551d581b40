"""The stages of a run on a fake model, and how much each holds at its fullest.

Shapes: B rows, T tokens, D width.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from tunesmith.models.forward import loss_sum, token_losses
from tunesmith.planning.counting import LiveBytes
from tunesmith.training.loss import LOSS_BATCH_TOKENS


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of a length, the tokens scored in all of them, and whether accelerate computes in bfloat16."""

    rows: int
    length_tokens: int
    scored_tokens: int
    is_mixed: bool

    def loss(self, model: nn.Module) -> Tensor:
        """As training computes it, or evaluation where there is no gradient; the mask has no values."""
        shape_BT = (self.rows, self.length_tokens)
        ids_BT, predicts_BT = torch.zeros(shape_BT, dtype=torch.long), torch.zeros(shape_BT, dtype=torch.bool)
        compute = loss_sum if torch.is_grad_enabled() else token_losses
        with self.precision():
            return compute(model, ids_BT, predicts_BT)

    def precision(self) -> AbstractContextManager[Any]:
        """As accelerate sets it; the CPU's rules stand in for the GPU's."""
        return torch.autocast("cpu", torch.bfloat16) if self.is_mixed else nullcontext()


def training_peaks(model: nn.Module, batch: Batch, count: LiveBytes) -> dict[str, int]:
    """Peaks of a micro-batch that finds gradients already there, beside them and the weights."""
    model.train()
    marks = _Marks(model, count)
    for _ in range(2):
        marks.begin()
        loss = batch.loss(model)
        torch.autograd.backward(loss)
        del loss
    return marks.end()


class _Marks:
    """Reads the count where one part of a micro-batch ends and the next begins."""

    def __init__(self, model: nn.Module, count: LiveBytes) -> None:
        self.count, self.held, self.flops = count, 0, 0
        self.found: dict[str, int] = {}
        first = next(layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer))
        head = cast(nn.Module, cast(Any, model).get_output_embeddings())
        self.hooks = [
            _on_input(first, self._layers_begin),
            _on_input(head, self._layers_end),
        ]

    def begin(self) -> None:
        self.count.take_peak()
        self.held, self.flops = self.count.live_bytes, self.count.flops
        self.found = {"embedding_peak": 0}

    def end(self) -> dict[str, int]:
        for hook in self.hooks:
            hook.remove()
        last = "embedding_peak" if "backward_peak" in self.found else "backward_peak"
        self._take(last)
        return {**self.found, "flops": self.count.flops - self.flops}

    def _take(self, name: str) -> None:
        self.found[name] = self.count.take_peak() - self.held

    def _layers_begin(self, hidden_BTD: Tensor) -> None:
        # Only where what lies before the layers learns does the backward pass come back here.
        if hidden_BTD.requires_grad and "backward_peak" not in self.found:
            hidden_BTD.register_hook(lambda _: self._take("backward_peak"))

    def _layers_end(self, hidden_BTD: Tensor) -> None:
        self.found["kept"] = self.count.live_bytes - self.held
        self._take("layers_peak")
        # The one token that shows what becomes of the logits has no gradient.
        if hidden_BTD.requires_grad:
            hidden_BTD.register_hook(lambda _: self._take("head_peak"))


def _on_input(module: nn.Module, tell: Callable[[Tensor], None]) -> Any:
    def hook(_: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        tell(arguments[0] if arguments else keywords["hidden_states"])

    return module.register_forward_pre_hook(hook, with_kwargs=True)


def evaluation_peaks(
    model: nn.Module, batch: Batch, count: LiveBytes, *, rows: int, answer_tokens: int
) -> dict[str, int]:
    """Peaks of measuring and of answering held-out rows of the same length, beside the weights."""
    model.eval()
    for parameter in model.parameters():
        parameter.grad = None
    held = count.live_bytes
    scored_in_row = -(-batch.scored_tokens // batch.rows)
    rows_at_once = min(rows, max(1, LOSS_BATCH_TOKENS // batch.length_tokens))
    count.chosen = rows_at_once * scored_in_row
    measured = Batch(rows_at_once, batch.length_tokens, count.chosen, batch.is_mixed)
    with torch.no_grad():
        count.take_peak()
        measured.loss(model)
        loss_peak = count.take_peak() - held
        answer_peak = _answer_peak(model, batch, count, rows, answer_tokens) if answer_tokens else 0
    return {"loss_peak": loss_peak, "answer_peak": answer_peak}


def _answer_peak(model: nn.Module, batch: Batch, count: LiveBytes, rows: int, answer_tokens: int) -> int:
    """Reading the prompts, or the keys and values at the end with one layer's copied as they grow."""
    held = count.live_bytes
    ids_BT = torch.zeros((rows, batch.length_tokens), dtype=torch.long)
    with batch.precision():
        output = model(input_ids=ids_BT, use_cache=True, logits_to_keep=1)
    reading = count.take_peak() - held
    layers: int = cast(Any, model).config.get_text_config().num_hidden_layers
    states: int = sum(
        tensor.nbytes for layer in output.past_key_values.layers for tensor in (layer.keys, layer.values)
    )
    cache = states // batch.length_tokens * (batch.length_tokens + answer_tokens)
    return max(reading, cache + cache // layers)
