"""Records to a file: JSON, JSON lines, CSV or Parquet by its suffix, text also as `.gz`; whole or not at all.

Knows nothing of row shapes. The other way: `read.py`.
"""

import csv
import gzip
import io
import json
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, Protocol, Self, cast

import orjson

from tunesmith.data.records import kind_of, listed, nearest
from tunesmith.data.whole_file import refuse_taken, staging_of, unwritten
from tunesmith.errors import DataError

TEXT_SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv")
OUTPUT_SUFFIXES = (*TEXT_SUFFIXES, ".parquet", *(f"{suffix}.gz" for suffix in TEXT_SUFFIXES))
SETTLED_ROWS = 1_000  # rows that decide the columns of a table

Fields = Mapping[str, object]


def write_records(path: Path, records: Iterable[Fields]) -> int:
    """Write all records and give their number. Streams: holds at most about a thousand.

    The container follows the suffix: `.json` (an array, one row a line), `.jsonl`, `.ndjson`, `.csv`,
    `.parquet`; the text ones also with `.gz` behind. The same records give the same bytes.

    What a container cannot say is not refused but written as: a missing key of a table as an empty cell
    (CSV) or null (Parquet); in JSON and CSV, dates as ISO 8601 text, decimals as text, NaN and infinity as
    null or an empty cell.

    Args:
        path: a file that does not exist yet, in a folder that does.
        records: rows with text keys. CSV takes the columns of the first 1,000 rows, Parquet their types too.

    Raises:
        DataError: if the file exists, the suffix is unknown, the disk refuses, or a record does not fit: a
            nested value in CSV, a column or type in a table that the first 1,000 rows lack, no JSON value.
            Then, and after any error of `records`, no file is left.
    """
    with RecordWriter(path) as writer:
        for record in records:
            writer.write(record)
    return writer.rows


