"""What a run settles before it starts: its optimizer, its memory, and whether activations are kept."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from transformers import PretrainedConfig

from tunesmith.config import RunConfig, TrainingConfig
from tunesmith.planning.rehearse import Setup, rehearse
from tunesmith.planning.setups import Place, setup_of
from tunesmith.planning.terms import Memory
from tunesmith.planning.workload import Workload


@dataclass(frozen=True, slots=True)
class Launch:
    """A run as it will start.

    Attributes:
        training: the configuration's section with nothing left on `auto`.
        memory: what the largest micro-batch will take.
        free_bytes: memory that was free when this was planned.
        notes: sentences for the user.
    """

    training: TrainingConfig
    memory: Memory
    free_bytes: int
    notes: tuple[str, ...]

    @property
    def is_checkpointed(self) -> bool:
        """Whether activations are computed again in the backward pass."""
        return self.training.gradient_checkpointing == "always"

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, for the manifest."""
        return {
            **asdict(self.memory),
            "peak_bytes": self.memory.peak_bytes,
            "training_peak_bytes": self.memory.training_peak_bytes,
            "free_bytes": self.free_bytes,
            "gradient_checkpointing": self.training.gradient_checkpointing,
            "optim": self.training.optim,
        }


def plan_launch(config: RunConfig, shape: PretrainedConfig, place: Place, workload: Workload) -> Launch:
    """Rehearse the largest micro-batch of the run, and settle what the configuration leaves open.

    A plan that does not fit is told and not refused: it may be a little wrong, and a run that finds no
    memory halves its micro-batch.

    Args:
        config: of the run.
        shape: numbers of the model's architecture.
        place: the device, which is here.
        workload: from the run's own rows.
    """
    setup, note = setup_of(config.method.name, config=config, shape=shape, place=place, workload=workload)
    is_open = config.training.gradient_checkpointing == "auto"
    free_bytes = place.free_bytes or 0
    chosen, memory = settle_checkpointing(setup, is_open=is_open, free_bytes=free_bytes)
    training = config.training.model_copy(
        update={
            "optim": chosen.optim,
            "gradient_checkpointing": "always" if chosen.is_checkpointed else "never",
        }
    )
    says = [note, _fits(chosen, memory, free_bytes, is_chosen=is_open)]
    return Launch(training, memory, free_bytes, tuple(sentence for sentence in says if sentence))


def settle_checkpointing(
    setup: Setup, *, is_open: bool, free_bytes: int, rehearsal: Callable[[Setup], Memory] = rehearse
) -> tuple[Setup, Memory]:
    """The set-up with activations kept; computed again where only so, or more likely so, it fits."""
    memory = rehearsal(setup)
    if not is_open or memory.training_peak_bytes - memory.runtime_bytes <= free_bytes:
        return setup, memory
    saving = replace(setup, is_checkpointed=True)
    return saving, rehearsal(saving)


def _fits(setup: Setup, memory: Memory, free_bytes: int, *, is_chosen: bool) -> str:
    """Python and its libraries are there already, so they ask nothing of the memory that is free."""
    there = free_bytes + memory.runtime_bytes
    need = (
        f"plan: {_gigabytes(memory.peak_bytes)} of memory at most, where {_gigabytes(there)} can be had "
        f"(largest micro-batch: {setup.rows} rows of {setup.length_tokens} tokens)"
    )
    if setup.is_checkpointed and is_chosen:
        need += "; activations are computed again instead of kept, because keeping them would not fit"
    if memory.peak_bytes > there:
        need += "; this may not fit: `tunesmith plan --fit` proposes what would"
    return need


def first_peak_told(
    launch: Launch, record: Callable[..., None], say: Callable[[str], None]
) -> Callable[..., None]:
    """`record`, which also tells once, after the first step, how the measured peak compares."""
    told: list[bool] = []

    def recording(**line: Any) -> None:
        record(**line)
        if "peak_memory_bytes" in line and not told:
            told.append(True)
            say(
                f"first step: peak memory {_gigabytes(line['peak_memory_bytes'])}; the plan for the largest "
                f"micro-batch is {_gigabytes(launch.memory.training_peak_bytes)}"
            )

    return recording


def _gigabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.2f} GB"
