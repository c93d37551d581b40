"""Bottleneck adapters as a tuner of peft: importing this module makes their folders loadable by peft.

Placements: `houlsby` behind attention and behind feed-forward (Houlsby et al. 2019, arXiv:1902.00751),
`pfeiffer` behind feed-forward only (Pfeiffer et al. 2020, arXiv:2005.00247), both before the residual is
added. Why peft knows them through its tables: docs/decisions/0008-bottleneck-tuner.md.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, cast

from peft import PeftConfig, PeftType
from peft.mapping import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    PEFT_TYPE_TO_PREFIX_MAPPING,
    PEFT_TYPE_TO_TUNER_MAPPING,
)
from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from tunesmith.errors import ConfigError
from tunesmith.models.bottleneck_layer import ACTIVATIONS, NO_ADAPTER, BottleneckLayer, cannot_merge
from tunesmith.models.sublayers import Part, sublayer_end

PLACEMENTS: dict[str, tuple[Part, ...]] = {
    "houlsby": ("attention", "feed-forward"),
    "pfeiffer": ("feed-forward",),
}
# What the authors of each placement used.
DEFAULT_ACTIVATIONS = {"houlsby": "gelu", "pfeiffer": "relu"}
PREFIX = "bottleneck_"


class TunesmithPeftType(str, Enum):  # noqa: UP042 - peft prints the members of its own as Class.NAME
    """Behaves as a member of peft's PeftType, to which none can be added.

    Name and value are equal, so a member and the text of adapter_config.json find the same entry.
    """

    TUNESMITH_BOTTLENECK = "TUNESMITH_BOTTLENECK"


@dataclass
class BottleneckConfig(PeftConfig):
    """What adapter_config.json holds.

    Attributes:
        placement: `houlsby` or `pfeiffer`.
        reduction_factor: the bottleneck is max(1, floor(width / reduction_factor)) wide; from 1 up.
        activation: `gelu`, `relu` or `silu`; by default what the authors of the placement used.
        dropout: probability on the input of W_down, from 0 to below 1.
        target_modules: regular expression of the layers before adapters; found by `placement` if None.

    Raises:
        ConfigError: if a value is out of range.
    """

    placement: str = field(default="houlsby")
    reduction_factor: float = field(default=16)
    activation: str | None = field(default=None)
    dropout: float = field(default=0.0)
    target_modules: str | None = field(default=None)

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[no-untyped-call]
        self.peft_type = TunesmithPeftType.TUNESMITH_BOTTLENECK
        if self.activation is None:
            self.activation = DEFAULT_ACTIVATIONS.get(self.placement)
        problems = list(_problems(self))
        if problems:
            raise ConfigError(
                f"bottleneck adapter: {'; '.join(problems)}",
                hint="correct the configuration, or adapter_config.json of the folder",
            )


def _problems(config: BottleneckConfig) -> Iterator[str]:
    if config.placement not in PLACEMENTS:
        yield f"`placement` is {config.placement!r}, not {' or '.join(PLACEMENTS)}"
    elif config.activation not in ACTIVATIONS:
        yield f"`activation` is {config.activation!r}, not one of {', '.join(ACTIVATIONS)}"
    if not config.reduction_factor >= 1:
        yield f"`reduction_factor` is {config.reduction_factor}, below 1"
    if not 0 <= config.dropout < 1:
        yield f"`dropout` is {config.dropout}, not from 0 to below 1"


class BottleneckModel(BaseTuner):
    """Puts the layers into a model; peft drives it."""

    prefix = PREFIX
    tuner_layer_cls = BottleneckLayer

    def _prepare_adapter_config(self, peft_config: PeftConfig, model_config: dict[str, Any]) -> PeftConfig:
        config = cast(BottleneckConfig, peft_config)
        if config.target_modules is None:
            parts = PLACEMENTS[config.placement]
            found = [path for part in parts for path in sublayer_end(self.model, part)]
            config.target_modules = _pattern(found)
        return config

    def _create_and_replace(
        self,
        peft_config: PeftConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        config = cast(BottleneckConfig, peft_config)
        layer = target if isinstance(target, BottleneckLayer) else BottleneckLayer(target)
        layer.add(
            adapter_name,
            reduction_factor=config.reduction_factor,
            dropout=config.dropout,
            activation=str(config.activation),
        )
        if layer is not target:
            self._replace_module(parent, target_name, layer, target)

    def _replace_module(
        self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module
    ) -> None:
        setattr(parent, child_name, new_module)

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        """Make one adapter the active one.

        Raises:
            ValueError: if several are named; papers and peft define no order or sum for them.
        """
        if not isinstance(adapter_name, str) and len(adapter_name) > 1:
            raise ValueError(f"one bottleneck adapter at a time, not {len(adapter_name)}: {adapter_name}")
        super().set_adapter(adapter_name, inference_mode=inference_mode)

    def _check_merge_allowed(self) -> None:
        raise cannot_merge()

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Within this context each row of a batch uses the adapter that `adapter_names` gives it."""
        names = kwargs.get("adapter_names")
        if names is None:
            yield
            return
        if self.training:
            raise ValueError("`adapter_names` is for inference; the model is in training mode")
        unknown = sorted(set(names) - {NO_ADAPTER} - set(self.peft_config))
        if unknown:
            raise ValueError(
                f"no adapter is called {', '.join(unknown)}; there are: {', '.join(self.peft_config)}"
            )
        layers = [layer for layer in self.modules() if isinstance(layer, BottleneckLayer)]
        # Beams and several answers to one prompt lie in the batch side by side.
        copies = max(kwargs.get("num_beams") or 1, kwargs.get("num_return_sequences") or 1)
        for layer in layers:
            layer.adapter_of_row = [name for name in names for _ in range(copies)]
        try:
            yield
        finally:
            for layer in layers:
                layer.adapter_of_row = None


def _pattern(paths: list[str]) -> str:
    """Regular expression for exactly these layers: numbers of blocks become any number."""
    return "|".join(
        sorted({r"\.".join(r"\d+" if part.isdigit() else part for part in path.split(".")) for path in paths})
    )


def register() -> None:
    """Enter the tuner in the tables where peft looks up a peft_type.

    Raises:
        RuntimeError: if the name is taken, so that no other tuner is ever replaced.
    """
    kind = cast(PeftType, TunesmithPeftType.TUNESMITH_BOTTLENECK)
    if kind in PEFT_TYPE_TO_TUNER_MAPPING or PREFIX in PEFT_TYPE_TO_PREFIX_MAPPING.values():
        raise RuntimeError(f"peft already has a tuner called {kind.value} or one with prefix {PREFIX}")
    PEFT_TYPE_TO_CONFIG_MAPPING[kind] = BottleneckConfig
    PEFT_TYPE_TO_TUNER_MAPPING[kind] = BottleneckModel
    PEFT_TYPE_TO_PREFIX_MAPPING[kind] = PREFIX


register()
