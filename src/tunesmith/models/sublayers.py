"""Where the attention and the feed-forward sub-layer of each decoder block end.

The end is the linear layer whose output is added to the residual stream: `o_proj` and `down_proj` in Llama,
the two `c_proj` in GPT-2. Read from the layers' own shapes and places, not from a list of architectures.
"""

from collections.abc import Iterator
from typing import Literal

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel

from tunesmith.errors import ConfigError

Part = Literal["attention", "feed-forward"]
ATTENTION = ("attn", "attention")
FEED_FORWARD = ("mlp", "feed_forward", "feedforward", "ffn")


def sublayer_end(model: PreTrainedModel, part: Part) -> list[str]:
    """Path of the layer that ends `part` in every decoder block, first block first.

    It is the last linear layer of the part that is as wide as the model. Layers of experts do not count:
    their outputs are weighed and summed, so no single one of them ends the sub-layer.

    Raises:
        ConfigError: if a block has no such layer, or no decoder blocks are found.
    """
    blocks = _blocks(model)
    if not blocks:
        raise ConfigError(
            f"method `adapter` finds no decoder blocks in {type(model).__name__}; its linear layers are: "
            f"{', '.join(path for path, _ in linear_layers(model))}",
            hint="use method `lora`, which needs no such blocks",
        )
    width = model.config.get_text_config().hidden_size
    return [f"{path}.{_end(block, part, width=width, of=model, at=path)}" for path, block in blocks]


def linear_layers(module: nn.Module) -> Iterator[tuple[str, int]]:
    """Path and output width of each linear layer, in order; one that carries adapters counts once."""
    wrapped = [path for path, layer in module.named_modules() if isinstance(layer, BaseTunerLayer)]
    for path, layer in module.named_modules():
        if any(path.startswith(f"{outer}.") for outer in wrapped):
            continue
        width = output_width(layer)
        if width is not None:
            yield path, width


def output_width(layer: nn.Module) -> int | None:
    """Numbers that a linear layer gives for each token; None for any other module."""
    bare = layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer
    # GPT-2's Conv1D calls it `nf`; quantized layers keep the name of nn.Linear.
    width = getattr(bare, "out_features", getattr(bare, "nf", None))
    return width if isinstance(width, int) else None


def _blocks(model: PreTrainedModel) -> list[tuple[str, nn.Module]]:
    count = model.config.get_text_config().num_hidden_layers
    lists = [
        (path, layers)
        for path, layers in model.named_modules()
        if isinstance(layers, nn.ModuleList) and len(layers) == count
    ]
    # A list inside of a block, such as its experts, may happen to be as long.
    outer = [(path, layers) for path, layers in lists if not any(path.startswith(f"{o}.") for o, _ in lists)]
    return [(f"{path}.{name}", block) for path, layers in outer for name, block in layers.named_children()]


def _end(block: nn.Module, part: Part, *, width: int, of: PreTrainedModel, at: str) -> str:
    linear = list(linear_layers(block))
    inside = _children(block, ATTENTION if part == "attention" else FEED_FORWARD)
    if not inside and part == "feed-forward":
        # OPT has no module for it: its two layers lie in the block itself.
        inside = [path for path, _ in linear if "." not in path]
    found = [
        path
        for path, wide in linear
        if path.split(".")[0] in inside and wide == width and "expert" not in path
    ]
    if not found:
        layers = ", ".join(f"{path} ({wide})" for path, wide in linear)
        raise ConfigError(
            f"method `adapter` goes behind the linear layer, {width} wide, that ends each {part} sub-layer; "
            f"{at} of {type(of).__name__} has no such layer among: {layers or 'none'}",
            hint="use method `lora`, which needs no such layer",
        )
    return found[-1]


def _children(block: nn.Module, names: tuple[str, ...]) -> list[str]:
    return [name for name, _ in block.named_children() if any(part in name.lower() for part in names)]
