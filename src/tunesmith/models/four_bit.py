"""Weights in 4 bit through bitsandbytes: NF4 with double quantization, and the way back to plain layers.

Source: Dettmers et al. 2023, arXiv:2305.14314, sections 3 (NF4, double quantization) and 4.
bitsandbytes is loaded only when 4-bit weights are asked for.
"""

from copy import copy
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.utils.import_utils import is_bitsandbytes_available

from tunesmith.errors import ModelError

LAYER = "Linear4bit"
MARKS = ("is_loaded_in_4bit", "is_quantized", "quantization_method")


def check_library() -> None:
    """Do nothing if bitsandbytes is there; it is not loaded for that.

    Raises:
        ModelError: if it is not installed, or older than transformers takes.
    """
    if not is_bitsandbytes_available():
        raise ModelError(
            "4-bit weights and 8-bit or paged optimizers need bitsandbytes, which is missing or too old",
            hint="install it with `pip install bitsandbytes`; `--upgrade` replaces an old one",
        )


def check_device(device: str) -> None:
    """Do nothing if `device` can compute with 4-bit weights.

    Raises:
        ModelError: on `mps`, for which the bitsandbytes package holds no kernels of its own.
    """
    if device == "mps":
        raise ModelError(
            "4-bit weights are not offered on mps: bitsandbytes has no kernels for it in its package",
            hint="use `--device cpu`, or another method such as `--method lora`",
        )


def quantization(dtype: torch.dtype) -> BitsAndBytesConfig:
    """What makes `from_pretrained` quantize while it loads.

    A weight is held as 4 bits and a shared scale for each block of 64; the scales themselves are held in
    8 bits, with one float32 for each 256 of them. A layer computes in `dtype`.
    """
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def is_four_bit(model: nn.Module) -> bool:
    """Whether any layer of the model holds its weights in 4 bit; an adapter around it changes nothing."""
    return any(type(layer).__name__ == LAYER for layer in model.modules())


def settle(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Let each 4-bit layer compute in `dtype`, by the same arithmetic in training and in evaluation.

    On CPU a layer whose inputs are no multiple of the block (64) is held dequantized: the kernel there
    takes the scales of other blocks for it. Its numbers are those of 4 bit all the same.
    """
    for path, layer in _layers(model):
        state = layer.weight.quant_state
        layer.compute_dtype = state.dtype = dtype
        # Else a CPU with AVX512-BF16 repacks the weights at the first evaluation: they then compute in
        # bfloat16 and pass no gradient on, in any training step after it.
        layer.support_avx512bf16_for_cpu = False
        if layer.weight.device.type == "cpu" and layer.in_features % state.blocksize:
            model.set_submodule(path, _plain(layer, dtype))


def cast_whole_weights(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Bring what is not in 4 bit to `dtype`; a model stored in 4 bit comes with its own type there."""
    packed = {id(layer.weight) for _, layer in _layers(model)}
    for parameter in model.parameters():
        if id(parameter) not in packed:
            # Not `model.to`: buffers, such as the rotation frequencies, stay in float32.
            parameter.data = parameter.data.to(dtype)


def dequantized(model: PreTrainedModel, *, dtype: torch.dtype) -> PreTrainedModel:
    """The same model, changed in place to plain layers in `dtype`; it saves and loads like any other.

    Each weight becomes what `bitsandbytes.functional.dequantize_4bit` gives for it, so an adapter that was
    trained on the 4-bit model finds the same base. What was rounded away at loading does not come back.
    """
    for path, layer in _layers(model):
        model.set_submodule(path, _plain(layer, dtype))
    cast_whole_weights(model, dtype)
    quantizer: Any = model.hf_quantizer
    quantizer.remove_quantization_config(model)
    for part in model.modules():
        for mark in MARKS:
            part.__dict__.pop(mark, None)
        if isinstance(part, PreTrainedModel):
            part.config.__dict__.pop("_is_quantized", None)
    model.config.dtype = dtype
    return model


def _layers(model: nn.Module) -> list[tuple[str, Any]]:
    """Every 4-bit layer with its path."""
    from bitsandbytes.nn.modules import Linear4bit

    return [(path, layer) for path, layer in model.named_modules() if isinstance(layer, Linear4bit)]


def _plain(layer: Any, dtype: torch.dtype) -> nn.Module:
    from bitsandbytes.functional import dequantize_4bit

    state = copy(layer.weight.quant_state)
    # Blocks run on over the ends of rows, and as one long row no kernel can lose count of them.
    state.shape = torch.Size([1, layer.out_features * layer.in_features])
    weight_OI = dequantize_4bit(layer.weight.data, state).view(layer.out_features, -1).to(dtype)
    plain: Any
    with torch.device("meta"):
        # GPT-2 keeps its weights transposed, and must find them so in the file.
        is_transposed = getattr(layer, "source_cls", None) is Conv1D
        if is_transposed:
            plain = Conv1D(layer.out_features, layer.in_features)
        else:
            plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
    plain.weight = nn.Parameter(weight_OI.T.contiguous() if is_transposed else weight_OI)
    if layer.bias is not None:
        plain.bias = nn.Parameter(layer.bias.data.to(dtype))
    return plain.train(layer.training)  # type: ignore[no-any-return]
