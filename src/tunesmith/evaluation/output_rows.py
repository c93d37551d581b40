"""The rows of one source of outputs: which fields they have, and what is wrong with a row that is none.

A file has one system, called as the file; a folder of a run or a comparison has several.
Knows nothing of other sources: `outputs.py` joins them.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tunesmith.data.json_records import BOM, MAX_ROW_BYTES, decode_value, decoded_text, past_space
from tunesmith.data.read import opened, read_records
from tunesmith.data.records import Record, kind_of, listed, nearest
from tunesmith.errors import DataError

ANSWERS, SAMPLES = "answers.jsonl", "samples.jsonl"
ANSWER_FIELDS = ("answer", "output", "completion", "prediction", "response")
BASE, TUNED = "base", "tuned"
MAX_TEXT_CHARACTERS = 1_000_000  # no answer is longer; comparing two such texts already takes a while
_ROW_HINT = 'write each row as {"prompt": "...", "answer": "...", "reference": "..."}; the reference may lack'


@dataclass(frozen=True, slots=True)
class OutputRow:
    """One row of one source; `id` is empty where the source gives none."""

    id: str
    place: str
    prompt: str
    references: tuple[str, ...]
    answers: Mapping[str, str]
    slices: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Source:
    """All rows of one source, and the names of its systems as it calls them."""

    path: Path
    systems: tuple[str, ...]
    rows: tuple[OutputRow, ...]


def read_source(path: Path) -> Source:
    """Read a file of outputs, or a folder that holds several systems' answers.

    Raises:
        DataError: names file and line of what cannot be used.
    """
    if path.is_dir():
        return _read_folder(path)
    name = path.name.removesuffix(".gz")
    system = Path(name).stem or name
    rows = [_output_row(record, path, system) for record in _records(path)]
    return Source(path, (system,), tuple(rows))


def _read_folder(path: Path) -> Source:
    if (path / ANSWERS).is_file():
        file, parse = path / ANSWERS, _answers_row
    elif (path / SAMPLES).is_file():
        file, parse = path / SAMPLES, _sample_row
    else:
        raise DataError(
            f"`{path}` holds neither `{SAMPLES}`, as a run does, nor `{ANSWERS}`, as a comparison does",
            hint="name a file of outputs, or a run that answered held-out rows (`--generate-rows`); "
            "`tunesmith diff A B --data FILE` lets two models answer",
        )
    records = list(read_records(file))
    rows = [parse(record, file) for record in records]
    systems, ids = tuple(rows[0].answers), set[str]()
    for record, row in zip(records, rows, strict=True):
        # The row's own place may name the data file; a fault is in this one.
        place = f"{file}:{record.line}"
        if odd := sorted(set(row.answers) ^ set(systems)):
            raise DataError(
                f"{place}: not all rows have an answer of {listed(odd)}",
                hint="let every system answer every row, and write the file anew",
            )
        if row.id and row.id in ids:
            raise DataError(
                f"{place}: the id `{row.id}` stands twice", hint="give every row an id of its own"
            )
        ids.add(row.id)
    return Source(path, systems, tuple(rows))


def _records(path: Path) -> Iterator[Record]:
    """Rows of a file of outputs; those under `answers` where it is one object."""
    found = _answers_inside(path)
    return iter(found) if found is not None else read_records(path)


def _answers_inside(path: Path) -> list[Record] | None:
    """The rows of an object such as `tunesmith generate --json` prints; None for any other file."""
    if not path.is_file():
        return None
    try:
        with opened(path) as stream:
            content = stream.read(MAX_ROW_BYTES + 1)
        start = content.removeprefix(BOM).lstrip()[:1]
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


def _output_row(record: Record, path: Path, system: str) -> OutputRow:
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
    return OutputRow(
        "", place, _prompt(row, place), _references(row, place), {system: answer}, _slices(row, place)
    )


def _sample_row(record: Record, file: Path) -> OutputRow:
    place, row = f"{file}:{record.line}", record.value
    answers = {name: _text(row, name, place) for name in (BASE, TUNED)}
    shown = row.get("place")
    return OutputRow(
        id="",
        place=shown if isinstance(shown, str) and shown else place,
        prompt=_prompt(row, place),
        references=_references(row, place),
        answers=answers,
        slices=_slices(row, place),
    )


def _answers_row(record: Record, file: Path) -> OutputRow:
    place, row = f"{file}:{record.line}", record.value
    answers = row.get("answers")
    if not isinstance(answers, dict) or not answers:
        what = "an empty object" if answers == {} else kind_of(answers)
        raise DataError(
            f"{place}: `answers` is {what}, not an object of answers by system",
            hint='write it as {"prompt": "...", "answers": {"zero-shot": "...", "fine-tuned": "..."}}',
        )
    shown, given = row.get("place"), row.get("id")
    return OutputRow(
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
