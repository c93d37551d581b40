"""What can be looked up: training rows, or the paragraphs of a folder of documents, each with its source.

Knows nothing of search. Read next: `retrieval.py`.
"""

import json
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunesmith.approaches.prompting import question_key, turns
from tunesmith.data.conversation import Row
from tunesmith.data.formats import to_row
from tunesmith.data.read import SUFFIXES, container, opened, read_records
from tunesmith.data.records import MAX_SHOWN, Record, listed
from tunesmith.errors import DataError
from tunesmith.evaluation.scripts import rouge_tokens
from tunesmith.progress import Progress, Silent

TEXT_SUFFIXES = (".txt", ".md")
PASSAGE_WORDS = 120
# A line of code or digits has few words and many characters.
CHARS_A_WORD = 10
MAX_TEXT_BYTES = 64 * 2**20

_SENTENCE_END = re.compile(r"[.!?]+[\"'”’)\]]*\s+|[。！？]+[”’」』）]*\s*")
_HEADING = re.compile(r"(#{1,6})\s+(.*\S)")
_FENCE = re.compile(r"\s*(```|~~~)")

Line = tuple[int, str]  # 1-based number in its file, and text


@dataclass(frozen=True, slots=True)
class Passage:
    """One thing that can be found.

    Attributes:
        text: what is searched, and shown where it is a document's.
        source: where it stands, as `file:line` of its first line.
        row: the row it is, or is part of, if it is one.
    """

    text: str
    source: str
    row: Row | None = None


def row_passages(train: Sequence[Row]) -> list[Passage]:
    """A passage for each question of the training rows, found by its question; the first of equal ones."""
    first: dict[str, Row] = {}
    for row in train:
        first.setdefault(question_key(row), row)
    return [Passage(row.asked, row.place, row) for row in first.values()]


def document_passages(folder: Path, *, progress: Progress | None = None) -> list[Passage]:
    """The passages of all documents below a folder, by file name and line.

    `.txt` and `.md` files are cut into paragraphs of at most about 120 words, at ends of sentences where one
    is longer; in Markdown each begins with the headings above it. Data files give a passage a row, or more
    where the row is long. Each may be compressed with gzip. Hidden files are left out, and so are files of
    other kinds, which `progress` is told of.

    Args:
        folder: the folder; one file will do too.
        progress: shows a bar of the files, and what was left out.

    Raises:
        DataError: if there is nothing to look up, a link leads out of the folder or to nothing, or a file
            cannot be read, is no UTF-8 text, is too large, or is no good data file; names the file.
    """
    progress = progress or Silent()
    try:
        files, others = _documents(folder)
    except OSError as error:
        what = f"{error.filename}: cannot be read: {error.strerror}"
        raise DataError(what, hint="check the folder's permissions") from None
    if others:
        progress.say(f"neither text nor rows, left out: {_named(others)}")
    passages: list[Passage] = []
    empty: list[str] = []
    progress.begin("reading documents", len(files))
    for path, name in files:
        found = list(_passages_of(path, name))
        passages += found
        if not found:
            empty.append(name)
        progress.advance()
    progress.end()
    if empty:
        progress.say(f"without any text: {_named(empty)}")
    if not passages:
        kinds = listed((*TEXT_SUFFIXES, *SUFFIXES))
        raise DataError(
            f"{folder}: holds nothing to look up", hint=f"put files of these kinds there: {kinds}"
        )
    return passages


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
    return f"{listed(names[:MAX_SHOWN])}{more}"


def _documents(folder: Path) -> tuple[list[tuple[Path, str]], list[str]]:
    """The files to read, each with its name in the folder, and the names of files of other kinds."""
    if folder.is_file():
        return [(folder, folder.name)], []
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder", hint="check the path of the documents")
    root = folder.resolve()
    files: list[tuple[Path, str]] = []
    others: list[str] = []
    for place, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted([*folders, *(name for name in names if not name.startswith("."))]):
            path = Path(place, name)
            # A link that stays inside leads to what is read anyway.
            if path.is_symlink():
                _refuse_stray_link(path, root)
            elif not path.is_dir():
                shown = path.relative_to(folder).as_posix()
                is_known = path.is_file() and container(path) in (*TEXT_SUFFIXES, *SUFFIXES)
                files += [(path, shown)] * is_known
                others += [shown] * (not is_known)
    return files, others


def _raise(error: OSError) -> None:
    """By itself `os.walk` passes over what it cannot read."""
    raise error


