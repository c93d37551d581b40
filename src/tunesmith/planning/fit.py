"""The cheapest change with which a run fits into a given memory.

Changes in order of cost, cheapest first: smaller evaluation batches, checkpointing, a smaller micro-batch
with more accumulation, an 8-bit optimizer, another method. What costs less is tried in every combination
before what costs more. Shorter rows change the data, so they are proposed apart and never chosen.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil

from tunesmith.config import TrainingConfig
from tunesmith.errors import ConfigError
from tunesmith.planning.rehearse import Setup
from tunesmith.planning.terms import Memory
from tunesmith.resolve import options

MemoryOf = Callable[[Setup], Memory]
# From rows in a micro-batch to (rows, padded tokens, scored tokens) of the largest one.
BatchOf = Callable[[int], tuple[int, int, int]]
Changes = dict[str, str | int]

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
BINARY_UNITS = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
SHORTEST_TOKENS = 64
# Methods that hold less, in order of cost.
SMALLER_METHODS = {"full": ("lora", "qlora"), "lora": ("qlora",), "prefix": ("qlora",), "adapter": ("qlora",)}
EIGHT_BIT = {"adamw_torch": "adamw_8bit", "paged_adamw_32bit": "paged_adamw_8bit"}
COSTS = {
    "evaluation.per_device_eval_batch_size": "answers are made in smaller batches: slower evaluation",
    "training.gradient_checkpointing": "activations are computed twice: about a third more time a step",
    "training.per_device_train_batch_size": "the same step in smaller pieces: the same gradients, less speed",
    "training.optim": "AdamW's states are rounded to 8 bit: about the same quality (arXiv:2110.02861)",
    "data.max_length": "longer rows are refused, dropped or cut (`overlong`): other data",
}
METHOD_COSTS = {
    "lora": "only a low-rank update learns: less new knowledge than all weights (arXiv:2405.09673)",
    "qlora": "the base is rounded to 4 bit: a slightly different base, slower steps (arXiv:2305.14314)",
}


@dataclass(frozen=True, slots=True)
class Proposal:
    """A run that differs from the one asked for.

    Attributes:
        setup: what decides its memory.
        memory: what it needs.
        changes: the new value by configuration key; empty where nothing changes.
        costs: a sentence on each change.
    """

    setup: Setup
    memory: Memory
    changes: Changes
    costs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fit:
    """What fits.

    Attributes:
        limit_bytes: the memory there is.
        proposal: the cheapest run that fits with the data as they are; None if none does.
        shorter: the cheapest run that fits with the method kept and rows shortened; None if none does, or
            if `proposal` keeps the method.
        smallest: the run that needs least of all that were looked at with the data as they are.
    """

    limit_bytes: int
    proposal: Proposal | None
    shorter: Proposal | None
    smallest: Proposal


def parse_bytes(text: str) -> int:
    """`8GB`, `7.5 GiB`, `900MB` in bytes; GB is 10^9, GiB is 2^30.

    Raises:
        ConfigError: if `text` is no amount of memory above 0.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", text, flags=re.IGNORECASE)
    unit, is_binary = (found[2].lower(), bool(found[3])) if found else ("", False)
    scale = (BINARY_UNITS if is_binary else UNITS).get(unit, 0)
    amount = int(float(found[1]) * scale) if found else 0
    if not unit or not amount:
        raise ConfigError(f"`{text}` is no amount of memory", hint="write it as `8GB`, `7.5GiB` or `900MB`")
    return amount


def fit(
    setup: Setup,
    *,
    limit_bytes: int,
    training: TrainingConfig,
    memory_of: MemoryOf,
    others: Sequence[Setup] = (),
    batch_of: BatchOf | None = None,
) -> Fit:
    """The cheapest change with which `setup` fits into `limit_bytes`.

    It is assumed that no change makes a run larger; then the proposal fits, and nothing cheaper does.

    Args:
        setup: the run as asked for.
        limit_bytes: the memory there is.
        training: rows and micro-batches of a step, whose product is kept.
        memory_of: what a setup needs; called once for each.
        others: the same run with other methods; those that hold less are considered.
        batch_of: the largest micro-batch at a number of rows; by default `setup`'s in proportion.
    """
    search = _Search(
        setup.method.name, training, remembered(memory_of), batch_of or _in_proportion(setup, training)
    )
    by_name = {other.method.name: other for other in others}
    smaller = [by_name[name] for name in SMALLER_METHODS.get(setup.method.name, ()) if name in by_name]
    proposal = next(filter(None, (search.cheapest(start, limit_bytes) for start in (setup, *smaller))), None)
    is_kept = proposal is not None and proposal.setup.method.name == setup.method.name
    shorter = None if is_kept else next(filter(None, _shortened(search, setup, limit_bytes)), None)
    smallest = min(map(search.smallest, (setup, *smaller)), key=lambda found: found.memory.peak_bytes)
    return Fit(limit_bytes, proposal, shorter, smallest)


def as_yaml(changes: Changes) -> str:
    """Lines to put into a configuration file."""
    sections: dict[str, list[str]] = {}
    for key, value in changes.items():
        section, _, name = key.rpartition(".")
        sections.setdefault(section, []).append(f"  {name}: {value}")
    return "\n".join(line for section, lines in sections.items() for line in (f"{section}:", *lines))


