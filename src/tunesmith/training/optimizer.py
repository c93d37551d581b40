"""AdamW with its states in 32 or 8 bit, on the device or paged to main memory.

Sources: Loshchilov and Hutter 2019, arXiv:1711.05101 (AdamW); Dettmers et al. 2022, arXiv:2110.02861 (8-bit
states, quantized in blocks of 256); Dettmers et al. 2023, arXiv:2305.14314, section 3 (paged states).
"""

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import torch
from torch import nn

from tunesmith.errors import ConfigError
from tunesmith.models.four_bit import check_library

PAGED = ("paged_adamw_32bit", "paged_adamw_8bit")
EIGHT_BIT = ("adamw_8bit", "paged_adamw_8bit")
CODE_MAPS = {"qmap1": "dynamic", "qmap2": "udynamic"}


def choose_optim(asked: str, *, device: str, is_four_bit: bool) -> tuple[str, str | None]:
    """The kind of optimizer for a run, and a note for the user where `auto` could not take the usual one.

    `auto` is `adamw_torch`, and for 4-bit weights `paged_adamw_32bit`, or `adamw_8bit` without CUDA.

    Raises:
        ConfigError: if a paged kind is asked for where there is no CUDA.
    """
    if asked != "auto":
        _check_paging(asked, device)
        return asked, None
    if not is_four_bit:
        return "adamw_torch", None
    if device == "cuda":
        return "paged_adamw_32bit", None
    return "adamw_8bit", f"paging of AdamW's states needs CUDA; on {device} they are held in 8 bit instead"


def make_optimizer(
    parameters: Iterable[nn.Parameter], *, kind: str, learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """AdamW over `parameters` (betas 0.9 and 0.999, epsilon 1e-8).

    In the 8-bit kinds a tensor of fewer than 4096 numbers keeps 32-bit states, as bitsandbytes does it: it
    saves little, and small tensors suffer most. `state_dict()` is flat: for each parameter, tensors and the
    number `step`; no two of its tensors share memory.

    Args:
        parameters: those that learn, on the device they are trained on.
        kind: `adamw_torch`, `adamw_8bit`, `paged_adamw_32bit` or `paged_adamw_8bit`.
        learning_rate: of the first step.
        weight_decay: decoupled, per step and times the learning rate.

    Raises:
        ConfigError: if a paged kind is asked for parameters that are not on CUDA.
        ModelError: if bitsandbytes is needed and not installed.
    """
    learning = list(parameters)
    device = learning[0].device.type
    if kind == "adamw_torch":
        # On CPU the fused step takes a third of the time (a tenth for large tensors).
        is_fused = True if device == "cpu" else None
        return torch.optim.AdamW(learning, lr=learning_rate, weight_decay=weight_decay, fused=is_fused)
    check_library()
    _check_paging(kind, device)
    made: torch.optim.Optimizer = _flat_adamw()(
        learning,
        lr=learning_rate,
        weight_decay=weight_decay,
        optim_bits=8 if kind in EIGHT_BIT else 32,
        is_paged=kind in PAGED,
    )
    return made


def _check_paging(kind: str, device: str) -> None:
    if kind in PAGED and device != "cuda":
        raise ConfigError(
            f"`optim` is {kind}, and paging needs CUDA; the device is {device}",
            hint="use `--optim adamw_8bit`, or `--optim adamw_torch` for states in 32 bit",
        )


@cache
def _flat_adamw() -> type[Any]:
    """AdamW of bitsandbytes with a plain state: nothing nested, nothing that all parameters share."""
    from bitsandbytes.optim.adamw import AdamW

    class FlatAdamW(AdamW):
        def state_dict(self) -> dict[str, Any]:
            found = torch.optim.Optimizer.state_dict(self)
            states = found["state"].items()
            found["state"] = {
                index: {name: value for name, value in state.items() if name not in CODE_MAPS}
                for index, state in states
            }
            return found

        def load_state_dict(self, state_dict: Mapping[str, Any], move_to_device: bool = True) -> None:
            super().load_state_dict(dict(state_dict), move_to_device)  # type: ignore[no-untyped-call]
            for parameter, state in self.state.items():
                self._own(parameter, state)

        def _own(self, parameter: torch.Tensor, state: dict[str, Any]) -> None:
            """Put what was loaded where a fresh state would be: in pages, if the optimizer is paged."""
            if state["state1"].dtype == torch.uint8:
                for name, table in CODE_MAPS.items():
                    self.name2qmap[table] = self.name2qmap[table].to(parameter.device)
                    state[name] = self.name2qmap[table]
            for name in ("state1", "state2"):
                loaded = state[name]
                fresh = self.get_state_buffer(parameter, dtype=loaded.dtype)  # type: ignore[no-untyped-call]
                state[name] = fresh.copy_(loaded)

    return FlatAdamW
