"""What several systems answered to the same prompts: read from files and folders, joined prompt by prompt.

A source is a file of outputs, a run's folder (`samples.jsonl`) or a comparison's (`answers.jsonl`).
Knows nothing of models, metrics or people.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from tunesmith.data.conversation import Message, Row
from tunesmith.data.json_records import MAX_ROW_BYTES, decode_value, decoded_text, past_space
from tunesmith.data.read import opened, read_records
from tunesmith.data.records import Record, kind_of, listed, nearest
from tunesmith.errors import DataError

ANSWERS, SAMPLES = "answers.jsonl", "samples.jsonl"
ANSWER_FIELDS = ("answer", "output", "completion", "prediction", "response")
BASE, TUNED = "base", "tuned"
MAX_TEXT_CHARACTERS = 1_000_000  # no answer is longer; comparing two such texts already takes a while
_SHOWN_CHARACTERS = 60
_ROW_HINT = 'write each row as {"prompt": "...", "answer": "...", "reference": "..."}; the reference may lack'


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


@dataclass(frozen=True, slots=True)
class _Row:
    """One row of one source; `id` is empty where the source gives none."""

    id: str
    place: str
    prompt: str
    references: tuple[str, ...]
    answers: Mapping[str, str]
    slices: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Source:
    path: Path
    systems: tuple[str, ...]
    rows: tuple[_Row, ...]


def read_outputs(sources: Sequence[str | Path]) -> list[Item]:
    """The prompts that all sources have, with every system's answer; see `join_outputs`."""
    return list(join_outputs(sources).items)


def join_outputs(sources: Sequence[str | Path]) -> Outputs:
    """Read the sources and join them on the prompt, the k-th occurrence with the k-th occurrence.

    White space around a prompt does not keep it from being the same. References and slices of several
    sources are put together.

    Args:
        sources: files of outputs (JSON lines, a JSON list, a table, or what `tunesmith generate --json`
            prints), where a row has `prompt`, one of `ANSWER_FIELDS`, and perhaps `reference` or `references`;
            the system is called as the file. Or folders of runs and comparisons, which hold several systems.

    Raises:
        DataError: names file and line of what cannot be used; or if no prompt is in all sources.
    """
    if not sources:
        raise DataError("there are no outputs to read", hint="name a file of outputs, a run or a comparison")
    read = [_read(Path(source)) for source in sources]
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


