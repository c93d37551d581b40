"""A data file as records: JSON, JSON lines, CSV or Parquet, told apart by content before suffix.

One reader for every command and for training. It streams, whatever the size; only a Parquet file is opened
by its own library. Knows nothing of row shapes. Read next: `formats.py`.
"""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

import orjson

from tunesmith.data.json_array import ARRAY_HINT, array_pieces
from tunesmith.data.json_records import (
    BOM,
    LINES_HINT,
    MAX_ROW_BYTES,
    Piece,
    decode_json,
    decode_value,
    decoded_text,
    explain,
    line_pieces,
    past_space,
)
from tunesmith.data.records import MAX_SHOWN, BadLine, Record, first_few, listed, nearest
from tunesmith.data.tables import csv_rows, parquet_rows
from tunesmith.errors import DataError

Found = Piece | Record | BadLine

SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".parquet")
_HEAD_BYTES = 4096
_GZIP = b"\x1f\x8b"
# Rows of text shrink to a third or, where they repeat each other, to a fiftieth; gzip itself ends at 1032.
_MOST_TIMES_PACKED, _ALWAYS_UNPACKED_BYTES = 100, 16 << 20

# First bytes of files that are no data, what they are, and what to do.
_FOREIGN = (
    (b"version https://git-lfs", "a git LFS pointer, not the data itself", "fetch it with `git lfs pull`"),
    (_GZIP, "compressed with gzip twice", "unpack it once with `gunzip`"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it first with `unzstd`"),
    (b"PK\x03\x04", "a zip archive or a spreadsheet", "unpack it, or save the sheet as CSV (UTF-8)"),
    (b"\xff\xfe", "UTF-16 text", "save it as UTF-8: `iconv -f UTF-16 -t UTF-8 OLD > NEW`"),
    (b"\xfe\xff", "UTF-16 text", "save it as UTF-8: `iconv -f UTF-16 -t UTF-8 OLD > NEW`"),
    (b"<!", "a web page or XML", "fetch the data file itself, not the page that shows it"),
    (b"<html", "a web page", "fetch the data file itself, not the page that shows it"),
    (b"<?xml", "XML", "give a JSON array, JSON lines, CSV or Parquet file"),
)


def read_records(path: Path, *, skipped: list[BadLine] | None = None) -> Iterator[Record]:
    """The file's records in order, each with its place.

    Everything is streamed. Values stay what the file says: CSV values are text (`001`, `NA` and the empty
    text too). A byte order mark is accepted.

    Args:
        path: a `.json` (array of objects), `.jsonl`, `.ndjson`, `.csv` (with header) or `.parquet` file, the
            text ones also with `.gz`; content that is clearly another of these is read as what it is.
        skipped: where bad rows go instead of into an error.

    Raises:
        DataError: if the file is missing, empty, no data file, or holds no record; or, without `skipped`,
            for its bad rows, collected and raised once after the last good one.
    """
    shown: list[BadLine] = []
    good = bad = 0
    for found in scan(path):
        if isinstance(found, Record):
            good += 1
            yield found
            continue
        bad += 1
        if skipped is not None:
            skipped.append(found)
        elif len(shown) < MAX_SHOWN:
            shown.append(found)
    if shown:
        named = [f"{path}:{line.line}: {line.what}" for line in shown]
        raise DataError(
            first_few(named, bad=bad, total=good + bad, path=path, unit="rows"), hint=shown[0].hint
        )
    if not good:
        raise DataError(f"{path}:1: the file holds no rows", hint="add a row, or name another file")


def scan(path: Path) -> Iterator[Record | BadLine]:
    """Every place of the file, good or bad, in order.

    Raises:
        DataError: if the file is missing, empty or no data file.
    """
    hint = ""
    for found in undecoded(path):
        if isinstance(found, tuple):
            hint = hint or row_hint(path)
            yield decode_json(*found, hint=hint)
        else:
            yield found


def undecoded(path: Path) -> Iterator[Found]:
    """As `scan`, but JSON rows are left as the bytes they are, to be decoded elsewhere.

    Raises:
        DataError: as `scan` does.
    """
    pieces = _reader(path)
    if pieces is None:
        yield from parquet_rows(path)
        return
    line = 0
    try:
        with opened(path) as stream:
            for found in pieces(stream):
                line = found[0] if isinstance(found, tuple) else found.line
                yield found
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        what = f"the compressed file is damaged behind this line: {error}"
        yield BadLine(line + 1, "damaged", what, "it may be a failed download: fetch it again")


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The file's bytes, unpacked if it is compressed with gzip."""
    with path.open("rb") as file:
        is_gzip = file.read(2) == _GZIP
        file.seek(0)
        # gzip's class reads as a binary file does, but is not declared as one.
        yield cast(BinaryIO, _Unpacked(path, file)) if is_gzip else file


class _Unpacked(gzip.GzipFile):
    """A gzip file that stops being read where it is a bomb: its bytes are counted as they come out.

    Raises:
        DataError: from every way to read, where far more comes out than data can hold in so few bytes.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        super().__init__(fileobj=file)
        self._path = path
        self._packed_bytes = path.stat().st_size
        self._most_bytes = max(_ALWAYS_UNPACKED_BYTES, _MOST_TIMES_PACKED * self._packed_bytes)
        self._count_bytes = 0

    def read(self, size: int | None = -1) -> bytes:
        """As of any file."""
        return self._counted(super().read(self._most_bytes if size is None or size < 0 else size))

    def readline(self, size: Any = -1) -> bytes:
        """As of any file."""
        return self._counted(super().readline(self._most_bytes if size is None or size < 0 else size))

    def _counted(self, content: bytes) -> bytes:
        self._count_bytes += len(content)
        if self._count_bytes > self._most_bytes:
            raise DataError(
                f"{self._path}: its {self._packed_bytes} bytes unpack to more than {self._most_bytes}",
                hint="it may be made to fill memory or disk; if you trust it, unpack it with `gunzip` first",
            )
        return content


def row_hint(path: Path) -> str:
    """What to do about a row that is not JSON: a remedy for an array, or for JSON lines."""
    return ARRAY_HINT if _head(path).startswith(b"[") else LINES_HINT


def container(path: Path) -> str:
    """The suffix that says how the file's name wants it written, without `.gz`: `.jsonl`."""
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def _reader(path: Path) -> Callable[[BinaryIO], Iterator[Found]] | None:
    """The reader that fits the content; None for Parquet, which is not read as a stream."""
    try:
        _refuse_unless_file(path)
        head = _head(path)
    except OSError as error:
        what = f"{path}: cannot be read: {error.strerror or error}"
        raise DataError(what, hint="check the path and its permissions") from None
    if not head:
        raise DataError(f"{path}:1: the file is empty", hint="it may be a failed download: fetch it again")
    if head.startswith(b"PAR1"):
        return None
    for start, what, hint in _FOREIGN:
        if head.startswith(start):
            raise DataError(f"{path}:1: the file is {what}", hint=hint)
    return _text_reader(path, head)


def _text_reader(path: Path, head: bytes) -> Callable[[BinaryIO], Iterator[Found]]:
    suffix = container(path)
    # A CSV header may begin with a bracket, but hardly with the start of a row in JSON.
    if suffix == ".csv" and not head.startswith((b'{"', b"[{", b"[\n", b"[\r\n")):
        return partial(csv_rows, path=path)
    if head.startswith(b"["):
        return array_pieces
    if head.startswith(b"{"):
        if not _is_json_lines(path, suffix):
            _refuse_object(path)
        return line_pieces
    start = head[:1].decode("latin-1")
    known = suffix if suffix in SUFFIXES else "a data file"
    raise DataError(
        f"{path}:1: the content is not that of {known}: it starts with {start!r}",
        hint=f"give a JSON array, JSON lines, CSV or Parquet file, named {listed(SUFFIXES)}",
    )


def _is_json_lines(path: Path, suffix: str) -> bool:
    if suffix in (".jsonl", ".ndjson"):
        return True
    with opened(path) as stream:
        two = list(islice(line_pieces(stream), 2))
    if len(two) < 2 or not isinstance(two[0], tuple):
        return False
    try:
        orjson.loads(two[0][1])
    except orjson.JSONDecodeError:
        return False
    return True


def _refuse_object(path: Path) -> None:
    """Say why a file that starts with an object, and is not JSON lines, cannot be read."""
    with opened(path) as stream:
        text = decoded_text(stream.read(MAX_ROW_BYTES), path)
    try:
        value, end = decode_value(text, past_space(text, 0))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: {explain(error, at_end=True)}", hint=ARRAY_HINT) from None
    rest = past_space(text, end)
    if rest < len(text):
        what = f"{path}:{text.count(chr(10), 0, rest) + 1}: a second JSON value follows the first"
        raise DataError(what, hint=f"{LINES_HINT}, or put commas between them and the whole in [ ]")
    items = value.items() if isinstance(value, dict) else ()
    lists = [key for key, inner in items if isinstance(inner, list)]
    hint = f"save the list under `{lists[0]}` as a file of its own" if lists else "put the row in [ ]"
    raise DataError(f"{path}:1: the file is one JSON object, not an array of rows", hint=hint)


def _head(path: Path) -> bytes:
    """The first bytes after a byte order mark and white space; nothing if there is nothing else."""
    with opened(path) as stream:
        try:
            head = stream.read(_HEAD_BYTES).removeprefix(BOM).lstrip()
            while not head and (more := stream.read(_HEAD_BYTES)):
                head = more.lstrip()
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            what = f"{path}:1: the compressed file is damaged: {error}"
            raise DataError(what, hint="it may be a failed download: fetch it again") from None
    return head


def _refuse_unless_file(path: Path) -> None:
    if path.is_file():
        return
    if path.is_dir():
        names = sorted(file.name for file in path.iterdir() if container(file) in SUFFIXES)
        hint = f"name one file in it: {listed(names[:MAX_SHOWN])}" if names else "name a data file"
        raise DataError(f"{path}: is a folder, not a file", hint=hint)
    folder = path.parent
    if not folder.is_dir():
        raise DataError(f"{path}: there is no folder `{folder}`", hint="check the path")
    close = nearest(path.name, (file.name for file in folder.iterdir() if file.is_file()))
    hint = f"the nearest name there is `{folder / close}`" if close else "check the path"
    raise DataError(f"{path}: there is no such file", hint=hint)
