"""The texts of a raw record, found and replaced where they stand, so that all else of it stays as it is.

Lenient where `shapes.py` is strict: what cannot be trained on may still be cleaned. Read next: `mends.py`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.data.shapes import REQUIRED

Value = dict[str, object]
Path = tuple[str | int, ...]
Texts = tuple["Text", ...]

_ROLE_OF = {
    **{role: role for role in ("system", "user", "assistant")},
    **{"human": "user", "gpt": "assistant", "bot": "assistant"},
}
# Fields that hold one text, and who speaks there.
_SPEAKER = {
    "system": "system",
    "instruction": "user",
    "input": "user",
    "prompt": "user",
    "output": "assistant",
    "completion": "assistant",
}
# The fields of each shape in the order in which a model sees them.
_FIELDS = {
    "instruction": ("system", "history", "instruction", "input", "output"),
    "conversations": ("system", "conversations"),
    "messages": ("system", "messages"),
    "prompt_completion": ("system", "prompt", "completion"),
}
_CALLS = ("tool_calls", "function_call")


@dataclass(frozen=True, slots=True)
class Text:
    """One text of a record.

    Attributes:
        path: keys and positions that lead to it.
        role: `system`, `user`, `assistant`, or `other` for tools and for records of no known shape.
        text: the text; empty where the record has null.
        turn: texts of one turn share this number, such as `instruction` and `input`.
        field: our name of the top-level field, whatever the file calls it.
    """

    path: Path
    role: str
    text: str
    turn: int
    field: str


def texts_of(value: Mapping[str, object], columns: Mapping[str, str] | None = None) -> Texts:
    """All texts that are trained on, in the order in which a model sees them.

    In a record of no known shape every top-level text counts, with the role `other`.

    Args:
        value: the record as the file has it.
        columns: our field names and the file's.
    """
    shapes = shapes_of(value, columns)
    if not shapes:
        pairs = ((key, inner) for key, inner in value.items() if isinstance(inner, str))
        return tuple(Text((key,), "other", text, turn, key) for turn, (key, text) in enumerate(pairs))
    found: list[Text] = []
    for field in dict.fromkeys(field for shape in shapes for field in _FIELDS[shape]):
        key = key_of(field, value, columns)
        if key in value:
            last = found[-1] if found else None
            joins = last is not None and (last.field, field) == ("instruction", "input")
            found += _field_texts(value[key], field, key, last.turn + (not joins) if last else 0)
    return tuple(found)


def shapes_of(value: Mapping[str, object], columns: Mapping[str, str] | None = None) -> list[str]:
    """The known shapes whose fields are filled, or else those whose fields are there."""
    keys = {shape: [key_of(field, value, columns) for field in REQUIRED[shape]] for shape in REQUIRED}
    there = [shape for shape, needed in keys.items() if all(key in value for key in needed)]
    filled = [shape for shape in there if all(value[key] not in (None, "", []) for key in keys[shape])]
    return filled or there


def key_of(field: str, value: Mapping[str, object], columns: Mapping[str, str] | None = None) -> str:
    """What this record calls our field."""
    theirs = (columns or {}).get(field, field)
    return theirs if theirs in value else field


def with_texts(value: Value, new: Mapping[Path, str]) -> Value:
    """A copy of the record with other texts at some places; the record itself stays as it is."""
    changed = dict(value)
    for path, text in new.items():
        holder: Any = changed
        for step in path[:-1]:
            holder[step] = holder[step].copy()
            holder = holder[step]
        holder[path[-1]] = text
    return changed


def shown_path(path: Sequence[str | int]) -> str:
    """The path as a person reads it: `messages[1].content`."""
    parts = [f"[{step}]" if isinstance(step, int) else f".{step}" for step in path]
    return "".join(parts).removeprefix(".")


def _field_texts(inner: object, field: str, key: str, turn: int) -> Iterator[Text]:
    if field in _SPEAKER and (inner is None or isinstance(inner, str)):
        yield Text((key,), _SPEAKER[field], inner or "", turn, field)
    elif isinstance(inner, list) and field == "history":
        yield from _history_texts(inner, key, turn)
    elif isinstance(inner, list):
        for position, each in enumerate(inner):
            if isinstance(each, dict):
                yield from _turn_texts(each, (key, position), turn + position, field)


def _history_texts(pairs: Sequence[object], key: str, turn: int) -> Iterator[Text]:
    for number, pair in enumerate(pairs):
        if isinstance(pair, list):
            for side, text in enumerate(pair[:2]):
                if isinstance(text, str):
                    role = ("user", "assistant")[side]
                    yield Text((key, number, side), role, text, turn + 2 * number + side, "history")


def _turn_texts(each: dict[str, object], path: Path, turn: int, field: str) -> Iterator[Text]:
    named, text_key = ("role", "content") if each.get("role") is not None else ("from", "value")
    name = each.get(named)
    role = _ROLE_OF.get(name, "other") if isinstance(name, str) else "other"
    content = each.get(text_key)
    if isinstance(content, str) or (content is None and not any(each.get(call) for call in _CALLS)):
        yield Text((*path, text_key), role, content or "", turn, field)
    elif isinstance(content, list):
        for number, part in enumerate(content):
            if isinstance(part, dict):
                key = "text" if part.get("text") is not None else "value"
                text = part.get(key)
                if isinstance(text, str):
                    yield Text((*path, text_key, number, key), role, text, turn, field)
