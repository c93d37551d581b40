"""What one row tells about itself: its texts, the signs in them, and hashes by which rows are compared."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from tunesmith.data.audit import signs
from tunesmith.data.audit.languages import language_of
from tunesmith.data.conversation import Row
from tunesmith.data.formats import to_row
from tunesmith.data.records import Record
from tunesmith.data.split import prompt_key
from tunesmith.errors import DataError

_EVERYWHERE = {
    "unrendered": signs.find_unrendered,
    "html": signs.find_html,
    "mojibake": signs.find_mojibake,
    "zero_width": signs.find_zero_width,
    "homoglyph": signs.find_homoglyph,
    "control_character": signs.find_control_character,
    "secret": signs.find_secret,
    "email": signs.find_email,
    "card_number": signs.find_card_number,
}
_PARTS = {"system": "system", "user": "prompt", "assistant": "answer"}
_TURN_TEXTS = ("content", "value", "text")
_EMPTY_TOOLS: tuple[object, ...] = ("", "[]", "null", "{}", [], {})
_PREFERENCES = (("chosen", "rejected"), ("chosen_messages", "rejected_messages"))
NO_JSON, JSON, BROKEN_JSON = 0, 1, 2
NO_PROSE, STOPPED, OPEN_ENDED = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Reading:
    """How rows are read: arguments of `formats.to_row`, and the tokenizer's own control tokens."""

    format: str = "auto"
    columns: Mapping[str, str] = field(default_factory=dict)
    system: str | None = None
    control_tokens: tuple[str, ...] = ()

    def row_of(self, record: Record) -> Row:
        """The record as a row; errors name the line alone.

        Raises:
            DataError: as `formats.to_row` does.
        """
        return to_row(record, path="", format=self.format, columns=self.columns, system=self.system)


@dataclass(slots=True)
class Facts:
    """One row as the tally needs it.

    Attributes:
        line: where it starts.
        row: the row, or None where it cannot be trained on.
        hits: kind, part of the row, and the offending piece, of each sign.
        texts: all texts with the part they belong to.
        row_hash: equal for rows with the same texts; 64 bits, as the next two.
        prompt_hash: equal for rows with the same prompt by `split.prompt_key`; 0 without a prompt.
        answer_hash: equal for the same last answer.
        prompt_language: code of `languages.language_of`, or None.
        answer_language: likewise.
        json: `NO_JSON`, `JSON` or `BROKEN_JSON`: what the last answer looks like.
        ending: `NO_PROSE`, `STOPPED` or `OPEN_ENDED`: how the last answer ends.
    """

    line: int
    row: Row | None
    hits: list[tuple[str, str, str]]
    texts: list[tuple[str, str]]
    row_hash: int
    prompt_hash: int = 0
    answer_hash: int = 0
    prompt_language: str | None = None
    answer_language: str | None = None
    json: int = NO_JSON
    ending: int = NO_PROSE


def examine(record: Record, reading: Reading) -> Facts:
    """Everything about one record that can be known without the others."""
    value = record.value
    try:
        row = reading.row_of(record)
    except DataError as error:
        texts = list(_any_texts(value, "other"))
        what = str(error).split(": ", 1)[1]
        facts = Facts(record.line, None, [(error.kind, "row", what)], texts, _hash_of(texts))
    else:
        texts = [(_PARTS[m.role], text) for m in row.messages for text in (m.content, m.input) if text]
        facts = Facts(record.line, row, [], texts, _hash_of(texts))
        _compare_by(facts, row)
    _note_labels(facts, value)
    for part, text in texts:
        _look_at(facts, part, text, reading.control_tokens)
    return facts


def _compare_by(facts: Facts, row: Row) -> None:
    """Hashes, languages, and the last answer's form."""
    answer = row.reference
    facts.prompt_hash = _hash(_bytes(prompt_key(row)))
    facts.answer_hash = _hash(_bytes(answer))
    facts.prompt_language = language_of(row.prompt[-1].content)
    facts.json = _json_status(answer)
    if facts.json != NO_JSON:
        return
    facts.answer_language = language_of(answer)
    if tail := signs.find_truncation(answer):
        if signs.breaks_off(answer):
            facts.hits.append(("truncated_answer", "answer", tail))
        else:
            facts.ending = OPEN_ENDED
    elif signs.is_prose(answer):
        facts.ending = STOPPED


def _look_at(facts: Facts, part: str, text: str, control_tokens: tuple[str, ...]) -> None:
    hits = facts.hits
    for kind, find in _EVERYWHERE.items():
        if (piece := find(text)) is not None:
            hits.append((kind, part, piece))
    token = signs.find_special_token(text) or next((word for word in control_tokens if word in text), None)
    if token is not None:
        hits.append(("special_token", part, token))
        if part == "answer" and not signs.SPECIAL_TOKENS.sub("", text).strip():
            hits.append(("only_special_tokens", part, text))
    if part != "system" and (piece := signs.find_placeholder(text)) is not None:
        hits.append(("placeholder", part, piece))
    if part == "answer" and (piece := signs.find_refusal(text)) is not None:
        hits.append(("refusal", part, piece))


def _note_labels(facts: Facts, value: Mapping[str, object]) -> None:
    """Keys beside the texts that say something about the row."""
    if "tools" in value and value["tools"] in _EMPTY_TOOLS:
        facts.hits.append(("empty_tools", "tools", json.dumps(value["tools"])))
    if any(one in value and other in value for one, other in _PREFERENCES):
        facts.hits.append(("preference_pair", "row", "two answers to one prompt"))
    if value.get("label") is False and facts.row is not None:
        facts.hits.append(("rated_answer", "label", "false"))


def _json_status(answer: str) -> int:
    start = answer.lstrip()[:1]
    if start not in ("{", "["):
        return NO_JSON
    try:
        json.loads(answer)
    except (ValueError, RecursionError):
        return BROKEN_JSON
    return JSON


def _any_texts(value: Any, part: str) -> Iterator[tuple[str, str]]:
    """All texts of a record of unknown shape; a turn's role tells the part, else it is `other`."""
    if isinstance(value, str):
        if value:
            yield part, value
    elif isinstance(value, dict):
        role = value.get("role", value.get("from"))
        named = (
            _PARTS.get({"human": "user", "gpt": "assistant"}.get(role, role))
            if isinstance(role, str)
            else None
        )
        for key, inner in value.items():
            if named and key in _TURN_TEXTS:
                yield from _any_texts(inner, named)
            elif not (named and inner is role):
                yield from _any_texts(inner, part)
    elif isinstance(value, list):
        for inner in value:
            yield from _any_texts(inner, part)


def _hash_of(texts: list[tuple[str, str]]) -> int:
    # Neither separator can come from a text: no UTF-8 holds these bytes.
    return _hash(b"\xff".join(part.encode() + b"\xfe" + _bytes(text) for part, text in texts))


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def _hash(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")
