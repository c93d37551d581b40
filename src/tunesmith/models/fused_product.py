"""Products of a linear layer, by the faster of the two libraries that torch carries on CPU.

`torch.nn.functional.linear` computes float32 with MKL, which uses the widest vectors of an Intel processor
alone. oneDNN uses them on every x86 processor, and with plain tensors of rows and columns: no packed copy
of a weight is kept. Measured with two threads on 160 to 4096 rows, MKL against oneDNN, in GFLOP/s: AMD EPYC
of family 26 with AVX-512 237 and 472, of family 25 without AVX-512 180 and 150, Intel Xeon with AMX 317 and
296 at its best, a whole step 9 % faster with MKL. So the processor's maker and vectors decide, and no
timing: a run that goes on elsewhere in the same machine must round alike. Both round to float32, in another
order.

Shapes: N rows (B and T together or apart), I inputs, O outputs.
"""

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils.flop_counter import register_flop_formula
from transformers.pytorch_utils import Conv1D

from tunesmith.processor import is_intel

# Below this the preparation of a call costs more than the product; generation of one row stays with MKL.
LEAST_ROWS = 16
HAS_ONEDNN = platform.machine() in ("x86_64", "AMD64") and torch.backends.mkldnn.is_available()
PREFERS_ONEDNN = HAS_ONEDNN and torch.backends.cpu.get_cpu_capability() == "AVX512" and not is_intel()
_STANDS_FOR: ContextVar[str] = ContextVar("_STANDS_FOR", default="cpu")


def short_type(x_NI: Tensor) -> torch.dtype | None:
    """The type in which autocast on a CPU wants products of float32 states; None where it wants nothing.

    A product is computed in it and its result is float32 again, as is all that is computed between products:
    so roundings do not add up from layer to layer. States of a shorter type stay what autocast makes of them.
    """
    return torch.get_autocast_dtype("cpu") if x_NI.dtype == torch.float32 and _is_cast(x_NI) else None


def is_left_to_autocast(x_NI: Tensor) -> bool:
    """Whether autocast is at work and decides itself, so that no quick layer may."""
    return torch.is_autocast_enabled(x_NI.device.type) and short_type(x_NI) is None


@contextmanager
def standing_for(device: str) -> Iterator[None]:
    """Within, the CPU stands for `device`: what its autocast does there is left to it."""
    before = _STANDS_FOR.set(device)
    try:
        yield
    finally:
        _STANDS_FOR.reset(before)


def _is_cast(states: Tensor) -> bool:
    """Whether they are on a CPU, and autocast is at work there."""
    return states.device.type == _STANDS_FOR.get() == "cpu" and torch.is_autocast_enabled("cpu")


def product(
    x_NI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None, *, short: torch.dtype | None = None
) -> Tensor:
    """Give x W^T + b, shape (..., O), without gradients; the weight may be a transposed view.

    With `short` it is computed in that type and given as float32.
    """
    if short is not None:
        short_bias_O = None if bias_O is None else bias_O.to(short)
        return functional.linear(x_NI.to(short), weight_OI.to(short), short_bias_O).float()
    if _suits(x_NI, weight_OI):
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x_NI, weight_OI, bias_O, "none", [], "")
        return result
    return functional.linear(x_NI, weight_OI, bias_O)


def added_product(
    y_NO: Tensor, x_NI: Tensor, weight_OI: Tensor, *, short: torch.dtype | None = None
) -> Tensor:
    """Give y + x W^T, shape (..., O), without gradients; `y_NO` may be written over."""
    if short is None and _suits(x_NI, weight_OI):
        result: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x_NI, y_NO, weight_OI, None, "add")
        return result
    return y_NO.add_(product(x_NI, weight_OI, short=short))


def product_over_rows(d_NO: Tensor, x_NI: Tensor, *, short: torch.dtype | None = None) -> Tensor:
    """Give d^T x summed over all rows, shape (O, I), without gradients: what a weight receives.

    Where one side is narrow, let it be the first: 880 rows, 16 by 576 take 0.10 ms, 576 by 16 take 0.26.
    """
    return product(d_NO.reshape(-1, d_NO.shape[-1]).t(), x_NI.reshape(-1, x_NI.shape[-1]).t(), short=short)


