"""A data file as records: JSON, JSON lines, CSV or Parquet, told apart by content before suffix.

Knows nothing of row shapes. Read next: `formats.py`.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import orjson

from tunesmith.data.json_records import BOM, json_array, json_lines, refuse_object
from tunesmith.data.records import MAX_SHOWN, BadLine, Record, first_few, listed, nearest
from tunesmith.data.tables import csv_rows, parquet_rows
from tunesmith.errors import DataError

Reader = Callable[[Path], Iterator[Record | BadLine]]

SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".parquet")
_HEAD_BYTES = 4096

# First bytes of files that are no data, what they are, and what to do.
_FOREIGN = (
    (b"version https://git-lfs", "a git LFS pointer, not the data itself", "fetch it with `git lfs pull`"),
    (b"\x1f\x8b", "compressed with gzip", "unpack it first with `gunzip`"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it first with `unzstd`"),
    (b"PK\x03\x04", "a zip archive or a spreadsheet", "unpack it, or save the sheet as CSV (UTF-8)"),
    (b"\xff\xfe", "UTF-16 text", "save it as UTF-8: `iconv -f UTF-16 -t UTF-8 OLD > NEW`"),
    (b"\xfe\xff", "UTF-16 text", "save it as UTF-8: `iconv -f UTF-16 -t UTF-8 OLD > NEW`"),
    (b"<!", "a web page or XML", "fetch the data file itself, not the page that shows it"),
    (b"<html", "a web page", "fetch the data file itself, not the page that shows it"),
    (b"<?xml", "XML", "give a JSON array, JSON lines, CSV or Parquet file"),
)


def read_records(path: Path) -> Iterator[Record]:
    """The file's records in order, each with its place.

    JSON lines, CSV and Parquet are streamed; a JSON array is held as text. Values stay what the file says:
    CSV values are text (`001`, `NA` and the empty text too). A byte order mark is accepted.

    Args:
        path: a `.json` (array of objects), `.jsonl`, `.ndjson`, `.csv` (with header) or `.parquet` file;
            content that is clearly another of these is read as what it is.

    Raises:
        DataError: if the file is missing, empty, no data file, or broken. Bad lines of JSON lines and CSV are
            collected and raised once, after the last good record; a broken array stops where it breaks.
    """
    shown: list[str] = []
    hints: list[str] = []
    good = bad = 0
    for found in _reader(path)(path):
        if isinstance(found, Record):
            good += 1
            yield found
            continue
        bad += 1
        if bad <= MAX_SHOWN:
            shown.append(f"{path}:{found.line}: {found.what}")
            hints.append(found.hint)
    if bad:
        raise DataError(first_few(shown, bad=bad, total=good + bad, path=path, unit="rows"), hint=hints[0])
    if not good:
        raise DataError(f"{path}:1: the file holds no rows", hint="add a row, or name another file")


def _reader(path: Path) -> Reader:
    """The reader that fits the content."""
    try:
        _refuse_unless_file(path)
        head = _head(path)
    except OSError as error:
        what = f"{path}: cannot be read: {error.strerror}"
        raise DataError(what, hint="check the path and its permissions") from None
    if not head:
        raise DataError(f"{path}:1: the file is empty", hint="it may be a failed download: fetch it again")
    if head.startswith(b"PAR1"):
        return parquet_rows
    for start, what, hint in _FOREIGN:
        if head.startswith(start):
            raise DataError(f"{path}:1: the file is {what}", hint=hint)
    return _text_reader(path, head)


def _text_reader(path: Path, head: bytes) -> Reader:
    suffix = path.suffix.lower()
    # A CSV header may begin with a bracket, but hardly with the start of a row in JSON.
    if suffix == ".csv" and not head.startswith((b'{"', b"[{", b"[\n", b"[\r\n")):
        return csv_rows
    if head.startswith(b"["):
        return json_array
    if head.startswith(b"{"):
        return json_lines if _is_json_lines(path, suffix) else refuse_object
    start = head[:1].decode("latin-1")
    known = suffix if suffix in SUFFIXES else "a data file"
    raise DataError(
        f"{path}:1: the content is not that of {known}: it starts with {start!r}",
        hint=f"give a JSON array, JSON lines, CSV or Parquet file, named {listed(SUFFIXES)}",
    )


def _is_json_lines(path: Path, suffix: str) -> bool:
    if suffix in (".jsonl", ".ndjson"):
        return True
    with path.open("rb") as file:
        lines = list(islice((line for line in file if line.removeprefix(BOM).strip()), 2))
    try:
        orjson.loads(lines[0].removeprefix(BOM))
    except orjson.JSONDecodeError:
        return False
    return len(lines) > 1


def _head(path: Path) -> bytes:
    """The first bytes after a byte order mark and white space; nothing if there is nothing else."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES).removeprefix(BOM).lstrip()
        while not head and (more := file.read(_HEAD_BYTES)):
            head = more.lstrip()
    return head


def _refuse_unless_file(path: Path) -> None:
    if path.is_file():
        return
    if path.is_dir():
        names = sorted(file.name for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
        hint = f"name one file in it: {listed(names[:MAX_SHOWN])}" if names else "name a data file"
        raise DataError(f"{path}: is a folder, not a file", hint=hint)
    folder = path.parent
    if not folder.is_dir():
        raise DataError(f"{path}: there is no folder `{folder}`", hint="check the path")
    close = nearest(path.name, (file.name for file in folder.iterdir() if file.is_file()))
    hint = f"the nearest name there is `{folder / close}`" if close else "check the path"
    raise DataError(f"{path}: there is no such file", hint=hint)
