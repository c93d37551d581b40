"""Rows from a data file: the shape of each row is recognised, or the one that was asked for is required.

Knows nothing of templates and tokens. Read next: `shapes.py` (what a shape becomes), `split.py`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NoReturn

from tunesmith.data.columns import refuse_unknown_fields, refuse_unseen_columns
from tunesmith.data.conversation import Row
from tunesmith.data.read import read_records
from tunesmith.data.records import MAX_SHOWN, BadLine, Record, first_few, listed, nearest
from tunesmith.data.shapes import FIELDS, OPTIONAL, REQUIRED, checked_messages
from tunesmith.errors import DataError

FORMATS = tuple(REQUIRED)


def load_rows(
    path: Path | str,
    *,
    format: str = "auto",
    columns: Mapping[str, str] | None = None,
    system: str | None = None,
    skipped: list[DataError] | None = None,
) -> tuple[Row, ...]:
    """All rows of a file, each in its own shape; a file may mix shapes.

    Args:
        path: JSON, JSON lines, CSV or Parquet file.
        format: a name of `FORMATS`, which every row must then have; `auto` recognises each row.
        columns: our field names and the file's, such as {"instruction": "question"}.
        system: system message for rows that have none.
        skipped: where the errors of bad rows go instead of being raised, in no particular order.

    Raises:
        DataError: if the file cannot be read, a mapped column is nowhere in it, no row is good, or (without
            `skipped`) any is bad; the first five bad rows are named and the rest counted.
        ConfigError: if `columns` maps what is no field of ours.
    """
    path, columns = Path(path), columns or {}
    unread: list[BadLine] | None = None if skipped is None else []
    records = list(read_records(path, skipped=unread))
    refuse_unknown_fields(columns)
    if columns:
        keys = (name for record in records for name in record.value)
        refuse_unseen_columns(columns, keys, place=f"{path}:{records[0].line}")
    rows: list[Row] = []
    problems: list[DataError] = []
    for record in records:
        try:
            rows.append(to_row(record, path=path, format=format, columns=columns, system=system))
        except DataError as error:
            problems.append(error)
    if skipped is not None and rows:
        skipped += [_as_error(path, bad) for bad in unread or ()] + problems
    elif problems:
        shown = [str(problem) for problem in problems[:MAX_SHOWN]]
        message = first_few(shown, bad=len(problems), total=len(records), path=path, unit="rows")
        raise DataError(message, hint=problems[0].hint)
    return tuple(rows)


def _as_error(path: Path, bad: BadLine) -> DataError:
    return DataError(f"{path}:{bad.line}: {bad.what}", hint=bad.hint, kind=bad.kind)


def to_row(
    record: Record,
    *,
    path: Path | str,
    format: str = "auto",
    columns: Mapping[str, str] | None = None,
    system: str | None = None,
) -> Row:
    """One record as a row; arguments as in `load_rows`, `path` being the name for messages.

    Raises:
        DataError: if the record has not the shape asked for, or none or several of the known ones, or
            breaks a rule of `shapes.checked_messages`; names file and line.
    """
    fields = _renamed(record.value, columns or {})
    try:
        shape = _shape(fields) if format == "auto" else _required_shape(fields, format)
        messages = checked_messages(fields, shape, system=system)
    except DataError as error:
        raise DataError(f"{path}:{record.line}: {error}", hint=error.hint, kind=error.kind) from None
    return Row(messages=messages, path=str(path), line=record.line, format=shape)


def count_formats(rows: Iterable[Row]) -> dict[str, int]:
    """Rows of each shape that occurs, in the order of `FORMATS`."""
    counts = Counter(row.format for row in rows)
    return {name: counts[name] for name in FORMATS if counts[name]}


def _renamed(value: Mapping[str, object], columns: Mapping[str, str]) -> dict[str, object]:
    """The record under our names; a mapped column loses its own name, and wins over one that had ours."""
    moved = set(columns.values())
    kept = {name: inner for name, inner in value.items() if name not in moved and name not in columns}
    return kept | {ours: value[theirs] for ours, theirs in columns.items() if theirs in value}


def _shape(fields: Mapping[str, object]) -> str:
    """The one shape whose required fields are there.

    A table that mixes shapes leaves cells empty, so filled fields decide first; if they make no shape, empty
    ones count too, and the empty field becomes the error.
    """
    filled = {name for name, value in fields.items() if value not in (None, "", [])}
    for present in (filled, fields.keys()):
        found = [shape for shape, needed in REQUIRED.items() if present >= set(needed)]
        if len(found) == 1:
            return found[0]
        if found:
            raise DataError(
                f"the row has the fields of {listed(found)}",
                hint=f"choose: `--format {found[0]}`",
                kind="ambiguous_shape",
            )
    _refuse_shape(fields)


def _required_shape(fields: Mapping[str, object], shape: str) -> str:
    if shape not in REQUIRED:
        raise DataError(f"there is no format `{shape}`", hint=f"choose from {listed(('auto', *FORMATS))}")
    missing = [name for name in REQUIRED[shape] if name not in fields]
    if missing:
        raise DataError(
            f"the row lacks {listed(missing)}, which the format `{shape}` needs; it has {listed(fields)}",
            hint=f"map it: `--columns {missing[0]}=KEY`, or let each row decide: `--format auto`",
            kind="unknown_shape",
        )
    return shape


def _refuse_shape(fields: Mapping[str, object]) -> NoReturn:
    shapes = "; ".join(f"{shape} ({listed(needed)})" for shape, needed in REQUIRED.items())
    missing = [name for name in FIELDS if name not in fields and name not in OPTIONAL]
    typos = {name: nearest(name, fields.keys() - set(FIELDS)) for name in missing}
    hints = [f"{ours}={theirs}" for ours, theirs in typos.items() if theirs]
    columns = " ".join(f"--columns {pair}" for pair in hints[:1] or ("instruction=KEY", "output=KEY"))
    raise DataError(
        f"the row has the keys {listed(fields) or 'none'}, which are of no known shape",
        hint=f"the shapes are {shapes}; name the keys of the file, such as `{columns}`",
        kind="unknown_shape",
    )
