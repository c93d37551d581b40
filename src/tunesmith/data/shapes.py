"""The four shapes of a row and how each becomes turns.

An error here names the field; `formats.py` puts the place in front of it.
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import cycle

from tunesmith.data.conversation import Message
from tunesmith.data.records import kind_of, listed, nearest
from tunesmith.errors import DataError

Fields = Mapping[str, object]

_ROLE_OF = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
}
_MEDIA = ("images", "videos", "audios")
_TURNS_HINT = (
    "a row is an optional system message, then user and assistant in turn, with an answer at the end"
)
_TEXT_HINT = "write the value as text in quotes; remove the row if the value is missing"


def checked_messages(fields: Fields, shape: str, *, system: str | None = None) -> tuple[Message, ...]:
    """The row's turns, held to the rules of a training row.

    Args:
        fields: the row, under our field names.
        shape: a key of `REQUIRED`.
        system: system message for a row that has none of its own.

    Raises:
        DataError: for a field that is not text, an unknown role, turns out of order, an empty turn, or a row
            that does not end in an answer; the message names field or turn, not file and line.
    """
    media = [name for name in _MEDIA if fields.get(name)]
    if media:
        raise DataError(
            f"the row has {listed(media)}, and only text is trained", hint="remove the row", kind="media"
        )
    own_system = _text(fields, "system", optional=True)
    messages = [*_system(own_system), *_READERS[shape](fields)]
    messages = [message for message in messages if message.role != "system" or message.content.strip()]
    if system and not any(message.role == "system" for message in messages):
        messages = [Message("system", system), *messages]
    _check_turns(messages)
    return tuple(messages)


def _instruction(fields: Fields) -> Iterable[Message]:
    instruction = _text(fields, "instruction")
    second = _text(fields, "input", optional=True)
    if not instruction.strip():
        instruction, second = second, ""
    return [
        *_history(fields.get("history")),
        Message("user", instruction, input=second),
        Message("assistant", _text(fields, "output")),
    ]


def _conversations(fields: Fields) -> Iterable[Message]:
    return _turns(fields, "conversations")


def _messages(fields: Fields) -> Iterable[Message]:
    return _turns(fields, "messages")


def _prompt_completion(fields: Fields) -> Iterable[Message]:
    prompt, completion = (
        _turns(fields, name) if isinstance(fields.get(name), list) else [Message(role, _text(fields, name))]
        for name, role in (("prompt", "user"), ("completion", "assistant"))
    )
    return [*prompt, *completion]


_READERS: dict[str, Callable[[Fields], Iterable[Message]]] = {
    "instruction": _instruction,
    "conversations": _conversations,
    "messages": _messages,
    "prompt_completion": _prompt_completion,
}

REQUIRED: dict[str, tuple[str, ...]] = {
    "instruction": ("instruction", "output"),
    "conversations": ("conversations",),
    "messages": ("messages",),
    "prompt_completion": ("prompt", "completion"),
}
OPTIONAL = ("input", "system", "history")
FIELDS = (*(name for names in REQUIRED.values() for name in names), *OPTIONAL)


def _system(content: str) -> list[Message]:
    return [Message("system", content)] if content else []


def _history(value: object) -> Iterable[Message]:
    """Earlier turns from [[user, assistant], ...]."""
    if value in (None, ""):
        return
    if not isinstance(value, list):
        raise DataError(
            f"`history` is {kind_of(value)}, not a list",
            hint="write it as [[user, assistant], ...]",
            kind="wrong_type",
        )
    for number, pair in enumerate(value):
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(turn, str) for turn in pair)):
            raise DataError(
                f"`history[{number}]` is not a pair of texts",
                hint="write it as [[user, assistant], ...]",
                kind="wrong_type",
            )
        yield Message("user", pair[0])
        yield Message("assistant", pair[1])


def _turns(fields: Fields, field: str) -> list[Message]:
    value = fields.get(field)
    if not isinstance(value, list):
        hint = f'write it as [{{"role": "user", "content": "..."}}, ...], or map another column to `{field}`'
        raise DataError(f"`{field}` is {kind_of(value)}, not a list of turns", hint=hint, kind="wrong_type")
    return [_turn(turn, f"{field}[{number}]") for number, turn in enumerate(value)]


def _turn(turn: object, field: str) -> Message:
    """One turn from {role, content} or {from, value}."""
    if not isinstance(turn, dict):
        raise DataError(f"`{field}` is {kind_of(turn)}, not an object", hint=_TURNS_HINT, kind="wrong_type")
    role_key, text_key = ("role", "content") if turn.get("role") is not None else ("from", "value")
    if role_key not in turn:
        what = f"`{field}` has the keys {listed(turn)}"
        hint = "each turn needs `role` and `content`, or `from` and `value`"
        raise DataError(what, hint=hint, kind="wrong_type")
    role = _role(turn[role_key], f"{field}.{role_key}")
    weight = next((turn[key] for key in ("weight", "loss_weight") if turn.get(key) is not None), 1)
    if role == "assistant" and weight != 1:
        what = f"`{field}` asks for the loss weight {weight}, and all answers count the same"
        raise DataError(what, hint="remove the weight, or end the row before this turn", kind="loss_weight")
    return Message(role, _content(turn.get(text_key), f"{field}.{text_key}"))


def _role(value: object, field: str) -> str:
    role = _ROLE_OF.get(value) if isinstance(value, str) else None
    if role is None:
        shown = f"`{value}`" if isinstance(value, str) else kind_of(value)
        close = nearest(value, _ROLE_OF) if isinstance(value, str) else None
        hint = f"did you mean `{close}`? known: {listed(_ROLE_OF)}" if close else f"known: {listed(_ROLE_OF)}"
        raise DataError(f"`{field}` is the unknown role {shown}", hint=hint, kind="unknown_role")
    return role


def _content(value: object, field: str) -> str:
    """The text of a turn: text itself, or a list of text parts, put together without a gap."""
    if not isinstance(value, list):
        return _text({field: value}, field)
    return "".join(_part(part, f"{field}[{number}]") for number, part in enumerate(value))


def _part(part: object, field: str) -> str:
    if not isinstance(part, dict):
        what = f"`{field}` is {kind_of(part)}, not a part with a type"
        raise DataError(what, hint='write it as {"type": "text", "text": "..."}', kind="wrong_type")
    if part.get("type") != "text":
        what = f"`{field}` is a part of type `{part.get('type')}`, and only text is trained"
        raise DataError(what, hint="remove the part or the row", kind="media")
    key = "text" if part.get("text") is not None else "value"
    return _text({f"{field}.{key}": part.get(key)}, f"{field}.{key}")


def _text(fields: Fields, name: str, *, optional: bool = False) -> str:
    value = fields.get(name)
    if optional and value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"`{name}` is {kind_of(value)}, not text", hint=_TEXT_HINT, kind="wrong_type")
    return value


def _check_turns(messages: list[Message]) -> None:
    start = 1 if messages and messages[0].role == "system" else 0
    if len(messages) == start:
        raise DataError("the row has no turns", hint=_TURNS_HINT, kind="roles_out_of_order")
    before = messages[0].role if start else "the start"
    dialogue = enumerate(messages[start:], start=start + 1)
    for (number, message), expected in zip(dialogue, cycle(("user", "assistant")), strict=False):
        if message.role != expected:
            what = f"turn {number} is `{message.role}` after `{before}`, where `{expected}` is due"
            raise DataError(what, hint=_TURNS_HINT, kind="roles_out_of_order")
        if not message.text.strip():
            what = "answer" if message.role == "assistant" else "prompt"
            hint = "fill it in, or remove the row"
            raise DataError(f"the {what} is empty (turn {number})", hint=hint, kind=f"empty_{what}")
        before = message.role
    if before != "assistant":
        what = f"the row ends with a `{before}` turn (turn {len(messages)}), not with an answer"
        raise DataError(what, hint="add the answer, or remove the last turn", kind="roles_out_of_order")
