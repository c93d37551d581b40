"""One JSON document from a scanner's tokens, with everything that is wrong in it; no recursion.

Goes on behind what it can mend or pass over, and stops where the rest has no certain meaning.
What is done with keys and values is the sink's matter: `json_write.py` has the one that writes.
"""

from dataclasses import dataclass, field
from typing import NoReturn, Protocol

from tunesmith.tools.json_problems import Edit, Mend
from tunesmith.tools.json_scan import Place, Scanner
from tunesmith.tools.json_strings import bad_byte, decoded, mend_word, quoted

MAX_DEPTH = 512
_CLOSERS = {"{": "}", "[": "]"}
_NAMES = {"{": "object", "[": "array"}
_CURLY_QUOTES = "“”„‘’‚«»"


class Sink(Protocol):
    """Takes a document piece by piece; strings and numbers come as JSON text."""

    def open(self, bracket: str) -> None:
        """An object or array begins, `{` or `[`."""

    def close(self, bracket: str) -> None:
        """The innermost one ends, `}` or `]`."""

    def key(self, text: str) -> None:
        """A key; its value follows."""

    def scalar(self, text: str) -> None:
        """A string, a number, `true`, `false` or `null`."""


class NoSink:
    """For a document that is only checked."""

    def open(self, bracket: str) -> None:
        """Nothing."""

    def close(self, bracket: str) -> None:
        """Nothing."""

    def key(self, text: str) -> None:
        """Nothing."""

    def scalar(self, text: str) -> None:
        """Nothing."""


class _Broken(Exception):
    """The rest of the document has no certain meaning; the reason is reported already."""


@dataclass(slots=True)
class _Frame:
    """An object or array that is still open."""

    bracket: str
    place: Place
    has_members: bool = False
    keys: dict[str, Place] = field(default_factory=dict)


