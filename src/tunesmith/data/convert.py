"""A data file to another shape, another container or both, with a list of what could not be held.

How a row changes shape is in `reshape.py`; what a difference is called, in `losses.py`.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tunesmith.data.columns import refuse_unknown_fields, refuse_unseen_columns
from tunesmith.data.formats import FORMATS, to_row
from tunesmith.data.losses import Loss, Tally, container_losses, shape_losses
from tunesmith.data.read import opened, read_records, scan
from tunesmith.data.records import MAX_SHOWN, BadLine, Record, first_few, listed
from tunesmith.data.reshape import reshape
from tunesmith.data.write import RecordWriter, container_of, refuse_unwritable
from tunesmith.errors import DataError
from tunesmith.progress import Progress

_STEP_LINES = 1_000  # lines between two moves of the bar
_CHUNK_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Request:
    """What to make of a file.

    `to` is a name of `FORMATS`, or None where rows stay as they are; `format` and `columns` are those of
    `formats.load_rows`; `skip_bad` leaves out what cannot be read, or is no training row.
    """

    path: Path
    to: str | None = None
    format: str = "auto"
    columns: Mapping[str, str] = field(default_factory=dict)
    skip_bad: bool = False


@dataclass(frozen=True, slots=True)
class Conversion:
    """What was done: rows written, rows of each shape read (none where rows stay), rows left out."""

    rows: int
    shapes: Mapping[str, int]
    skipped: int
    skipped_places: tuple[str, ...]
    losses: tuple[Loss, ...]

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "rows": self.rows,
            "shapes": dict(self.shapes),
            "skipped": {"rows": self.skipped, "places": list(self.skipped_places)},
            "losses": [loss.as_dict() for loss in self.losses],
        }


def convert_file(request: Request, output: Path, *, progress: Progress | None = None) -> Conversion:
    """Write the file anew; the container follows the suffix of `output`. Streams both ways.

    Each row is converted and converted back, and the written file is read again and held against what was
    meant, so that every difference is found and named.

    Raises:
        DataError: if the file cannot be read; for rows that are none or, with `to`, no training rows, all
            counted and the first five named; if no row is left; if the output exists or cannot hold a row.
            Nothing is left behind then.
    """
    _check_request(request, output)
    refuse_unwritable(output)
    reading = _Reading(request)
    with RecordWriter(output) as writer, _bar("convert", request, progress) as moved:
        for line, record in reading.records():
            writer.write(record)
            moved(line)
        reading.check()
    try:
        with _bar("compare", request, progress) as moved:
            _compare(output, _Reading(request, is_counted=False), reading.tally, moved)
    except BaseException:
        output.unlink(missing_ok=True)
        raise
    shapes = {name: reading.shapes[name] for name in FORMATS if reading.shapes[name]}
    return Conversion(writer.rows, shapes, reading.bad, tuple(reading.shown), reading.tally.losses())


def _check_request(request: Request, output: Path) -> None:
    for name, known in ((request.to, FORMATS), (request.format, ("auto", *FORMATS))):
        if name is not None and name not in known:
            raise DataError(f"there is no format `{name}`", hint=f"choose from {listed(known)}")
    refuse_unknown_fields(request.columns)
    if request.to in ("conversations", "messages") and container_of(output) == ".csv":
        raise DataError(
            f"{output}: CSV cannot hold the lists of turns of `{request.to}`",
            hint="name an output with `.jsonl` or `.parquet`, or choose `--to instruction`",
        )


def _compare(output: Path, meant: "_Reading", tally: Tally, moved: Callable[[int], None]) -> None:
    """Count what the written file does not give back as it was meant."""
    for (line, record), written in zip(meant.records(), read_records(output), strict=True):
        tally.add(container_losses(record, written.value), f"{meant.request.path}:{line}")
        moved(line)


class _Reading:
    """One way through the file: its rows as they are to be written, and what there is to tell about them."""

    def __init__(self, request: Request, *, is_counted: bool = True) -> None:
        self.request = request
        self.tally = Tally()
        self.shapes: Counter[str] = Counter()
        self.bad = 0
        self.shown: list[str] = []
        self._is_counted = is_counted
        self._good = 0
        self._hint = ""
        self._columns: dict[str, None] = {}

    def records(self) -> Iterator[tuple[int, Mapping[str, object]]]:
        """Each good row's line and its record to write."""
        for found in scan(self.request.path):
            if isinstance(found, BadLine):
                self._note(f"{self.request.path}:{found.line}: {found.what}", found.hint)
                continue
            try:
                record = self._converted(found)
            except DataError as error:
                self._note(str(error), error.hint)
                continue
            self._good += 1
            yield found.line, record

    def check(self) -> None:
        """Say what was wrong with the rows, once all are seen."""
        path, total = self.request.path, self._good + self.bad
        if not total:
            raise DataError(f"{path}:1: the file holds no rows", hint="add a row, or name another file")
        refuse_unseen_columns(self.request.columns, self._columns, place=str(path))
        if self.bad and not (self.request.skip_bad and self._good):
            message = first_few(self.shown, bad=self.bad, total=total, path=path, unit="rows")
            leave = "; `--skip-bad` leaves such rows out" if self._good else ""
            raise DataError(message, hint=f"{self._hint}{leave}")

    def _converted(self, found: Record) -> Mapping[str, object]:
        request = self.request
        self._columns |= dict.fromkeys(found.value) if request.columns else {}
        fields = _renamed(found.value, request.columns)
        if request.to is None:
            return fields
        row = to_row(Record(found.line, fields), path=request.path, format=request.format)
        record, reread = reshape(fields, row, to=request.to)
        if self._is_counted:
            back, _ = reshape(record, reread, to=row.format)
            self.tally.add(shape_losses(fields, back, shape=row.format), row.place)
            self.shapes[row.format] += 1
        return record

    def _note(self, what: str, hint: str) -> None:
        self.bad += 1
        self._hint = self._hint or hint
        if len(self.shown) < MAX_SHOWN:
            self.shown.append(what)


def _renamed(value: dict[str, object], columns: Mapping[str, str]) -> dict[str, object]:
    """The record under our names, keys in place; a mapped column wins over one that had our name."""
    ours = {theirs: name for name, theirs in columns.items() if theirs in value}
    if not ours:
        return value
    lost = set(columns) - set(ours)
    return {ours.get(name, name): inner for name, inner in value.items() if name not in lost}


@contextmanager
def _bar(label: str, request: Request, progress: Progress | None) -> Iterator[Callable[[int], None]]:
    """What to tell the line that is done; moves a bar over the lines of a text file."""
    lines = _count_lines(request.path) if progress else 0
    if progress is None or not lines:
        yield lambda line: None
        return
    told = 0

    def moved(line: int) -> None:
        nonlocal told
        if line - told >= _STEP_LINES:
            progress.advance(line - told)
            told = line

    progress.begin(label, lines)
    try:
        yield moved
        progress.advance(lines - told)
    finally:
        progress.end()


def _count_lines(path: Path) -> int:
    """Lines of a text file; 0 for Parquet, which has none, and for what is no file."""
    if not path.is_file():
        return 0
    with opened(path) as file:
        if file.read(4) == b"PAR1":
            return 0
        file.seek(0)
        return sum(chunk.count(b"\n") for chunk in iter(partial(file.read, _CHUNK_BYTES), b""))
