"""The whole file in small: a sum over rows that can be taken in parts and put together.

A row costs 37 bytes here, so that ten million rows fit into memory. Read next: `findings.py`.
"""

from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from tunesmith.data.audit.facts import Facts, Reading, examine
from tunesmith.data.formats import FORMATS
from tunesmith.data.json_records import decode_json
from tunesmith.data.near import signature
from tunesmith.data.records import MAX_SHOWN, BadLine, Record

# Codes of languages in the arrays; 0 is unknown.
LANGUAGES = (
    *("", "en", "de", "fr", "es", "it", "pt", "nl", "zh", "ja", "ko", "cyrillic", "arabic", "hebrew"),
    *("hindi", "thai", "greek"),
)
SHAPES = ("", *FORMATS)
_CODE = {name or None: code for code, name in enumerate(LANGUAGES)}
_MOST_FORMS = 200
_PIECE_CHARACTERS = 80


@dataclass(slots=True)
class Hits:
    """Where one kind of fault was found.

    Attributes:
        lines: the line of each row that has it, in order; a row counts once.
        by_part: rows by the part of the row.
        by_form: places by the offending piece, for kinds where that tells something.
        samples: line and piece of the first few.
    """

    lines: "array[int]" = field(default_factory=lambda: array("q"))
    by_part: Counter[str] = field(default_factory=Counter)
    by_form: Counter[str] = field(default_factory=Counter)
    samples: list[tuple[int, str]] = field(default_factory=list)

    def add(self, line: int, part: str, piece: str, *, is_new_row: bool) -> None:
        """Count one sign."""
        if is_new_row:
            self.lines.append(line)
        self.by_part[part] += 1
        shown = piece[:_PIECE_CHARACTERS]
        if len(self.by_form) < _MOST_FORMS or shown in self.by_form:
            self.by_form[shown] += 1
        if len(self.samples) < MAX_SHOWN and is_new_row:
            self.samples.append((line, shown))

    def extend(self, later: "Hits") -> None:
        """Put a later part's hits behind these."""
        self.lines.extend(later.lines)
        self.by_part.update(later.by_part)
        self.by_form.update(later.by_form)
        self.samples = (self.samples + later.samples)[:MAX_SHOWN]


@dataclass(slots=True)
class Tally:
    """What is known of a part of a file.

    Attributes:
        hits: by kind.
        keys: rows by their set of keys.
        characters: of prompts and of answers, summed.
        lines: line of each record; the arrays below run along.
        row_hashes: see `Facts`, as for the rest.
        prompt_hashes: 0 for a row that cannot be used.
        answer_hashes: likewise.
        prompt_languages: index into `LANGUAGES`.
        answer_languages: likewise.
        json: status of each answer.
        endings: likewise.
        shapes: index into `SHAPES`; 0 for a row that cannot be used.
        sample: records for the tokenizer, each with its position among the records.
        signatures: MinHash values, (n, 64) a part, if asked for.
    """

    hits: dict[str, Hits] = field(default_factory=dict)
    keys: Counter[tuple[str, ...]] = field(default_factory=Counter)
    characters: Counter[str] = field(default_factory=Counter)
    lines: "array[int]" = field(default_factory=lambda: array("q"))
    row_hashes: "array[int]" = field(default_factory=lambda: array("Q"))
    prompt_hashes: "array[int]" = field(default_factory=lambda: array("Q"))
    answer_hashes: "array[int]" = field(default_factory=lambda: array("Q"))
    prompt_languages: "array[int]" = field(default_factory=lambda: array("b"))
    answer_languages: "array[int]" = field(default_factory=lambda: array("b"))
    json: "array[int]" = field(default_factory=lambda: array("b"))
    endings: "array[int]" = field(default_factory=lambda: array("b"))
    shapes: "array[int]" = field(default_factory=lambda: array("b"))
    sample: list[tuple[int, Record]] = field(default_factory=list)
    signatures: list[NDArray[np.uint32]] = field(default_factory=list)

    def add(self, kind: str, line: int, part: str, piece: str, *, is_new_row: bool = True) -> None:
        """Count one sign."""
        hits = self.hits.get(kind)
        if hits is None:
            hits = self.hits[kind] = Hits()
        hits.add(line, part, piece, is_new_row=is_new_row)

    def add_row(self, facts: Facts, keys: tuple[str, ...]) -> None:
        """Count one record."""
        seen: set[str] = set()
        for kind, part, piece in facts.hits:
            self.add(kind, facts.line, part, piece, is_new_row=kind not in seen)
            seen.add(kind)
        if len(self.keys) < _MOST_FORMS or keys in self.keys:
            self.keys[keys] += 1
        for part, text in facts.texts:
            self.characters[part] += len(text)
        self.lines.append(facts.line)
        self.row_hashes.append(facts.row_hash)
        self.prompt_hashes.append(facts.prompt_hash)
        self.answer_hashes.append(facts.answer_hash)
        self.prompt_languages.append(_CODE[facts.prompt_language])
        self.answer_languages.append(_CODE[facts.answer_language])
        self.json.append(facts.json)
        self.endings.append(facts.ending)
        self.shapes.append(SHAPES.index(facts.row.format) if facts.row else 0)

    def extend(self, later: "Tally") -> None:
        """Put the tally of the part that follows behind this one."""
        start = len(self.lines)
        for kind, hits in later.hits.items():
            self.hits.setdefault(kind, Hits()).extend(hits)
        for name in ("keys", "characters"):
            getattr(self, name).update(getattr(later, name))
        for name in _ARRAYS:
            getattr(self, name).extend(getattr(later, name))
        self.sample += [(start + at, record) for at, record in later.sample]
        self.signatures += later.signatures


_ARRAYS = (
    *("lines", "row_hashes", "prompt_hashes", "answer_hashes"),
    *("prompt_languages", "answer_languages", "json", "endings", "shapes"),
)


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be counted.

    Attributes:
        reading: how rows are read.
        sample_share: share of the records kept for the tokenizer (0 to 1), chosen by a hash of their place.
        with_signatures: whether near duplicates are looked for.
        hint: what to do about a row that is not JSON.
    """

    reading: Reading
    sample_share: float
    with_signatures: bool
    hint: str


def tally(found: Iterable[Any], task: Task, *, first: int = 0) -> Tally:
    """The tally of some places of a file, as `read.undecoded` gives them.

    Args:
        found: undecoded rows, records and bad lines.
        task: what to count.
        first: how many places of the file come before these.
    """
    result = Tally()
    texts: list[str] = []
    for place, item in enumerate(found, start=first):
        record = item if isinstance(item, Record | BadLine) else decode_json(*item, hint=task.hint)
        if isinstance(record, BadLine):
            result.add(record.kind, record.line, "row", record.what)
            continue
        facts = examine(record, task.reading)
        result.add_row(facts, tuple(record.value))
        if crc32(place.to_bytes(8, "little")) < task.sample_share * 2**32:
            result.sample.append((len(result.lines) - 1, record))
        if task.with_signatures:
            texts.append(compared_text(facts))
    if texts:
        result.signatures.append(np.stack([signature(text) for text in texts]))
    return result


def compared_text(facts: Facts) -> str:
    """What near duplicates are compared by: prompt and answer, without the system message."""
    return "\n".join(text for part, text in facts.texts if part != "system")
