"""From a configuration to what is rehearsed: the device, and the same run with each method."""

from dataclasses import dataclass

from transformers import PretrainedConfig

from tunesmith.config import METHODS_WITH, MethodConfig, ModelConfig, RunConfig
from tunesmith.errors import ConfigError
from tunesmith.hardware import choose_hardware, free_memory_bytes
from tunesmith.methods import METHODS
from tunesmith.planning.rehearse import Setup
from tunesmith.planning.workload import Workload
from tunesmith.training.optimizer import choose_optim


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run is planned to be.

    Attributes:
        device: `cpu`, `cuda` or `mps`.
        dtype: of frozen weights.
        is_here: whether this machine has the device, so that it can be measured.
        free_bytes: what this process could still take there; None where the device is not here.
        reason: one sentence for the user.
    """

    device: str
    dtype: str
    is_here: bool
    free_bytes: int | None
    reason: str


def choose_place(settings: ModelConfig) -> Place:
    """The device to plan for, which need not be here; bfloat16 is assumed of a CUDA device elsewhere."""
    try:
        hardware = choose_hardware(device=settings.device, dtype=settings.dtype)
    except ConfigError:
        elsewhere = "bfloat16" if settings.device == "cuda" else "float32"
        dtype = elsewhere if settings.dtype == "auto" else settings.dtype
        return Place(settings.device, dtype, False, None, f"{dtype} on {settings.device}, which is not here")
    free = free_memory_bytes(hardware.device)
    return Place(hardware.device, hardware.dtype, True, free, hardware.reason)


def method_settings(name: str, chosen: MethodConfig) -> MethodConfig:
    """The settings of method `name` beside the chosen one: what both know is shared, the rest is default."""
    shared = {
        key: getattr(chosen, key)
        for key, users in METHODS_WITH.items()
        if name in users and chosen.name in users
    }
    return MethodConfig.model_validate({"name": name, **shared})


def setup_of(
    name: str, *, config: RunConfig, shape: PretrainedConfig, place: Place, workload: Workload
) -> tuple[Setup, str | None]:
    """The run with method `name`, and a note where the optimizer is not the usual one.

    All weights learn in float32 masters unless another number type is asked for. Activations are kept
    unless the configuration says `always`.

    Raises:
        ConfigError: if the optimizer asked for cannot be had on the device.
    """
    base = METHODS[name].base
    optim, note = choose_optim(config.training.optim, device=place.device, is_four_bit=base == "four_bit")
    rows, length_tokens, scored_tokens = workload.batch_of(config.training.per_device_train_batch_size)
    # Small updates vanish in 16-bit weights.
    has_masters = base == "trained" and config.model.dtype == "auto"
    setup = Setup(
        config=shape,
        method=method_settings(name, config.method),
        rows=rows,
        length_tokens=length_tokens,
        scored_tokens=scored_tokens,
        device=place.device,
        dtype="float32" if has_masters else place.dtype,
        is_checkpointed=config.training.gradient_checkpointing == "always",
        optim=optim,
        # A run that holds nothing out is planned as if it measured one row: far below any training peak.
        evaluation_rows=max(1, workload.evaluation_rows),
        answer_tokens=workload.answer_tokens,
    )
    return setup, note
