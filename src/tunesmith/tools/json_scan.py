"""A JSON text that arrives in pieces, as tokens; what is wrong inside a token is mended on the way.

Knows nothing of objects and arrays: `json_parse.py` does. What a token itself can have wrong is in
`json_strings.py`; the text is held by `json_window.py`.
"""

import re
import unicodedata
from collections.abc import Callable
from typing import Literal, NamedTuple

from tunesmith.tools.json_problems import Edit, Excerpt, Kind, Mend, Problem
from tunesmith.tools.json_strings import Change, bad_byte, lone_surrogate, mend_string
from tunesmith.tools.json_window import CONTEXT_CHARACTERS, Window

Sort = Literal["punctuation", "string", "scalar", "word", "unknown", "end"]

_STRICT = re.compile(
    r"""[ \t\r\n]*+(?:
      ([{}\[\]:,])
    | ("[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*+")
    | ((?:true|false|null|-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?)(?![\w.+$-])))""",
    re.VERBOSE,
)
_SORTS: tuple[Sort, ...] = ("end", "punctuation", "string", "scalar")
_SPACE = re.compile(r"[ \t\r\n]*+")
_STRINGS = {
    '"': re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL),
    "'": re.compile(r"'[^'\\]*+(?:\\.[^'\\]*+)*+'", re.DOTALL),
}
_COMMENT = re.compile(r"(?:#|//)[^\n]*+|/\*(?:[^*]|\*(?!/))*+\*/", re.DOTALL)
_WORD = re.compile(r"[\w.+$-]++")
_UNQUOTED = re.compile(r'[^,\]}:"\n]*+')
_FOREIGN_SPACE = re.compile("[^\\S \t\r\n]|[\u200b\u200c\u200d\u2060\ufeff]")

_MESSAGES: dict[Kind, tuple[str, str]] = {
    "single_quotes": ("the string stands in single quotes", "put it in double quotes"),
    "raw_newline": ("a raw line break stands inside the string", "write it as \\n"),
    "control_character": ("a raw control character stands inside the string", "write it as an escape"),
    "bad_escape": ("JSON has no such escape", "write the backslash twice"),
}


class Place(NamedTuple):
    """A position in the text: characters from its start, 1-based line, and where that line starts."""

    offset: int
    line: int
    line_start: int

    @property
    def column(self) -> int:
        """1-based, in characters."""
        return self.offset - self.line_start + 1

    def __str__(self) -> str:
        return f"{self.line}:{self.column}"


