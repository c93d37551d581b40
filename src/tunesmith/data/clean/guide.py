"""What the preset `guide` costs on a file: good rows that it drops, and what it takes from those it keeps."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tunesmith.data.audit import signs
from tunesmith.data.clean.records import Cleaned
from tunesmith.data.clean.steps import GUIDE_CHARACTERS, GUIDE_FIELDS, shown
from tunesmith.data.clean.texts import Value, key_of, shapes_of
from tunesmith.data.records import MAX_SHOWN, listed


@dataclass(slots=True)
class GuideCosts:
    """Counted while the file is cleaned.

    Attributes:
        short_answers: rows dropped for fewer than 10 characters though their answer is whole.
        short_rows: place and answer of the first five of them.
        long_answers: rows dropped for more than 2048 characters.
        texts_without_breaks: texts of kept rows whose line breaks are gone, by what they are.
        lost_keys: for each key that is taken out, the rows that had it.
        other_shapes: rows of other shapes, which are dropped, by shape.
    """

    short_answers: int = 0
    short_rows: list[tuple[str, str]] = field(default_factory=list)
    long_answers: int = 0
    texts_without_breaks: Counter[str] = field(default_factory=Counter)
    lost_keys: Counter[str] = field(default_factory=Counter)
    other_shapes: Counter[str] = field(default_factory=Counter)

    def add(self, cleaned: Cleaned, *, place: str, columns: Mapping[str, str]) -> None:
        """Count one row."""
        value = cleaned.before
        if not isinstance(value, dict):
            return
        if cleaned.after is not None:
            self.lost_keys.update(key for key in value if key not in cleaned.after)
            texts = (value.get(key_of(name, value, columns)) for name in GUIDE_FIELDS)
            self.texts_without_breaks.update(kind for text in texts if (kind := _layout(text)))
            return
        step = cleaned.reasons[-1].step
        if step == "output_characters":
            self._add_answer(value, place, columns)
        elif step == "empty_fields":
            others = [shape for shape in shapes_of(value, columns) if shape != "instruction"]
            self.other_shapes.update(others[:1])

    def _add_answer(self, value: Value, place: str, columns: Mapping[str, str]) -> None:
        answer = str(value[key_of("output", value, columns)]).strip()
        if len(answer) > GUIDE_CHARACTERS[1]:
            self.long_answers += 1
        elif not (signs.find_placeholder(answer) or signs.breaks_off(answer)):
            self.short_answers += 1
            if len(self.short_rows) < MAX_SHOWN:
                self.short_rows.append((place, answer))

    def lines(self) -> Iterator[str]:
        """The costs as sentences; none if there are none."""
        if self.short_answers:
            named = ", ".join(f"{place} {shown(answer)}" for place, answer in self.short_rows)
            yield f"whole answers that the 10-character rule drops: {self.short_answers:,} ({named})"
        if self.long_answers:
            yield f"rows that the 2048-character rule drops: {self.long_answers:,}"
        if total := self.texts_without_breaks.total():
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.texts_without_breaks.most_common())
            yield f"texts that lose their line breaks: {total:,} ({kinds})"
        if self.lost_keys:
            keys = ", ".join(f"`{key}` ({count:,})" for key, count in self.lost_keys.most_common())
            yield f"keys that are taken out, with the rows that have them: {keys}"
        if self.other_shapes:
            total = self.other_shapes.total()
            yield f"rows of other shapes that are dropped: {total:,} ({listed(self.other_shapes)})"

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "short_answers": self.short_answers,
            "short_rows": [{"place": place, "answer": answer} for place, answer in self.short_rows],
            "long_answers": self.long_answers,
            "texts_without_breaks": dict(self.texts_without_breaks),
            "lost_keys": dict(self.lost_keys),
            "other_shapes": dict(self.other_shapes),
        }


def _layout(text: object) -> str | None:
    """What the line breaks inside a text are for, as far as that is seen at once."""
    if not isinstance(text, str) or "\n" not in (inner := text.strip()):
        return None
    lines = inner.split("\n")
    if "```" in inner or any(line.startswith(("    ", "\t")) for line in lines):
        return "with code"
    if sum(line.count("|") >= 2 for line in lines) >= 2:
        return "with a table"
    if any(line.lstrip().startswith(("- ", "* ", "1.", "1)")) for line in lines):
        return "with a list"
    return "of several paragraphs or verses"
