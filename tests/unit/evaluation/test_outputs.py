"""Outputs of several systems: what is read, how it is joined, and what is said of bad files."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.data.conversation import Message, Row
from tunesmith.errors import DataError
from tunesmith.evaluation import output_rows
from tunesmith.evaluation.output_rows import ANSWER_FIELDS
from tunesmith.evaluation.outputs import (
    answered_items,
    asked_once,
    item_id,
    item_ids,
    join_outputs,
    read_outputs,
)


def lines(path: Path, *rows: object) -> Path:
    """A JSONL file of these rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def said(prompt: str, answer: str, **more: object) -> dict[str, object]:
    return {"prompt": prompt, "answer": answer, **more}


def test_two_files_are_joined_on_the_prompt_in_the_order_of_the_first(tmp_path: Path) -> None:
    a = lines(tmp_path / "a.jsonl", said("p", "1"), said("q", "2"), said("only a", "3"))
    b = lines(tmp_path / "b.jsonl", said("q ", "20"), said("only b", "x"), said("p", "10"))
    found = join_outputs([a, b])
    assert [item.prompt for item in found.items] == ["p", "q"]
    assert [dict(item.answers) for item in found.items] == [{"a": "1", "b": "10"}, {"a": "2", "b": "20"}]
    assert [list(item.answers) for item in found.items] == [["a", "b"]] * 2
    assert found.items[1].place == f"{a}:2"
    assert found.systems == ("a", "b")
    assert dict(found.left_out) == {str(a): 1, str(b): 1}
    assert read_outputs([a, b]) == list(found.items)


def test_the_second_time_a_prompt_stands_meets_the_second_time(tmp_path: Path) -> None:
    a = lines(tmp_path / "a.jsonl", said("p", "1"), said("p", "2"), said("p", "3"))
    b = lines(tmp_path / "b.jsonl", said("p", "10"), said("p", "20"))
    found = join_outputs([a, b])
    assert [tuple(item.answers.values()) for item in found.items] == [("1", "10"), ("2", "20")]
    assert found.left_out[str(a)] == 1
    first = found.items[0].id
    assert [item.id for item in found.items] == [first, f"{first}-2"]


@pytest.mark.parametrize("field", ANSWER_FIELDS)
def test_an_answer_has_several_names(field: str, tmp_path: Path) -> None:
    (item,) = read_outputs([lines(tmp_path / "a.jsonl", {"prompt": "p", field: ""})])
    assert dict(item.answers) == {"a": ""}


@pytest.mark.parametrize(
    ("fields", "references"),
    [
        ({}, ()),
        ({"reference": None}, ()),
        ({"reference": "r"}, ("r",)),
        ({"reference": ["r", "s", "r"]}, ("r", "s")),
        ({"references": ["r"], "reference": "s"}, ("s", "r")),
        ({"references": []}, ()),
    ],
)
def test_references_are_one_several_or_none(
    fields: dict[str, object], references: tuple[str, ...], tmp_path: Path
) -> None:
    (item,) = read_outputs([lines(tmp_path / "a.jsonl", said("p", "x", **fields))])
    assert item.references == references


def test_references_and_slices_of_all_sources_come_together(tmp_path: Path) -> None:
    a = lines(tmp_path / "a.jsonl", said("p", "1", reference="r", slices={"language": "English"}))
    b = lines(tmp_path / "b.jsonl", said("p", "2", references=["s", "r"], slices={"language": "?", "k": "v"}))
    (item,) = read_outputs([a, b])
    assert item.references == ("r", "s")
    assert dict(item.slices) == {"language": "English", "k": "v"}
    assert item.id == item_id("p", ("r", "s"))


@given(st.lists(st.tuples(st.text(max_size=3), st.lists(st.text(max_size=2), max_size=2)), max_size=12))
def test_ids_are_told_apart_and_depend_on_what_is_asked_alone(asked: list[tuple[str, list[str]]]) -> None:
    ids = item_ids(asked)
    assert len(set(ids)) == len(ids)
    for (prompt, references), found in zip(asked, ids, strict=True):
        start, _, repeat = found.partition("-")
        assert start == item_id(prompt, references)
        assert len(start) == 16
        assert not repeat or int(repeat) >= 2


def test_an_id_is_the_same_tomorrow() -> None:
    assert item_id("Where is it?", ["Here.", "在这里"]) == "9b7f06f467313ca0"