def linear(x_NI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """Give x W^T + b, shape (..., O), with gradients for whatever asks for them; else as `product`."""
    short = short_type(x_NI)
    if short is None and not _suits(x_NI, weight_OI):
        return functional.linear(x_NI, weight_OI, bias_O)
    result: Tensor = _Linear.apply(x_NI, weight_OI, bias_O, short)
    return result


def is_hooked(layer: nn.Module) -> bool:
    """Whether something is to be called with a layer, so that its product must not be computed elsewhere."""
    return bool(layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks)


class QuickLinear(nn.Linear):
    """A linear layer that computes by `linear`; parameters and names are those of `torch.nn.Linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """Give x W^T + b, shape (..., O)."""
        return linear(input, self.weight, self.bias)


class QuickConv1D(Conv1D):
    """GPT-2's linear layer, whose weight lies transposed."""

    def forward(self, x: Tensor) -> Tensor:
        """Give x W + b, shape (..., O)."""
        return linear(x, self.weight.t(), self.bias)


class QuickEmbedding(nn.Embedding):
    """An embedding that begins float32 states where autocast on a CPU computes products in a shorter type."""

    def forward(self, input: Tensor) -> Tensor:
        """The embedded tokens, shape (..., D)."""
        states = super().forward(input)
        return states.float() if _is_cast(states) else states


class _Linear(torch.autograd.Function):
    """Keeps the input only where the weight learns."""

    @staticmethod
    def forward(
        ctx: Any, x_NI: Tensor, weight_OI: Tensor, bias_O: Tensor | None, short: torch.dtype | None
    ) -> Tensor:
        x_NI = x_NI if short is None else x_NI.to(short)
        ctx.save_for_backward(x_NI if weight_OI.requires_grad else None, weight_OI)
        ctx.short = short
        return product(x_NI, weight_OI, bias_O, short=short)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_NO: Tensor) -> tuple[Tensor | None, ...]:
        x_NI, weight_OI = ctx.saved_tensors
        asks_x, asks_weight, asks_bias, _ = ctx.needs_input_grad
        d_x_NI = product(d_NO, weight_OI.t(), short=ctx.short) if asks_x else None
        d_weight_OI = product_over_rows(d_NO, x_NI, short=ctx.short) if asks_weight else None
        return d_x_NI, d_weight_OI, d_NO.flatten(0, -2).sum(0) if asks_bias else None, None


def _suits(x_NI: Tensor, weight_OI: Tensor) -> bool:
    """Whether oneDNN is the faster and takes it: float32 on CPU, enough rows, no autocast, no shards.

    Of a weight with gaps between its rows and columns it makes a product a thousand times slower.
    """
    return (
        PREFERS_ONEDNN
        and x_NI.dtype == weight_OI.dtype == torch.float32
        and x_NI.device.type == weight_OI.device.type == "cpu"
        and x_NI.numel() >= LEAST_ROWS * x_NI.shape[-1] > 0
        and (weight_OI.is_contiguous() or weight_OI.t().is_contiguous())
        and not torch.is_autocast_enabled("cpu")
        and not hasattr(weight_OI, "device_mesh")
        and bool(torch.backends.mkldnn.enabled)
    )


def _flops(x_shape: Any, *others: Any, **_: Any) -> int:
    """For torch's counter, which knows the formulas of its own products alone."""
    # Before the weight may stand what is added to the product, after it the bias, which has one dimension.
    *_before, weight_shape = (each for each in others if isinstance(each, torch.Size) and len(each) > 1)
    return 2 * int(torch.Size(x_shape).numel()) * int(weight_shape[0])


def _shape_of_added(x_NI: Tensor, y_NO: Tensor, *_: Any, **__: Any) -> Tensor:
    return torch.empty_like(y_NO)


if HAS_ONEDNN:
    register_flop_formula(torch.ops.mkldnn._linear_pointwise)(_flops)

    # torch knows what shape the plain product has where nothing is computed, as in a memory plan; not this.
    torch.library.register_fake("mkldnn::_linear_pointwise.binary", _shape_of_added)
