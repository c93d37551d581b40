"""A linear layer with bottleneck adapters behind it: y + W_up act(W_down y + b_down) + b_up.

Source: Houlsby et al. 2019, arXiv:1902.00751, section 2.1.
Shapes: B rows, T tokens, D width of the model, S width of the bottleneck.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from tunesmith.errors import ConfigError, ModelError
from tunesmith.models.sublayers import output_width

ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU}
NO_ADAPTER = "__base__"  # peft's name for a row without adapter


class BottleneckLayer(nn.Module, BaseTunerLayer):
    """The wrapped layer and its adapters by name; of `base_layer` only the forward is used.

    Attributes:
        adapter_of_row: name for each row of the batch, or None where the active adapter serves all rows.
    """

    adapter_layer_names = ("bottleneck_down", "bottleneck_up")
    other_param_names = ("bottleneck_dropout", "bottleneck_activation")

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        width = output_width(base_layer)
        if width is None:
            raise ConfigError(
                f"a bottleneck adapter needs a linear layer before it; {type(base_layer).__name__} is none",
                hint="name linear layers in `target_modules` of adapter_config.json",
            )
        self.base_layer = base_layer
        self.width = width
        self.bottleneck_down = nn.ModuleDict()
        self.bottleneck_up = nn.ModuleDict()
        self.bottleneck_dropout = nn.ModuleDict()
        self.bottleneck_activation = nn.ModuleDict()
        self.adapter_of_row: Sequence[str] | None = None
        self._disable_adapters = False
        self.merged_adapters: list[str] = []

    def add(self, name: str, *, reduction_factor: float, dropout: float, activation: str) -> None:
        """A new adapter that changes nothing yet: W_up and the biases are 0, W_down is torch's default."""
        size = max(1, int(self.width / reduction_factor))
        device, dtype = self._get_base_layer_device_and_dtype(self.get_base_layer())  # type: ignore[no-untyped-call]
        kind = {"device": device, "dtype": dtype if dtype and dtype.is_floating_point else torch.float32}
        # Made where they stay: fake tensors, on which planning rehearses, cannot always be moved.
        down, up = nn.Linear(self.width, size, **kind), nn.Linear(size, self.width, **kind)
        for zero in (down.bias, up.weight, up.bias):
            nn.init.zeros_(zero)
        self.bottleneck_down[name] = down
        self.bottleneck_up[name] = up
        self.bottleneck_dropout[name] = nn.Dropout(dropout)
        self.bottleneck_activation[name] = ACTIVATIONS[activation]()
        self.train(self.base_layer.training)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Output of the wrapped layer, (B, T, D), changed by the active adapter or by each row's own."""
        y_BTD: Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return y_BTD
        if self.adapter_of_row is not None:
            return self._each_row(y_BTD, self.adapter_of_row)
        for name in self.active_adapters:
            y_BTD = self._adapted(y_BTD, name)
        return y_BTD

    def _adapted(self, y_BTD: Tensor, name: str) -> Tensor:
        if name not in self.bottleneck_down:  # Pfeiffer has none behind attention
            return y_BTD
        down, up = (cast(nn.Linear, held[name]) for held in (self.bottleneck_down, self.bottleneck_up))
        # Adapters are float32 where the model is bfloat16; the sum is rounded once.
        exact_BTD = y_BTD.to(down.weight.dtype)
        inner_BTS: Tensor = self.bottleneck_activation[name](down(self.bottleneck_dropout[name](exact_BTD)))
        change_BTD: Tensor = up(inner_BTS)
        return (exact_BTD + change_BTD).to(y_BTD.dtype)

    def _each_row(self, y_BTD: Tensor, names: Sequence[str]) -> Tensor:
        if len(names) != len(y_BTD):
            raise ValueError(f"`adapter_names` has {len(names)} names for a batch of {len(y_BTD)} rows")
        result_BTD = y_BTD.clone()
        for name in sorted(set(names) - {NO_ADAPTER}):
            rows = torch.tensor([at for at, own in enumerate(names) if own == name], device=y_BTD.device)
            result_BTD[rows] = self._adapted(y_BTD[rows], name)
        return result_BTD

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Always refused.

        Raises:
            ModelError: no linear layer computes what a linear layer and an activation do.
        """
        raise cannot_merge()

    def unmerge(self) -> None:
        """Always refused, as `merge` is."""
        raise cannot_merge()


def cannot_merge() -> ModelError:
    """The error for every way to ask for a merge."""
    return ModelError(
        "bottleneck adapters cannot be merged: between W_down and W_up is a nonlinear activation, "
        "and no weight of the layer before can express it",
        hint="keep base and adapter as they are; a method whose result can be merged is `lora`",
    )
