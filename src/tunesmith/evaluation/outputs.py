"""What several systems answered to the same prompts: read from files and folders, joined prompt by prompt.

A source is a file of outputs, a run's folder (`samples.jsonl`) or a comparison's (`answers.jsonl`).
Knows nothing of models, metrics or people.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from tunesmith.data.conversation import Row
from tunesmith.data.records import listed
from tunesmith.errors import DataError
from tunesmith.evaluation.inputs import grouped, prompt_text, rows_to_ask
from tunesmith.evaluation.output_rows import OutputRow, Source, read_source

_SHOWN_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class Item:
    """One prompt with what each system answered.

    Attributes:
        id: 16 hex digits of sha256 over prompt and references; a repeated one ends in `-2`, `-3`.
        place: `file:line` where the prompt stands in the first source.
        prompt: what was asked.
        references: good answers; may be empty.
        answers: by the system's name, in one order for all items.
        slices: groups the prompt belongs to, such as {"language": "han"}; may be empty.
    """

    id: str
    place: str
    prompt: str
    references: tuple[str, ...]
    answers: Mapping[str, str]
    slices: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Outputs:
    """Several sources joined.

    Attributes:
        items: the prompts that all sources have, in the first one's order.
        systems: names of the systems, in the order of the sources.
        left_out: by source, how many of its rows not all others have.
        by_source: by source, its systems' names.
    """

    items: tuple[Item, ...]
    systems: tuple[str, ...]
    left_out: Mapping[str, int]
    by_source: Mapping[str, tuple[str, ...]]


def read_outputs(sources: Sequence[str | Path]) -> list[Item]:
    """The prompts that all sources have, with every system's answer; see `join_outputs`."""
    return list(join_outputs(sources).items)


def join_outputs(sources: Sequence[str | Path]) -> Outputs:
    """Read the sources and join them on the prompt, the k-th occurrence with the k-th occurrence.

    White space around a prompt does not keep it from being the same. References and slices of several
    sources are put together.

    Args:
        sources: files of outputs (JSON lines, a JSON list, a table, or what `tunesmith generate --json`
            prints), where a row has `prompt`, an answer under one of `output_rows.ANSWER_FIELDS`, and perhaps
            `reference` or `references`; the system is called as the file. Or folders of runs and comparisons,
            which hold several systems.

    Raises:
        DataError: names file and line of what cannot be used; or if no prompt is in all sources.
    """
    if not sources:
        raise DataError("there are no outputs to read", hint="name a file of outputs, a run or a comparison")
    read = [read_source(Path(source)) for source in sources]
    names = _unique_names(read)
    keyed = [_keyed(source.rows) for source in read]
    common = [key for key in keyed[0] if all(key in rows for rows in keyed[1:])]
    if not common:
        raise _nothing_shared(read)
    ids = _Ids()
    items = [_joined([rows[key] for rows in keyed], read, names, ids) for key in common]
    labels = _labels(read)
    return Outputs(
        items=tuple(items),
        systems=tuple(name for called in names for name in called),
        left_out={label: len(source.rows) - len(common) for label, source in zip(labels, read, strict=True)},
        by_source=dict(zip(labels, names, strict=True)),
    )


def item_id(prompt: str, references: Sequence[str]) -> str:
    """What an item is called wherever it appears: 16 hex digits that prompt and references decide."""
    content = json.dumps([prompt, list(references)], ensure_ascii=False)
    return sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def item_ids(asked: Iterable[tuple[str, Sequence[str]]]) -> list[str]:
    """The ids of (prompt, references) in order; the second of two equal ones ends in `-2`."""
    ids = _Ids()
    return [ids.next(item_id(prompt, references)) for prompt, references in asked]


def asked_once(
    rows: Iterable[Row], *, most: int | None = None, seed: int = 0
) -> list[tuple[Row, tuple[str, ...]]]:
    """Each prompt with all its references, in order of first appearance; the row is the first with it.

    Args:
        rows: of a data file; some may share a prompt.
        most: draw so many prompts without replacement; None takes all.
        seed: decides the draw.
    """
    asked = grouped(rows, lambda row: row)
    return rows_to_ask(asked, most=len(asked) if most is None else most, seed=seed)


