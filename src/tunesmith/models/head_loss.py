"""Loss of scored positions straight from hidden states, with a small part of their logits at a time.

The gradient of a position's loss in its logits is softmax minus one at the target. It is at hand as soon
as the logits are, so it is multiplied back at once, and the logits make room for the next ones. What
stays for the backward pass is the gradient in the hidden states, and in the weight where it learns.

Shapes: N scored positions, C of them in a chunk, D width, V vocabulary.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from tunesmith.models.fused_product import product, product_over_rows

# glibc asks the system for each block from 32 MB on anew, which zeroes it; below it uses a freed one again.
# Measured with 49,152 tokens and width 576 on one CPU thread, as share of the two products' speed: 79 % with
# chunks of 8 MB, 86 % with 16, 92 % with 31, 85 % with 48, 83 % with 64.
CHUNK_BYTES = 31 * 2**20


@dataclass(frozen=True, slots=True)
class Formula:
    """What a model does to the logits of its output layer: it scales them, then bends them under a cap.

    Attributes:
        scale: logits are multiplied by it; 1 in most models.
        cap: logits become cap * tanh(logits / cap); None in most models.
    """

    scale: float = 1.0
    cap: float | None = None

    def of(self, logit: float) -> float:
        """What becomes of one logit."""
        scaled = logit * self.scale
        return scaled if self.cap is None else self.cap * math.tanh(scaled / self.cap)


@dataclass(frozen=True, slots=True)
class Head:
    """How a model makes logits from hidden states.

    Attributes:
        weight_VD: of the output layer.
        bias_V: of the output layer, if it has one.
        formula: what becomes of hidden W^T + bias.
        dtype: number type of the products; logits and what is made of them are at least float32.
    """

    weight_VD: Tensor
    bias_V: Tensor | None
    formula: Formula
    dtype: torch.dtype

    @property
    def logits_dtype(self) -> torch.dtype:
        """Number type of logits and losses."""
        return torch.promote_types(self.dtype, torch.float32)


def chunk_rows(head: Head) -> int:
    """Positions whose logits fill `CHUNK_BYTES`, at least one; where they are bent their slopes count too."""
    numbers = len(head.weight_VD) * (1 if head.formula.cap is None else 2)
    return max(1, CHUNK_BYTES // (numbers * head.logits_dtype.itemsize))


def losses(head: Head, hidden_ND: Tensor, targets_N: Tensor, *, rows: int | None = None) -> Tensor:
    """Negative log-likelihood in nats of each target, shape (N,), without gradient.

    Args:
        head: makes logits.
        hidden_ND: what the output layer sees at the scored positions.
        targets_N: token ids.
        rows: positions in a chunk; by default `chunk_rows(head)`.
    """
    found_N = hidden_ND.new_empty(len(targets_N), dtype=head.logits_dtype)
    with torch.no_grad(), torch.autocast(hidden_ND.device.type, enabled=False):
        weight_VD = _cast(head.weight_VD, head)
        for part in _parts(len(targets_N), rows or chunk_rows(head)):
            logits_CV = _logits(head, _cast(hidden_ND[part], head), weight_VD)
            found_N[part], _ = _exponentials(logits_CV, targets_N[part])
            # Gone before the next ones are made.
            del logits_CV
    return found_N


def loss_sum(head: Head, hidden_ND: Tensor, targets_N: Tensor, *, rows: int | None = None) -> Tensor:
    """Sum of `losses`, a scalar with gradient in the hidden states and in what learns of the head.

    One backward pass can go through it; a second one raises RuntimeError.
    """
    if not torch.is_grad_enabled():
        return losses(head, hidden_ND, targets_N, rows=rows).sum()
    found = _LossSum.apply(hidden_ND, head.weight_VD, head.bias_V, targets_N, head, rows or chunk_rows(head))
    return cast(Tensor, found)


class _LossSum(torch.autograd.Function):
    """Computes the gradients of a sum in its forward pass; the backward pass scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        head: Head,
        rows: int,
    ) -> Tensor:
        sums = _Gradients(head, hidden_ND, needs=ctx.needs_input_grad[:3])
        losses_N = hidden_ND.new_empty(len(targets_N), dtype=head.logits_dtype)
        with torch.autocast(hidden_ND.device.type, enabled=False):
            for part in _parts(len(targets_N), rows):
                losses_N[part] = sums.add(part, _cast(hidden_ND[part], head), targets_N[part])
        ctx.save_for_backward(*sums.scaled())
        ctx.dtypes = [None if each is None else each.dtype for each in (hidden_ND, weight_VD, bias_V)]
        return losses_N.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        # In place: the gradient of a large weight exists once. A second pass finds it changed, and fails.
        scaled = [
            None if each is None else each.mul_(factor).to(dtype)
            for each, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return (*scaled, None, None, None)


class _Gradients:
    """Gradients in hidden states, weight and bias, as far as they are needed; summed chunk by chunk."""

    def __init__(self, head: Head, hidden_ND: Tensor, *, needs: tuple[bool, ...]) -> None:
        self._head, self._weight_VD = head, _cast(head.weight_VD, head)
        needs_hidden, needs_weight, needs_bias = needs
        self._hidden_ND = torch.empty_like(hidden_ND) if needs_hidden else None
        self._sum_VD = _zeros(head.weight_VD, head) if needs_weight else None
        self._sum_V = _zeros(cast(Tensor, head.bias_V), head) if needs_bias else None

    def add(self, part: slice, hidden_CD: Tensor, targets_C: Tensor) -> Tensor:
        """Take in the gradients of a chunk, and give its losses, shape (C,)."""
        gradient_CV = _logits(self._head, hidden_CD, self._weight_VD)
        losses_C = _to_gradient(gradient_CV, targets_C, self._head.formula.cap)
        if self._sum_V is not None:
            self._sum_V += gradient_CV.sum(0)
        short_CV = gradient_CV.to(self._head.dtype)
        if self._hidden_ND is not None:
            self._hidden_ND[part] = product(short_CV, self._weight_VD.T)
        if self._sum_VD is not None:
            self._sum_VD += product_over_rows(short_CV, hidden_CD)
        return losses_C

    def scaled(self) -> tuple[Tensor | None, ...]:
        """All three, None where not needed."""
        found = (self._hidden_ND, self._sum_VD, self._sum_V)
        scale = self._head.formula.scale
        if scale == 1:
            return found
        return tuple(None if each is None else each.mul_(scale) for each in found)


def _zeros(like: Tensor, head: Head) -> Tensor:
    return torch.zeros_like(like, dtype=head.logits_dtype)


def _cast(values: Tensor, head: Head) -> Tensor:
    return values.detach().to(head.dtype)


def _parts(count: int, rows: int) -> Iterator[slice]:
    """Stretches of at most `rows` positions, as few as can be, and alike in size."""
    even = -(-count // max(1, -(-count // rows)))
    for begin in range(0, count, max(1, even)):
        yield slice(begin, min(begin + even, count))


def _logits(head: Head, hidden_CD: Tensor, weight_VD: Tensor) -> Tensor:
    """Logits with bias, scale and cap, shape (C, V)."""
    logits_CV = product(hidden_CD, weight_VD).to(head.logits_dtype)
    if head.bias_V is not None:
        logits_CV += head.bias_V.detach()
    if head.formula.scale != 1:
        logits_CV *= head.formula.scale
    cap = head.formula.cap
    return logits_CV if cap is None else logits_CV.div_(cap).tanh_().mul_(cap)


def _exponentials(logits_CV: Tensor, targets_C: Tensor) -> tuple[Tensor, Tensor]:
    """Losses, shape (C,), and sums of the exponentials, shape (C, 1), which take the logits' place."""
    most_C1 = logits_CV.amax(1, keepdim=True)
    logits_CV -= most_C1
    of_targets_C1 = logits_CV.gather(1, targets_C[:, None])
    sums_C1 = logits_CV.exp_().sum(1, keepdim=True)
    return (sums_C1.log() - of_targets_C1)[:, 0], sums_C1


def _to_gradient(logits_CV: Tensor, targets_C: Tensor, cap: float | None) -> Tensor:
    """Losses, shape (C,); their gradient before scale and cap takes the logits' place."""
    slopes_CV = None if cap is None else (logits_CV / cap).square_().neg_().add_(1)
    losses_C, sums_C1 = _exponentials(logits_CV, targets_C)
    logits_CV /= sums_C1
    logits_CV.scatter_add_(1, targets_C[:, None], -torch.ones_like(sums_C1))
    if slopes_CV is not None:
        logits_CV *= slopes_CV
    return losses_C


def whole_losses(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """The same from whole logits that a model made, with gradient through them; shape (N,)."""
    dtype = torch.promote_types(logits_NV.dtype, torch.float32)
    return functional.cross_entropy(logits_NV.to(dtype), targets_N, reduction="none")
