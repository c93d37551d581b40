"""A data file as up to three files: its records unchanged, prompts and their near copies on one side.

The same prompts with the same seed come in the same order as in training. Streams: holds hashes, signatures
and the texts of possible near copies, never the file.
"""

import json
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.data.conversation import Row
from tunesmith.data.formats import to_row
from tunesmith.data.near import PERMUTATIONS, groups_of, signature
from tunesmith.data.read import SUFFIXES, read_records
from tunesmith.data.records import MAX_SHOWN, Record, first_few, listed, nearest
from tunesmith.data.split import PARTS, grouped, prompt_key, rank, split_ranks
from tunesmith.data.write import RecordWriter, refuse_unwritable
from tunesmith.errors import DataError
from tunesmith.progress import Progress, Silent

NO_VALUE = "(none)"  # the stratum of rows without the key


@dataclass(frozen=True, slots=True)
class SplitRequest:
    """What to split, and how.

    Attributes:
        file: any data file.
        validation_size: fraction below 1, or number of rows; 0 for none.
        test_size: likewise.
        seed: decides together with the prompts which rows go where.
        stratify: top-level key whose values get their share in each part.
        is_near: whether near copies of a prompt stay with it.
        columns: our field names and the file's.
        format: shape that every row must have; `auto` recognises each.
    """

    file: Path
    validation_size: float = 0.1
    test_size: float = 0.1
    seed: int = 17
    stratify: str | None = None
    is_near: bool = True
    columns: Mapping[str, str] = field(default_factory=dict)
    format: str = "auto"


@dataclass(frozen=True, slots=True)
class SplitFiles:
    """What was written.

    Attributes:
        rows: rows of each part, in the order of `PARTS`.
        files: file of each part that has rows.
        prompts: different prompts.
        groups: what is left of them where near copies count as one.
        largest_group: rows of the largest group.
        strata: for each value its rows in each part.
    """

    rows: dict[str, int]
    files: dict[str, str]
    prompts: int
    groups: int
    largest_group: int
    strata: dict[str, dict[str, int]]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def split_file(request: SplitRequest, folder: Path, *, progress: Progress | None = None) -> SplitFiles:
    """Write the parts of a file into a folder, which is made if it is not there.

    Raises:
        DataError: if the file cannot be read, a row has no prompt that could be compared, no row has the key
            to stratify by, the sizes do not fit the file, or an output exists. Then nothing is written.
    """
    progress = progress or Silent()
    outputs = {part: folder / f"{part}{_suffix(request.file)}" for part in PARTS}
    for path in outputs.values():
        if folder.is_dir():
            refuse_unwritable(path)
    ranks, strata, values = _looked_at(request)
    progress.say(f"{len(ranks):,} rows read")
    near = _near_prompts(request, ranks, values) if request.is_near else []
    where = split_ranks(
        ranks,
        validation_size=request.validation_size,
        test_size=request.test_size,
        together=near,
        strata=strata if request.stratify else None,
    )
    groups = grouped(ranks, near)
    counts = Counter(zip(strata, where, strict=True)) if request.stratify else {}
    shares = {
        value: {name: counts.get((value, part), 0) for part, name in enumerate(PARTS)}
        for value, _ in Counter(strata if request.stratify else ()).most_common()
    }
    rows = Counter(where)
    written = [name for part, name in enumerate(PARTS) if rows[part]]
    _write(request.file, where, {name: outputs[name] for name in written})
    return SplitFiles(
        rows={name: rows[part] for part, name in enumerate(PARTS)},
        files={name: str(outputs[name]) for name in written},
        prompts=len(set(ranks)),
        groups=len(groups),
        largest_group=max(map(len, groups)),
        strata=shares,
    )


def _looked_at(request: SplitRequest) -> tuple[list[bytes], list[str], "array[int]"]:
    """Rank and stratum of each row, and the signatures of the prompts when they first come, as bytes."""
    ranks: list[bytes] = []
    strata: list[str] = []
    known: set[bytes] = set()
    signatures = array("B")
    keys: dict[str, None] = {}
    for record, row in _rows(request):
        ranks.append(key := rank(prompt_key(row), seed=request.seed))
        if request.is_near and key not in known:
            known.add(key)
            signatures.frombytes(signature(row.asked).tobytes())
        if request.stratify:
            strata.append(_shown(record.value.get(request.stratify)))
            keys.update(dict.fromkeys(record.value))
    if request.stratify and request.stratify not in keys:
        close = nearest(request.stratify, keys)
        raise DataError(
            f"{request.file}: no row has a key `{request.stratify}`; the keys are {listed(keys)}",
            hint=f"did you mean `--stratify {close}`?" if close else "`--stratify KEY`, or leave it out",
        )
    return ranks, strata, signatures


def _near_prompts(request: SplitRequest, ranks: Sequence[bytes], signatures: "array[int]") -> list[list[int]]:
    """Positions of rows whose prompts are near copies of each other, one row for each prompt."""
    firsts: dict[bytes, int] = {}
    for at, key in enumerate(ranks):
        firsts.setdefault(key, at)
    rows = list(firsts.values())
    matrix = np.frombuffer(signatures, dtype=np.uint32).reshape(-1, PERMUTATIONS)

    def texts_at(wanted: set[int]) -> dict[int, str]:
        places = {rows[at]: at for at in wanted}
        return {places[at]: row.asked for at, (_, row) in enumerate(_rows(request)) if at in places}

    return [[rows[at] for at in group] for group in groups_of(matrix, texts_at)]


def _rows(request: SplitRequest) -> Iterator[tuple[Record, Row]]:
    """Each record with its turns.

    Raises:
        DataError: after the last record, if some have no turns that could be told; names the first five.
    """
    problems: list[DataError] = []
    good = bad = 0
    for record in read_records(request.file):
        try:
            row = to_row(record, path=request.file, format=request.format, columns=request.columns)
        except DataError as error:
            bad += 1
            problems += [error] if bad <= MAX_SHOWN else []
        else:
            good += 1
            yield record, row
    if problems:
        shown = [str(problem) for problem in problems]
        message = first_few(shown, bad=bad, total=good + bad, path=request.file, unit="rows")
        raise DataError(message, hint=problems[0].hint)


def _write(file: Path, where: Sequence[int], outputs: Mapping[str, Path]) -> None:
    next(iter(outputs.values())).parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        writers = {name: stack.enter_context(RecordWriter(path)) for name, path in outputs.items()}
        for part, record in zip(where, read_records(file), strict=True):
            writers[PARTS[part]].write(record.value)


def _shown(value: object) -> str:
    if value is None:
        return NO_VALUE
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _suffix(file: Path) -> str:
    """The container of the parts: that of the file, or JSON lines where its name tells none."""
    packed = ".gz" if file.name.lower().endswith(".gz") else ""
    suffix = Path(file.name.lower().removesuffix(".gz")).suffix
    return f"{suffix}{packed}" if suffix in SUFFIXES else ".jsonl"
