"""JSON documents from bytes to bytes: one document, or many with each on a line or in a group of lines.

Memory stays bounded for JSON lines, for arrays of objects and for any other shape too; a single string,
a line of JSON lines and the keys of one object are held whole. Which file, and what a person is told,
is the matter of `json_file.py`.
"""

import codecs
from collections.abc import Callable
from dataclasses import dataclass

from tunesmith.tools.json_parse import NoSink, Parser
from tunesmith.tools.json_problems import Edit, Mend, Problem, ProblemList
from tunesmith.tools.json_scan import Place, Scanner
from tunesmith.tools.json_write import JsonWriter, Layout, Style

_HEAD_CHARACTERS = 1 << 20  # a first line longer than this does not decide whether there are many


@dataclass(frozen=True, slots=True)
class Formatted:
    """What was found in a text of `documents` documents.

    `safe` and `unsafe` count all problems; `problems` holds the first of them. `root_keys` are the keys
    of the last document if it is an object, each with its place.
    """

    documents: int
    problems: tuple[Problem, ...]
    safe: int
    unsafe: int
    style: Style
    root_keys: dict[str, Place]

    def is_good(self, *, fix: bool) -> bool:
        """True if there is no problem, or, with `fix`, none left."""
        return self.documents > 0 and not self.unsafe and (fix or not self.safe)


def format_json(
    read: Callable[[int], bytes],
    write: Callable[[bytes], object],
    *,
    style: Style | None = None,
    indent: int = 2,
    sort_keys: bool = False,
    fix: bool = False,
    is_named_lines: bool = False,
) -> Formatted:
    """Write the documents in a layout; numbers and strings stay as they are written.

    Args:
        read: gives up to so many bytes, and none at the end.
        write: takes the text in UTF-8. It is not whole, and of no use, if problems are left.
        style: `pretty` with `indent` blanks a level, `compact` without blanks, or `lines`: like compact,
            and an array of objects becomes one line an element. By default `lines` for JSON lines, else
            `pretty`.
        indent: 0 or more.
        sort_keys: order the keys of each object by their characters.
        fix: mend what can be mended without a doubt.
        is_named_lines: each line is expected to be a document, as in `.jsonl` files.
    """
    problems = ProblemList()
    scanner = Scanner(_text_reader(read), report=problems.add)
    is_lines = _is_lines(scanner.window.peek(_HEAD_CHARACTERS), is_named_lines=is_named_lines)
    layout = Layout(style or ("lines" if is_lines else "pretty"), indent, sort_keys)
    writer = JsonWriter(lambda text: write(text.encode(errors="surrogateescape")), layout)
    documents = _Documents(scanner, writer, problems, is_lines=is_lines, fix=fix)
    documents.run()
    return Formatted(
        documents.count,
        problems.kept(),
        problems.safe_count,
        problems.unsafe_count,
        layout.style,
        documents.root_keys,
    )


class _Documents:
    """All documents of a text, one after the other."""

    def __init__(
        self, scanner: Scanner, writer: JsonWriter, problems: ProblemList, *, is_lines: bool, fix: bool
    ) -> None:
        self._scanner, self._writer, self._problems = scanner, writer, problems
        self._is_lines, self._fix = is_lines, fix
        self.count = 0
        self.root_keys: dict[str, Place] = {}

    def run(self) -> None:
        """Read up to the end, or to where the rest has no certain meaning."""
        scanner, goes_on = self._scanner, True
        while goes_on:
            if self._is_lines:
                scanner.window.limit_to_line()
            scanner.advance()
            if scanner.sort != "end" or scanner.open_string:
                goes_on = self._document() or self._recover()
            elif scanner.window.is_at_end:
                goes_on = False
            else:
                scanner.window.lift_limit(skip=True)

    def _document(self) -> bool:
        """One document; False where it broke."""
        scanner = self._scanner
        self.count += 1
        self._bracket, scanner.broken_string = scanner.text, None
        if self._is_lines and scanner.is_bracket_alone():
            scanner.window.lift_limit()
        can_write = not self._problems.unsafe_count and (self._fix or not self._problems.safe_count)
        parser = Parser(scanner, self._writer if can_write else NoSink())
        self._writer.begin(may_explode=self._may_explode())
        is_whole = parser.document() and self._is_ended()
        self.root_keys = parser.root_keys
        if is_whole and can_write:
            self._writer.end()
        return is_whole

    def _may_explode(self) -> bool:
        """Only the first document, so that what was made into lines stays as it is the next time."""
        scanner = self._scanner
        return self.count == 1 and not (scanner.window.is_limited and scanner.window.has_more_lines())

    def _is_ended(self) -> bool:
        """Nothing but a comma may follow the document on its line; False if more does."""
        scanner = self._scanner
        if not scanner.window.is_limited:
            if scanner.window.is_line_done():
                return True
            scanner.window.limit_to_line()
        scanner.advance()
        place = scanner.place
        if is_comma := scanner.text == ",":
            scanner.advance()
        if scanner.sort != "end":
            message = f"`{scanner.text[:40]}` follows the end of the document"
            mend = Mend("write each document on a line of its own, or all in one array")
            scanner.report("extra_text", scanner.place, message, mend)
            return False
        if is_comma:
            mend = Mend("take the comma out", (Edit(place.column, 1, ""),), is_safe=True)
            scanner.report("trailing_comma", place, "a comma follows the document", mend)
        scanner.window.lift_limit(skip=True)
        return True

    def _recover(self) -> bool:
        """Go to where the next document may start; False if nothing can be said of what follows."""
        scanner = self._scanner
        scanner.open_string = None
        if scanner.window.is_limited:
            scanner.window.lift_limit(skip=True)
            return True
        return self._bracket == "{" and scanner.skip_to_document()


def _text_reader(read: Callable[[int], bytes]) -> Callable[[int], str]:
    """Characters in place of bytes; a byte that is not UTF-8 becomes a lone surrogate."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="surrogateescape")

    def read_text(size: int) -> str:
        while data := read(size):
            if text := decoder.decode(data):
                return text
        return decoder.decode(b"", final=True)

    return read_text


def _is_lines(head: str, *, is_named_lines: bool) -> bool:
    """True if the text looks like JSON lines: the first line is a document of its own, and more follows."""
    first, _, rest = head.lstrip("\ufeff \t\r\n").partition("\n")
    rest = rest.lstrip()
    if first.strip() in ("{", "["):
        return False
    if is_named_lines or not rest:
        return is_named_lines
    is_whole, may_go_on = _judge(first)
    if is_whole or may_go_on:
        return is_whole
    second = rest.partition("\n")[0]
    return first.startswith("{") and second.startswith("{") and _judge(second)[0]


def _judge(line: str) -> tuple[bool, bool]:
    """Whether the line is a document of its own, and whether it may be the start of one."""
    pieces = iter((line,))
    scanner = Scanner(lambda _: next(pieces, ""), report=lambda _: None)
    scanner.advance()
    parser = Parser(scanner, NoSink())
    if not parser.document():
        return False, parser.is_truncated
    scanner.advance()
    if scanner.text == ",":
        scanner.advance()
    return scanner.sort == "end", False
