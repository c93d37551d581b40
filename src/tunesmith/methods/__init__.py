"""Ways to train a model, one file each, behind the same function."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn
from transformers import PreTrainedModel

from tunesmith.config import MethodConfig
from tunesmith.methods import adapter, full, lora, prefix, qlora
from tunesmith.models.fused import quicken


@dataclass(frozen=True, slots=True)
class Method:
    """One way to train.

    Attributes:
        base: how the pretrained weights are held: `trained` in float32 masters, `frozen` in the model's
            number type, or `four_bit` (NF4 with double quantization).
        prepare: gives the model what learns; everything else has `requires_grad` off.
    """

    base: Literal["trained", "frozen", "four_bit"]
    prepare: Callable[[PreTrainedModel, MethodConfig], nn.Module]


METHODS = {
    "full": Method("trained", full.prepare),
    "lora": Method("frozen", lora.prepare),
    "qlora": Method("four_bit", qlora.prepare),
    "prefix": Method("frozen", prefix.prepare),
    "adapter": Method("frozen", adapter.prepare),
}


def prepared(model: PreTrainedModel, settings: MethodConfig) -> nn.Module:
    """`model` as its method trains it, with faster layers where their formula is known."""
    learning = METHODS[settings.name].prepare(model, settings)
    quicken(learning)
    return learning


def trainable(model: nn.Module) -> int:
    """Number of parameters that learn."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
