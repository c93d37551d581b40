"""A model that has shapes but no memory: the real classes on fake tensors, prepared by the real methods.

Shapes: O outputs, I inputs of a linear layer.
"""

from copy import deepcopy
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.pytorch_utils import Conv1D

from tunesmith import methods
from tunesmith.config import MethodConfig

# NF4 with double quantization, arXiv:2305.14314 section 3: a block of 64 weights shares a scale of 8 bits,
# 256 scales share one of 32 bits. bitsandbytes keeps two tables and an offset with each layer.
BLOCK, SCALES_IN_BLOCK = 64, 256
TABLE_BYTES = 4 * (16 + 256 + 1)


# torch's fused attention, where no mask is made that a real run would not make: transformers looks at the
# positions to see that no row holds several texts, which it cannot see in tensors without values.
FUSED = "tunesmith_fused"


def _mask(**arguments: Any) -> Tensor | None:
    made: Tensor | None = sdpa_mask(**{**arguments, "allow_is_causal_skip": True})
    return made


AttentionInterface.register(FUSED, sdpa_attention_forward)
AttentionMaskInterface.register(FUSED, _mask)


class _FourBitProduct(torch.autograd.Function):
    """Multiply by a weight that is unpacked for the time of the product, forwards and backwards."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, packed: Tensor, shape_OI: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(packed)
        ctx.shape_OI = shape_OI
        return inputs @ inputs.new_empty(shape_OI).T

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0] @ gradients[0].new_empty(ctx.shape_OI), None, None


class Linear4bit(nn.Linear):
    """Holds and keeps what the layer of this name in bitsandbytes does, and computes nothing.

    peft asks a layer with `W_q` to unpack itself.
    """

    def __init__(self, layer: nn.Module, *, inputs: int, outputs: int) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = inputs, outputs
        numbers = inputs * outputs
        self.weight = nn.Parameter(
            torch.empty((numbers // 2, 1), dtype=torch.uint8, device="meta"), requires_grad=False
        )
        self.bias = cast(Any, layer).bias
        self.whole_dtype = cast(Tensor, layer.weight).dtype
        self.whole_bytes = numbers * self.whole_dtype.itemsize
        self.constants_bytes = numbers // BLOCK + 4 * -(-numbers // (BLOCK * SCALES_IN_BLOCK)) + TABLE_BYTES
        self.register_buffer("constants", torch.empty(self.constants_bytes, dtype=torch.uint8, device="meta"))

    @property
    def W_q(self) -> Tensor:
        """The packed weight."""
        return self.weight

    def dequantize(self) -> Tensor:
        """The whole weight, shape (O, I)."""
        return torch.empty(
            (self.out_features, self.in_features), dtype=self.whole_dtype, device=self.weight.device
        )

    def forward(self, input: Tensor) -> Tensor:
        """Shape (..., I) to (..., O)."""
        product = cast(
            Tensor,
            _FourBitProduct.apply(
                input.to(self.whole_dtype), self.weight, (self.out_features, self.in_features)
            ),
        )
        # peft copies what comes out of a 4-bit layer.
        return (product if self.bias is None else product + self.bias).clone()


def plain_model(
    config: PretrainedConfig, *, dtype: torch.dtype, is_four_bit: bool, device: str
) -> PreTrainedModel:
    """The pretrained model as it is loaded, on torch's meta device."""
    with torch.device("meta"):
        model = cast(
            PreTrainedModel,
            AutoModelForCausalLM.from_config(deepcopy(config), dtype=dtype, trust_remote_code=False),
        )
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(FUSED)
    if is_four_bit:
        _pack(model, device)
    return model


def prepared(model: PreTrainedModel, settings: MethodConfig) -> nn.Module:
    """The model made ready by its method, on torch's meta device."""
    with torch.device("meta"):
        return methods.prepared(model, settings)


def _pack(model: PreTrainedModel, device: str) -> None:
    head = model.get_output_embeddings()
    for path, layer in list(model.named_modules()):
        if not isinstance(layer, nn.Linear | Conv1D) or layer is head:
            continue
        outputs, inputs = layer.weight.T.shape if isinstance(layer, Conv1D) else layer.weight.shape
        # On CPU such a layer is held unpacked: its kernel takes whole blocks alone.
        if device != "cpu" or inputs % BLOCK == 0:
            model.set_submodule(path, Linear4bit(layer, inputs=inputs, outputs=outputs))


def make_fake(model: nn.Module) -> list[Tensor]:
    """Give every weight and buffer a fake tensor in place of its meta one; call it under a fake mode.

    What was shared stays shared, and what lay in one tensor does. Returns the new tensors, each once.
    """
    made: dict[int, Tensor] = {}
    wholes: dict[int, Tensor] = {}
    for module in model.modules():
        # Parameters and buffers lie in dictionaries, and so do the numbers of peft's virtual tokens.
        others = [value for value in vars(module).values() if isinstance(value, dict)]
        for tensors in others:
            for name, old in tensors.items():
                if isinstance(old, Tensor):
                    tensors[name] = made.setdefault(id(old), _fake(old, wholes))
    return list(made.values())


def _fake(old: Tensor, wholes: dict[int, Tensor]) -> Tensor:
    storage = old.untyped_storage()
    if storage._cdata not in wholes:
        wholes[storage._cdata] = torch.empty(storage.nbytes() // old.element_size(), dtype=old.dtype)
    new = wholes[storage._cdata].as_strided(old.shape, old.stride(), old.storage_offset())
    return nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new
