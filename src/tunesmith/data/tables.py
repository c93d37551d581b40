"""Records of CSV and Parquet files.

Text stays the text of the file: no value is guessed to be a number, a date or a missing value.
"""

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from tunesmith.data.json_records import BOM, MAX_ROW_BYTES, UTF8_HINT
from tunesmith.data.records import BadLine, Record, listed
from tunesmith.errors import DataError

CSV_HINT = 'put values with commas, quotes or line breaks in "..." and write a quote inside as ""'


def csv_rows(stream: BinaryIO, path: Path) -> Iterator[Record | BadLine]:
    """Each row of a CSV file with a header, values as text exactly; blank lines are passed over.

    Args:
        stream: the file from its first byte.
        path: its name for messages.

    Raises:
        DataError: if the header cannot be used.
    """
    # Python's own limit, 131072 characters, is below one long document, and can only be set for the process.
    csv.field_size_limit(MAX_ROW_BYTES)
    rows = _numbered_rows(stream)
    header = _header(path, next(rows))
    for line, values in rows:
        if isinstance(values, str):
            yield BadLine(line, "wrong_columns", f"not CSV: {values}", CSV_HINT)
        else:
            yield _csv_record(line, header, values)


def parquet_rows(path: Path) -> Iterator[Record | BadLine]:
    """Each row of a Parquet file, `line` being its 1-based number; holds about a thousand rows at a time.

    A file that is truncated or damaged ends in a bad line.
    """
    # Loaded here because only Parquet files should carry its weight.
    import pyarrow
    from pyarrow import parquet

    line = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for value in batch.to_pylist():
                    line += 1
                    yield Record(line, value)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        what = f"not readable as Parquet: {' '.join(str(error).split())}"
        yield BadLine(line + 1, "damaged", what, "the file may be truncated: fetch or write it again")


def _numbered_rows(file: BinaryIO) -> Iterator[tuple[int, list[str] | str]]:
    """The line where each row starts, with its values, or with csv's complaint as text."""
    reader = csv.reader(_lines(file), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, str(error)
            continue
        if values:
            yield line, values


def _lines(file: BinaryIO) -> Iterator[str]:
    # Bad bytes travel as surrogates to the row they belong to, which is then named.
    for number, raw in enumerate(file):
        yield (raw.removeprefix(BOM) if number == 0 else raw).decode(errors="surrogateescape")


def _header(path: Path, first: tuple[int, list[str] | str]) -> list[str]:
    line, names = first
    if isinstance(names, str):
        raise DataError(f"{path}:{line}: the header is not CSV: {names}", hint=CSV_HINT)
    bad = _bad_byte(names)
    if bad:
        raise DataError(f"{path}:{line}: {bad}", hint=UTF8_HINT)
    twice = sorted(name for name, count in Counter(names).items() if name and count > 1)
    if twice:
        what = f"{path}:{line}: the header names {listed(twice)} more than once"
        raise DataError(what, hint="rename all but one of these columns")
    separator = next((mark for mark in ";\t" if mark in names[0]), None)
    if len(names) == 1 and separator:
        what = f"{path}:{line}: the columns are separated by {separator!r}, not by commas"
        raise DataError(what, hint="save it as CSV with commas")
    return names


def _csv_record(line: int, header: list[str], values: list[str]) -> Record | BadLine:
    bad = _bad_byte(values)
    if bad:
        return BadLine(line, "bad_bytes", bad, UTF8_HINT)
    if len(values) != len(header):
        what = f"{len(values)} values, but the header has {len(header)} columns"
        return BadLine(line, "wrong_columns", what, CSV_HINT)
    return Record(line, dict(zip(header, values, strict=True)))


def _bad_byte(values: list[str]) -> str | None:
    for column, value in enumerate(values, start=1):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            offset = len(value[: error.start].encode())
            byte = ord(value[error.start]) - 0xDC00
            return f"byte {byte:#04x} at offset {offset} of value {column} is not UTF-8"
    return None
