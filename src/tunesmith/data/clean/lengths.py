"""Tokens of a row, counted only where its characters leave open whether it fits."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING

from tunesmith.data.conversation import Message, Row
from tunesmith.data.formats import to_row
from tunesmith.data.records import Record
from tunesmith.errors import DataError, TemplateError

if TYPE_CHECKING:
    from tunesmith.data.render import Renderer

# A heading of the instruction layout, such as `### Input:`, in characters.
_HEADING = 16


def token_counter(
    renderer: "Renderer", *, max_length: int, columns: Mapping[str, str] | None = None
) -> Callable[[Record], int | None]:
    """Counts a row's tokens as the model sees it.

    A row of ASCII has no more tokens than characters besides those of its template, so most rows are known to
    fit without being cut, which is a hundred times faster.

    Args:
        renderer: of the model's tokenizer and template.
        max_length: most tokens a row may have.
        columns: our field names and the file's.

    Returns:
        A function that gives the tokens of a record; None where it fits for certain, or cannot be rendered.
    """

    @cache
    def frame_tokens(roles: tuple[str, ...]) -> int:
        messages = tuple(Message(role, "a") for role in roles)
        return len(renderer.render(Row(messages, "the probe", 1, "messages")).ids)

    def most_tokens(row: Row) -> int:
        text = sum(len(m.text) + 1 + (_HEADING if m.input else 0) for m in row.messages)
        return frame_tokens(tuple(m.role for m in row.messages)) + text

    def count(record: Record) -> int | None:
        try:
            row = to_row(record, path="", columns=columns)
            if all(m.text.isascii() for m in row.messages) and most_tokens(row) <= max_length:
                return None
            return len(renderer.render(row).ids)
        except (DataError, TemplateError):
            return None

    return count
