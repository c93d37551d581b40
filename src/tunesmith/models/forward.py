"""Loss of scored tokens, with logits only where a token is scored, and only a part of them at a time.

Shapes: B rows, T tokens, D width, V vocabulary, N scored tokens of the batch.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from tunesmith.models import head_loss
from tunesmith.models.head_loss import Formula, Head
from tunesmith.models.output_layer import logits_formula, output_layer
from tunesmith.models.packing import packed_arguments


def token_losses(
    model: nn.Module,
    input_ids_BT: Tensor,
    predicts_BT: Tensor,
    *,
    row_lengths: Sequence[int] | None = None,
    shared_tokens: int = 0,
) -> Tensor:
    """Negative log-likelihood in nats of each scored token, at least float32, shape (N,), row by row.

    Without gradient the logits come in chunks, see `head_loss.py`. With gradient there are whole logits of
    the scored positions: what trains takes `loss_sum`.

    No attention mask is passed: under causal attention a token never sees the padding to its right.

    Args:
        model: a causal language model, wrapped or not.
        input_ids_BT: token ids, padded on the right.
        predicts_BT: True at position t where token t + 1 is scored.
        row_lengths: tokens of each row where B is 1 and the rows lie one after another; only for a model
            after `packing.enable_packing`.
        shared_tokens: of those in the first row, what every row begins with; none of them predicts.

    Raises:
        RuntimeError: if the model does not compute its logits through its output embeddings.
    """
    formula = None if torch.is_grad_enabled() else logits_formula(model, input_ids_BT)
    arguments = _arguments(input_ids_BT, row_lengths, shared_tokens)
    if formula is None:
        return _whole_losses(model, arguments, predicts_BT)
    head, hidden_ND = _before_head(model, arguments, predicts_BT, formula)
    return head_loss.losses(head, hidden_ND, _targets(input_ids_BT, predicts_BT))


def loss_sum(
    model: nn.Module,
    input_ids_BT: Tensor,
    predicts_BT: Tensor,
    *,
    row_lengths: Sequence[int] | None = None,
    shared_tokens: int = 0,
) -> Tensor:
    """Sum of `token_losses`, a scalar with gradient; arguments and errors as there.

    Only a chunk of the logits exists at a time, unless the output layer has an adapter of its own, is cut
    over processes, or the model does something unknown to its logits.
    """
    formula = logits_formula(model, input_ids_BT)
    arguments = _arguments(input_ids_BT, row_lengths, shared_tokens)
    if formula is None:
        return _whole_losses(model, arguments, predicts_BT).sum()
    head, hidden_ND = _before_head(model, arguments, predicts_BT, formula)
    return head_loss.loss_sum(head, hidden_ND, _targets(input_ids_BT, predicts_BT))


def _arguments(input_ids_BT: Tensor, row_lengths: Sequence[int] | None, shared_tokens: int) -> dict[str, Any]:
    """What the model is called with."""
    called = {"input_ids": input_ids_BT, "use_cache": False}
    if row_lengths is None:
        return called
    return called | packed_arguments(row_lengths, input_ids_BT.device, shared_tokens=shared_tokens)


def _targets(input_ids_BT: Tensor, predicts_BT: Tensor) -> Tensor:
    return input_ids_BT[:, 1:][predicts_BT[:, :-1]]


def _before_head(
    model: nn.Module, arguments: dict[str, Any], predicts_BT: Tensor, formula: Formula
) -> tuple[Head, Tensor]:
    """The output layer as it computes in this pass, and what it sees at the scored positions, (N, D)."""
    layer = cast(nn.Linear, output_layer(model))
    found: list[tuple[Head, Tensor]] = []

    def catch(_: nn.Module, inputs: tuple[Any, ...]) -> Tensor:
        hidden_BTD: Tensor = inputs[0]
        head = Head(layer.weight, layer.bias, formula, _product_dtype(layer.weight))
        found.append((head, hidden_BTD[predicts_BT]))
        return hidden_BTD[:, :0]

    with _before(layer, catch):
        model(**arguments)
    return found[0]


def _product_dtype(weight: Tensor) -> torch.dtype:
    """Number type in which the output layer multiplies here."""
    kind = weight.device.type
    is_cast = torch.is_autocast_enabled(kind) and weight.dtype != torch.float64
    return torch.get_autocast_dtype(kind) if is_cast else weight.dtype


def _whole_losses(model: nn.Module, arguments: dict[str, Any], predicts_BT: Tensor) -> Tensor:
    """From logits of all scored positions: (1, N, D) goes into the output layer, (1, N, V) comes out."""
    targets_N = _targets(arguments["input_ids"], predicts_BT)

    def select(_: nn.Module, inputs: tuple[Any, ...]) -> Tensor:
        chosen_ND: Tensor = inputs[0][predicts_BT]
        return chosen_ND.unsqueeze(0)

    with _before(output_layer(model), select):
        logits_1NV = model(**arguments).logits
    if logits_1NV.shape[:2] != (1, len(targets_N)):
        raise RuntimeError(f"{type(model).__name__} gave logits of shape {tuple(logits_1NV.shape)}")
    return head_loss.whole_losses(logits_1NV[0], targets_N)


@contextmanager
def _before(layer: nn.Module, hook: Any) -> Iterator[None]:
    handle = layer.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def logits_at_last(model: nn.Module, input_ids_BT: Tensor) -> Tensor:
    """Next-token logits after the last position, float32, shape (B, V); rows must have equal length."""
    with torch.no_grad():
        logits_BTV: Tensor = model(input_ids=input_ids_BT, use_cache=False).logits
    return logits_BTV[:, -1].float()
