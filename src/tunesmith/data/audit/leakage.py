"""Rows that are almost the same: within a file, and between the training file and one held out."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.data.audit.facts import Facts, Reading, examine
from tunesmith.data.audit.findings import add_pieces
from tunesmith.data.audit.tally import Tally
from tunesmith.data.near import near_leaks
from tunesmith.data.near_copies import Said, folded
from tunesmith.data.read import read_records
from tunesmith.data.records import MAX_SHOWN
from tunesmith.errors import DataError


@dataclass(frozen=True, slots=True)
class Leak:
    """What a held-out file shares with the training file.

    Attributes:
        train: the training file.
        held_out: the other.
        exact: rows of the other whose prompt occurs in the training file; None if one of the two has no
            prompts that can be told.
        near: further rows whose prompt is a near copy of one there; None if not looked for.
        rows: place of the first few, each with the place it copies where that is known.
    """

    train: str
    held_out: str
    exact: int | None
    near: int | None
    rows: tuple[tuple[str, str], ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        rows = [{"place": place, "copies": copied} for place, copied in self.rows]
        return {
            "train": self.train,
            "held_out": self.held_out,
            "exact": self.exact,
            "near": self.near,
            "rows": rows,
        }


def add_near_duplicates(counted: Tally, path: Path, reading: Reading) -> None:
    """Count the rows that say nearly what an earlier one says, by the rule `data clean` folds them by."""
    if not counted.signatures:
        return

    def texts_at(wanted: set[int]) -> dict[int, Said]:
        records = enumerate(read_records(path, skipped=[]))
        return {at: _said(examine(record, reading)) for at, record in records if at in wanted}

    copies = folded(np.concatenate(counted.signatures), texts_at)
    first_of: dict[int, int] = {}
    for at, row in enumerate(counted.row_hashes):
        first_of.setdefault(row, at)
    pieces = (
        (at, f"nearly line {counted.lines[first]}")
        for at, first in sorted(copies.items())
        if first_of[counted.row_hashes[at]] == at  # an exact copy is counted as that
    )
    add_pieces(counted, "near_duplicate", pieces)


def _said(facts: Facts) -> Said:
    answer = facts.row.reference if facts.row else ""
    spoken = [text for part, text in facts.texts if part != "system"]
    prompt = spoken[:-1] if answer else spoken
    system = [text for part, text in facts.texts if part == "system"]
    return Said("\n".join(system), "\n".join(prompt), answer)


def between(tallies: dict[str, Tally], reading: Reading, *, is_near: bool) -> tuple[Leak, ...]:
    """What each further file shares with the first."""
    (train, trained), *others = tallies.items()
    return tuple(_leak(train, trained, name, held_out, reading, is_near) for name, held_out in others)


def _leak(train: str, trained: Tally, name: str, held_out: Tally, reading: Reading, is_near: bool) -> Leak:
    if not (any(trained.prompt_hashes) and any(held_out.prompt_hashes)):
        return Leak(train, name, None, None, ())
    known = {prompt: at for at, prompt in enumerate(trained.prompt_hashes) if prompt}
    exact = {at: known[prompt] for at, prompt in enumerate(held_out.prompt_hashes) if prompt in known}
    near = _near_leaks(Path(train), Path(name), reading, exact) if is_near else None
    pairs = [*exact.items(), *(near or {}).items()][:MAX_SHOWN]
    rows = tuple((f"{name}:{held_out.lines[at]}", f"{train}:{trained.lines[copied]}") for at, copied in pairs)
    return Leak(train, name, len(exact), None if near is None else len(near), rows)


def _near_leaks(train: Path, held_out: Path, reading: Reading, exact: dict[int, int]) -> dict[int, int]:
    """Positions in `held_out` whose prompt is nearly one of `train`, with the position there."""
    known = dict(_asked(train, reading))
    asked = {at: text for at, text in _asked(held_out, reading) if at not in exact}
    places, positions = list(known), list(asked)
    leaks = near_leaks(list(known.values()), list(asked.values()))
    return {positions[at]: places[copied] for at, copied in leaks.items()}


def _asked(path: Path, reading: Reading) -> Iterator[tuple[int, str]]:
    """Position and prompt of each record that is a row."""
    for at, record in enumerate(read_records(path, skipped=[])):
        with suppress(DataError):
            yield at, reading.row_of(record).asked
