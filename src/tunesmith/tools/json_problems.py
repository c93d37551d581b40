"""What can be wrong with a JSON text, where, and how it is mended; kept in file order.

Knows neither how problems are found (`json_scan.py`, `json_parse.py`) nor how they are shown
(`json_show.py`).
"""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "bad_bytes",
    "bad_escape",
    "bad_number",
    "byte_order_mark",
    "comment",
    "control_character",
    "duplicate_key",
    "extra_comma",
    "extra_text",
    "foreign_space",
    "missing_colon",
    "missing_comma",
    "not_a_number",
    "python_literal",
    "raw_newline",
    "single_quotes",
    "surrogate",
    "too_deep",
    "trailing_comma",
    "truncated",
    "unexpected",
    "unquoted_key",
    "unquoted_text",
]
MAX_KEPT = 1000  # of each sort; a file with more problems than this is not read problem by problem


@dataclass(frozen=True, slots=True)
class Excerpt:
    """A piece of one line around a problem; `column` is the 1-based column of its first character."""

    text: str
    column: int


@dataclass(frozen=True, slots=True)
class Edit:
    """Replace `length` characters from `column` (1-based, on the problem's line) on by `text`."""

    column: int
    length: int
    text: str


@dataclass(frozen=True, slots=True)
class Mend:
    """What would mend a problem, in words and as edits; safe if the meaning cannot change by it."""

    words: str
    edits: tuple[Edit, ...] = ()
    is_safe: bool = False


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong. Line and column are 1-based; columns count characters, not bytes."""

    line: int
    column: int
    kind: Kind
    message: str
    mend: Mend
    excerpt: Excerpt

    def as_dict(self, *, fixed: bool) -> dict[str, object]:
        """For machines; `fixed` says whether the mend was made."""
        return {
            "line": self.line,
            "column": self.column,
            "kind": self.kind,
            "message": self.message,
            "mend": self.mend.words,
            "fixed": fixed,
        }


class ProblemList:
    """All problems counted, the first `MAX_KEPT` safe and the first `MAX_KEPT` unsafe ones kept."""

    def __init__(self) -> None:
        self._kept: dict[bool, list[Problem]] = {True: [], False: []}
        self._counts: Counter[bool] = Counter()

    def add(self, problem: Problem) -> None:
        """Count the problem, and keep it while there is room."""
        is_safe = problem.mend.is_safe
        self._counts[is_safe] += 1
        if len(self._kept[is_safe]) < MAX_KEPT:
            self._kept[is_safe].append(problem)

    @property
    def safe_count(self) -> int:
        """Number of problems that can be mended without a doubt."""
        return self._counts[True]

    @property
    def unsafe_count(self) -> int:
        """Number of problems that a person must decide."""
        return self._counts[False]

    def kept(self) -> tuple[Problem, ...]:
        """In the order of the file."""
        both = (*self._kept[True], *self._kept[False])
        return tuple(sorted(both, key=lambda problem: (problem.line, problem.column)))