class RecordWriter:
    """A file being written, for several outputs at once; see `write_records` for containers and errors.

    The file appears under its name when the `with` block ends well; after an error nothing is left.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = 0
        self._staging = staging_of(path)
        self._layers = ExitStack()  # what packs the bytes on their way to the file

    def __enter__(self) -> Self:
        refuse_unwritable(self.path)
        try:
            self._file = self._staging.open("xb")
        except OSError as error:
            raise unwritten(self.path, error) from None
        self._sink = self._new_sink()
        return self

    def write(self, record: Fields) -> None:
        """Add one record."""
        self.rows += 1
        try:
            self._sink.write(self.rows, record)
        except OSError as error:
            raise unwritten(self.path, error) from None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            # After a full disk even closing fails; the first error is the one to tell.
            with suppress(OSError):
                self._layers.close()
            with suppress(OSError):
                self._file.close()
            self._staging.unlink(missing_ok=True)

    def _new_sink(self) -> "_Sink":
        suffix = container_of(self.path)
        if suffix == ".parquet":
            return _Parquet(self.path, self._file, self._layers)
        file: BinaryIO = self._file
        if self.path.name.lower().endswith(".gz"):
            # No name and no time in the header: the same rows are the same bytes.
            packed = gzip.GzipFile(filename="", mode="wb", fileobj=self._file, compresslevel=6, mtime=0)
            file = cast("BinaryIO", self._layers.enter_context(packed))
        if suffix == ".csv":
            return _Csv(self.path, file)
        return _JsonArray(self.path, file) if suffix == ".json" else _JsonLines(self.path, file)

    def _finish(self) -> None:
        try:
            self._sink.finish()
            self._layers.close()
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self._staging, self.path)
        except OSError as error:
            raise unwritten(self.path, error) from None


def container_of(path: Path) -> str:
    """The suffix that decides the container, without `.gz`.

    Raises:
        DataError: for a suffix that no container has; names the nearest.
    """
    name = path.name.lower()
    found = next((suffix for suffix in reversed(OUTPUT_SUFFIXES) if name.endswith(suffix)), None)
    if found:
        return found.removesuffix(".gz")
    given = "".join(path.suffixes[-2:]) if name.endswith(".gz") else path.suffix
    close = nearest(given.lower(), OUTPUT_SUFFIXES)
    hint = f"did you mean `{close}`? " if close else ""
    what = f"`{given}` is no suffix that can be written" if given else "the output has no suffix"
    raise DataError(f"{path}: {what}", hint=f"{hint}the suffixes are {listed(OUTPUT_SUFFIXES)}")


def refuse_unwritable(path: Path) -> None:
    """Say before long work why the output could not be written.

    Raises:
        DataError: if the suffix is unknown, the file exists, or its folder does not.
    """
    container_of(path)
    refuse_taken(path)


class _Sink(Protocol):
    """Takes records one by one, then writes what it still holds."""

    def write(self, row: int, record: Fields) -> None: ...

    def finish(self) -> None: ...


class _JsonLines:
    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file

    def write(self, row: int, record: Fields) -> None:
        self._file.write(_as_json(self._path, row, record) + b"\n")

    def finish(self) -> None:
        pass


class _JsonArray:
    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self._before = b"[\n"

    def write(self, row: int, record: Fields) -> None:
        self._file.write(self._before + _as_json(self._path, row, record))
        self._before = b",\n"

    def finish(self) -> None:
        self._file.write(b"[]\n" if self._before == b"[\n" else b"\n]\n")


class _Csv:
    """Rows as text; the first `SETTLED_ROWS` are held back until the columns are known."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self._held: list[dict[str, str]] = []
        self._columns: dict[str, None] | None = None

    def write(self, row: int, record: Fields) -> None:
        cells = {name: self._cell(row, name, value) for name, value in record.items()}
        if self._columns is None:
            self._held.append(cells)
            if len(self._held) == SETTLED_ROWS:
                self._settle()
            return
        _refuse_unseen(self._path, row, cells, self._columns)
        self._put(row, cells)

    def finish(self) -> None:
        if self._columns is None:
            self._settle()

    def _settle(self) -> None:
        self._columns = dict.fromkeys(name for cells in self._held for name in cells)
        if self._held and not self._columns:
            raise DataError(f"{self._path}: the rows have no columns", hint=_lines_hint(self._path))
        if self._held:
            # A header of plain words stays bare; another one in quotes is not taken for JSON or a web page.
            is_plain = all(re.fullmatch(r"\w+", name, re.ASCII) for name in self._columns)
            self._file.write(_csv_line(self._path, 0, self._columns, in_quotes=not is_plain))
        for row, cells in enumerate(self._held, start=1):
            self._put(row, cells)
        self._held = []

    def _put(self, row: int, cells: Mapping[str, str]) -> None:
        self._file.write(_csv_line(self._path, row, [cells.get(name, "") for name in self._columns or ()]))

    def _cell(self, row: int, name: str, value: object) -> str:
        if isinstance(value, str):
            return value
        if isinstance(value, dict | list | tuple):
            what = f"{self._path}: row {row}: `{name}` is {kind_of(value)}, and a CSV cell holds only text"
            raise DataError(what, hint=_lines_hint(self._path))
        text = _as_json(self._path, row, value).decode()
        if text == "null":
            return ""
        return cast("str", orjson.loads(text)) if text.startswith('"') else text


