"""Memory by term and time, a column for each method: as data, for whoever shows it."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from transformers import PretrainedConfig

from tunesmith.config import METHOD_NAMES, RunConfig
from tunesmith.errors import UserError
from tunesmith.planning.fit import Fit, MemoryOf, Proposal, as_flags, as_yaml
from tunesmith.planning.rate import Duration, duration
from tunesmith.planning.rehearse import Setup
from tunesmith.planning.setups import Place, setup_of
from tunesmith.planning.terms import Memory
from tunesmith.planning.workload import Workload

TERMS = {
    "weights": "weights_bytes",
    "quantization": "quantization_bytes",
    "adapter": "adapter_bytes",
    "gradients": "gradients_bytes",
    "optimizer": "optimizer_bytes",
    "activations": "activations_bytes",
    "logits": "logits_bytes",
    "workspace": "workspace_bytes",
    "runtime": "runtime_bytes",
}


@dataclass(frozen=True, slots=True)
class Planned:
    """One method that can be planned.

    Attributes:
        setup: what was rehearsed.
        memory: by term.
        duration: of training; None where nothing tells it.
        limit_bytes: memory there is, what Python itself takes included; None where that is not known.
    """

    setup: Setup
    memory: Memory
    duration: Duration | None
    limit_bytes: int | None

    @property
    def fits(self) -> bool | None:
        """Whether the peak is within the limit; None without one."""
        return None if self.limit_bytes is None else self.memory.peak_bytes <= self.limit_bytes


@dataclass(frozen=True, slots=True)
class Column:
    """One method of the table: planned, or why it cannot be.

    Attributes:
        method: its name.
        planned: None if it cannot be planned.
        problem: why not.
        notes: sentences for the user.
    """

    method: str
    planned: Planned | None
    problem: str | None = None
    notes: tuple[str, ...] = ()


def plan_methods(
    config: RunConfig,
    shape: PretrainedConfig,
    place: Place,
    workload: Workload,
    *,
    memory_of: MemoryOf,
    rate: float | None = None,
    limit_bytes: int | None = None,
    on_method: Callable[[str], None] = lambda method: None,
) -> tuple[Column, ...]:
    """Every method with the same data, step and device.

    A method that cannot be had here is told in its column, unless it is the chosen one.

    Args:
        config: of the run; `gradient_checkpointing: auto` keeps activations wherever that fits.
        shape: of the model.
        place: device and free memory.
        workload: largest micro-batch and steps.
        memory_of: rehearses a setup.
        rate: matrix rate of the device, operations a second; None gives no time.
        limit_bytes: memory to judge by in place of what is free; None judges by what is free.
        on_method: told before each is rehearsed.

    Raises:
        UserError: if the chosen method cannot be had.
    """
    columns = []
    for name in METHOD_NAMES:
        on_method(name)
        try:
            setup, note = setup_of(name, config=config, shape=shape, place=place, workload=workload)
            memory = memory_of(setup)
        except UserError as error:
            if name == config.method.name:
                raise
            columns.append(Column(name, None, problem=str(error)))
            continue
        room = limit_bytes if limit_bytes is not None else _room(place, memory)
        is_open = config.training.gradient_checkpointing == "auto"
        if is_open and room is not None and memory.training_peak_bytes > room:
            setup = replace(setup, is_checkpointed=True)
            memory = memory_of(setup)
        lasting = duration(setup, memory, workload, rate=rate, seconds_per_micro_batch=None)
        columns.append(Column(name, Planned(setup, memory, lasting, room), notes=(note,) if note else ()))
    return tuple(columns)


def _room(place: Place, memory: Memory) -> int | None:
    # This process holds Python and its libraries already, so they are not in what is free.
    return None if place.free_bytes is None else place.free_bytes + memory.runtime_bytes


def plan_as_dict(columns: Sequence[Column], *, chosen: str) -> dict[str, Any]:
    """JSON-ready: by method its terms, peaks, time, and whether it fits."""
    return {
        "chosen": chosen,
        "methods": {column.method: _column_as_dict(column) for column in columns},
    }


def _column_as_dict(column: Column) -> dict[str, Any]:
    planned = column.planned
    if planned is None:
        return {"problem": column.problem}
    return {
        **_memory_as_dict(planned.memory),
        "fits": planned.fits,
        "limit_bytes": planned.limit_bytes,
        "setup": _setup_as_dict(planned.setup),
        "seconds_per_step": planned.duration.seconds_per_step if planned.duration else None,
        "steps": planned.duration.steps if planned.duration else None,
        "seconds": planned.duration.seconds if planned.duration else None,
        "is_time_measured": planned.duration is not None and planned.duration.is_measured,
        "notes": list(column.notes),
    }


def fit_as_dict(found: Fit) -> dict[str, Any]:
    """JSON-ready: what was proposed, with lines to paste."""
    proposals = {"proposal": found.proposal, "shorter": found.shorter, "smallest": found.smallest}
    return {
        "limit_bytes": found.limit_bytes,
        **{name: _proposal_as_dict(one) if one else None for name, one in proposals.items()},
    }


def _proposal_as_dict(proposal: Proposal) -> dict[str, Any]:
    return {
        "changes": proposal.changes,
        "costs": list(proposal.costs),
        "yaml": as_yaml(proposal.changes),
        "flags": as_flags(proposal.changes),
        **_memory_as_dict(proposal.memory),
    }


def _memory_as_dict(memory: Memory) -> dict[str, int]:
    peaks = ("training_peak_bytes", "evaluation_peak_bytes", "peak_bytes")
    return {**asdict(memory), **{name: getattr(memory, name) for name in peaks}}


def _setup_as_dict(setup: Setup) -> dict[str, Any]:
    plain = (
        *("rows", "length_tokens", "scored_tokens", "device", "dtype", "is_checkpointed", "optim"),
        *("evaluation_rows", "answer_tokens"),
    )
    return {"method": setup.method.model_dump(), **{name: getattr(setup, name) for name in plain}}
