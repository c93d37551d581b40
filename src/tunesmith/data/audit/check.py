"""`check_files`: everything there is to know about data files before a model sees them.

Reading and counting are a fold over chunks of a file, so two processes count twice as fast and memory stays
flat; the tokenizer sees all rows of a small file and a sample of a large one. Read next: `tally.py`.
"""

import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tunesmith.data.audit import leakage
from tunesmith.data.audit.facts import Reading
from tunesmith.data.audit.findings import (
    FEWEST_ROWS,
    Finding,
    add_file_findings,
    collected,
    general,
    in_order,
    language_shares,
    shape_counts,
    spread,
    usable_rows,
)
from tunesmith.data.audit.leakage import Leak, add_near_duplicates
from tunesmith.data.audit.tally import Tally, Task, tally
from tunesmith.data.audit.tokens import Measure, Tokens, measure_tokens
from tunesmith.data.columns import refuse_unseen_columns
from tunesmith.data.read import Found, row_hint, undecoded
from tunesmith.errors import DataError
from tunesmith.progress import Progress, Silent

CHUNK_ROWS = 2_000
# Starting processes costs about a second.
PARALLEL_BYTES = 16 << 20
ALL_ROWS, SAMPLE_ROWS = 10_000, 4_000
# Beyond this many rows near duplicates are looked for on request only: they cost 0.1 ms and 260 bytes a row.
NEAR_ROWS = 200_000
_MOST_SAME_OPENING = 0.5
_GZIP_RATIO = 4


@dataclass(frozen=True, slots=True)
class FileAudit:
    """One file in figures.

    Attributes:
        path: as given.
        size_bytes: on disk.
        rows: records that could be read.
        usable_rows: those that can be trained on.
        shapes: usable rows of each shape.
        key_sets: the commonest sets of keys with their rows; for mixed schemas.
        characters: by part of the row.
        languages: shares of the languages that prompts and answers are in, of those that can be told.
        tokens: lengths by the tokenizer, or None without one.
        spread: how varied the sampled prompts are.
        near_duplicates: whether they were looked for.
        seconds: time for reading and counting.
    """

    path: str
    size_bytes: int
    rows: int
    usable_rows: int
    shapes: dict[str, int]
    key_sets: dict[str, int]
    characters: dict[str, int]
    languages: dict[str, dict[str, float]]
    tokens: Tokens | None
    spread: dict[str, Any]
    near_duplicates: bool
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return values | {"tokens": self.tokens.as_dict() if self.tokens else None}


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found.

    Attributes:
        files: each file in figures.
        findings: the worst first.
        leakage: what the first file shares with each other one.
        max_length: longest allowed row in tokens.
    """

    files: tuple[FileAudit, ...]
    findings: tuple[Finding, ...]
    leakage: tuple[Leak, ...]
    max_length: int

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "files": [file.as_dict() for file in self.files],
            "findings": [finding.as_dict() for finding in self.findings],
            "leakage": [leak.as_dict() for leak in self.leakage],
            "max_length": self.max_length,
        }


def check_files(
    paths: Sequence[Path | str],
    *,
    against: Sequence[Path | str] = (),
    reading: Reading | None = None,
    measure: Measure | None = None,
    max_length: int = 1024,
    near: bool | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Check one file, or the parts of a data set: the training file first.

    Large files are counted in processes of their own; a script that calls this needs the usual
    `if __name__ == "__main__":`.

    Args:
        paths: data files.
        against: held-out files that are only compared with the first one, not checked themselves.
        reading: how rows are read.
        measure: counts tokens of a row; without it nothing is said about lengths.
        max_length: longest allowed row in tokens.
        near: whether to look for near duplicates; None for files up to `NEAR_ROWS` rows.
        workers: processes; None for as many as there are cores.
        progress: told what happens.

    Raises:
        DataError: if a file is missing or no data file, or a mapped column is nowhere. Whatever else is
            wrong inside is a finding.
    """
    reading, progress = reading or Reading(), progress or Silent()
    names = [str(path) for path in paths]
    tallies: dict[str, Tally] = {}
    audits: list[FileAudit] = []
    estimates: list[Finding] = []
    for name in names:
        started = time.perf_counter()
        counted, task = _tally_file(Path(name), reading, near, workers or _cores(), progress)
        if not counted.lines and not counted.hits:
            raise DataError(f"{name}:1: the file holds no rows", hint="add a row, or name another file")
        refuse_unseen_columns(reading.columns, (key for keys in counted.keys for key in keys), place=name)
        add_file_findings(counted)
        if task.with_signatures:
            add_near_duplicates(counted, Path(name), reading)
        seconds = time.perf_counter() - started
        tokens, more = measure_tokens(
            counted, name, reading, measure, max_length=max_length, progress=progress
        )
        variety = spread(list(_sampled_prompts(counted, reading)))
        tallies[name] = counted
        # Held-out files come after the first, and may be small and narrow.
        estimates += [*more, *(_general(counted, variety, name, max_length) if name == names[0] else ())]
        audits.append(_audit(name, counted, tokens, variety, task, seconds))
    findings = in_order([*collected(tallies, max_length=max_length), *estimates])
    for path in map(str, against):
        tallies[path], _ = _tally_file(Path(path), reading, False, workers or _cores(), progress)
    is_near = near is not False and all(len(t.lines) <= NEAR_ROWS or near for t in tallies.values())
    leaks = leakage.between(tallies, reading, is_near=is_near)
    return Report(tuple(audits), findings, leaks, max_length)