def answered_items(
    asked: Sequence[tuple[Row, tuple[str, ...]]], answers: Mapping[str, Sequence[str]]
) -> list[Item]:
    """Items of what models were just asked.

    Args:
        asked: each row with its references, as `asked_once` gives them.
        answers: by the system's name, one for each row asked.
    """
    prompts = [prompt_text(row) for row, _ in asked]
    ids = item_ids(zip(prompts, (references for _, references in asked), strict=True))
    by_row = [dict(zip(answers, texts, strict=True)) for texts in zip(*answers.values(), strict=True)]
    return [
        Item(name, row.place, prompt, references, texts, {})
        for name, (row, references), prompt, texts in zip(ids, asked, prompts, by_row, strict=True)
    ]


class _Ids:
    """Ids given so far, so that none is given twice."""

    def __init__(self) -> None:
        self._given: Counter[str] = Counter()

    def next(self, wanted: str) -> str:
        """The id itself, or with the number of the repeat."""
        self._given[wanted] += 1
        repeat = self._given[wanted]
        return wanted if repeat == 1 else f"{wanted}-{repeat}"


def _keyed(rows: Sequence[OutputRow]) -> dict[tuple[str, int], OutputRow]:
    """Rows by prompt and how often it stood before."""
    seen: Counter[str] = Counter()
    keyed = {}
    for row in rows:
        asked = row.prompt.strip()
        keyed[asked, seen[asked]] = row
        seen[asked] += 1
    return keyed


def _joined(
    rows: Sequence[OutputRow], read: Sequence[Source], names: Sequence[Sequence[str]], ids: _Ids
) -> Item:
    references = tuple(dict.fromkeys(text for row in rows for text in row.references))
    answers = {
        name: row.answers[own]
        for row, source, called in zip(rows, read, names, strict=True)
        for own, name in zip(source.systems, called, strict=True)
    }
    slices = {name: value for row in reversed(rows) for name, value in row.slices.items()}
    first = rows[0]
    wanted = first.id or item_id(first.prompt, references)
    return Item(ids.next(wanted), first.place, first.prompt, references, answers, slices)


def _unique_names(read: Sequence[Source]) -> list[tuple[str, ...]]:
    """Names of each source's systems; where two are called alike, the folder's name comes before."""
    called = Counter(name for source in read for name in source.systems)
    wanted = [
        [_qualified(source, name) if called[name] > 1 else name for name in source.systems] for source in read
    ]
    given: set[str] = set()
    unique = []
    for names in wanted:
        own = []
        for name in names:
            free, number = name, 2
            while free in given:
                free, number = f"{name}-{number}", number + 1
            given.add(free)
            own.append(free)
        unique.append(tuple(own))
    return unique


def _qualified(source: Source, name: str) -> str:
    path = source.path.absolute()
    folder = path if path.is_dir() else path.parent
    return f"{folder.name}/{name}" if folder.name else name


def _labels(read: Sequence[Source]) -> list[str]:
    """What each source is called in a message: its path; a number behind it where it was given twice."""
    ids = _Ids()
    return [ids.next(str(source.path)) for source in read]


def _nothing_shared(read: Sequence[Source]) -> DataError:
    """What to raise where no prompt is in all sources."""
    first, second = read[0], read[1]
    if len(read) > 2:
        return DataError(
            f"no prompt is in all of {listed(str(source.path) for source in read)}",
            hint="give outputs of the same prompts",
        )
    return DataError(
        f"`{first.path}` and `{second.path}` share no prompt: the first one starts with "
        f"`{_start(first.rows[0].prompt)}`, the other with `{_start(second.rows[0].prompt)}`",
        hint="give outputs of the same prompts: `tunesmith generate MODEL --file prompts.txt --json`",
    )


def _start(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= _SHOWN_CHARACTERS else f"{words[:_SHOWN_CHARACTERS]}…"
