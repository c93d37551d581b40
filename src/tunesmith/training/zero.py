"""DeepSpeed ZeRO 1 and 2: weights whole on each device, optimizer states (in 2 also gradients) cut over them.

Source: Rajbhandari et al. 2020, arXiv:1910.02054, section 5. The settings are those of accelerate's
configuration. A checkpoint holds whole tensors, the same as without DeepSpeed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import DeepSpeedPlugin
from torch import Tensor, nn

from tunesmith.errors import ConfigError
from tunesmith.hardware import Hardware
from tunesmith.training.engine import Engine, OptimizerOf
from tunesmith.training.ranks import Ranks

MOMENTS = ("exp_avg", "exp_avg_sq")
# What of accelerate's configuration is used; the rest is for stage 3 and for offloading.
KEPT = ("stage", "overlap_comm", "reduce_bucket_size", "allgather_bucket_size", "contiguous_gradients")


class ZeroEngine(Engine):
    """As `Engine`, through DeepSpeed, which clips and updates in one.

    Raises:
        ConfigError: if DeepSpeed is missing, or another stage is asked for.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer_of: OptimizerOf,
        *,
        hardware: Hardware,
        most_norm: float,
        ranks: Ranks,
    ) -> None:
        is_cpu = hardware.device == "cpu"
        self.device = torch.device("cpu") if is_cpu else torch.device("cuda", torch.cuda.current_device())
        self.bare = model.to(self.device)
        if hardware.dtype != "float32":
            # As accelerate does it: the forward of this one model, and frozen and learned keep their types.
            model.forward = torch.autocast(self.device.type, hardware.torch_dtype)(model.forward)
        self._ranks = ranks
        learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._zero, self.optimizer = _started(model, optimizer_of(learning), most_norm)
        self.model = self._zero

    @contextmanager
    def passing(self, *, is_last: bool) -> Iterator[None]:
        """Around the forward and backward of a micro-batch."""
        self._zero.set_gradient_accumulation_boundary(is_boundary=is_last)
        yield

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of `loss`, summed over the processes."""
        self._zero.backward(loss * self._ranks.count)

    def clip(self) -> float:
        """Norm of the whole gradient; the update is done here, unless a gradient is not finite."""
        self.optimizer.step()
        norm = self._zero.get_global_grad_norm()
        return float(norm) if norm is not None else 0.0

    def step(self) -> None:
        """Nothing is left to do."""


class WholeStates(torch.optim.Optimizer):
    """AdamW's states under ZeRO, whole and by parameter, as torch's AdamW has them.

    Every process must call the same.
    """

    def __init__(self, engine: Any, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {})
        self._engine = engine

    def step(self, closure: Any = None) -> Any:
        """Update the weights, unless a gradient is not finite; and drop the gradient."""
        for mine, cut in zip(self.param_groups, self._engine.optimizer.param_groups, strict=True):
            cut["lr"] = mine["lr"]
        self._engine.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing: DeepSpeed drops the gradient with the step."""

    def state_dict(self) -> dict[str, Any]:
        """Step and moments of each parameter."""
        from deepspeed.utils import (  # type: ignore[import-not-found]
            safe_get_full_optimizer_state as whole_state,
        )

        found = super().state_dict()
        (step, *_) = self._steps()
        for index, parameter in enumerate(self._parameters()):
            moments = {name: whole_state(parameter, name) for name in MOMENTS}
            found["state"][index] = {"step": step.detach().cpu().clone()} | moments
        return found

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the states, and the weights as they are in the model now."""
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        weights = [parameter.detach().clone() for parameter in self._parameters()]
        self._make_states()
        for index, (parameter, weight) in enumerate(zip(self._parameters(), weights, strict=True)):
            parameter.detach().copy_(weight)
            safe_set_full_fp32_param(parameter, weight)
            for name in MOMENTS:
                value = state_dict["state"][index][name].to(parameter.device)
                safe_set_full_optimizer_state(parameter, value, name)
        for step in self._steps():
            step.copy_(state_dict["state"][0]["step"])

    def _make_states(self) -> None:
        """ZeRO has no states before its first step, so one that moves nothing is taken."""
        for group in self.param_groups:
            group["lr"] = 0.0
        self._engine.set_gradient_accumulation_boundary(is_boundary=True)
        nothing = torch.stack([parameter.sum() * 0 for parameter in self._parameters()]).sum()
        self._engine.backward(nothing)
        self.step()

    def _steps(self) -> list[Tensor]:
        return [state["step"] for state in self._engine.optimizer.optimizer.state.values()]

    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.param_groups for parameter in group["params"]]


def _started(model: nn.Module, optimizer: torch.optim.Optimizer, most_norm: float) -> tuple[Any, WholeStates]:
    settings = _zero_settings()
    try:
        import deepspeed  # type: ignore[import-not-found]
    except ImportError as error:
        raise ConfigError(
            "the accelerate configuration asks for DeepSpeed, which is not installed",
            hint="`pip install deepspeed`, or cut the weights with `examples/devices/fsdp2.yaml`",
        ) from error
    groups = [dict(group) for group in optimizer.param_groups]
    config = {
        "train_micro_batch_size_per_gpu": 1,  # of no effect: the loop deals out the rows
        "gradient_accumulation_steps": 1,  # and says which micro-batch is the last
        "gradient_clipping": most_norm,
        "zero_optimization": settings,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
    }
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    return engine, WholeStates(engine, groups)


def _zero_settings() -> dict[str, Any]:
    found: dict[str, Any] = DeepSpeedPlugin().deepspeed_config["zero_optimization"]
    if found["stage"] not in (1, 2):
        raise ConfigError(
            f"the accelerate configuration asks for ZeRO stage {found['stage']}, and 1 and 2 are offered",
            hint="set `zero_stage: 2`, or cut the weights too with `examples/devices/fsdp2.yaml`",
        )
    return {name: value for name, value in found.items() if name in KEPT and value != "auto"}
