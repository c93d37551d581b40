"""Cleaning of a file: the cleaned rows to one file, each removed and each changed row to one beside it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.data.clean.records import Cleaned, Unread, clean_records
from tunesmith.data.clean.steps import Settings, Step
from tunesmith.data.columns import refuse_unknown_fields, refuse_unseen_columns
from tunesmith.data.json_records import decode_json
from tunesmith.data.read import read_records, row_hint, undecoded
from tunesmith.data.records import Record
from tunesmith.data.write import RecordWriter, refuse_unwritable
from tunesmith.errors import DataError
from tunesmith.progress import Progress, Silent

ROWS_BETWEEN_MESSAGES = 100_000


@dataclass(slots=True)
class Account:
    """Rows counted over a run.

    Attributes:
        steps: for each step that was on, the rows it changed and those it removed.
        files: what was written, by kind (`cleaned`, `removed`, `changed`); empty after a dry run.
    """

    steps: dict[str, dict[str, int]]
    rows: int = 0
    kept: int = 0
    changed: int = 0
    removed: int = 0
    files: dict[str, str] = field(default_factory=dict)

    def add(self, cleaned: Cleaned) -> None:
        """Count one row; a row counts once for each step, and a removed one counts as changed by none."""
        self.rows += 1
        self.kept += cleaned.after is not None
        self.removed += cleaned.after is None
        self.changed += cleaned.is_changed
        is_removed = cleaned.after is None
        names = {cleaned.reasons[-1].step} if is_removed else {reason.step for reason in cleaned.reasons}
        for name in names:
            self.steps.setdefault(name, {"changed": 0, "removed": 0})[
                "removed" if is_removed else "changed"
            ] += 1

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def clean_file(
    file: Path,
    output: Path | None,
    steps: tuple[Step, ...],
    settings: Settings,
    *,
    skip_bad: bool = False,
    observe: Callable[[Cleaned], None] = lambda _: None,
    progress: Progress | None = None,
) -> Account:
    """Clean a file; streams.

    Args:
        file: any data file.
        output: file to make, whose suffix decides the container; None counts and writes nothing.
        steps: from `steps.choose`.
        settings: what the steps need.
        skip_bad: remove places that are no records instead of refusing the file.
        observe: is shown each row.
        progress: told how far it is.

    Raises:
        DataError: if the file cannot be read, an output cannot be written, a mapped column is nowhere in the
            file, or no row is left. Then nothing is written.
        ConfigError: if `settings.columns` maps what is no field of ours.
    """
    refuse_unknown_fields(settings.columns)
    outputs = output_files(output) if output else {}
    for path in outputs.values():
        refuse_unwritable(path)
    account = Account({step.name: {"changed": 0, "removed": 0} for step in steps})
    unseen = dict(settings.columns)
    known: dict[str, None] = {}

    def read() -> Iterator[Record | Unread]:
        rows = _places(file) if skip_bad else read_records(file)
        for number, row in enumerate(rows, start=1):
            if unseen and isinstance(row, Record):
                known.update(dict.fromkeys(row.value))
                for ours in [ours for ours, theirs in unseen.items() if theirs in row.value]:
                    del unseen[ours]
            if number % ROWS_BETWEEN_MESSAGES == 0:
                (progress or Silent()).say(f"{number:,} rows read")
            yield row

    with ExitStack() as stack:
        writers: dict[str, RecordWriter] = {}
        for cleaned in clean_records(read, steps, settings):
            account.add(cleaned)
            observe(cleaned)
            for kind, record in _outcome(cleaned, file) if outputs else ():
                if kind not in writers:
                    writers[kind] = stack.enter_context(RecordWriter(outputs[kind]))
                writers[kind].write(record)
        refuse_unseen_columns(unseen, known, place=str(file))
        if outputs and not account.kept:
            _refuse_nothing_left(account, file)
    account.files = {kind: str(outputs[kind]) for kind in outputs if kind in writers}
    return account


def output_files(output: Path) -> dict[str, Path]:
    """The three files of a run, by kind."""
    stem = Path(output.name.removesuffix(".gz")).stem
    beside = {kind: output.with_name(f"{stem}.{kind}.jsonl") for kind in ("removed", "changed")}
    return {"cleaned": output} | beside


def _outcome(cleaned: Cleaned, file: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Which file gets what about a row."""
    if cleaned.after is not None:
        yield "cleaned", cleaned.after
    if cleaned.reasons:
        reasons = [{"step": reason.step, "what": reason.what} for reason in cleaned.reasons]
        about = {"place": f"{file}:{cleaned.line}", "reasons": reasons, "before": cleaned.before}
        if cleaned.after is None:
            yield "removed", about
        else:
            yield "changed", about | {"after": cleaned.after}


def _places(file: Path) -> Iterator[Record | Unread]:
    """Records and, with their text where there is one, the places that are none."""
    hint = ""
    for found in undecoded(file):
        raw = None
        if isinstance(found, tuple):
            hint = hint or row_hint(file)
            raw = found[1].decode(errors="backslashreplace").rstrip("\r\n")
            found = decode_json(*found, hint=hint)
        yield found if isinstance(found, Record) else Unread(found.line, found.what, raw)


def _refuse_nothing_left(account: Account, file: Path) -> None:
    removed = {name: counts["removed"] for name, counts in account.steps.items() if counts["removed"]}
    by_step = ", ".join(f"`{name}` removes {count:,}" for name, count in removed.items())
    raise DataError(
        f"{file}: of {account.rows:,} rows none would be left: {by_step}",
        hint=f"look with `--dry-run`, then switch steps off: `--without {next(iter(removed))}`",
    )