class Scanner:
    """One token at a time: `advance` moves on, then `sort`, `text` and `place` describe the token.

    Args:
        read: gives about as many characters as it is asked for, and nothing at the end.
        report: called with each problem, nearly in the order of the text.
    """

    def __init__(self, read: Callable[[int], str], *, report: Callable[[Problem], None]) -> None:
        self.window, self._report = Window(read), report
        self._line, self._line_start = 1, 0
        self.sort: Sort = "end"
        self.text = ""
        self._place = self._gap = (0, 1, 0)  # made a `Place` where one is asked for: most never are
        self.open_string: Place | None = None
        self.broken_string: Place | None = None

    @property
    def place(self) -> Place:
        """Where the current token starts."""
        return Place(*self._place)

    @property
    def gap(self) -> Place:
        """Where the token before it ends."""
        return Place(*self._gap)

    def advance(self) -> None:
        """Go to the next token; comments and foreign space are reported and passed over."""
        window = self.window
        window.keep = window.at
        self._gap = (window.base + window.at, self._line, self._line_start)
        while True:
            end = window.end
            match = _STRICT.match(window.text, window.at, end)
            if match and (match.end() < end or match.lastindex == 1 or window.is_whole):
                sort = match.lastindex or 0
                self._begin(match.start(sort))
                self.sort, self.text, window.at = _SORTS[sort], match[sort], match.end()
                if sort == 2 and ("\\u" in self.text or not self.text.isascii()):
                    self._check_characters(self.text)
                return
            if not self._fill_near() and self._tolerant():
                return

    def report(self, kind: Kind, place: Place, message: str, mend: Mend) -> None:
        """Pass a problem on, with the text around it."""
        excerpt = self._excerpt(place)
        self._report(Problem(place.line, place.column, kind, message, mend, excerpt))

    def take_unquoted(self) -> None:
        """Let the word token reach up to the next structural character or the end of the line."""
        window = self.window
        end = window.end
        match = _UNQUOTED.match(window.text, window.at, end)
        if match:
            self.text += match[0].rstrip()
            window.at = match.end()

    def check_bytes(self, raw: str) -> None:
        """Report the first byte that is not UTF-8 in the current token `raw`."""
        if found := bad_byte(raw):
            message = f"byte {found[1]:#04x} is not UTF-8"
            mend = Mend("save the file as UTF-8, for example `iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW`")
            self.report("bad_bytes", self._inside(self.place, raw, found[0]), message, mend)

    def is_bracket_alone(self) -> bool:
        """True if the current token is `{` or `[` and its line holds nothing more."""
        return self.text in ("{", "[") and self.window.is_line_done()

    def skip_to_document(self) -> bool:
        """Go to the next line that starts with `{` or `[`; False if there is none."""
        window = self.window
        while True:
            window.keep = window.at
            found = window.text.find("\n", window.at)
            if found < 0:
                window.at = len(window.text)
                if not window.fill():
                    return False
                continue
            window.at = found + 1
            self._line, self._line_start = self._line + 1, window.base + window.at
            if (window.at < len(window.text) or window.fill()) and window.text[window.at] in "{[":
                return True

    def _fill_near(self) -> bool:
        """Read on if what follows may be cut; True if something was read."""
        window = self.window
        is_near = len(window.text) - window.at < CONTEXT_CHARACTERS
        if window.is_whole or not (is_near or self._is_cut()):
            return False
        return window.fill() or True

    def _is_cut(self) -> bool:
        """True if the token at hand reaches the end of what was read."""
        window = self.window
        space = _SPACE.match(window.text, window.at)
        start = space.end() if space else window.at
        first = window.text[start : start + 1]
        if first in _STRINGS:
            return not _STRINGS[first].match(window.text, start)
        match = (_COMMENT if first in "/#" else _WORD).match(window.text, start)
        if match is None:
            return first in "/#"
        return match.end() == len(window.text)

    def _begin(self, start: int) -> None:
        """The token starts at index `start`; count the lines up to there."""
        window = self.window
        breaks = window.text.count("\n", window.at, start) if start > window.at else 0
        if breaks:
            self._line += breaks
            self._line_start = window.base + window.text.rfind("\n", window.at, start) + 1
        self._place = (window.base + start, self._line, self._line_start)

    def _tolerant(self) -> bool:
        """Read a token that is not strict JSON; False if it was none (a comment, a space)."""
        window = self.window
        end = window.end
        space = _SPACE.match(window.text, window.at, end)
        self._begin(space.end() if space else window.at)
        window.at = self.place.offset - window.base
        first = window.text[window.at : min(window.at + 1, end)]
        if not first:
            self.sort, self.text = "end", ""
        elif first in _STRINGS:
            self._string(first, end)
        elif (comment := _COMMENT.match(window.text, window.at, end)) or _FOREIGN_SPACE.match(first):
            self._pass_over(comment[0] if comment else first, is_comment=comment is not None)
            return False
        elif word := _WORD.match(window.text, window.at, end):
            self.sort, self.text, window.at = "word", word[0], word.end()
        else:
            self.sort, self.text, window.at = "unknown", first, window.at + 1
        return True

    def _string(self, quote: str, end: int) -> None:
        window = self.window
        match = _STRINGS[quote].match(window.text, window.at, end)
        if not match:
            self.open_string = self.place
            self.sort, self.text, window.at = "end", "", end
            return
        raw, start = match[0], self.place
        self.sort, window.at = "string", match.end()
        self.text, changes = mend_string(raw)
        self._count_lines(raw)
        for kind in dict.fromkeys(change.kind for change in changes):
            self._report_changes(kind, raw, start, [change for change in changes if change.kind == kind])
        if "\n" in raw:
            self.broken_string = start
        self._check_characters(raw)

    def _report_changes(self, kind: Kind, raw: str, start: Place, changes: list[Change]) -> None:
        place = self._inside(start, raw, changes[0].offset)
        message, words = _MESSAGES[kind]
        if kind == "bad_escape":
            message = f"{message} as `{raw[changes[0].offset : changes[0].offset + 2]}`".replace("\n", "")
        if len(changes) > 1 and kind != "single_quotes":
            message += f", and {len(changes) - 1} more in the string"
        offset = start.offset - place.line_start + 1
        edits = tuple(Edit(offset + change.offset, change.length, change.text) for change in changes)
        self.report(kind, place, message, Mend(words, edits, is_safe=True))

    def _check_characters(self, raw: str) -> None:
        """Report what no mend can bring back: half a surrogate pair, a byte that is not UTF-8."""
        if (half := lone_surrogate(raw)) is not None:
            message = f"`{raw[half : half + 6]}` is half of a surrogate pair, which is no character"
            mend = Mend("write the whole pair, or take it out")
            self.report("surrogate", self._inside(self.place, raw, half), message, mend)
        self.check_bytes(raw)

    def _pass_over(self, text: str, *, is_comment: bool) -> None:
        window = self.window
        place = self.place
        window.at += len(text)
        self._count_lines(text)
        mend = Mend("take it out", (Edit(place.column, len(text), ""),), is_safe=True)
        if is_comment:
            self.report("comment", place, "JSON has no comments", mend)
            self.check_bytes(text)
        elif place.offset == 0 and text == "\ufeff":
            self._line_start = 1
            self.report("byte_order_mark", place, "a byte order mark stands before the text", mend)
        else:
            name = unicodedata.name(text, "control character").lower()
            message = f"a foreign space, U+{ord(text):04X} ({name}), stands between the values"
            self.report("foreign_space", place, message, mend)
        window.keep = window.at

    def _count_lines(self, raw: str) -> None:
        """Count the line breaks inside the token that ends here."""
        breaks = raw.count("\n")
        if breaks:
            self._line += breaks
            self._line_start = self.window.base + self.window.at - len(raw) + raw.rfind("\n") + 1

    def _inside(self, start: Place, raw: str, offset: int) -> Place:
        """The place `offset` characters into the token `raw` that starts at `start`."""
        breaks = raw.count("\n", 0, offset)
        if not breaks:
            return Place(start.offset + offset, start.line, start.line_start)
        line_start = start.offset + raw.rfind("\n", 0, offset) + 1
        return Place(start.offset + offset, start.line + breaks, line_start)

    def _excerpt(self, place: Place) -> Excerpt:
        """The line around the place, as far as it is held."""
        window = self.window
        while place.offset - window.base + CONTEXT_CHARACTERS > len(window.text) and window.fill():
            pass
        index = place.offset - window.base
        start = max(place.line_start - window.base, index - CONTEXT_CHARACTERS, 0)
        end = max(start, min(len(window.text), index + CONTEXT_CHARACTERS))
        found = window.text.find("\n", max(index, 0), end)
        text = window.text[start : end if found < 0 else found]
        return Excerpt(text.removesuffix("\r"), start + window.base - place.line_start + 1)
