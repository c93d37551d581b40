"""What one place of a data file holds: a record, or the reason it cannot be one.

Knows no file format and no row shape; `read.py` and `formats.py` stand on it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

MAX_SHOWN = 5  # a message with more lines than this is not read


@dataclass(frozen=True, slots=True)
class Record:
    """One row as the file has it. `line` is 1-based; in Parquet, which has no lines, the row number."""

    line: int
    value: dict[str, object]


@dataclass(frozen=True, slots=True)
class BadLine:
    """One place of the file that is no record: what is wrong there and what to do.

    `kind` is one of `bad_bytes`, `not_json`, `not_a_number`, `duplicate_key`, `too_deep`, `too_large`,
    `not_an_object`, `wrong_columns` (CSV) and `damaged` (the file breaks off).
    """

    line: int
    kind: str
    what: str
    hint: str


def kind_of(value: object) -> str:
    """What JSON calls the value, with an article: `a number`, `a list`; other types by their Python name."""
    kinds = (
        (type(None), "null"),
        (bool, "true or false"),
        (str, "text"),
        (int | float, "a number"),
        (list | tuple, "a list"),
        (dict, "an object"),
    )
    return next((kind for known, kind in kinds if isinstance(value, known)), type(value).__name__)


def as_record(line: int, value: object) -> Record | BadLine:
    """A record if the decoded value is an object, else the reason why not."""
    if isinstance(value, dict):
        return Record(line, value)
    return BadLine(
        line,
        "not_an_object",
        f"the row is {kind_of(value)}, not an object",
        'write each row as an object with named fields, such as {"instruction": "...", "output": "..."}',
    )


def listed(names: Iterable[str]) -> str:
    """Names in backquotes, with commas between them."""
    return ", ".join(f"`{name}`" for name in names)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that looks most like `name`, or None if none is close."""
    return next(iter(get_close_matches(name, list(known), n=1)), None)


def first_few(shown: Sequence[str], *, bad: int, total: int, path: Path, unit: str) -> str:
    """One message for many bad places: the first few in full, the rest counted.

    Args:
        shown: messages in file order, each with its own place; those after `MAX_SHOWN` are left out.
        bad: number of bad places, also those not in `shown`.
        total: number of places looked at.
        path: the data file.
        unit: what a place is called, such as `rows`.
    """
    if total == 1:
        return shown[0]
    lines = [f"{bad} of {total} {unit} in `{path}` cannot be used:", *shown[:MAX_SHOWN]]
    if bad > MAX_SHOWN:
        lines.append(f"and {bad - MAX_SHOWN} more")
    return "\n  ".join(lines)