def test_what_generate_prints_is_read_with_the_line_of_each_answer(tmp_path: Path) -> None:
    path = tmp_path / "printed.json"
    printed = {
        "target": {"answers": [1, {"b": "]"}]},
        "answers": [{"prompt": 'p "[,\n', "answer": "1"}, {"prompt": "q", "answer": "2"}],
        "decoding": {"temperature": 0.0},
    }
    text = json.dumps(printed, indent=2)
    path.write_text(text, encoding="utf-8")
    items = read_outputs([path])
    assert [item.prompt for item in items] == ['p "[,\n', "q"]
    for item in items:
        line = int(item.place.rpartition(":")[2])
        below = text.splitlines()[line - 1 : line + 1]
        assert below[0].strip() == "{"
        assert json.dumps(item.prompt) in below[1]
    path.write_text(json.dumps(printed), encoding="utf-8")
    assert [item.place for item in read_outputs([path])] == [f"{path}:1"] * 2


def test_lists_tables_and_compressed_files_are_read_too(tmp_path: Path) -> None:
    as_list, table = tmp_path / "list.json", tmp_path / "table.csv"
    as_list.write_text(json.dumps([said("p", "1")]), encoding="utf-8")
    table.write_text("prompt,output\np,2\n", encoding="utf-8")
    packed = tmp_path / "packed.jsonl.gz"
    packed.write_bytes(gzip.compress(json.dumps(said("p", "3")).encode()))
    (item,) = read_outputs([as_list, table, packed])
    assert dict(item.answers) == {"list": "1", "table": "2", "packed": "3"}


def test_systems_called_alike_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    old = lines(tmp_path / "old" / "out.jsonl", said("p", "1"))
    new = lines(tmp_path / "new" / "out.jsonl", said("p", "2"))
    assert join_outputs([old, new]).systems == ("old/out", "new/out")
    assert join_outputs([old, old]).systems == ("old/out", "old/out-2")
    assert dict(join_outputs([old, old]).left_out) == {str(old): 0, f"{old}-2": 0}


def test_a_run_has_base_and_tuned(tmp_path: Path) -> None:
    sample = {"place": "rows.jsonl:7", "prompt": "p", "reference": "r", "base": "1", "tuned": "2"}
    lines(tmp_path / "one" / "samples.jsonl", sample)
    lines(tmp_path / "two" / "samples.jsonl", sample | {"tuned": "3"})
    found = join_outputs([tmp_path / "one"])
    (item,) = found.items
    assert dict(item.answers) == {"base": "1", "tuned": "2"}
    assert (item.place, item.references) == ("rows.jsonl:7", ("r",))
    both = join_outputs([tmp_path / "one", tmp_path / "two"])
    assert both.systems == ("one/base", "one/tuned", "two/base", "two/tuned")
    assert dict(both.items[0].answers)["two/tuned"] == "3"


def test_a_comparison_keeps_its_ids_and_slices(tmp_path: Path) -> None:
    answers = {"zero-shot": "1", "few-shot": "2", "fine-tuned": "3"}
    row = {"id": "kept", "place": "t.jsonl:4", "prompt": "p", "references": ["r", "s"], "answers": answers}
    lines(tmp_path / "c" / "answers.jsonl", row | {"slices": {"length": "short"}})
    (item,) = read_outputs([tmp_path / "c"])
    assert (item.id, item.place, item.references) == ("kept", "t.jsonl:4", ("r", "s"))
    assert dict(item.slices) == {"length": "short"}
    assert dict(item.answers) == answers


BAD_ROWS = [
    ({"prompt": "p", "answer": 3}, "2: `answer` is a number, not text", "in quotes"),
    ({"prompt": "p", "answer": None}, "2: `answer` is null, not text", 'empty as ""'),
    ({"prompt": ["p"], "answer": "x"}, "2: `prompt` is a list, not text", "in quotes"),
    ({"promt": "p", "answer": "x"}, "2: the row has no `prompt`; it has `promt`, `answer`", "rename `promt`"),
    ({"prompt": "p", "anser": "x"}, "2: the row has no answer: none of `answer`", "did you mean `answer`"),
    ({"prompt": "p", "zzz": "x"}, "it has `prompt`, `zzz`", "write each row as"),
    ({"prompt": "p", "answer": "x", "output": "y"}, "2: the row has `answer`, `output`", "leave one"),
    (
        {"prompt": "p", "answer": "x", "reference": 3},
        "2: `reference` is a number, not text",
        "several as a list",
    ),
    ({"prompt": "p", "answer": "x", "references": [3]}, "`references` holds a number", "several as a list"),
    (
        {"prompt": "p", "answer": "x", "slices": {"a": 1}},
        "2: `slices` is not an object of texts",
        "leave it out",
    ),
    ({"prompt": "p", "answer": "x" * 12}, "2: `answer` has 12 characters, above 10", "leave this row out"),
]


