"""The elements of one large JSON array, cut out of a stream without reading it whole.

Marks are counted, not understood: where an element ends is known even if something in it is no JSON, so one
broken row costs one row. Holds one element and one chunk at a time.
"""

import re
from collections.abc import Iterator
from typing import BinaryIO

from tunesmith.data.json_records import BOM, MAX_ROW_BYTES, Piece
from tunesmith.data.records import BadLine

ARRAY_HINT = "correct the file there; it must be one JSON array of objects, [{...}, {...}]"
_CHUNK_BYTES = 1 << 20
_SPACE = re.compile(rb"[ \t\r\n]*")
# A whole string, a mark, or a quote whose string does not end in the data.
_MARK = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[{}\[\],]|"', re.DOTALL)
_NEXT_OBJECT = re.compile(rb"\}\s*,\s*(?=\{)")


def array_pieces(stream: BinaryIO) -> Iterator[Piece | BadLine]:
    """Each element of the array as undecoded bytes with the line where it starts, or what is between them.

    Args:
        stream: a JSON array, from its first byte.
    """
    scanner = _Scanner(stream)
    scanner.skip_space()
    scanner.at += 1  # the opening bracket, which told that it is an array
    after_comma = False
    while True:
        mark = scanner.skip_space()
        if mark == b"]" and not after_comma:
            break
        if mark in (b"", b",", b"]"):
            yield BadLine(scanner.here(), "not_json", _MISPLACED[mark], ARRAY_HINT)
            if mark != b",":
                break
            scanner.at += 1
            continue
        line, content, is_lost = scanner.element()
        yield line, content
        if is_lost:
            return
        mark = scanner.skip_space()
        after_comma = mark == b","
        scanner.at += after_comma
        if mark not in (b",", b"]", b"") and not scanner.found_again:
            what = f"expected `,` or `]` between rows, found `{mark.decode(errors='replace')}`"
            yield BadLine(scanner.here(), "not_json", what, ARRAY_HINT)
    if mark == b"]":
        scanner.at += 1
        if scanner.skip_space():
            yield BadLine(scanner.here(), "not_json", "there is text after the closing `]`", ARRAY_HINT)


_MISPLACED = {
    b"": "the array breaks off; the file may be truncated",
    b",": "a comma stands where a row is due",
    b"]": "a comma stands before the closing `]`",
}


class _Scanner:
    """A place in the stream. `at` points into `data`, of which the first byte is on line `line`."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.data = stream.read(_CHUNK_BYTES).removeprefix(BOM)
        self.at = 0
        self.line = 1
        self.counted = 0
        self.found_again = False

    def here(self) -> int:
        """The line of `at`."""
        self.line += self.data.count(b"\n", self.counted, self.at)
        self.counted = self.at
        return self.line

    def skip_space(self) -> bytes:
        """Move to the next byte that is no white space and return it; nothing at the end."""
        while True:
            match = _SPACE.match(self.data, self.at)
            self.at = match.end() if match else self.at
            if self.at < len(self.data) or not self._more(self.at):
                return self.data[self.at : self.at + 1]

    def element(self) -> tuple[int, bytes, bool]:
        """Line and bytes of the element that begins at `at`, and whether the stream is lost behind it."""
        line, indent = self.here(), self._indent()
        start, position, depth = self.at, self.at, 0
        self.found_again = False
        while True:
            position, depth, is_closed = self._close(position, depth)
            if is_closed:
                self.at = position
                return line, self.data[start:position].rstrip(), False
            if position - start > MAX_ROW_BYTES or not self._more(start):
                return self._lost_element(line, indent)
            position -= start
            start = 0

    def _close(self, position: int, depth: int) -> tuple[int, int, bool]:
        """Go on from `position`: the end of the element, or where to go on once there is more data."""
        for match in _MARK.finditer(self.data, position):
            start, end = match.span()
            mark = self.data[start]
            if mark == _QUOTE:
                if end - start == 1:
                    return start, depth, False
            elif mark in _OPENING:
                depth += 1
            elif mark == _COMMA:
                if not depth:
                    return start, 0, True
            elif depth > 1:
                depth -= 1
            else:
                # The bracket that closes the array ends a bare element, and one that closes nothing is one.
                is_array_end = not depth and mark == _ARRAY_END and start > self.at
                return (start if is_array_end else end), 0, True
        return len(self.data), depth, False

    def _indent(self) -> bytes | None:
        """The blanks before `at`, if nothing else is before it on its line."""
        before = self.data[max(0, self.at - 200) : self.at].rpartition(b"\n")
        return before[2] if before[1] and not before[2].strip() else None

    def _lost_element(self, line: int, indent: bytes | None) -> tuple[int, bytes, bool]:
        """The element never ends, most likely for want of a quote: go on where the next seems to begin."""
        start = self.at
        again = -1 if indent is None else self.data.find(b"\n" + indent + b"{", start + 1)
        if again < 0:
            match = _NEXT_OBJECT.search(self.data, start)
            again = match.end() - 1 if match else -1
        if again < 0:
            content, self.at = self.data[start:], len(self.data)
            return line, content, True
        self.at, self.found_again = again + 1, True
        return line, self.data[start:again].rstrip(b", \t\r\n"), False

    def _more(self, keep_from: int) -> bool:
        """Read on, forgetting what is before `keep_from`, which becomes the new beginning."""
        chunk = self.stream.read(max(_CHUNK_BYTES, len(self.data) - keep_from))
        if not chunk:
            return False
        self.at = keep_from
        self.here()
        self.data = self.data[keep_from:] + chunk
        self.at = self.counted = 0
        return True


_QUOTE, _COMMA, _ARRAY_END = b'",]'
_OPENING = b"{["
