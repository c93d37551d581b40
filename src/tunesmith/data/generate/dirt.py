"""Known faults planted in good rows, with a key that says where, so that a checker can be scored.

The faults themselves are in `dirt_texts.py`, `dirt_lines.py` and `dirt_copies.py`; here it is decided which
row gets which, and where the lines end up. The key is right if the rows given are good.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from random import Random

import orjson

from tunesmith.data.audit.languages import language_of
from tunesmith.data.generate.dirt_copies import COPY_FAULTS, similarity
from tunesmith.data.generate.dirt_lines import LINE_FAULTS
from tunesmith.data.generate.dirt_site import Row, Site, Spoiled, is_json_object, normalised, parses
from tunesmith.data.generate.dirt_texts import TEXT_FAULTS
from tunesmith.data.records import kind_of, listed, nearest
from tunesmith.errors import DataError

# Kinds that few rows can carry come first, to find rows that are still free.
_FAULTS: dict[str, Callable[[Site], Spoiled | None]] = COPY_FAULTS | TEXT_FAULTS | LINE_FAULTS
KINDS = tuple(_FAULTS)
UNLESS_ASKED = ("too_long",)
_LANGUAGE_ROWS = 200
_TOO_SIMILAR = 0.7
_ATTEMPTS = 8
_REPEATS = ("duplicate_row", "conflicting_answers")
_DIGITS = re.compile(r"\d+")

_Entry = tuple[int, str, dict[str, object]]  # line and kind, to sort by, and the entry of the key


@dataclass(frozen=True, slots=True)
class Planted:
    """A file with faults and the key to them.

    Attributes:
        lines: the lines of a JSON lines file, without line breaks.
        key: one entry for each line and kind that a checker must report, in order of lines: `kind`, `line`
            (1-based), `what`; `original_line` for copies; `caused_by` where the fault is a consequence of
            another one on the same line: a refusal among answers in JSON is `format_drift` too.
    """

    lines: list[bytes]
    key: list[dict[str, object]]


@dataclass(frozen=True, slots=True)
class _Plant:
    kind: str
    row: int
    line: bytes
    what: str
    drifts: bool


@dataclass(slots=True)
class _Field:
    """What holds for the whole file while it is being planted."""

    rows: Sequence[Row]
    seed: int
    language: str | None
    is_json: bool
    prompts: Counter[str]
    used: set[int] = field(default_factory=set)
    texts: set[tuple[str, str]] = field(default_factory=set)


def plant(
    rows: Sequence[Mapping[str, str]], *, share: float, seed: int, kinds: Sequence[str] | None = None
) -> Planted:
    """The rows as lines of JSON with each kind of fault in `share` of them, and the key to the faults.

    A row gets one fault at most. Rows keep their order; copies are new lines somewhere after their originals.
    Lines without a fault are `orjson.dumps(row)`. The same arguments give the same bytes.

    Args:
        rows: good rows of text: `prompt`, `completion` and, if wanted, `system`. Rows that share a prompt
            with another stay as they are.
        share: rows with each kind of fault, as a part of all rows, above 0 and at most 1; their number is
            rounded up.
        seed: decides everything random.
        kinds: of `KINDS`; None is all that the rows can carry, without `too_long`.

    Raises:
        DataError: for an unknown kind, a share out of range, a row that is not of this shape, and where
            there are not enough rows for the faults.
    """
    _check_kinds(kinds)
    _check_rows(rows)
    if not 0 < share <= 1:
        raise DataError(f"the share of faults is {share}", hint="give one above 0 and up to 1, such as 0.02")
    # Rounding first, as 0.07 * 100 is a little more than 7.
    count = ceil(round(share * len(rows), 9))
    order = list(range(len(rows)))
    _dice(seed, "order").shuffle(order)
    ground = _ground(rows, seed)
    plants: list[_Plant] = []
    for kind in KINDS:
        if kind in kinds if kinds is not None else kind not in UNLESS_ASKED:
            plants += _plants(ground, kind, order, count, required=kinds is not None)
    return _planted(rows, plants, seed)


def _dice(*parts: object) -> Random:
    return Random(" ".join(map(str, parts)))  # noqa: S311  nothing secret is drawn


def _check_kinds(kinds: Sequence[str] | None) -> None:
    for kind in kinds or ():
        if kind not in KINDS:
            close = nearest(kind, KINDS)
            hint = f"did you mean `{close}`?" if close else f"the kinds are {listed(KINDS)}"
            raise DataError(f"`{kind}` is no kind of fault", hint=hint)


def _check_rows(rows: Sequence[Mapping[str, str]]) -> None:
    for number, row in enumerate(rows, start=1):
        for name in ("prompt", "completion"):
            value = row.get(name)
            if not isinstance(value, str) or not value.strip():
                what = "empty" if isinstance(value, str) else kind_of(value)
                raise DataError(
                    f"row {number}: `{name}` is {what}, and faults are planted in good rows",
                    hint="give rows with `prompt` and `completion`, both text",
                )


def _ground(rows: Sequence[Row], seed: int) -> _Field:
    languages = Counter(language_of(row["prompt"]) for row in rows[:_LANGUAGE_ROWS])
    languages.pop(None, None)
    return _Field(
        rows=rows,
        seed=seed,
        language=languages.most_common(1)[0][0] if languages else None,
        is_json=all(is_json_object(row["completion"]) for row in rows),
        prompts=Counter(normalised(row["prompt"]) for row in rows),
    )


def _plants(ground: _Field, kind: str, order: list[int], count: int, *, required: bool) -> list[_Plant]:
    """`count` faults of one kind; none if the rows cannot carry so many and the kind was not asked for."""
    found: list[_Plant] = []
    for row in order:
        if len(found) == count:
            break
        if row not in ground.used and ground.prompts[normalised(ground.rows[row]["prompt"])] == 1:
            new = _fault(ground, kind, row)
            found += [new] if new else []
    if len(found) == count:
        ground.used.update(plant.row for plant in found)
        return found
    free = len(ground.rows) - len(ground.used)
    if required or free < count:
        raise DataError(
            f"`{kind}` needs {count} rows, and {len(found)} of the {free} rows without a fault can carry it",
            hint="lower the share, leave this kind out, or give more rows with different prompts",
        )
    return []


def _fault(ground: _Field, kind: str, number: int) -> _Plant | None:
    """The fault in this row, or None if it cannot carry it or would get a second fault by it."""
    row = ground.rows[number]
    for attempt in range(_ATTEMPTS):
        site = Site(row, _dice(ground.seed, kind, number, attempt), ground.rows, ground.language)
        spoiled = _FAULTS[kind](site)
        if spoiled is None:
            return None
        content, what = spoiled
        if isinstance(content, bytes):
            return _Plant(kind, number, content, what, drifts=False)
        if kind in _REPEATS or _is_new(ground, row, content):
            return _Plant(kind, number, orjson.dumps(content), what, _drifts(ground, kind, content))
    return None


def _drifts(ground: _Field, kind: str, content: Mapping[str, object]) -> bool:
    """Whether the answer is no JSON in a file of JSON, though another kind was asked for."""
    completion = content.get("completion")
    if not ground.is_json or kind == "format_drift" or not isinstance(completion, str):
        return False
    return completion.strip() != "" and not parses(completion)


def _is_new(ground: _Field, row: Row, content: Mapping[str, object]) -> bool:
    """Whether no other line has this prompt or, where it is empty, this answer; notes them down if so."""
    prompt, completion = content.get("prompt"), content.get("completion")
    if not isinstance(prompt, str) or not isinstance(completion, str):
        return True
    key = normalised(prompt), ""
    if not key[0]:
        key = "", normalised(completion)
    elif prompt != row["prompt"] and key[0] in ground.prompts:
        return False
    keys = {key}
    if prompt != row["prompt"] and completion != row["completion"] and _is_told_by_number(prompt, completion):
        keys.add((_DIGITS.sub("#", prompt), "#"))
    if keys & ground.texts:
        return False
    ground.texts |= keys
    return True


def _is_told_by_number(prompt: str, completion: str) -> bool:
    """Whether the same row with another number would be almost a near duplicate of this one."""
    text = f"{prompt} {completion}"
    return similarity(text, _DIGITS.sub("#0", text)) >= _TOO_SIMILAR


def _planted(rows: Sequence[Row], plants: Sequence[_Plant], seed: int) -> Planted:
    """The file's lines in their final places, and the key by these places."""
    spoiled = {plant.row: plant.line for plant in plants if plant.kind not in COPY_FAULTS}
    copies = [plant for plant in plants if plant.kind in COPY_FAULTS]
    dice = _dice(seed, "places")
    # A copy stands behind a row that is its original or a later one.
    places = [
        (dice.randint(plant.row, len(rows) - 1), number) for number, plant in enumerate(copies, start=1)
    ]
    line_of = {place: line for line, place in enumerate(sorted([*_own(rows), *places]), start=1)}
    lines = [b""] * len(line_of)
    for number, row in enumerate(rows):
        lines[line_of[number, 0] - 1] = spoiled.get(number) or orjson.dumps(row)
    entries = [
        entry for plant in plants if plant.kind not in COPY_FAULTS for entry in _entries(plant, line_of)
    ]
    for plant, place in zip(copies, places, strict=True):
        lines[line_of[place] - 1] = plant.line
        entries += _copy_entries(plant, line_of[place], line_of[plant.row, 0])
    return Planted(lines, [entry for _, _, entry in sorted(entries, key=lambda entry: entry[:2])])


def _own(rows: Sequence[Row]) -> list[tuple[int, int]]:
    return [(number, 0) for number in range(len(rows))]


def _entry(kind: str, line: int, what: str, **more: object) -> _Entry:
    return line, kind, {"kind": kind, "line": line, "what": what, **more}


def _entries(plant: _Plant, line_of: Mapping[tuple[int, int], int]) -> list[_Entry]:
    line = line_of[plant.row, 0]
    entry = _entry(plant.kind, line, plant.what)
    if not plant.drifts:
        return [entry]
    return [entry, _entry("format_drift", line, "the answer is no JSON", caused_by=plant.kind)]


def _copy_entries(plant: _Plant, line: int, original: int) -> list[_Entry]:
    entry = _entry(plant.kind, line, plant.what, original_line=original)
    if plant.kind != "conflicting_answers":
        return [entry]
    return [entry, _entry(plant.kind, original, plant.what)]
