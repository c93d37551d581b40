"""What a run settles before it starts: its optimizer, its memory, and whether activations are kept."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from transformers import PretrainedConfig

from tunesmith.config import RunConfig, TrainingConfig
from tunesmith.planning.beside import heap_bytes
from tunesmith.planning.rehearse import Setup, rehearse
from tunesmith.planning.setups import Place, setup_of
from tunesmith.planning.terms import Memory
from tunesmith.planning.workload import Workload


@dataclass(frozen=True, slots=True)
class Launch:
    """A run as it will start.

    Attributes:
        training: the configuration's section with nothing left on `auto`.
        dtype: number type in which the weights are loaded.
        memory: what the largest micro-batch needs.
        is_heap_small: whether the heap must be held small; left loose, training is faster and takes more.
        expected_bytes: peak while training, with the heap as it will be.
        free_bytes: memory that was free when this was planned.
        notes: sentences for the user.
    """

    training: TrainingConfig
    dtype: str
    memory: Memory
    is_heap_small: bool
    expected_bytes: int
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
            "expected_bytes": self.expected_bytes,
            "is_heap_small": self.is_heap_small,
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
    most = loose_bytes(memory) if place.device == "cpu" else memory.training_peak_bytes
    is_heap_small = place.device == "cpu" and not _fits(most, memory, free_bytes)
    expected = memory.training_peak_bytes if is_heap_small else most
    training = config.training.model_copy(
        update={
            "optim": chosen.optim,
            "gradient_checkpointing": "always" if chosen.is_checkpointed else "never",
        }
    )
    launch = Launch(training, chosen.dtype, memory, is_heap_small, expected, free_bytes, ())
    told = _told(chosen, launch, is_chosen=is_open)
    return replace(launch, notes=(told,) if note is None else (note, told))


def loose_bytes(memory: Memory) -> int:
    """Peak while training on the CPU where the C library's heap may grow as it likes; see `heap.py`."""
    computed = memory.activations_bytes + memory.logits_bytes
    return memory.training_peak_bytes + heap_bytes(computed, device="cpu", has_small_heap=False)


def settle_checkpointing(
    setup: Setup, *, is_open: bool, free_bytes: int, rehearsal: Callable[[Setup], Memory] = rehearse
) -> tuple[Setup, Memory]:
    """The set-up with activations kept; computed again where only so, or more likely so, it fits."""
    memory = rehearsal(setup)
    if not is_open or _fits(memory.training_peak_bytes, memory, free_bytes):
        return setup, memory
    saving = replace(setup, is_checkpointed=True)
    return saving, rehearsal(saving)


def _fits(peak_bytes: int, memory: Memory, free_bytes: int) -> bool:
    """Python and its libraries are there already, so they ask nothing of the memory that is free."""
    return peak_bytes - memory.runtime_bytes <= free_bytes


def _told(setup: Setup, launch: Launch, *, is_chosen: bool) -> str:
    memory, there = launch.memory, launch.free_bytes + launch.memory.runtime_bytes
    need = (
        f"plan: {gigabytes(memory.peak_bytes)} of memory needed, where {gigabytes(there)} can be had "
        f"(largest micro-batch: {setup.rows} rows of {setup.length_tokens} tokens)"
    )
    if setup.is_checkpointed and is_chosen:
        need += "; activations are computed again instead of kept, because keeping them would not fit"
    elif launch.is_heap_small:
        need += "; memory is given back at each turn, which costs time, because else it would not fit"
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
                f"first step: peak memory {gigabytes(line['peak_memory_bytes'])}; "
                f"expected with the largest micro-batch: {gigabytes(launch.expected_bytes)}"
            )

    return recording


def gigabytes(size_bytes: int) -> str:
    """Size in the unit people buy memory in."""
    return f"{size_bytes / 1e9:.2f} GB"