class _Parquet:
    """Row groups of `SETTLED_ROWS`; the first decides columns and types."""

    def __init__(self, path: Path, file: BinaryIO, layers: ExitStack) -> None:
        self._path, self._file, self._layers = path, file, layers
        self._held: list[Fields] = []
        self._done = 0
        self._schema: Any = None
        self._writer: Any = None

    def write(self, row: int, record: Fields) -> None:
        self._held.append(record)
        if len(self._held) == SETTLED_ROWS:
            self._flush()

    def finish(self) -> None:
        if self._held or self._writer is None:
            self._flush()

    def _flush(self) -> None:
        # Loaded here because only Parquet files should carry its weight.
        import pyarrow
        from pyarrow import parquet

        names = dict.fromkeys(name for record in self._held for name in record)
        arrays = {name: self._array(name) for name in names}
        if self._writer is None:
            self._schema = pyarrow.schema([(name, _settled(array.type)) for name, array in arrays.items()])
            self._writer = self._layers.enter_context(parquet.ParquetWriter(self._file, self._schema))
        for row, record in enumerate(self._held, start=self._done + 1):
            _refuse_unseen(self._path, row, record, self._schema.names)
        columns = [self._typed(field, arrays.get(field.name)) for field in self._schema]
        self._writer.write_table(pyarrow.table(columns, schema=self._schema))
        self._done += len(self._held)
        self._held = []

    def _array(self, name: str) -> Any:
        """The column with the type its own values have."""
        import pyarrow

        values = [record.get(name) for record in self._held]
        try:
            array = pyarrow.array(values)
            _settled(array.type)
        except (pyarrow.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise self._misfit(name, " ".join(str(error).split())) from None
        return array

    def _typed(self, field: Any, found: Any) -> Any:
        """The column with the type of the file."""
        import pyarrow

        if found is None:
            return pyarrow.nulls(len(self._held), field.type)
        if not _fits(found.type, field.type):
            raise self._misfit(field.name, f"it is of type {found.type} there, and {field.type} before")
        return pyarrow.array([record.get(field.name) for record in self._held], field.type)

    def _misfit(self, name: str, why: str) -> DataError:
        first, last = self._done + 1, self._done + len(self._held)
        what = f"{self._path}: rows {first} to {last}: `{name}` does not fit one Parquet column: {why}"
        return DataError(what, hint=_lines_hint(self._path))


def _settled(kind: Any) -> Any:
    """The type to write where this one was found; what held only nulls may hold text later."""
    import pyarrow
    from pyarrow import types

    if types.is_null(kind):
        return pyarrow.string()
    if types.is_list(kind):
        return pyarrow.list_(_settled(kind.value_type))
    if types.is_struct(kind):
        if not kind.num_fields:
            raise TypeError("an object without keys has no form in Parquet")
        return pyarrow.struct([(field.name, _settled(field.type)) for field in kind])
    return kind


def _fits(found: Any, kind: Any) -> bool:
    """True if every value of type `found` is kept by `kind`; pyarrow itself drops unknown keys silently."""
    from pyarrow import types

    if types.is_null(found) or found == kind:
        return True
    if types.is_struct(found) and types.is_struct(kind):
        known = {field.name: field.type for field in kind}
        return all(field.name in known and _fits(field.type, known[field.name]) for field in found)
    return bool(types.is_list(found) and types.is_list(kind) and _fits(found.value_type, kind.value_type))


def _as_json(path: Path, row: int, value: object) -> bytes:
    try:
        return orjson.dumps(value, default=_foreign)
    except orjson.JSONEncodeError as error:
        # orjson stops at 64 bits and at 254 levels; JSON itself does not.
        if "64-bit" in str(error) or "Recursion" in str(error):
            with suppress(ValueError, TypeError, RecursionError):
                text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_foreign)
                return text.encode()
        what = f"{path}: row {row} has no form in JSON: {error}"
    raise DataError(what, hint="correct or remove that value")


def _foreign(value: object) -> str:
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError(f"{type(value).__name__} is no JSON value")


def _csv_line(path: Path, row: int, cells: Iterable[str], *, in_quotes: bool = False) -> bytes:
    text = io.StringIO()
    # Python's writer puts a cell in quotes for a line break only if its own line end holds that one.
    quoting: Literal[0, 1] = csv.QUOTE_ALL if in_quotes else csv.QUOTE_MINIMAL
    csv.writer(text, lineterminator="\r\n", quoting=quoting).writerow(cells)
    try:
        return text.getvalue().removesuffix("\r\n").encode() + b"\n"
    except UnicodeEncodeError:
        what = f"{path}: row {row} holds half of a surrogate pair, which is no character"
        raise DataError(what, hint="correct or remove that value") from None


def _refuse_unseen(path: Path, row: int, record: Iterable[str], columns: Iterable[str]) -> None:
    unseen = [name for name in record if name not in columns]
    if unseen:
        what = f"{path}: row {row} has {listed(unseen)}, which none of the first {SETTLED_ROWS} rows has"
        raise DataError(what, hint=_lines_hint(path))


def _lines_hint(path: Path) -> str:
    name = path.name[: -len("".join(path.suffixes[-2:] if path.suffix.lower() == ".gz" else [path.suffix]))]
    return f"write JSON lines, which hold any row: `{path.with_name(name + '.jsonl')}`"
