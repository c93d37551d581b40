"""What a perturbation sees of a record: the last user turn's texts, the answer, and all that stood before.

Knows where these texts are in each of the four shapes, and how to write them back.
"""

import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from random import Random
from typing import Any

import orjson

from tunesmith.data.conversation import Row

Path = tuple[str | int, ...]

WORD = re.compile(r"(?<![\w@/\\.<{'’_-])[A-Za-z]+(?![\w@/\\}>_-]|[.'’]\w)")


@dataclass(frozen=True, slots=True)
class Turn:
    """The texts that may change and what must be known to leave the answer right.

    Attributes:
        texts: the last user turn: one text, or instruction and input.
        answer: the last answer.
        context: system message and earlier turns.
        random: the dice of this record and kind.
    """

    texts: tuple[str, ...]
    answer: str
    context: str
    random: Random


@cache
def phrases() -> dict[str, Any]:
    """The word lists and sentences that perturbations need."""
    pools: dict[str, Any] = orjson.loads(files(__package__).joinpath("perturb_phrases.json").read_bytes())
    return pools


@cache
def words_of(name: str) -> frozenset[str]:
    """A word list of the phrases as a set."""
    return frozenset(phrases()[name].split())


def text_fields(answer: str) -> list[tuple[str, str]]:
    """Lower-case names and values of the text fields of an answer that is a JSON object."""
    value = json_object(answer) or {}
    return [(name.lower(), inner) for name, inner in value.items() if isinstance(inner, str)]


def json_object(answer: str) -> dict[str, Any] | None:
    """The object that an answer in JSON is, else None."""
    try:
        value = orjson.loads(answer)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def free_words(turn: Turn, text: str) -> Iterator[re.Match[str]]:
    """The words that may be spelled in another way: not those that the answer takes from the text.

    Words of code, addresses and fields are left out, too.
    """
    answer = " ".join(text for _, text in text_fields(turn.answer)) or turn.answer
    taken = {word.casefold() for word in re.findall(r"\w+", answer)} - words_of("common_words")
    return (word for word in WORD.finditer(text) if word.group().casefold() not in taken)


def user_paths(record: Mapping[str, object], row: Row) -> list[Path]:
    """Where the last user turn's texts are; none if they are in parts of no single text."""
    if row.format == "instruction":
        return [(name,) for name in ("instruction", "input") if _is_filled(record.get(name))]
    if isinstance(record.get("prompt"), str) and row.format == "prompt_completion":
        return [("prompt",)]
    turns: list[Path] = [
        path for path, role in _turn_paths(record, row, ("prompt",)) if role in ("user", "human")
    ]
    return _text_paths(record, turns[-1]) if turns else []


def answer_paths(record: Mapping[str, object], row: Row) -> list[Path]:
    """Where the last answer's text is."""
    if row.format == "instruction":
        return [("output",)]
    if isinstance(record.get("completion"), str) and row.format == "prompt_completion":
        return [("completion",)]
    turns = [path for path, _ in _turn_paths(record, row, ("completion",))]
    return _text_paths(record, turns[-1]) if turns else []


def value_at(record: object, path: Path) -> Any:
    """The value that the keys lead to."""
    value: Any = record
    for key in path:
        value = value[key]
    return value


def with_values(record: Mapping[str, object], values: Mapping[Path, str]) -> dict[str, object]:
    """A deep copy of the record with other texts at some places."""
    copy = deepcopy(dict(record))
    for path, text in values.items():
        value_at(copy, path[:-1])[path[-1]] = text
    return copy


def _turn_paths(
    record: Mapping[str, object], row: Row, fields: tuple[str, ...]
) -> Iterator[tuple[Path, str]]:
    names = fields if row.format == "prompt_completion" else (row.format,)
    for name in names:
        turns: Any = record[name]
        for number, turn in enumerate(turns):
            role = turn.get("role") if turn.get("role") is not None else turn.get("from")
            yield (name, number), str(role)


def _text_paths(record: Mapping[str, object], path: Path) -> list[Path]:
    turn = value_at(record, path)
    key = "content" if turn.get("role") is not None else "value"
    if isinstance(turn[key], str):
        return [(*path, key)]
    parts = [(*path, key, number) for number in range(len(turn[key]))]
    return [(*part, "text" if value_at(record, part).get("text") is not None else "value") for part in parts]


def _is_filled(value: object) -> bool:
    return isinstance(value, str) and value.strip() != ""