def asked_once(rows: Iterable[Row]) -> list[tuple[Row, tuple[str, ...]]]:
    """Each prompt with all its references, in order of first appearance; the row is the first with it."""
    groups: dict[tuple[Message, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(row.prompt, []).append(row)
    return [(same[0], tuple(dict.fromkeys(row.reference for row in same))) for same in groups.values()]


def answered_items(
    asked: Sequence[tuple[Row, tuple[str, ...]]], answers: Mapping[str, Sequence[str]]
) -> list[Item]:
    """Items of what models were just asked.

    Args:
        asked: each row with its references, as `asked_once` gives them.
        answers: by the system's name, one for each row asked.
    """
    prompts = ["\n\n".join(message.text for message in row.prompt) for row, _ in asked]
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


def _read(path: Path) -> _Source:
    if path.is_dir():
        return _read_folder(path)
    name = path.name.removesuffix(".gz")
    system = Path(name).stem or name
    rows = [_output_row(record, path, system) for record in _records(path)]
    return _Source(path, (system,), tuple(rows))


def _read_folder(path: Path) -> _Source:
    if (path / ANSWERS).is_file():
        file, parse = path / ANSWERS, _answers_row
    elif (path / SAMPLES).is_file():
        file, parse = path / SAMPLES, _sample_row
    else:
        raise DataError(
            f"`{path}` holds neither `{SAMPLES}`, as a run does, nor `{ANSWERS}`, as a comparison does",
            hint="name a file of outputs, or a run that answered held-out rows (`--generate-rows`); models answer "
            "with `tunesmith diff A B --data FILE`",
        )
    rows = _rows(file, parse)
    systems = tuple(rows[0].answers)
    for row in rows:
        if set(row.answers) != set(systems):
            odd = sorted(set(row.answers) ^ set(systems))
            raise DataError(
                f"{row.place}: not all rows have an answer of {listed(odd)}",
                hint="let every system answer every row, and write the file anew",
            )
    return _Source(path, systems, tuple(rows))


def _rows(file: Path, parse: Callable[[Record, Path], _Row]) -> list[_Row]:
    rows = [parse(record, file) for record in read_records(file)]
    # The row's own place may name the data file; a fault is in this one.
    ids = Counter(row.id for row in rows if row.id)
    twice = next((name for name, count in ids.items() if count > 1), None)
    if twice:
        raise DataError(f"{file}: the id `{twice}` stands twice", hint="give every row an id of its own")
    return rows


def _records(path: Path) -> Iterator[Record]:
    """Rows of a file of outputs; those under `answers` where it is one object."""
    found = _answers_inside(path)
    return iter(found) if found is not None else read_records(path)


def _answers_inside(path: Path) -> list[Record] | None:
    """The rows of an object such as `tunesmith generate --json` prints; None where the file is another thing."""
    if not path.is_file():
        return None
    try:
        with opened(path) as stream:
            content = stream.read(MAX_ROW_BYTES + 1)
        start = content.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
        if start != b"{" or len(content) > MAX_ROW_BYTES or b'"answers"' not in content:
            return None
        text = decoded_text(content, path)
        value, end = decode_value(text, past_space(text, 0))
    except (OSError, EOFError, json.JSONDecodeError):
        return None  # the reader of rows says what is wrong
    is_whole = past_space(text, end) == len(text)
    answers = value.get("answers") if isinstance(value, dict) else None
    if not is_whole or answers is None or (isinstance(value, dict) and "prompt" in value):
        return None
    if not isinstance(answers, list):
        raise DataError(f"{path}:1: `answers` is {kind_of(answers)}, not a list", hint=_ROW_HINT)
    if not answers:
        raise DataError(f"{path}:1: the list `answers` is empty", hint="give the model some prompts")
    records = []
    for line, row in zip(_element_lines(text, "answers"), answers, strict=True):
        if not isinstance(row, dict):
            raise DataError(f"{path}:{line}: the row is {kind_of(row)}, not an object", hint=_ROW_HINT)
        records.append(Record(line, row))
    return records


def _element_lines(text: str, name: str) -> Iterator[int]:
    """Lines (1-based) where the elements of the list under `name` start, in an object known to be whole."""
    decode = json.JSONDecoder().raw_decode
    position, key = past_space(text, 0) + 1, None
    while key != name:
        key, position = decode(text, past_space(text, position))
        position = past_space(text, past_space(text, position) + 1)
        if key != name:
            position = past_space(text, decode(text, position)[1]) + 1
    line, counted_to = 1, 0
    while text[position] != "]":
        position = past_space(text, position + 1)
        if text[position] == "]":
            return
        line, counted_to = line + text.count("\n", counted_to, position), position
        yield line
        position = past_space(text, decode(text, position)[1])


def _output_row(record: Record, path: Path, system: str) -> _Row:
    place, row = f"{path}:{record.line}", record.value
    fields = [name for name in ANSWER_FIELDS if name in row]
    if len(fields) > 1:
        raise DataError(f"{place}: the row has {listed(fields)}", hint="leave one of them, the answer")
    if not fields:
        near = next((close for name in row if (close := nearest(name, ANSWER_FIELDS))), None)
        hint = f"did you mean `{near}`?" if near else _ROW_HINT
        if path.name in (ANSWERS, SAMPLES):
            hint = f"name the folder `{path.parent}`, not the file in it"
        raise DataError(
            f"{place}: the row has no answer: none of {listed(ANSWER_FIELDS)}; it has {listed(row)}",
            hint=hint,
        )
    answer = _text(row, fields[0], place)
    return _Row(
        "", place, _prompt(row, place), _references(row, place), {system: answer}, _slices(row, place)
    )


def _sample_row(record: Record, file: Path) -> _Row:
    place, row = f"{file}:{record.line}", record.value
    answers = {name: _text(row, name, place) for name in (BASE, TUNED)}
    shown = row.get("place")
    return _Row(
        id="",
        place=shown if isinstance(shown, str) and shown else place,
        prompt=_prompt(row, place),
        references=_references(row, place),
        answers=answers,
        slices=_slices(row, place),
    )


def _answers_row(record: Record, file: Path) -> _Row:
    place, row = f"{file}:{record.line}", record.value
    answers = row.get("answers")
    if not isinstance(answers, dict) or not answers:
        raise DataError(
            f"{place}: `answers` is {kind_of(answers)}, not an object of answers by system",
            hint='write it as {"prompt": "...", "answers": {"zero-shot": "...", "fine-tuned": "..."}}',
        )
    shown, given = row.get("place"), row.get("id")
    return _Row(
        id=given if isinstance(given, str) else "",
        place=shown if isinstance(shown, str) and shown else place,
        prompt=_prompt(row, place),
        references=_references(row, place),
        answers={name: _text(answers, name, place) for name in answers},
        slices=_slices(row, place),
    )


def _prompt(row: Mapping[str, object], place: str) -> str:
    if "prompt" not in row:
        near = nearest("prompt", row)
        hint = f"rename `{near}` to `prompt`" if near else _ROW_HINT
        raise DataError(f"{place}: the row has no `prompt`; it has {listed(row)}", hint=hint)
    return _text(row, "prompt", place)


def _text(row: Mapping[str, object], name: str, place: str) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        what = f"`{name}` is {kind_of(value)}, not text" if name in row else f"the row has no `{name}`"
        hint = 'write an answer that is empty as ""' if value is None else "write it as text, in quotes"
        raise DataError(f"{place}: {what}", hint=hint)
    if len(value) > MAX_TEXT_CHARACTERS:
        raise DataError(
            f"{place}: `{name}` has {len(value):,} characters, above {MAX_TEXT_CHARACTERS:,}",
            hint="leave this row out, or shorten the text",
        )
    return value


def _references(row: Mapping[str, object], place: str) -> tuple[str, ...]:
    """Texts under `reference` and `references`, either of which may be one text, a list or missing."""
    found: dict[str, None] = {}
    for name in ("reference", "references"):
        value = row.get(name)
        for text in value if isinstance(value, list) else [] if value is None else [value]:
            if not isinstance(text, str):
                inner = "holds" if isinstance(value, list) else "is"
                raise DataError(
                    f"{place}: `{name}` {inner} {kind_of(text)}, not text",
                    hint="write a reference as text, several as a list of texts",
                )
            found[text] = None
    return tuple(found)


def _slices(row: Mapping[str, object], place: str) -> Mapping[str, str]:
    value = row.get("slices")
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(inner, str) for inner in value.values()):
        raise DataError(
            f"{place}: `slices` is not an object of texts",
            hint='write it as {"slices": {"language": "English"}}, or leave it out',
        )
    return value


def _keyed(rows: Sequence[_Row]) -> dict[tuple[str, int], _Row]:
    """Rows by prompt and how often it stood before."""
    seen: Counter[str] = Counter()
    keyed = {}
    for row in rows:
        asked = row.prompt.strip()
        keyed[asked, seen[asked]] = row
        seen[asked] += 1
    return keyed


def _joined(rows: Sequence[_Row], read: Sequence[_Source], names: Sequence[Sequence[str]], ids: _Ids) -> Item:
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


def _unique_names(read: Sequence[_Source]) -> list[tuple[str, ...]]:
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


def _qualified(source: _Source, name: str) -> str:
    path = source.path.absolute()
    folder = path if path.is_dir() else path.parent
    return f"{folder.name}/{name}" if folder.name else name


def _labels(read: Sequence[_Source]) -> list[str]:
    """What each source is called in a message: its path; a number behind it where it was given twice."""
    ids = _Ids()
    return [ids.next(str(source.path)) for source in read]


def _nothing_shared(read: Sequence[_Source]) -> DataError:
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