@pytest.mark.parametrize(("row", "message", "hint"), BAD_ROWS, ids=[message for _, message, _ in BAD_ROWS])
def test_a_bad_row_is_named_with_file_and_line(
    row: dict[str, object], message: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_rows, "MAX_TEXT_CHARACTERS", 10)
    path = lines(tmp_path / "a.jsonl", said("p", "x"), row)
    with pytest.raises(DataError) as refused:
        read_outputs([path])
    assert message in str(refused.value)
    assert str(path) in str(refused.value)
    assert hint in refused.value.hint


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ('{"answers": []}', ":1: the list `answers` is empty", "some prompts"),
        ('{"answers": "x"}', ":1: `answers` is text, not a list", "write each row"),
        (
            '{\n"answers": [\n{"prompt": "p", "answer": "x"},\n3]}',
            ":4: the row is a number, not an object",
            "",
        ),
        ('{"answers": [}', "not JSON", ""),
        ("", ":1: the file is empty", ""),
        ('[{"prompt": "p"}]', ":1: the row has no answer", "write each row"),
        ('{"prompt": "p", "answer": "x"}\n{"prompt"', ":2: the JSON breaks off", ""),
    ],
)
def test_a_broken_file_says_where(text: str, message: str, hint: str, tmp_path: Path) -> None:
    path = tmp_path / "printed.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as refused:
        read_outputs([path])
    assert message in str(refused.value)
    assert hint in refused.value.hint


def test_a_bad_row_of_a_folder_is_named_by_its_own_file(tmp_path: Path) -> None:
    row = {"place": "t.jsonl:4", "prompt": "p", "answers": {"a": "1", "b": "2"}}
    file = lines(tmp_path / "answers.jsonl", row, row | {"answers": {"a": "1"}})
    with pytest.raises(DataError, match="2: not all rows have an answer of `b`") as refused:
        read_outputs([tmp_path])
    assert str(file) in str(refused.value)
    lines(file, row | {"id": "x"}, row | {"id": "x"})
    with pytest.raises(DataError, match="2: the id `x` stands twice"):
        read_outputs([tmp_path])
    lines(file, row | {"answers": {}})
    with pytest.raises(DataError, match="1: `answers` is an empty object, not an object of answers"):
        read_outputs([tmp_path])
    with pytest.raises(DataError, match="the row has no answer") as refused:
        read_outputs([file])
    assert refused.value.hint == f"name the folder `{tmp_path}`, not the file in it"
    file.unlink()
    lines(tmp_path / "samples.jsonl", {"prompt": "p", "reference": "r", "base": "x"})
    with pytest.raises(DataError, match="1: the row has no `tuned`"):
        read_outputs([tmp_path])


def test_what_is_no_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there are no outputs to read"):
        read_outputs([])
    with pytest.raises(DataError, match=r"holds neither `samples.jsonl`, as a run does, nor `answers.jsonl`"):
        read_outputs([tmp_path])
    lines(tmp_path / "out.jsonl", said("p", "x"))
    with pytest.raises(DataError, match="there is no such file") as refused:
        read_outputs([tmp_path / "uot.jsonl"])
    assert "out.jsonl" in refused.value.hint


def test_sources_without_a_common_prompt_say_what_each_asks(tmp_path: Path) -> None:
    a = lines(tmp_path / "a.jsonl", said("Say one", "x"))
    b = lines(tmp_path / "b.jsonl", said("Say two " * 20, "x"))
    c = lines(tmp_path / "c.jsonl", said("Say one", "x"))
    with pytest.raises(DataError, match="share no prompt: the first one starts with `Say one`") as refused:
        read_outputs([a, b])
    assert "Say two Say two" in str(refused.value)
    assert len(str(refused.value)) < 400
    with pytest.raises(DataError, match="no prompt is in all of"):
        read_outputs([a, b, c])


def row(prompt: str, reference: str, line: int) -> Row:
    return Row((Message("user", prompt), Message("assistant", reference)), "t.jsonl", line, "instruction")


def test_rows_with_one_prompt_are_asked_once_with_all_their_references() -> None:
    rows = [row("p", "r", 1), row("q", "s", 2), row("p", "t", 3), row("p", "r", 4)]
    asked = asked_once(rows)
    assert [(first.line, references) for first, references in asked] == [(1, ("r", "t")), (2, ("s",))]
    items = answered_items(asked, {"a": ["1", "2"], "b": ["10", "20"]})
    assert [dict(item.answers) for item in items] == [{"a": "1", "b": "10"}, {"a": "2", "b": "20"}]
    assert [item.place for item in items] == ["t.jsonl:1", "t.jsonl:2"]
    assert items[0].id == item_id("p", ("r", "t"))


@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 5))
def test_a_draw_keeps_the_order_and_depends_on_the_seed_alone(count: int, most: int, seed: int) -> None:
    rows = [row(f"p{number}", "r", number) for number in range(count)]
    drawn = [first.line for first, _ in asked_once(rows, most=most, seed=seed)]
    assert len(drawn) == min(count, most)
    assert drawn == sorted(set(drawn))
    assert drawn == [first.line for first, _ in asked_once(rows, most=most, seed=seed)]
