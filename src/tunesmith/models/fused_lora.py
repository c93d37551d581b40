"""A linear layer with one low-rank adapter beside it: y = x W^T + s (x A^T) B^T, as one operation.

peft computes it in five, each with a result of its own that autograd keeps. Here the update is added in
place, and kept are the input and x A^T, which has R columns.

Source: Hu et al. 2021, arXiv:2106.09685, section 4.1.
Shapes: N rows, I inputs, O outputs, R rank.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tunesmith.models.fused_product import (
    QuickLinear,
    added_product,
    is_hooked,
    is_left_to_autocast,
    product,
    product_over_rows,
    short_type,
)


@dataclass(frozen=True, slots=True)
class LowRank:
    """An adapter: what it reads with, what it writes with, and the factor of the update."""

    down_RI: Tensor
    up_OR: Tensor
    scaling: float


class QuickLora(PeftLinear):
    """peft's layer, same parameters; whatever is not one plain adapter over one plain layer is peft's."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The layer's output, (..., O)."""
        name = self._only_adapter()
        if name is None or args or kwargs or not self._is_plain(name, x):
            changed: Tensor = super().forward(x, *args, **kwargs)
            return changed
        base = cast(QuickLinear, self.base_layer)
        kept_NI, scaling = self._drawn(name, x)
        return beside(x, base.weight, base.bias, self._adapter(name, scaling), kept_NI)

    def low_rank(self, x: Tensor) -> "LowRank | None":
        """The one adapter at work on all of `x`; None where there is none, several, or one with dropout."""
        name = self._only_adapter()
        if name is None or not self._is_plain(name, x) or self._drops(name):
            return None
        return self._adapter(name, self.scaling[name])

    def _adapter(self, name: str, scaling: float) -> "LowRank":
        down, up = (cast(nn.Linear, parts[name]) for parts in (self.lora_A, self.lora_B))
        return LowRank(down.weight, up.weight, scaling)

    def _only_adapter(self) -> str | None:
        """Name of the one adapter at work, or None where there are none or several."""
        if self.disable_adapters or self.merged or len(self.active_adapters) != 1:
            return None
        name: str = self.active_adapters[0]
        return name if name in self.lora_A and name not in self.lora_variant else None

    def _is_plain(self, name: str, x: Tensor) -> bool:
        parts = (self.base_layer, self.lora_A[name], self.lora_B[name])
        return (
            type(self.base_layer) is QuickLinear
            and not is_left_to_autocast(x)
            and (short_type(x) is not None or all(part.weight.dtype == x.dtype for part in parts))
            and not self.lora_bias[name]
            # A hook, as ZeRO sets them to gather a weight, must run.
            and not any(map(is_hooked, parts))
            and isinstance(self.lora_dropout[name], nn.Identity | nn.Dropout)
        )

    def _drops(self, name: str) -> bool:
        dropout = self.lora_dropout[name]
        return isinstance(dropout, nn.Dropout) and dropout.training and dropout.p > 0

    def _drawn(self, name: str, x: Tensor) -> tuple[Tensor | None, float]:
        """Which inputs dropout lets through to the adapter, None for all, and the factor of the update."""
        scaling = self.scaling[name]
        if not self._drops(name):
            return None, scaling
        kept_NI, share = drawn(x.shape, cast(nn.Dropout, self.lora_dropout[name]).p, device=x.device)
        return kept_NI, scaling / share if share else 0.0


def drawn(shape: torch.Size, rate: float, *, device: torch.device) -> tuple[Tensor, float]:
    """A mask that is 0 at about `rate` of its places and 1 elsewhere, and the exact share of 1.

    The rate is above 0 and at most 1.

    Torch's generator gives 16 bits a place, so the rate is rounded to 1/65536: a number each, as torch's own
    dropout draws them, took 1.8 ms for 880 x 576 places on one thread, these bits 0.4 ms.
    """
    places = shape.numel()
    bits = torch.empty((places + 3) // 4, dtype=torch.int64, device=device).random_(-(2**63), None)
    dropped = max(1, round(rate * 2**16))
    # As a number: comparing to a truth value is three times slower, and so is multiplying by one.
    kept = torch.empty(shape, dtype=torch.int8, device=device)
    torch.gt(bits.view(torch.int16)[:places].view(shape), dropped - 1 - 2**15, out=kept)
    return kept, 1 - dropped / 2**16


def beside(
    x_NI: Tensor, weight_OI: Tensor, bias_O: Tensor | None, low: LowRank, kept_NI: Tensor | None = None
) -> Tensor:
    """A linear layer's output with its adapter's, (..., O); the adapter sees what `kept_NI` lets through."""
    result: Tensor = _Beside.apply(
        x_NI, weight_OI, bias_O, low.down_RI, low.up_OR, low.scaling, kept_NI, short_type(x_NI)
    )
    return result


class _Beside(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_NI: Tensor,
        weight_OI: Tensor,
        bias_O: Tensor | None,
        down_RI: Tensor,
        up_OR: Tensor,
        scaling: float,
        kept_NI: Tensor | None,
        short: torch.dtype | None,
    ) -> Tensor:
        x_NI = x_NI if short is None else x_NI.to(short)
        seen_NI = _seen(x_NI, kept_NI)
        inner_NR = product(seen_NI, down_RI, short=short)
        y_NO = product(x_NI, weight_OI, bias_O, short=short)
        y_NO = added_product(y_NO, inner_NR, up_OR * scaling, short=short)
        ctx.save_for_backward(x_NI, weight_OI, down_RI, up_OR, inner_NR, kept_NI)
        ctx.scaling, ctx.short = scaling, short
        return y_NO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_NO: Tensor) -> tuple[Tensor | None, ...]:
        x_NI, weight_OI, down_RI, up_OR, inner_NR, kept_NI = ctx.saved_tensors
        asks_x, asks_weight, asks_bias, asks_down, asks_up, *_ = ctx.needs_input_grad
        short = ctx.short
        d_bias_O = d_NO.flatten(0, -2).sum(0) if asks_bias else None
        d_NO = d_NO if short is None else d_NO.to(short)
        d_inner_NR = product(d_NO, up_OR.t(), short=short).mul_(ctx.scaling)
        d_up_RO = product_over_rows(inner_NR, d_NO, short=short).mul_(ctx.scaling) if asks_up else None
        d_down_RI = None
        if asks_down:
            d_down_RI = product_over_rows(d_inner_NR, _seen(x_NI, kept_NI), short=short)
        d_x_NI = None
        if asks_x:
            d_x_NI = product(d_NO, weight_OI.t(), short=short)
            if kept_NI is None:
                d_x_NI = added_product(d_x_NI, d_inner_NR, down_RI.t(), short=short)
            else:
                d_x_NI.add_(_seen(product(d_inner_NR, down_RI.t(), short=short), kept_NI))
        d_weight_OI = product_over_rows(d_NO, x_NI, short=short) if asks_weight else None
        d_up_OR = None if d_up_RO is None else d_up_RO.t()
        return d_x_NI, d_weight_OI, d_bias_O, d_down_RI, d_up_OR, None, None, None


def _seen(x_NI: Tensor, kept_NI: Tensor | None) -> Tensor:
    """What dropout lets through of `x_NI`; the factor is in the scaling."""
    return x_NI if kept_NI is None else kept_NI.to(x_NI.dtype).mul_(x_NI)
