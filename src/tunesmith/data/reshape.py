"""One row in another of the four shapes, with all else that the row carries.

    instruction        {instruction, input, output, system, history: [[user, assistant], ...]}
    conversations      {conversations: [{from: system | human | gpt, value}, ...]}
    messages           {messages: [{role: system | user | assistant, content}, ...]}
    prompt_completion  {prompt, completion, system} as text; as lists of messages for several turns

Other keys of the row stay where they are. An `input` stays too, beside the prompt that it is joined to: other
tools pass over it, and it marks where to split the prompt on the way back.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat

from tunesmith.data.conversation import Message, Row
from tunesmith.data.formats import to_row
from tunesmith.data.records import Record
from tunesmith.data.shapes import FIELDS, REQUIRED
from tunesmith.errors import DataError

Fields = Mapping[str, object]

_NAMES = {"system": "system", "user": "human", "assistant": "gpt"}  # roles as `from` calls them


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn as read (`role`, `text`) and as the file has it (`content`, and the keys beside it)."""

    role: str
    text: str
    content: object
    beside: Fields = field(default_factory=dict)


def reshape(fields: Fields, row: Row, *, to: str) -> tuple[dict[str, object], Row]:
    """The row in the shape `to`, as a record and as it will be read; the turns' texts are the same.

    Args:
        fields: the record under our field names.
        row: the same record as `formats.to_row` reads it.
        to: a name of `formats.FORMATS`.

    Raises:
        DataError: if no record of that shape is read as the same turns.
    """
    if to == row.format == "instruction":
        return dict(fields), row
    new = _WRITERS[to](_turns(fields, row), fields)
    kept = _kept(fields, row, new, to=to)
    for carried in (kept, {name: value for name, value in kept.items() if name not in FIELDS}):
        record = _placed(fields, new, carried)
        reread = _reread(record, row, to)
        if reread is not None:
            return record, reread
    raise DataError(f"{row.place}: the row cannot be written as `{to}`", hint="choose another shape")


def turn_keys(turn: Fields) -> tuple[str, str]:
    """The keys under which a turn of a file has its role and its text, as the reader decides it."""
    return ("role", "content") if turn.get("role") is not None else ("from", "value")


def is_blank_system(turn: Fields) -> bool:
    """True for a system turn of white space only, which the reader drops."""
    role_key, text_key = turn_keys(turn)
    content = turn.get(text_key)
    parts = content if isinstance(content, list) else [{"text": content}]
    texts = [part["text"] if part.get("text") is not None else part.get("value") for part in parts]
    return turn.get(role_key) == "system" and not any(str(text or "").strip() for text in texts)


def turn_lists(fields: Fields, shape: str) -> list[Fields | None]:
    """The turns as the file has them; None where it has a plain text.

    Args:
        fields: a record that `formats.to_row` has read as `shape`.
        shape: a shape other than `instruction`.
    """
    turns: list[Fields | None] = []
    for name in REQUIRED[shape]:
        value = fields[name]
        turns += value if isinstance(value, list) else [None]
    return turns


def _turns(fields: Fields, row: Row) -> list[Turn]:
    found = [] if row.format == "instruction" else turn_lists(fields, row.format)
    raw = [turn for turn in found if turn is None or not is_blank_system(turn)]
    # What has no turn in the file comes first: a system message from its own key.
    padded = [*repeat(None, len(row.messages) - len(raw)), *raw]
    return [_turn(message, turn) for message, turn in zip(row.messages, padded, strict=True)]


def _turn(message: Message, raw: Fields | None) -> Turn:
    if raw is None:
        return Turn(message.role, message.text, message.text)
    role_key, text_key = turn_keys(raw)
    beside = {name: value for name, value in raw.items() if name not in (role_key, text_key)}
    return Turn(message.role, message.text, raw[text_key], beside)


def _as_instruction(turns: Sequence[Turn], fields: Fields) -> dict[str, object]:
    system, (*earlier, ask, answer) = _parted(turns)
    new = _split(ask.text, fields.get("input")) | {"output": answer.text} | system
    texts = [turn.text for turn in earlier]
    history = [list(pair) for pair in zip(texts[::2], texts[1::2], strict=True)]
    return new | ({"history": history} if history else {})


def _as_conversations(turns: Sequence[Turn], fields: Fields) -> dict[str, object]:
    said = [_beside(turn, {"from": _NAMES[turn.role], "value": turn.text}) for turn in turns]
    return {"conversations": said}


def _as_messages(turns: Sequence[Turn], fields: Fields) -> dict[str, object]:
    return {"messages": _messages(turns)}


def _as_prompt_completion(turns: Sequence[Turn], fields: Fields) -> dict[str, object]:
    system, body = _parted(turns)
    if len(body) == 2:
        return system | {"prompt": body[0].text, "completion": body[1].text}
    return {"prompt": _messages(turns[:-1]), "completion": _messages(turns[-1:])}


_WRITERS: dict[str, Callable[[Sequence[Turn], Fields], dict[str, object]]] = {
    "instruction": _as_instruction,
    "conversations": _as_conversations,
    "messages": _as_messages,
    "prompt_completion": _as_prompt_completion,
}


def _messages(turns: Sequence[Turn]) -> list[dict[str, object]]:
    return [_beside(turn, {"role": turn.role, "content": turn.content}) for turn in turns]


def _beside(turn: Turn, own: dict[str, object]) -> dict[str, object]:
    return own | {name: value for name, value in turn.beside.items() if name not in own}


def _parted(turns: Sequence[Turn]) -> tuple[dict[str, object], Sequence[Turn]]:
    """The system message as a key of its own, and the turns after it."""
    if turns[0].role == "system":
        return {"system": turns[0].text}, turns[1:]
    return {}, turns


def _split(prompt: str, second: object) -> dict[str, object]:
    """Instruction and input, where the row says how its prompt ends; else the prompt whole."""
    if isinstance(second, str) and second.strip() and prompt == second:
        return {"instruction": "", "input": second}
    if isinstance(second, str) and second and prompt.endswith(f"\n\n{second}"):
        first = prompt[: -len(second) - 2]
        # The reader passes over a blank instruction, and the line break with it.
        if first.strip():
            return {"instruction": first, "input": second}
    return {"instruction": prompt}


def _kept(fields: Fields, row: Row, new: Fields, *, to: str) -> dict[str, object]:
    """What the row carries along: all that its own shape and the new one do not claim."""
    claimed = {*REQUIRED[row.format], *new}
    if row.messages[0].role == "system" and str(fields.get("system") or "").strip():
        claimed.add("system")
    if row.format == "instruction" and fields.get("history"):
        claimed.add("history")
    if to == "instruction":
        # There they would be read as turns that the row does not have.
        claimed |= {name for name in ("input", "history") if fields.get(name) not in (None, "", [])}
    return {name: value for name, value in fields.items() if name not in claimed}


def _placed(fields: Fields, new: Fields, kept: Fields) -> dict[str, object]:
    """The new fields where the first of the old ones stood."""
    record: dict[str, object] = {}
    for name in fields:
        if name in kept:
            record[name] = kept[name]
        elif not record.keys() & new.keys():
            record |= new
    return record


def _reread(record: dict[str, object], row: Row, to: str) -> Row | None:
    """The record as any command will read it, if that is the same row in the shape asked for."""
    try:
        found = to_row(Record(row.line, record), path=row.path)
    except DataError:
        return None
    texts, expected = ([(turn.role, turn.text) for turn in each.messages] for each in (found, row))
    return found if found.format == to and texts == expected else None