def _tally_file(
    path: Path, reading: Reading, near: bool | None, workers: int, progress: Progress
) -> tuple[Tally, Task]:
    """Count the file in chunks, in this process or in several."""
    found = undecoded(path)
    first = list(islice(found, CHUNK_ROWS))
    size = path.stat().st_size
    rows = _estimated_rows(first, size, is_packed=path.suffix == ".gz")
    task = Task(
        reading,
        sample_share=1.0 if rows <= ALL_ROWS else SAMPLE_ROWS / rows,
        with_signatures=rows <= NEAR_ROWS if near is None else near,
        hint=row_hint(path),
    )
    chunks = chain([first], iter(lambda: list(islice(found, CHUNK_ROWS)), []))
    progress.begin(f"reading {path.name}", rows)
    is_parallel = workers > 1 and size > PARALLEL_BYTES
    parts = _parallel(chunks, task, workers) if is_parallel else _serial(chunks, task)
    whole = Tally()
    for part in parts:
        whole.extend(part)
        progress.advance(len(part.lines))
    progress.end()
    return whole, task


def _serial(chunks: Iterator[list[Found]], task: Task) -> Iterator[Tally]:
    place = 0
    for chunk in chunks:
        yield tally(chunk, task, first=place)
        place += len(chunk)


def _parallel(chunks: Iterator[list[Found]], task: Task, workers: int) -> Iterator[Tally]:
    """Tallies in the order of the file; a few chunks are under way at any time, so memory stays flat."""
    place = 0
    waiting: deque[Future[Tally]] = deque()
    # Fresh processes: forking one that runs a tokenizer's threads can lock up.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for chunk in chunks:
            waiting.append(pool.submit(tally, chunk, task, first=place))
            place += len(chunk)
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _estimated_rows(first: list[Found], size_bytes: int, *, is_packed: bool) -> int:
    """Rows of the whole file, from the first ones."""
    if len(first) < CHUNK_ROWS:
        return len(first)
    lengths = [len(found[1]) for found in first if isinstance(found, tuple)]
    lengths = lengths or [len(repr(found)) for found in first]
    unpacked = size_bytes * (_GZIP_RATIO if is_packed else 1)
    return max(len(first), unpacked * len(lengths) // (sum(lengths) or 1))


def _general(counted: Tally, variety: dict[str, Any], name: str, max_length: int) -> Iterator[Finding]:
    """Findings about the file as a whole."""
    usable = usable_rows(counted)
    if usable < FEWEST_ROWS:
        note = f"of {len(counted.lines)} rows read"
        yield general("few_rows", usable, file=name, max_length=max_length, note=note)
    for opening, count in list(variety["commonest_openings"].items())[:1]:
        if variety["n"] >= FEWEST_ROWS and count > _MOST_SAME_OPENING * variety["n"]:
            note = f"of {variety['n']} sampled, with `{opening}`"
            yield general("same_opening", count, file=name, max_length=max_length, note=note)


def _audit(
    name: str, counted: Tally, tokens: Tokens | None, variety: dict[str, Any], task: Task, seconds: float
) -> FileAudit:
    return FileAudit(
        path=name,
        size_bytes=Path(name).stat().st_size,
        rows=len(counted.lines),
        usable_rows=usable_rows(counted),
        shapes=shape_counts(counted),
        key_sets={", ".join(keys): count for keys, count in counted.keys.most_common(5)},
        characters=dict(counted.characters),
        languages={
            "prompt": language_shares(counted.prompt_languages),
            "answer": language_shares(counted.answer_languages),
        },
        tokens=tokens,
        spread=variety,
        near_duplicates=task.with_signatures,
        seconds=round(seconds, 3),
    )


def _sampled_prompts(counted: Tally, reading: Reading) -> Iterator[str]:
    for _, record in counted.sample:
        with suppress(DataError):
            yield reading.row_of(record).prompt[-1].text


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
