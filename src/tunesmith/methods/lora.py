"""LoRA through peft: a low-rank update B·A beside each chosen linear layer.

Source: Hu et al. 2021, arXiv:2106.09685, section 4.1. Variants: rsLoRA, Kalajdzievski 2023,
arXiv:2312.03732, and DoRA, Liu et al. 2024, arXiv:2402.09353.
"""

from difflib import get_close_matches
from typing import cast

from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from tunesmith.config import MethodConfig
from tunesmith.errors import ConfigError


def prepare(model: PreTrainedModel, settings: MethodConfig) -> PeftModel:
    """`model` with trainable adapters beside its frozen weights; B starts at 0, so nothing changes yet.

    The initial A comes from torch's generator: seed it first.

    Raises:
        ConfigError: if a module named in `target_modules` does not exist or is no linear layer.
    """
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=cast(int, settings.alpha),  # peft divides it by the rank; a float is right
        lora_dropout=settings.dropout,
        use_rslora=settings.variant == "rslora",
        use_dora=settings.variant == "dora",
        target_modules=_targets(model, settings.target_modules),
        # GPT-2 stores its weights transposed, in layers called Conv1D.
        fan_in_fan_out=any(type(layer).__name__ == "Conv1D" for layer in model.modules()),
        bias="none",
        task_type="CAUSAL_LM",
    )
    return cast(PeftModel, get_peft_model(model, config))


def _targets(model: PreTrainedModel, asked: str | list[str]) -> str | list[str]:
    if asked == "all-linear":
        return "all-linear"
    linear = _linear_paths(model)
    if asked == "attention":
        found = [path for path in linear if "attn" in path or "attention" in path]
        if not found:
            raise ConfigError(
                f"`target_modules` is attention, and {type(model).__name__} names no layer so",
                hint=f"name layers yourself; there are: {', '.join(_names(linear))}",
            )
        # A name such as GPT-2's `c_proj` also stands for layers elsewhere; there the whole path is needed.
        others = _names([path for path in linear if path not in found])
        return sorted({path if _name(path) in others else _name(path) for path in found})
    unknown = [name for name in asked if name not in _names(linear)]
    if unknown:
        near = get_close_matches(unknown[0], _names(linear), n=1)
        raise ConfigError(
            f"`target_modules`: {type(model).__name__} has no linear layer called {', '.join(unknown)}",
            hint=f"nearest: {near[0]}" if near else f"there are: {', '.join(_names(linear))}",
        )
    return list(asked)


def _linear_paths(model: PreTrainedModel) -> list[str]:
    head = model.get_output_embeddings()
    kinds = ("Linear", "Conv1D", "Linear4bit")
    return [
        path for path, layer in model.named_modules() if type(layer).__name__ in kinds and layer is not head
    ]


def _names(paths: list[str]) -> list[str]:
    return sorted(set(map(_name, paths)))


def _name(path: str) -> str:
    return path.split(".")[-1]
