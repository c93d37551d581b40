"""From a tally to findings: what only the whole file can tell, and each count with rows and remedy."""

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from shlex import quote
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.data.audit.facts import BROKEN_JSON, JSON, NO_JSON, OPEN_ENDED, STOPPED
from tunesmith.data.audit.kinds import DIMENSIONS, KINDS, SEVERITIES
from tunesmith.data.audit.tally import LANGUAGES, SHAPES, Hits, Tally
from tunesmith.data.records import MAX_SHOWN

# A minority this small is a mistake more often than a second task.
MAIN_SHARE = 0.9
# Prose without a stop is how some files are written; where most answers have one, its lack is a sign.
MOST_OPEN_ENDED = 0.2
FEWEST_ROWS = 100
# Kinds whose forms tell more than the count.
_WITH_FORMS = ("placeholder", "special_token", "unrendered", "refusal", "html")
_MOST_FORMS = 12


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of fault in one or several files.

    Attributes:
        kind: a key of `KINDS`.
        count: rows that have it.
        rows: place (`file:line`) and excerpt of the first few.
        by_file: count in each file.
        by_part: rows by the part that has it (`prompt`, `answer`, `system`, ...); a row can be in several.
        by_form: the commonest offending pieces.
        mend: the command that mends it.
        note: how the count came about, where that is not plain counting.
        lines: every line, by file; for machines that want more than five rows.
    """

    kind: str
    count: int
    rows: tuple[tuple[str, str], ...]
    by_file: dict[str, int]
    by_part: dict[str, int]
    by_form: dict[str, int]
    mend: str
    note: str = ""
    lines: "dict[str, array[int]]" = field(default_factory=dict)

    @property
    def severity(self) -> str:
        """`error`, `warning` or `note`."""
        return KINDS[self.kind].severity

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, without the full list of lines."""
        about = KINDS[self.kind]
        return {
            "kind": self.kind,
            "dimension": about.dimension,
            "severity": about.severity,
            "count": self.count,
            "title": about.title,
            "by_file": self.by_file,
            "by_part": self.by_part,
            "by_form": self.by_form,
            "rows": [{"place": place, "excerpt": excerpt} for place, excerpt in self.rows],
            "note": self.note,
            "why": about.why,
            "mend": self.mend,
        }


def add_file_findings(tally: Tally) -> None:
    """Complete the hits of a whole file by those that need all rows."""
    copies = _copies(_column(tally.row_hashes, np.uint64))
    add_pieces(tally, "duplicate_row", ((at, f"copies line {tally.lines[first]}") for at, first in copies))
    _add_prompts(tally)
    _add_other_languages(tally)
    _add_drift(tally, np.array(tally.json, dtype=np.int8))
    _add_open_ended(tally, np.array(tally.endings, dtype=np.int8))
    _add_shapes(tally)


def add_pieces(tally: Tally, kind: str, pieces: Iterable[tuple[int, str]], *, part: str = "row") -> None:
    """Count the records at these positions, each with the piece to show."""
    for at, piece in pieces:
        tally.add(kind, tally.lines[at], part, piece)


def usable_rows(tally: Tally) -> int:
    """Rows that can be trained on."""
    return sum(shape_counts(tally).values())


def shape_counts(tally: Tally) -> dict[str, int]:
    """Usable rows of each shape that occurs."""
    counts = np.bincount(np.array(tally.shapes, dtype=np.int8), minlength=len(SHAPES))
    return {name: int(count) for name, count in zip(SHAPES, counts, strict=True) if name and count}


def language_shares(codes: "array[int]") -> dict[str, float]:
    """Share of each language among the texts whose language could be told, the commonest first."""
    counts = np.bincount(np.array(codes, dtype=np.int8), minlength=len(LANGUAGES))[1:]
    order = sorted(np.flatnonzero(counts), key=lambda at: -counts[at])
    return {LANGUAGES[at + 1]: round(float(counts[at] / counts.sum()), 4) for at in order}