class Parser:
    """Parses one document.

    Args:
        scanner: stands on the document's first token.
        sink: told of each piece.
    """

    def __init__(self, scanner: Scanner, sink: Sink) -> None:
        self._scanner, self._sink = scanner, sink
        self._stack: list[_Frame] = []
        self.root_keys: dict[str, Place] = {}
        self.is_truncated = self._was_string = False

    def document(self) -> bool:
        """Read up to the document's last token, which stays the current one; False where it broke."""
        try:
            self._value()
            while self._stack:
                self._step()
        except _Broken:
            return False
        return True

    def _step(self) -> None:
        """The end of the innermost object or array, or one more member."""
        frame, scanner = self._stack[-1], self._scanner
        if scanner.text == _CLOSERS[frame.bracket] or not self._comma(frame):
            self._close()
            return
        if frame.bracket == "{":
            self._key(frame)
        frame.has_members = True
        self._value()

    def _value(self) -> None:
        scanner = self._scanner
        if scanner.sort in ("scalar", "string"):
            self._sink.scalar(scanner.text)
            self._finish_value()
        elif scanner.text in _CLOSERS:
            self._open()
        elif scanner.sort == "word":
            self._word()
        else:
            self._unexpected("a value")

    def _finish_value(self) -> None:
        self._was_string = self._scanner.sort == "string"
        if self._stack:
            self._scanner.advance()

    def _open(self) -> None:
        scanner = self._scanner
        if len(self._stack) >= MAX_DEPTH:
            message = f"the document is nested deeper than {MAX_DEPTH} levels"
            scanner.report("too_deep", scanner.place, message, Mend("flatten it, or keep it as text"))
            raise _Broken
        self._stack.append(_Frame(scanner.text, scanner.place))
        self._sink.open(scanner.text)
        scanner.advance()

    def _close(self) -> None:
        frame = self._stack.pop()
        if not self._stack:
            self.root_keys = frame.keys
        self._sink.close(_CLOSERS[frame.bracket])
        self._finish_value()

    def _word(self) -> None:
        """A word in place of a value: Python, a number of another language, or text without quotes."""
        scanner = self._scanner
        mended = mend_word(scanner.text)
        if mended.kind == "unquoted_text":
            scanner.take_unquoted()
            scanner.check_bytes(scanner.text)
            mended = mend_word(scanner.text)
        place, length = scanner.place, len(scanner.text)
        edits = () if mended.text is None else (Edit(place.column, length, mended.text),)
        mend = Mend(mended.words, edits, is_safe=mended.text is not None)
        scanner.report(mended.kind, place, mended.message, mend)
        self._sink.scalar(mended.text or "null")
        self._finish_value()

    def _comma(self, frame: _Frame) -> bool:
        """Pass the comma before the next member; False if no member follows it."""
        scanner = self._scanner
        if scanner.text == ",":
            place = scanner.place
            self._pass_commas(frame)
            if scanner.text != _CLOSERS[frame.bracket]:
                return True
            if frame.has_members:
                message = f"a comma stands before the closing `{scanner.text}`"
                mend = Mend("take the comma out", (Edit(place.column, 1, ""),), is_safe=True)
                scanner.report("trailing_comma", place, message, mend)
            return False
        if frame.has_members:
            self._missing_comma(frame)
        return True

    def _pass_commas(self, frame: _Frame) -> None:
        """Pass all commas that stand here; only the first after a member has a meaning."""
        scanner = self._scanner
        is_extra = not frame.has_members
        while scanner.text == ",":
            if is_extra:
                mend = Mend("take it out, or give the missing member")
                scanner.report("extra_comma", scanner.place, "nothing stands before the comma", mend)
            is_extra = True
            scanner.advance()

    def _missing_comma(self, frame: _Frame) -> None:
        scanner = self._scanner
        is_start = scanner.sort in ("scalar", "string", "word")
        if not is_start and not (frame.bracket == "[" and scanner.text in _CLOSERS):
            self._unexpected(f"`,` or `{_CLOSERS[frame.bracket]}`")
        if scanner.sort == "word" and frame.bracket == "[" and mend_word(scanner.text).text is None:
            self._unexpected("`,` or `]`")
        # Strings that touch may be one string with a quote inside, as CSV writes it.
        touches = self._was_string and is_start and scanner.gap.offset == scanner.place.offset
        if touches and scanner.broken_string:
            self._unexpected(f"`,` or `{_CLOSERS[frame.bracket]}`")
        mend = Mend("write a comma between them", (Edit(scanner.gap.column, 0, ","),), is_safe=not touches)
        what = "members" if frame.bracket == "{" else "values"
        scanner.report("missing_comma", scanner.gap, f"no comma stands between two {what}", mend)

    def _key(self, frame: _Frame) -> None:
        scanner = self._scanner
        place = scanner.place
        if scanner.sort in ("word", "scalar"):
            text = quoted(scanner.text)
            mend = Mend(
                "put it in double quotes", (Edit(place.column, len(scanner.text), text),), is_safe=True
            )
            scanner.report("unquoted_key", place, f"the key `{scanner.text}` has no quotes", mend)
        elif scanner.sort == "string":
            text = scanner.text
        else:
            self._unexpected("a key in double quotes")
        name = decoded(text)
        if (first := frame.keys.setdefault(name, place)) is not place:
            message = f"the key {text} is there twice, first at {first}"
            scanner.report("duplicate_key", place, message, Mend("keep one of them, or rename one"))
        self._sink.key(text)
        scanner.advance()
        self._colon(text)

    def _colon(self, key: str) -> None:
        scanner = self._scanner
        if scanner.text == ":":
            scanner.advance()
        elif scanner.sort in ("scalar", "string") or scanner.text in _CLOSERS:
            mend = Mend("write a colon between key and value")
            scanner.report("missing_colon", scanner.gap, f"no colon follows the key {key}", mend)
        else:
            self._unexpected(f"`:` after the key {key}")

    def _unexpected(self, wanted: str) -> NoReturn:
        """Report what stands here in place of `wanted`, and give the document up."""
        scanner = self._scanner
        if scanner.sort == "end":
            self._truncated()
        found, place = scanner.text, scanner.place
        byte = bad_byte(found)
        message = f"{wanted} is expected, `{found[:40]}` found"
        words = "correct it by hand; what follows is not read"
        if byte and scanner.sort == "unknown":
            words = "save the file as UTF-8, for example `iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW`"
            scanner.report("bad_bytes", place, f"byte {byte[1]:#04x} is not UTF-8", Mend(words))
            raise _Broken
        if found in _CURLY_QUOTES:
            words = 'use straight double quotes, "'
        elif scanner.broken_string:
            message += f"; the string at {scanner.broken_string} holds a line break and may lack its end"
        elif found in ("}", "]") and self._stack:
            frame = self._stack[-1]
            message += f"; the {_NAMES[frame.bracket]} began at {frame.place}"
        scanner.report("unexpected", place, message, Mend(words))
        raise _Broken

    def _truncated(self) -> NoReturn:
        """Report that the text ends too early, and give the document up."""
        scanner = self._scanner
        self.is_truncated = scanner.open_string is None
        parts = [f"the {_NAMES[frame.bracket]} that began at {frame.place}" for frame in self._stack[-1:]]
        if scanner.open_string:
            parts.insert(0, f"the string that began at {scanner.open_string}")
        message = f"the document ends inside {parts[0]}" if parts else "there is no value"
        words = "it may be cut off: write or fetch it again"
        if scanner.open_string and scanner.window.is_limited:
            words = "if a raw line break cut the string, write it as \\n; else the line is cut off"
        mend = Mend(words)
        scanner.report("truncated", scanner.open_string or scanner.gap, message, mend)
        raise _Broken
