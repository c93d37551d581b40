"""From a task or a data file to a written file: as it is, with planted faults, or perturbed."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from tunesmith.data.generate.dirt import Planted, plant
from tunesmith.data.generate.perturb import perturb
from tunesmith.data.generate.tasks import find_task
from tunesmith.data.read import read_records
from tunesmith.data.records import Record, listed
from tunesmith.data.whole_file import whole_file
from tunesmith.data.write import OUTPUT_SUFFIXES, container_of, refuse_unwritable, write_records
from tunesmith.errors import DataError
from tunesmith.progress import Progress, Silent

DEFAULT_ROWS = 1_000
LINE_SUFFIXES = (".jsonl", ".ndjson")
ROWS_A_STEP = 1_000
ROWS_WORTH_A_BAR = 100_000

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Made:
    """What was written.

    Attributes:
        output: the file.
        rows: number of rows, or of lines where faults were planted.
        kinds: rows by kind of perturbation, or entries of the key by kind of fault; empty for plain rows.
        key: the file that says where the faults are, if there are any.
    """

    output: Path
    rows: int
    kinds: dict[str, int]
    key: Path | None = None


def make_rows(source: str, output: Path, *, rows: int | None, seed: int, progress: Progress) -> Made:
    """Rows of a task, written as they are.

    Args:
        source: a ready task or a YAML file.
        output: the file to make; its suffix decides the container.
        rows: number of rows; None is `DEFAULT_ROWS`.
        seed: decides every row.
        progress: shows a bar for large files.

    Raises:
        DataError: if the task's variety is used up, or the output cannot be written; nothing is left then.
        ConfigError: for a YAML file with problems.
    """
    if is_data_file(source):
        raise DataError(
            f"`{source}` is a data file, and there is nothing to do with it",
            hint="give `--perturb` or `--dirt 0.02` with it, or name a task: `--list` shows them",
        )
    refuse_unwritable(output)
    count = DEFAULT_ROWS if rows is None else rows
    made = find_task(source).rows(seed, count)
    return Made(output, write_records(output, _watched(made, count, progress)), {})


def make_perturbed(
    source: str, output: Path, *, rows: int | None, seed: int, kinds: Sequence[str] | None
) -> Made:
    """The rows of a task or data file, each in every changed form that it can take.

    Args:
        source: a ready task, a YAML file or a data file.
        output: the file to make.
        rows: how many rows to take; None is `DEFAULT_ROWS` of a task, all of a data file.
        seed: decides the rows of a task, and all changes.
        kinds: of perturbation; None is all.

    Raises:
        DataError: for an unknown kind, a bad row, an output that cannot be written, and if no row can be
            changed; nothing is left then.
    """
    refuse_unwritable(output)
    counts = Counter[str]()
    changed = perturb(_records(source, rows, seed), kinds=kinds, seed=seed)
    written = write_records(output, _counted(changed, counts, source))
    return Made(output, written, dict(counts))


def make_dirty(
    source: str, output: Path, *, rows: int | None, seed: int, share: float, kinds: Sequence[str] | None
) -> Made:
    """The rows of a task or data file with faults in them, and beside them the key: `OUTPUT-stem.key.jsonl`.

    All rows are held in memory.

    Args:
        source: a ready task, a YAML file, or a data file of prompts and completions.
        output: the JSON lines file to make; only lines can hold what is no JSON.
        rows: how many rows to take; None is `DEFAULT_ROWS` of a task, all of a data file.
        seed: decides the rows of a task, and all faults.
        share: rows with each kind of fault, as a part of all rows.
        kinds: of fault; None is all that fit.

    Raises:
        DataError: for an unknown kind, too few rows, or outputs that cannot be written; nothing is left then.
    """
    if output.suffix.lower() not in LINE_SUFFIXES:
        container_of(output)
        raise DataError(
            f"{output}: faults can be planted in JSON lines alone, as a broken row needs a line of its own",
            hint=f"name it `{output.name.split('.')[0]}.jsonl`",
        )
    key = output.with_name(f"{output.stem}.key.jsonl")
    refuse_unwritable(output)
    refuse_unwritable(key)
    good = [_texts(record, source) for record in _records(source, rows, seed)]
    planted = plant(good, share=share, seed=seed, kinds=kinds)
    _write_planted(planted, output, key)
    counts = Counter(str(entry["kind"]) for entry in planted.key)
    return Made(output, len(planted.lines), dict(counts), key)


def is_data_file(source: str) -> bool:
    """Whether the name ends as a data file's does."""
    return source.lower().endswith(OUTPUT_SUFFIXES)


def _records(source: str, rows: int | None, seed: int) -> Iterator[Mapping[str, object] | Record]:
    if is_data_file(source):
        return islice(read_records(Path(source)), rows)
    return iter(find_task(source).rows(seed, DEFAULT_ROWS if rows is None else rows))


def _texts(record: Mapping[str, object] | Record, source: str) -> dict[str, str]:
    """The row of text that `plant` wants."""
    values = record.value if isinstance(record, Record) else record
    texts = {name: value for name, value in values.items() if isinstance(value, str)}
    if len(texts) < len(values) or not {"prompt", "completion"} <= set(texts):
        place = f"{source}:{record.line}" if isinstance(record, Record) else source
        raise DataError(
            f"{place}: the row has {listed(values)}; faults are planted in rows of text with `prompt`, "
            "`completion` and, if wanted, `system`",
            hint=f"first `tunesmith data convert {source} rows.jsonl --to prompt_completion`",
        )
    return texts


def _counted(
    changed: Iterable[dict[str, object]], counts: Counter[str], source: str
) -> Iterator[dict[str, object]]:
    for row in changed:
        counts[str(row["perturbation"])] += 1
        yield row
    if not counts:
        raise DataError(
            f"no row of `{source}` can be changed in these ways", hint="ask for other `--kinds`, or for all"
        )


def _watched(rows: Iterable[_T], count: int, progress: Progress) -> Iterator[_T]:
    """The same rows, with a bar where there are many."""
    progress = progress if count >= ROWS_WORTH_A_BAR else Silent()
    progress.begin("rows", count)
    for number, row in enumerate(rows, start=1):
        yield row
        if number % ROWS_A_STEP == 0:
            progress.advance(ROWS_A_STEP)
    progress.end()


def _write_planted(planted: Planted, output: Path, key: Path) -> None:
    """Both files or neither. The lines are no records any more, so they go to the disk as they are."""
    write_records(key, planted.key)
    try:
        with whole_file(output) as file:
            file.writelines(line + b"\n" for line in planted.lines)
    except BaseException:
        key.unlink()
        raise