def collected(tallies: dict[str, Tally], *, max_length: int) -> list[Finding]:
    """One finding for each kind that occurs, over all files."""
    kinds = dict.fromkeys(kind for tally in tallies.values() for kind in tally.hits)
    by_kind = {
        kind: {path: tally.hits[kind] for path, tally in tallies.items() if kind in tally.hits}
        for kind in kinds
    }
    keys = [key for tally in tallies.values() for keys, _ in tally.keys.most_common(1) for key in keys]
    return [_finding(kind, hits, keys, max_length) for kind, hits in by_kind.items()]


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The worst first: by severity, then dimension, then count; those that count nothing are left out."""
    return tuple(sorted((finding for finding in findings if finding.count), key=_rank))


def general(kind: str, count: int, *, file: str, max_length: int, note: str = "") -> Finding:
    """A finding about a whole file, with no rows to point at."""
    return Finding(kind, count, (), {file: count}, {}, {}, _mend(kind, file, max_length), note)


def _rank(finding: Finding) -> tuple[int, int, int]:
    about = KINDS[finding.kind]
    return SEVERITIES.index(about.severity), DIMENSIONS.index(about.dimension), -finding.count


def _finding(kind: str, hits: dict[str, Hits], keys: Sequence[str], max_length: int) -> Finding:
    parts: Counter[str] = Counter()
    forms: Counter[str] = Counter()
    for found in hits.values():
        parts.update(found.by_part)
        forms.update(found.by_form)
    rows = [(f"{path}:{line}", piece) for path, found in hits.items() for line, piece in found.samples]
    first = next(iter(hits))
    mend = _mend(kind, first, max_length)
    if kind == "unknown_shape" and (columns := guessed_columns(keys)):
        mend = f"{mend.partition(' --columns')[0]} {columns}"
    return Finding(
        kind=kind,
        count=sum(len(found.lines) for found in hits.values()),
        rows=tuple(rows[:MAX_SHOWN]),
        by_file={path: len(found.lines) for path, found in hits.items()},
        by_part=dict(parts),
        by_form=dict(forms.most_common(_MOST_FORMS)) if kind in _WITH_FORMS else {},
        mend=mend,
        lines={path: found.lines for path, found in hits.items()},
    )


def guessed_columns(keys: Iterable[str]) -> str | None:
    """A `--columns` that fits the keys of rows of no known shape, if they have the usual other names."""
    known = {key.lower(): key for key in keys}
    prompt = next((known[name] for name in _PROMPT_NAMES if name in known), None)
    answer = next((known[name] for name in _ANSWER_NAMES if name in known), None)
    return f"--columns instruction={quote(prompt)} output={quote(answer)}" if prompt and answer else None


_PROMPT_NAMES = (
    *("question", "query", "prompt", "instruction", "input", "problem", "source", "mr", "q", "context"),
)
_ANSWER_NAMES = (
    *("answer", "response", "output", "completion", "solution", "target", "reply", "ref", "a", "label"),
    *("chosen",),
)


def _mend(kind: str, file: str, max_length: int) -> str:
    folder, slash, name = file.rpartition("/")
    stem, dot, suffix = name.partition(".")
    clean = f"{folder}{slash}{stem}.clean{dot}{suffix}"
    return KINDS[kind].mend.format(file=quote(file), clean=quote(clean), max_length=max_length)


def _column(values: "array[int]", dtype: type) -> NDArray[Any]:
    return np.frombuffer(values, dtype=dtype) if values else np.empty(0, dtype=dtype)


def _copies(keys: NDArray[np.uint64]) -> list[tuple[int, int]]:
    """Positions of values that occurred before, each with the position of the first one."""
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    copied = first[group]
    return [(int(at), int(copied[at])) for at in np.flatnonzero(copied != np.arange(len(keys)))]


def _add_prompts(tally: Tally) -> None:
    """Prompts that occur more than once, and those of them that get different answers."""
    prompts = _column(tally.prompt_hashes, np.uint64)
    answers = _column(tally.answer_hashes, np.uint64)
    usable = np.flatnonzero(prompts)
    _, group, counts = np.unique(prompts[usable], return_inverse=True, return_counts=True)
    is_repeated = counts[group] > 1
    add_pieces(tally, "repeated_prompt", ((int(at), "") for at in usable[is_repeated]))
    # A group conflicts if some row's answer differs from that of the group's first row.
    order = np.argsort(group, kind="stable")
    first_of_group = answers[usable][order[np.searchsorted(group[order], np.arange(len(counts)))]]
    differs = np.bincount(group, weights=answers[usable] != first_of_group[group], minlength=len(counts)) > 0
    add_pieces(tally, "conflicting_answers", ((int(at), "") for at in usable[differs[group]]))


def _add_other_languages(tally: Tally) -> None:
    """Prompts and answers in another language than most; a row where both are counts once."""
    seen: set[int] = set()
    for part, column in (("prompt", tally.prompt_languages), ("answer", tally.answer_languages)):
        codes = np.array(column, dtype=np.int8)
        counts = np.bincount(codes[codes > 0], minlength=len(LANGUAGES))
        main = int(counts.argmax())
        if not MAIN_SHARE * counts.sum() <= counts[main] < counts.sum():
            continue
        for at in np.flatnonzero((codes > 0) & (codes != main)).tolist():
            piece = f"{LANGUAGES[codes[at]]}, most are {LANGUAGES[main]}"
            tally.add("mixed_language", tally.lines[at], part, piece, is_new_row=at not in seen)
            seen.add(at)


def _add_drift(tally: Tally, status: NDArray[np.int8]) -> None:
    """In a file of JSON answers all that is none; elsewhere what begins like JSON and does not parse."""
    usable = np.array(tally.prompt_hashes, dtype=np.uint64) != 0
    good = int((status == JSON).sum())
    if good < MAIN_SHARE * usable.sum():
        broken = np.flatnonzero(status == BROKEN_JSON)
        drifted = broken if len(broken) < good else np.empty(0, dtype=np.intp)
    else:
        drifted = np.flatnonzero(usable & (status != JSON))
    words = {NO_JSON: "no JSON", BROKEN_JSON: "begins like JSON and does not parse"}
    pieces = ((int(at), words[int(status[at])]) for at in drifted)
    add_pieces(tally, "format_drift", pieces, part="answer")


def _add_open_ended(tally: Tally, endings: NDArray[np.int8]) -> None:
    open_ended = np.flatnonzero(endings == OPEN_ENDED)
    prose = len(open_ended) + int((endings == STOPPED).sum())
    if len(open_ended) <= MOST_OPEN_ENDED * prose:
        pieces = ((int(at), "no stop at the end") for at in open_ended)
        add_pieces(tally, "truncated_answer", pieces, part="answer")


def _add_shapes(tally: Tally) -> None:
    counts = shape_counts(tally)
    main = max(counts, key=lambda name: counts[name], default="")
    codes = np.array(tally.shapes, dtype=np.int8)
    for name in counts:
        if name != main:
            others = np.flatnonzero(codes == SHAPES.index(name))
            add_pieces(tally, "mixed_shapes", ((int(at), f"{name}, most are {main}") for at in others))


def spread(texts: Sequence[str]) -> dict[str, Any]:
    """How varied prompts are: share of distinct texts, of distinct word pairs, and the commonest openings."""
    pairs: Counter[tuple[str, str]] = Counter()
    openings: Counter[str] = Counter()
    for text in texts:
        words = text.lower().split()
        pairs.update(pairwise(words))
        if len(words) >= _OPENING_WORDS:
            openings[" ".join(words[:_OPENING_WORDS])] += 1
    return {
        "n": len(texts),
        "distinct_prompts": len(set(texts)) / len(texts) if texts else None,
        "distinct_word_pairs": len(pairs) / pairs.total() if pairs else None,
        "commonest_openings": dict(openings.most_common(MAX_SHOWN)),
    }


_OPENING_WORDS = 3
