"""Faster ways to compute what a model's layers compute, in one instance of a model.

A layer whose formula is known gets another class: a subclass of its own, with the same parameters, names,
hooks and flags, so that checkpoints, adapters and merging do not notice. The classes of transformers and
peft stay what they are, and so does every other model in the process.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from peft.tuners.lora import Linear as PeftLinear
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from tunesmith.models.fused_lora import QuickLora
from tunesmith.models.fused_mlp import QuickJointMlp, QuickMlp
from tunesmith.models.fused_norm import QuickNorm
from tunesmith.models.fused_product import PREFERS_ONEDNN, QuickConv1D, QuickEmbedding, QuickLinear
from tunesmith.models.fused_rotary import QuickAttention
from tunesmith.models.fused_together import lay_together

# Families of transformers whose blocks were compared with ours; a block of the same name elsewhere is not.
NORMS = ("Llama", "Mistral", "Qwen2", "Qwen3", "Phi3")
GATED = ("Llama", "Mistral", "Qwen2", "Qwen3")
JOINT = ("Phi3",)
TURNED = ("Llama", "Mistral", "Qwen2")
KNOWN: dict[str, type[nn.Module]] = (
    {f"{family}RMSNorm": QuickNorm for family in NORMS}
    | {f"{family}MLP": QuickMlp for family in GATED}
    | {f"{family}MLP": QuickJointMlp for family in JOINT}
    | {f"{family}Attention": QuickAttention for family in TURNED}
)
# Names of the layers that see the same input.
SAME_INPUT: dict[type[nn.Module], tuple[str, ...]] = {
    QuickAttention: ("q_proj", "k_proj", "v_proj"),
    QuickMlp: ("gate_proj", "up_proj"),
}

_SUBCLASSES: dict[type[nn.Module], type[nn.Module]] = {}


def quicken(model: nn.Module) -> tuple[str, ...]:
    """Let each layer of `model` with a known formula compute it in fewer and faster operations.

    The output layer stays what it is: the loss computes its part from the weight.

    Call it when a method has prepared the model and before `enable_checkpointing`. Results differ by the
    rounding of float32. Under autocast on a CPU the products alone are computed in its type, and all states
    are float32; with weights of other types and no autocast most layers compute as before.

    Returns:
        Class names of norms, feed-forward blocks and adapted layers that stay as they are, sorted.
    """
    left = set()
    head = cast(Any, model).get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    for module in model.modules():
        quick = _quicker(module) if module is not head or isinstance(head, LoraLayer) else None
        if quick is not None:
            module.__class__ = quick
        elif _is_candidate(module):
            left.add(type(module).__name__)
    for layers in _of_same_input(model):
        lay_together(layers)
    if _takes_float32(model, head):
        for module in model.modules():
            if type(module) is nn.Embedding:
                module.__class__ = QuickEmbedding
    return tuple(sorted(left))


@contextmanager
def turned_weights(model: nn.Module) -> Iterator[None]:
    """Meanwhile the frozen weights of layers that see the same input lie as their products are fastest.

    Not around what saves, shards or merges the model. Nothing changes but the speed and the rounding. Layers
    that are asked one by one stay as they are: oneDNN takes their weights only without gaps. So do all where
    MKL multiplies, which is as fast either way.
    """
    groups = [layers for layers in _of_same_input(model) if PREFERS_ONEDNN and _stays_one(layers)]
    try:
        for layers in groups:
            lay_together(layers, is_turned=True)
        yield
    finally:
        for layers in groups:
            lay_together(layers)


def _stays_one(layers: list[nn.Module]) -> bool:
    """Whether one product of float32 weights computes `layers` in training too, which dropout prevents."""
    group = nn.ModuleList(layers)
    drops = any(isinstance(part, nn.Dropout) and part.p > 0 for part in group.modules())
    return not drops and all(weight.dtype == torch.float32 for weight in group.parameters())


def _takes_float32(model: nn.Module, head: nn.Module | None) -> bool:
    """Whether each norm and linear layer takes float32 states, whatever the type of its weights."""
    for module in model.modules():
        is_norm, is_linear = type(module).__name__.endswith("Norm"), isinstance(module, nn.Linear | Conv1D)
        if module is not head and (
            (is_norm and not isinstance(module, QuickNorm))
            or (is_linear and not isinstance(module, QuickLinear | QuickConv1D))
        ):
            return False
    return True


def _of_same_input(model: nn.Module) -> Iterator[list[nn.Module]]:
    for module in model.modules():
        names = next((names for kind, names in SAME_INPUT.items() if isinstance(module, kind)), ())
        if names:
            yield [module.get_submodule(name) for name in names]


def _quicker(module: nn.Module) -> type[nn.Module] | None:
    """The class that `module` is to have, or None."""
    kind = type(module)
    if kind is nn.Linear:
        return QuickLinear
    if kind is Conv1D:
        return QuickConv1D
    if kind is PeftLinear:
        return QuickLora
    mixin = KNOWN.get(kind.__name__) if kind.__module__.startswith("transformers.models.") else None
    if mixin is None or (mixin in (QuickMlp, QuickJointMlp) and not _has_silu(module)):
        return None
    return _subclass(mixin, kind)


def _has_silu(block: nn.Module) -> bool:
    activation = getattr(block, "act_fn", None) or getattr(block, "activation_fn", None)
    return type(activation).__name__ in ("SiLU", "SiLUActivation")


def _subclass(mixin: type[nn.Module], kind: type[nn.Module]) -> type[nn.Module]:
    if kind not in _SUBCLASSES:
        made = type(f"Quick{kind.__name__}", (mixin, kind), {"__module__": __name__})
        _SUBCLASSES[kind] = cast(type[nn.Module], made)
    return _SUBCLASSES[kind]


def _is_candidate(module: nn.Module) -> bool:
    kind = type(module)
    is_quick = issubclass(kind, QuickNorm | QuickMlp | QuickJointMlp | QuickLora)
    return not is_quick and (kind.__name__.endswith(("RMSNorm", "MLP")) or isinstance(module, LoraLayer))
