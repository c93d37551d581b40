"""Linear layers that see the same input, as one: one product of their weights, laid one after another.

A wide product is faster than several narrow ones, and the gradient of the input comes out of one product
too, instead of a sum of several. Adapters beside the layers become one adapter: what they read with lies
one below another, what they write with stands in blocks along a diagonal.

Source of the adapters: Hu et al. 2021, arXiv:2106.09685, section 4.1.
Shapes: N rows, I inputs, O outputs of all layers, R ranks of all adapters.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from tunesmith.models.fused_lora import LowRank, QuickLora, beside
from tunesmith.models.fused_product import QuickLinear, is_hooked, is_left_to_autocast, linear


def lay_together(layers: Sequence[nn.Module], *, is_turned: bool = False) -> None:
    """Let the weights of `layers` lie one after another in memory, so that `together` takes them as one.

    The parameters stay the objects they are, with the same numbers. Nothing happens where a weight learns,
    where a layer is more than a plain one with or without LoRA, and off the CPU, where it was not measured.

    Args:
        layers: that see the same input.
        is_turned: the weights lie input by output, (I, O), from which a product of many rows is faster. Each
            parameter is then a view with strides, which neither a file nor sharding takes: for a while only,
            and called again without it.
    """
    bases = [_base(layer) for layer in layers]
    still = [base for base in bases if base is not None and _is_still(base)]
    if len(still) < len(layers):
        return
    _lay([base.weight for base in still], is_turned=is_turned)
    if all(base.bias is not None for base in still):
        _lay([base.bias for base in still], is_turned=False)


def together(x_NI: Tensor, layers: Sequence[nn.Module]) -> Tensor | None:
    """What `layers` make of the same input, side by side, (..., O); None where each must be asked by itself.

    That is where their weights do not lie together or learn, where one has a hook or more than one plain
    adapter, where dropout is at work, and where their adapters have different factors.
    """
    found = [_parts(layer, x_NI) for layer in layers]
    parts = [each for each in found if each is not None]
    if len(parts) < len(layers) or is_left_to_autocast(x_NI):
        return None
    bases = [base for base, _ in parts]
    weight_OI = _joined([base.weight for base in bases])
    biases = [base.bias for base in bases if base.bias is not None]
    bias_O = _joined(biases) if len(biases) == len(bases) else None
    scalings = {low.scaling for _, low in parts if low is not None}
    if weight_OI is None or (biases and bias_O is None) or len(scalings) > 1:
        return None
    if not scalings:
        return linear(x_NI, weight_OI, bias_O)
    return beside(x_NI, weight_OI, bias_O, _as_one(parts, scalings.pop()))


def _as_one(parts: Sequence[tuple[QuickLinear, LowRank | None]], scaling: float) -> LowRank:
    """One adapter that does what those of all layers do; a layer without one has rank 0."""
    down_RI = torch.cat([low.down_RI for _, low in parts if low is not None])
    ups = [base.weight.new_empty(len(base.weight), 0) if low is None else low.up_OR for base, low in parts]
    return LowRank(down_RI, torch.block_diag(*ups), scaling)


def _base(layer: nn.Module) -> QuickLinear | None:
    base = layer.base_layer if isinstance(layer, QuickLora) else layer
    return base if type(base) is QuickLinear else None


def _is_still(base: QuickLinear) -> bool:
    """Whether nothing of a layer learns, and it is on CPU, or nowhere, as in a memory plan."""
    return all(
        not weight.requires_grad and weight.device.type in ("cpu", "meta") for weight in base.parameters()
    )


def _parts(layer: nn.Module, x_NI: Tensor) -> tuple[QuickLinear, LowRank | None] | None:
    """A layer's base and its adapter; None if there is more to it."""
    base = _base(layer)
    if base is None or is_hooked(layer) or is_hooked(base) or not _is_still(base):
        return None
    if not isinstance(layer, QuickLora):
        return base, None
    low = layer.low_rank(x_NI)
    return None if low is None else (base, low)


def _lay(weights: Sequence[Tensor], *, is_turned: bool) -> None:
    joined = _joined(weights)
    if joined is not None and joined.is_contiguous() != is_turned:
        return
    lengths = [len(weight) for weight in weights]
    with torch.no_grad():
        whole = torch.cat(list(weights))
        whole = whole.t().contiguous().t() if is_turned else whole
    for weight, part in zip(weights, whole.split(lengths), strict=True):
        weight.data = part


def _joined(weights: Sequence[Tensor]) -> Tensor | None:
    """One tensor over all of `weights`; None where they do not lie one after another."""
    first, outputs = weights[0], sum(len(weight) for weight in weights)
    stride = first.stride()
    if not first.is_contiguous() and stride != (1, outputs):
        return None
    for before, after in pairwise(weights):
        is_next = after.storage_offset() == before.storage_offset() + len(before) * stride[0]
        is_same = after.untyped_storage()._cdata == before.untyped_storage()._cdata
        if not (is_next and is_same and after.stride() == stride):
            return None
    return first.detach().as_strided((outputs, *first.shape[1:]), stride, first.storage_offset())
