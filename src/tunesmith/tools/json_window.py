"""The stretch of a text that is being read: pieces come in at its end, and what is read is dropped.

Indices count from the stretch's start and change with each `fill`; offsets (`base` + index) do not.
"""

import re
from collections.abc import Callable

CONTEXT_CHARACTERS = 200  # kept on both sides of a problem, to show it
PIECE_CHARACTERS = 1 << 16
_SPACE = re.compile(r"[ \t\r\n]*+")
_BLANK_REST = re.compile(r"[ \t\r]*+(\n?)")


class Window:
    """What is held of a text, and how far it is read.

    Attributes:
        text: what is held.
        base: offset of its first character.
        at: index of the next character to read.
        keep: index from which on (less `CONTEXT_CHARACTERS`) nothing is dropped.
        limit: index where the text ends for now; None for none.

    Args:
        read: gives about as many characters as it is asked for, and nothing at the end.
    """

    def __init__(self, read: Callable[[int], str]) -> None:
        self._read = read
        self.text, self.base, self.at, self.keep = "", 0, 0, 0
        self.limit: int | None = None
        self.is_final = False

    @property
    def is_whole(self) -> bool:
        """True if what follows `text`, up to the limit, is nothing."""
        return self.is_final or self.limit is not None

    @property
    def end(self) -> int:
        """Index where the text ends for now."""
        return len(self.text) if self.limit is None else self.limit

    def peek(self, characters: int) -> str:
        """The text ahead, at least so much if there is as much; nothing is consumed."""
        while len(self.text) - self.at < characters and self.fill():
            pass
        return self.text[self.at :]

    @property
    def is_limited(self) -> bool:
        """True while the text ends with a line for now."""
        return self.limit is not None

    @property
    def is_at_end(self) -> bool:
        """True if nothing follows, not even behind the limit."""
        return self.is_final and self.limit in (None, len(self.text))

    def limit_to_line(self) -> None:
        """Let the text end where the next line that is not blank ends, until `lift_limit`."""
        self.keep, self.limit = self.at, None
        self.limit = self._line_end(self._skip_space(self.at))

    def lift_limit(self, *, skip: bool = False) -> None:
        """Let the text go on; with `skip`, behind the line that was the limit."""
        if skip and self.limit is not None:
            self.at = self.limit
        self.limit = None

    def has_more_lines(self) -> bool:
        """True if anything but space follows the limit."""
        start = self._skip_space(len(self.text) if self.limit is None else self.limit)
        return start < len(self.text)

    def is_line_done(self) -> bool:
        """True if only blanks follow on the line."""
        while (rest := _BLANK_REST.match(self.text, self.at)) and not rest[1]:
            if rest.end() < len(self.text) or not self.fill():
                return rest.end() == len(self.text)
        return True

    def fill(self) -> bool:
        """Read one more piece; False at the end. What was read long ago is dropped."""
        if self.is_final:
            return False
        piece = self._read(max(PIECE_CHARACTERS, len(self.text) - self.at))
        if not piece:
            self.is_final = True
            return False
        drop = max(0, self.keep - CONTEXT_CHARACTERS)
        self.text = self.text[drop:] + piece
        self.base, self.at, self.keep = self.base + drop, self.at - drop, self.keep - drop
        self.limit = None if self.limit is None else self.limit - drop
        return True

    def _skip_space(self, start: int) -> int:
        """Index of the first character from `start` on that is no space, reading as far as it takes."""
        while (space := _SPACE.match(self.text, start)) and (start := space.end()) == len(self.text):
            before = self.base
            if not self.fill():
                break
            start -= self.base - before
        return start

    def _line_end(self, start: int) -> int:
        """Index of the line break behind `start`, reading as far as it takes."""
        searched = start
        while (found := self.text.find("\n", searched)) < 0 and not self.is_final:
            searched, before = len(self.text), self.base
            self.fill()
            searched -= self.base - before
        return found if found >= 0 else len(self.text)
