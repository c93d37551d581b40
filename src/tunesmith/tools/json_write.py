"""JSON text in a chosen layout from the pieces of documents, written as they come.

Holds what is not yet written: about a thousand pieces, or one object where keys are sorted.
Strings and numbers are written as they are given.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tunesmith.tools.json_strings import decoded

Style = Literal["pretty", "compact", "lines"]
_FLUSH_PIECES = 1024


@dataclass(frozen=True, slots=True)
class Layout:
    """How JSON is laid out: `indent` blanks a level (pretty only), keys sorted by their characters."""

    style: Style = "pretty"
    indent: int = 2
    is_sorted: bool = False


@dataclass(slots=True)
class _SortedObject:
    """An object whose keys are not all known: where it goes, and each key with its member's pieces."""

    target: list[str]
    members: list[tuple[str, list[str]]]


class JsonWriter:
    """The sink that writes; `begin` and `end` enclose each document.

    Args:
        write: takes finished text.
        layout: the same for all documents.
    """

    def __init__(self, write: Callable[[str], object], layout: Layout) -> None:
        self._write, self._layout = write, layout
        self._is_pretty = layout.style == "pretty"
        self._colon = ": " if self._is_pretty else ":"
        self._pieces: list[str] = []
        self._has_members: list[bool] = []
        self._sorted: list[_SortedObject | None] = []
        self._follows_key = False
        self._may_explode = self._is_exploded = False

    def begin(self, *, may_explode: bool) -> None:
        """A document begins; if `may_explode`, style `lines` makes an array of objects a line an element."""
        self._may_explode = may_explode and self._layout.style == "lines"
        self._is_exploded = False

    def end(self) -> None:
        """The document is whole."""
        if not self._is_exploded:
            self._pieces.append("\n")
        self._flush()

    def open(self, bracket: str) -> None:
        """An object or array begins."""
        if self._may_explode and len(self._has_members) == 1 and bracket == "{" and not self._has_members[0]:
            self._is_exploded = True
            self._pieces.clear()
        self._lead()
        self._pieces.append(bracket)
        self._may_explode = self._may_explode and not self._has_members and bracket == "["
        self._has_members.append(False)
        is_sorted = self._layout.is_sorted and bracket == "{"
        self._sorted.append(_SortedObject(self._pieces, []) if is_sorted else None)

    def close(self, bracket: str) -> None:
        """The innermost object or array ends."""
        has_members = self._has_members.pop()
        if unsorted := self._sorted.pop():
            self._pieces = unsorted.target
            self._put_sorted(unsorted.members)
        if self._is_exploded and not self._has_members:
            self._pieces.append("\n")
            return
        if has_members and self._is_pretty:
            self._pieces.append(self._line_break(len(self._has_members)))
        self._pieces.append(bracket)

    def key(self, text: str) -> None:
        """A key; its value follows."""
        if unsorted := self._sorted[-1]:
            self._pieces = []
            unsorted.members.append((decoded(text), self._pieces))
            self._has_members[-1] = True
        else:
            self._lead()
        self._pieces.append(text + self._colon)
        self._follows_key = True

    def scalar(self, text: str) -> None:
        """A string, number or literal."""
        self._lead()
        self._pieces.append(text)

    def _lead(self) -> None:
        """What stands between the last piece and a new key or value."""
        if self._follows_key or not self._has_members:
            self._follows_key = False
            return
        depth = len(self._has_members)
        is_row = self._is_exploded and depth == 1
        if self._has_members[-1]:
            self._pieces.append("\n" if is_row else ",")
        self._has_members[-1] = True
        if self._is_pretty:
            self._pieces.append(self._line_break(depth))
        if len(self._pieces) > _FLUSH_PIECES and not any(self._sorted):
            self._may_explode = False
            self._flush()

    def _put_sorted(self, members: list[tuple[str, list[str]]]) -> None:
        depth = len(self._has_members) + 1
        for index, (_, pieces) in enumerate(sorted(members, key=lambda member: member[0])):
            self._pieces.append("," if index else "")
            if self._is_pretty:
                self._pieces.append(self._line_break(depth))
            self._pieces.extend(pieces)

    def _line_break(self, depth: int) -> str:
        return "\n" + " " * (self._layout.indent * depth)

    def _flush(self) -> None:
        self._write("".join(self._pieces))
        self._pieces.clear()