def as_flags(changes: Changes) -> str:
    """The same as flags of `tunesmith train`."""
    flags = {option.key: option.flag for option in options()}
    return " ".join(f"--{flags[key]} {value}" for key, value in changes.items())


def _shortened(search: "_Search", setup: Setup, limit_bytes: int) -> Iterator[Proposal | None]:
    """The cheapest run at each half of the length before, down to the shortest that makes sense."""
    length = setup.length_tokens // 2
    while length >= SHORTEST_TOKENS:
        yield search.cheapest(setup, limit_bytes, most_tokens=length)
        length //= 2


@dataclass(frozen=True, slots=True)
class _Search:
    """What all combinations of changes have in common."""

    asked_method: str
    training: TrainingConfig
    memory_of: MemoryOf
    batch_of: BatchOf

    def cheapest(self, start: Setup, limit_bytes: int, *, most_tokens: int | None = None) -> Proposal | None:
        """The first that fits, of the combinations that keep the method of `start`."""
        if self.smallest(start, most_tokens=most_tokens).memory.peak_bytes > limit_bytes:
            return None
        for way, rows in self._ways(start, most_tokens):
            # What training takes does not depend on the evaluation's batch.
            for evaluation_rows in _halves(start.evaluation_rows, down_to=1):
                candidate = replace(way, evaluation_rows=evaluation_rows)
                memory = self.memory_of(candidate)
                if memory.peak_bytes <= limit_bytes:
                    return self._proposal(start, candidate, memory, rows, most_tokens)
                if memory.training_peak_bytes > limit_bytes:
                    break
        return None

    def smallest(self, start: Setup, *, most_tokens: int | None = None) -> Proposal:
        """All changes at once, the method and the length aside."""
        *_, (way, rows) = self._ways(start, most_tokens)
        least = replace(way, evaluation_rows=min(1, start.evaluation_rows))
        return self._proposal(start, least, self.memory_of(least), rows, most_tokens)

    def _ways(self, start: Setup, most_tokens: int | None) -> Iterator[tuple[Setup, int]]:
        """Setups in order of cost, the evaluation's batch aside, each with its rows in a micro-batch."""
        smaller = EIGHT_BIT.get(start.optim)
        for optim in (start.optim, *([smaller] if smaller else ())):
            for rows in self._row_counts():
                count, length, scored = self.batch_of(rows)
                if most_tokens is not None and length > most_tokens:
                    length, scored = most_tokens, min(scored, count * (most_tokens - 1))
                way = replace(start, optim=optim, rows=count, length_tokens=length, scored_tokens=scored)
                for is_checkpointed in (False, True) if not start.is_checkpointed else (True,):
                    yield replace(way, is_checkpointed=is_checkpointed), rows

    def _row_counts(self) -> list[int]:
        """Rows in a micro-batch that cut the step's rows into equal parts, largest first."""
        most = self.training.per_device_train_batch_size
        window = most * self.training.gradient_accumulation_steps
        return [rows for rows in range(most, 0, -1) if window % rows == 0]

    def _proposal(
        self, start: Setup, setup: Setup, memory: Memory, rows: int, most_tokens: int | None
    ) -> Proposal:
        changes = self._changes(start, setup, rows)
        if most_tokens is not None:
            changes["data.max_length"] = most_tokens
        costs = [COSTS[key] for key in changes if key in COSTS]
        if "method.name" in changes:
            costs.append(METHOD_COSTS[setup.method.name])
        return Proposal(setup, memory, changes, tuple(costs))

    def _changes(self, start: Setup, setup: Setup, rows: int) -> Changes:
        most = self.training.per_device_train_batch_size
        changes: Changes = {}
        if setup.method.name != self.asked_method:
            changes["method.name"] = setup.method.name
        if rows != most:
            window = most * self.training.gradient_accumulation_steps
            changes["training.per_device_train_batch_size"] = rows
            changes["training.gradient_accumulation_steps"] = window // rows
        if setup.is_checkpointed and not start.is_checkpointed:
            changes["training.gradient_checkpointing"] = "always"
        if setup.optim != start.optim:
            changes["training.optim"] = setup.optim
        if setup.evaluation_rows != start.evaluation_rows:
            changes["evaluation.per_device_eval_batch_size"] = setup.evaluation_rows
        return changes


def _halves(number: int, *, down_to: int) -> list[int]:
    """`number`, its half, and so on, each once."""
    found = [number]
    while found[-1] // 2 >= down_to:
        found.append(found[-1] // 2)
    return found


def _in_proportion(setup: Setup, training: TrainingConfig) -> BatchOf:
    share = setup.scored_tokens / setup.rows

    def batch_of(rows: int) -> tuple[int, int, int]:
        if rows == training.per_device_train_batch_size:
            return setup.rows, setup.length_tokens, setup.scored_tokens
        count = min(rows, setup.rows)
        return count, setup.length_tokens, ceil(share * count)

    return batch_of


def remembered(memory_of: MemoryOf) -> MemoryOf:
    """`memory_of` for one model and one machine, called once for each setup."""
    known: dict[tuple[object, ...], Memory] = {}

    def remembering(setup: Setup) -> Memory:
        key = (
            setup.method.name,
            setup.rows,
            setup.length_tokens,
            setup.scored_tokens,
            setup.is_checkpointed,
            setup.optim,
            setup.evaluation_rows,
        )
        if key not in known:
            known[key] = memory_of(setup)
        return known[key]

    return remembering