def _refuse_stray_link(path: Path, root: Path) -> None:
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):
        raise DataError(f"{path}: is a link to nothing", hint="remove the link") from None
    if not target.is_relative_to(root):
        raise DataError(
            f"{path}: is a link out of the folder, to `{target}`",
            hint="copy what it leads to into the folder, or remove the link",
        )


def _passages_of(path: Path, name: str) -> Iterator[Passage]:
    if container(path) in TEXT_SUFFIXES:
        for above, block in _blocks(_text(path), has_headings=container(path) == ".md"):
            for line, piece in _pieces(block):
                yield Passage(f"{above}\n{piece}" if above else piece, f"{name}:{line}")
        return
    for record in read_records(path):
        text, row = _record_text(record, path)
        for _, piece in _pieces(list(enumerate(text.split("\n"), start=1))):
            yield Passage(piece, f"{name}:{record.line}", row)


def _record_text(record: Record, path: Path) -> tuple[str, Row | None]:
    """All turns of a row; of any other record its fields by name."""
    try:
        row = to_row(record, path=path)
    except DataError:
        fields = {key: value for key, value in record.value.items() if value not in (None, "", [], {})}
        return "\n".join(f"{key}: {_as_text(value)}" for key, value in fields.items()), None
    return "\n".join(message.text for message in turns(row.messages)), row


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _text(path: Path) -> str:
    try:
        with opened(path) as file:
            content = file.read(MAX_TEXT_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        what = getattr(error, "strerror", None) or error
        raise DataError(
            f"{path}: cannot be read: {what}", hint="check its permissions, or fetch it again"
        ) from None
    if len(content) > MAX_TEXT_BYTES:
        raise DataError(
            f"{path}: is larger than {MAX_TEXT_BYTES:,} bytes",
            hint="cut it into several files, one a subject",
        )
    zero = content.find(b"\0")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        zero = error.start
    if zero >= 0:
        raise DataError(
            f"{path}:{content.count(10, 0, zero) + 1}: is no UTF-8 text: byte {content[zero]:#04x}",
            hint="save it as UTF-8 text, or move it out of the folder",
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _blocks(text: str, *, has_headings: bool) -> Iterator[tuple[str, list[Line]]]:
    """Paragraphs as lines, each with the headings above it; a heading with no text below stands alone."""
    above: dict[int, str] = {}
    bare: Line | None = None
    block: list[Line] = []
    is_code = False
    for number, line in enumerate(text.split("\n"), start=1):
        is_code ^= has_headings and _FENCE.match(line) is not None
        heading = _HEADING.match(line) if has_headings and not is_code else None
        if block and (heading or not line.strip()):
            yield _joined(above), block
            block = []
        if heading:
            level = len(heading[1])
            if bare and level <= max(above):
                yield "", [bare]
            above = {known: title for known, title in above.items() if known < level} | {level: heading[2]}
            bare = number, _joined(above)
        elif line.strip():
            block.append((number, line))
            bare = None
    if block:
        yield _joined(above), block
    if bare:
        yield "", [bare]


def _joined(above: dict[int, str]) -> str:
    return " > ".join(above.values())


def _pieces(block: Sequence[Line]) -> Iterator[Line]:
    """The block in pieces of at most about `PASSAGE_WORDS`, each with the number of its first line."""
    start, piece, size = 0, "", 0.0
    for number, atom in _atoms(block):
        words = _words(atom)
        if piece.strip() and size + words > PASSAGE_WORDS:
            yield start, piece.strip()
            piece, size = "", 0.0
        if not piece.strip():
            start, piece = number, ""
        piece += atom
        size += words
    if piece.strip():
        yield start, piece.strip()


def _atoms(block: Sequence[Line]) -> Iterator[Line]:
    """Sentences; the words of one that is too long; parts of a word that is."""
    for number, line in block:
        ends = [found.end() for found in _SENTENCE_END.finditer(line)]
        for start, end in zip([0, *ends], [*ends, len(line)], strict=True):
            sentence = line[start:end] + "\n" * (end == len(line) and start < end)
            if _words(sentence) <= PASSAGE_WORDS:
                yield number, sentence
                continue
            for word in re.findall(r"\S+\s*|\s+", sentence):
                for at in range(0, len(word), PASSAGE_WORDS):
                    yield number, word[at : at + PASSAGE_WORDS]


def _words(text: str) -> float:
    """Length in words, a character of a script without blanks being one; more where words are long."""
    return max(len(rouge_tokens(text)), len(text) / CHARS_A_WORD)
