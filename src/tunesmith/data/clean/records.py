"""Records through the steps: each by itself first, then against the others; every loss comes with its reason.

Streams. Where near duplicates are folded the rows are read again instead of being held.
Read next: `run.py`.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import chain, repeat

from tunesmith.data.clean.steps import Settings, Step
from tunesmith.data.clean.texts import Texts, Value, shapes_of, texts_of
from tunesmith.data.near_copies import Said, near_copies
from tunesmith.data.records import Record

READING = "reading"  # the step under which places are removed that are no records
_MOST_ROUNDS = 20  # two or three are usual


@dataclass(frozen=True, slots=True)
class Unread:
    """A place of the file that is no record: what is wrong there, and its text where that is known."""

    line: int
    what: str
    raw: str | None


@dataclass(frozen=True, slots=True)
class Reason:
    """The step that changed or removed a row, and what it did."""

    step: str
    what: str


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What became of one place of the file.

    Attributes:
        line: where it starts.
        before: the record; of an unreadable place its text, or None.
        after: the cleaned record; None if it is removed.
        reasons: in order; the last one of a removed row is why it is removed.
    """

    line: int
    before: Value | str | None
    after: Value | None
    reasons: tuple[Reason, ...] = ()

    @property
    def is_changed(self) -> bool:
        """Whether the row is kept, but not as it was."""
        return self.after is not None and bool(self.reasons)

    def removed(self, step: str, what: str) -> "Cleaned":
        """The same, removed by one more step."""
        return replace(self, after=None, reasons=(*self.reasons, Reason(step, what)))


Read = Callable[[], Iterable[Record | Unread]]


def clean_record(record: Record, steps: Iterable[Step], settings: Settings) -> Cleaned:
    """The record after all steps, which are repeated until none of them has more to do."""
    value, reasons = record.value, dict[Reason, None]()
    applied = [(step.name, step.apply) for step in steps if step.apply]
    texts = texts_of(value, settings.columns)
    for _ in range(_MOST_ROUNDS):
        before = value
        for name, apply in applied:
            verdict = apply(Record(record.line, value), texts, settings)
            if verdict is None:
                continue
            reasons[Reason(name, verdict.what)] = None
            if verdict.after is None:
                return Cleaned(record.line, record.value, None, tuple(reasons))
            value = verdict.after
            texts = texts_of(value, settings.columns)
        if value is before:
            break
    return Cleaned(record.line, record.value, value, tuple(reasons))


def clean_records(read: Read, steps: tuple[Step, ...], settings: Settings) -> Iterator[Cleaned]:
    """Every place of the file, in order, kept or removed.

    Args:
        read: gives the rows from the start, the same ones each time; called again to fold near copies.
        steps: from `steps.choose`.
        settings: what the steps need.
    """
    if all(step.name != "near_duplicates" for step in steps):
        yield from _each_then_copies(read(), steps, settings)
        return
    survived = bytearray()
    lines: list[int] = []

    def first_reading() -> Iterator[Said]:
        for cleaned in _each_then_copies(read(), steps, settings):
            survived.append(cleaned.after is not None)
            if cleaned.after is not None:
                lines.append(cleaned.line)
                yield said(texts_of(cleaned.after, settings.columns))

    def second_reading() -> Iterator[Said]:
        for cleaned in _each_then_copies(read(), steps, settings, survived):
            if cleaned.after is not None:
                yield said(texts_of(cleaned.after, settings.columns))

    readings = chain((first_reading,), repeat(second_reading))
    copies = near_copies(lambda: next(readings)())
    position = -1
    for cleaned in _each_then_copies(read(), steps, settings, survived):
        position += cleaned.after is not None
        if cleaned.after is not None and position in copies:
            yield cleaned.removed("near_duplicates", f"nearly the same as line {lines[copies[position]]}")
        else:
            yield cleaned


def said(texts: Texts) -> Said:
    """The last answer, and all turns before it; nothing for a record that has no answer we know."""
    answers = [text.turn for text in texts if text.role == "assistant"]
    if not answers:
        return Said("", "", "")
    spoken = [text for text in texts if text.role != "system"]
    return Said(
        "\n".join(text.text for text in texts if text.role == "system"),
        "\n".join(text.text for text in spoken if text.turn != answers[-1] and text.text),
        "\n".join(text.text for text in spoken if text.turn == answers[-1]),
    )


def _each_then_copies(
    rows: Iterable[Record | Unread],
    steps: tuple[Step, ...],
    settings: Settings,
    survived: bytearray | None = None,
) -> Iterator[Cleaned]:
    """All steps but the folding; the tokens of rows that `survived` are not counted again."""
    quick = tuple(step for step in steps if step.name != "length")
    drops_copies = any(step.name == "duplicates" for step in steps)
    first_lines: dict[bytes, int] = {}
    for at, row in enumerate(rows):
        if isinstance(row, Unread):
            yield Cleaned(row.line, row.raw, None, (Reason(READING, row.what),))
            continue
        cleaned = clean_record(row, quick if survived and survived[at] else steps, settings)
        if drops_copies and cleaned.after is not None:
            key = _key(cleaned.after, texts_of(cleaned.after, settings.columns), settings)
            if key in first_lines:
                cleaned = cleaned.removed("duplicates", f"the same as line {first_lines[key]}")
            else:
                first_lines[key] = row.line
        yield cleaned


def _key(value: Value, texts: Texts, settings: Settings) -> bytes:
    """Equal for rows that teach the same: same texts, tools and media; of no known shape, same everything."""
    what: object = sorted(value.items())
    if shapes_of(value, settings.columns):
        beside = [value.get(name) for name in ("tools", "images", "videos", "audios")]
        what = [*((text.role, text.text) for text in texts), beside]
    return blake2b(repr(what).encode(errors="surrogatepass"), digest_size=16).digest()
