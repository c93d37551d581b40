"""The row that gets a fault, and how a piece of text is put into another.

Knows no fault. Read next: `dirt_texts.py`, `dirt_lines.py`, `dirt_copies.py`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from random import Random
from typing import Any

import orjson

Row = Mapping[str, str]
Spoiled = tuple[dict[str, object] | bytes, str]

_GAP = re.compile(r"(?<=\w) (?=\w)")
_SENTENCE_START = re.compile(r"(?<=[.!?]) (?=[A-Z])")
_LATIN_WORD = re.compile(r"(?<![\w&<{\\])[A-Za-z]{4,}(?!\w)")


@dataclass(frozen=True, slots=True)
class Site:
    """A row to be spoiled, the dice, and what the fault may draw from.

    Attributes:
        row: `prompt`, `completion` and, if there is one, `system`.
        random: the dice of this row and kind.
        rows: all rows of the file, as they were.
        language: code of the file's language, or None if unclear; see `languages.language_of`.
    """

    row: Row
    random: Random
    rows: Sequence[Row]
    language: str | None

    @property
    def side(self) -> str:
        """The field to change. An answer in JSON stays whole, so that no second fault comes of the first."""
        if is_json_object(self.row["completion"]):
            return "prompt"
        return self.random.choice(("prompt", "completion"))

    def changed(self, **fields: str) -> dict[str, object]:
        """The row with other values, keys in the same order."""
        return {**self.row, **fields}

    def other_answer(self) -> str | None:
        """The answer of another row that says something else; None if twenty draws find none."""
        own = normalised(self.row["completion"])
        drawn = (self.random.choice(self.rows)["completion"] for _ in range(20))
        return next((answer for answer in drawn if normalised(answer) != own), None)


@cache
def phrases() -> dict[str, Any]:
    """The texts that faults are made of."""
    pools: dict[str, Any] = orjson.loads(files(__package__).joinpath("dirt_phrases.json").read_bytes())
    return pools


def normalised(text: str) -> str:
    """The text without differences of case and white space."""
    return " ".join(text.casefold().split())


def is_json_object(answer: str) -> bool:
    """Whether the text is a JSON object or array."""
    if not answer.lstrip().startswith(("{", "[")):
        return False
    return parses(answer)


def parses(answer: str) -> bool:
    """Whether the text is JSON."""
    try:
        orjson.loads(answer)
    except orjson.JSONDecodeError:
        return False
    return True


def latin_words(text: str) -> list[re.Match[str]]:
    """The words of four or more ASCII letters, without those of tags, entities and escapes."""
    return list(_LATIN_WORD.finditer(text))


def between_words(text: str, piece: str, random: Random) -> str:
    """The text with the piece between two of its words, or in front if it has one word only."""
    gaps = [match.start() for match in _GAP.finditer(text)]
    if not gaps:
        return f"{piece} {text}"
    at = random.choice(gaps)
    return f"{text[:at]} {piece}{text[at:]}"


def before_sentence(text: str, sentence: str, random: Random) -> str:
    """The text with one more sentence, never at the end: the text's own end stays."""
    at = random.choice([0, *(match.end() for match in _SENTENCE_START.finditer(text))])
    return f"{text[:at]}{sentence} {text[at:]}"
