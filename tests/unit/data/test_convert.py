"""A file to another shape or container: the same rows when read, and every difference listed."""

import datetime
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pytest
from cyclopts import App
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from data_files import file_of, values_of
from tunesmith.cli.data_convert import convert
from tunesmith.data.convert import Request, convert_file
from tunesmith.data.formats import FORMATS, load_rows
from tunesmith.errors import ConfigError, DataError

# One folder for all examples of a test is meant: each example writes its own files anew.
same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SAID = st.one_of(TEXT, st.sampled_from(["a", "a\n\nb", "b", "001", '{"a": 1}'])).filter(str.strip)
PAIRS = {
    "messages": ("role", "content", "user", "assistant"),
    "conversations": ("from", "value", "human", "gpt"),
}
SUFFIXES = (".json", ".jsonl", ".jsonl.gz", ".ndjson", ".parquet")


@st.composite
def rows(draw, turns=3):
    """One row of any shape, with a key of its own."""
    shape = draw(st.sampled_from(FORMATS))
    own = {"id": draw(TEXT)}
    if shape == "instruction":
        second = {"input": draw(SAID)} if draw(st.booleans()) else {}
        return {"instruction": draw(SAID), "output": draw(SAID)} | second | own
    if shape == "prompt_completion":
        return {"prompt": draw(SAID), "completion": draw(SAID)} | own
    role, text, user, assistant = PAIRS[shape]
    said = [
        {role: name, text: draw(SAID)}
        for _ in range(draw(st.integers(1, turns)))
        for name in (user, assistant)
    ]
    return {shape: said} | own


def converted(path, output, **request):
    output.unlink(missing_ok=True)
    return convert_file(Request(path, **request), output)


def texts(path):
    return [[(turn.role, turn.text) for turn in row.messages] for row in load_rows(path)]


@same_folder
@given(
    values=st.lists(rows(), min_size=1, max_size=4),
    to=st.sampled_from(FORMATS),
    suffix=st.sampled_from(SUFFIXES[:4]),
)
def test_the_new_file_reads_as_the_same_turns_in_one_shape(tmp_path, values, to, suffix):
    path = file_of(tmp_path, values)
    output = tmp_path / f"new{suffix}"
    done = converted(path, output, to=to)
    assert texts(output) == texts(path)
    assert {row.format for row in load_rows(output)} == {to}
    assert (done.rows, sum(done.shapes.values()), done.skipped, done.losses) == (len(values),) * 2 + (0, ())


@same_folder
@given(
    values=st.lists(rows(), min_size=1, max_size=4),
    to=st.sampled_from(FORMATS),
    suffix=st.sampled_from(SUFFIXES[:4]),
)
def test_there_and_back_over_files_is_the_identity_for_rows_of_one_shape(tmp_path, values, to, suffix):
    shape = next(iter(load_rows(file_of(tmp_path, values)))).format
    values = [
        value
        for value, row in zip(values, load_rows(tmp_path / "rows.jsonl"), strict=True)
        if row.format == shape
    ]
    there, back = tmp_path / f"there{suffix}", tmp_path / "back.json"
    converted(file_of(tmp_path, values), there, to=to)
    converted(there, back, to=shape)
    assert values_of(back) == values


@same_folder
@given(
    values=st.lists(rows(turns=1), min_size=1, max_size=4),
    suffix=st.sampled_from([".csv", ".csv.gz", ".parquet"]),
)
def test_tables_hold_one_turn_rows_and_list_what_is_missing(tmp_path, values, suffix):
    path = file_of(tmp_path, values)
    output = tmp_path / f"new{suffix}"
    done = converted(path, output, to="instruction")
    assert texts(output) == texts(path)
    with_input = sum("input" in value for value in values)
    kinds = [(loss.kind, loss.key, loss.rows) for loss in done.losses]
    lacking = len(values) - with_input
    assert kinds == ([("no_value", "input", lacking)] if with_input and lacking else [])


@same_folder
@given(
    values=st.lists(st.dictionaries(TEXT, TEXT | st.booleans() | st.integers(0, 9) | st.none()), min_size=1)
)
def test_without_a_shape_records_pass_through(tmp_path, values):
    output = tmp_path / "new.json"
    done = converted(file_of(tmp_path, values), output)
    assert (values_of(output), done.losses, done.shapes) == (values, (), {})


def test_containers_one_after_the_other_keep_text_rows(tmp_path):
    values = [
        {"instruction": f'a,{n}\r\n"', "input": "" if n % 2 else "=1", "output": "001"} for n in range(1500)
    ]
    path = file_of(tmp_path, values)
    for suffix in (".csv", ".parquet", ".json.gz", ".csv.gz", ".json", ".ndjson.gz"):
        output = tmp_path / f"next{suffix}"
        assert converted(path, output).losses == ()
        path = output
    assert values_of(path) == values


def losses(done):
    return {(loss.kind, loss.key): (loss.rows, loss.places) for loss in done.losses}


def test_csv_lists_numbers_and_nulls_with_their_places(tmp_path):
    values = [{"a": 1, "b": "x", "c": True}, {"a": "1", "b": None, "c": ""}, {"a": 2.5, "c": "y"}]
    path = file_of(tmp_path, values)
    done = converted(path, tmp_path / "new.csv")
    assert losses(done) == {
        ("as_text", "a"): (2, (f"{path}:1", f"{path}:3")),
        ("as_text", "c"): (1, (f"{path}:1",)),
        ("no_value", "b"): (2, (f"{path}:2", f"{path}:3")),
    }
    assert values_of(tmp_path / "new.csv")[0] == {"a": "1", "b": "x", "c": "true"}


def test_parquet_lists_numbers_that_share_a_type_and_keys_that_others_have(tmp_path):
    values = [{"n": 1, "tool": {"a": "x"}}, {"n": 2.5, "tool": {"b": "y"}}, {"n": 1.0, "tool": None}]
    path = file_of(tmp_path, values)
    done = converted(path, tmp_path / "new.parquet")
    assert losses(done) == {
        ("value", "n"): (1, (f"{path}:1",)),
        ("no_value", "tool"): (2, (f"{path}:1", f"{path}:2")),
    }
    # The loss is real: another reader of the file does not get the row back either.
    assert parquet.read_table(tmp_path / "new.parquet").to_pylist()[0] == {
        "n": 1.0,
        "tool": {"a": "x", "b": None},
    }


def test_json_lists_the_dates_and_nan_of_parquet(tmp_path):
    path = tmp_path / "rows.parquet"
    table = {
        "day": [datetime.date(2026, 1, 2)],
        "nan": [float("nan")],
        "deep": [[float("nan")]],
        "text": ["x"],
    }
    parquet.write_table(pa.table(table), path)
    done = converted(path, tmp_path / "new.jsonl")
    assert set(losses(done)) == {("as_text", "day"), ("value", "nan"), ("value", "deep")}
    assert converted(path, tmp_path / "new.parquet").losses == ()


GOOD = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
BAD = [
    {"messages": [{"role": "boss", "content": "Hi"}]},
    {"instruction": "Hi", "output": " "},
    {"text": "Hi"},
    {"messages": []},
    {"messages": GOOD["messages"][:1]},
    {"instruction": "Hi", "output": 5},
]


def test_rows_that_are_none_are_refused_with_the_first_five(tmp_path):
    path = file_of(tmp_path, [GOOD, *BAD, GOOD])
    with path.open("a", encoding="utf-8") as file:
        file.write("{broken\n")
    with pytest.raises(DataError) as caught:
        converted(path, tmp_path / "new.jsonl", to="instruction")
    lines = str(caught.value).splitlines()
    assert lines[0] == f"7 of 9 rows in `{path}` cannot be used:"
    assert [line.split(": ")[0] for line in lines[1:-1]] == [f"  {path}:{n}" for n in (2, 3, 4, 5, 6)]
    assert "unknown role `boss`" in lines[1]
    assert lines[-1] == "  and 2 more"
    assert caught.value.hint.endswith("; `--skip-bad` leaves such rows out")
    assert list(tmp_path.iterdir()) == [path]


def test_skip_bad_leaves_rows_out_and_counts_them(tmp_path):
    path = file_of(tmp_path, [GOOD, *BAD, GOOD])
    done = converted(path, tmp_path / "new.jsonl", to="instruction", skip_bad=True)
    assert values_of(tmp_path / "new.jsonl") == [{"instruction": "Hi", "output": "Hello"}] * 2
    assert (done.rows, done.shapes, done.skipped) == (2, {"messages": 2}, 6)
    assert [place.split(": ")[0] for place in done.skipped_places] == [f"{path}:{n}" for n in (2, 3, 4, 5, 6)]


def test_a_file_without_a_good_row_is_refused_with_skip_bad_too(tmp_path):
    path = file_of(tmp_path, BAD[:2])
    with pytest.raises(DataError, match="2 of 2 rows in") as caught:
        converted(path, tmp_path / "new.jsonl", to="messages", skip_bad=True)
    assert "--skip-bad" not in caught.value.hint
    assert list(tmp_path.iterdir()) == [path]


def refused(path, output, **request):
    before = sorted(path.parent.iterdir())
    with pytest.raises(DataError) as caught:
        convert_file(Request(path, **request), output)
    assert caught.value.hint
    assert sorted(path.parent.iterdir()) == before
    return caught.value


def test_columns_are_ours_in_the_new_file(tmp_path):
    path = file_of(tmp_path, [{"question": "Hi", "answer": "Hello", "output": "other", "id": 1}])
    columns = {"instruction": "question", "output": "answer"}
    done = converted(path, tmp_path / "new.jsonl", to="messages", columns=columns)
    assert values_of(tmp_path / "new.jsonl") == [{**GOOD, "id": 1}]
    assert done.losses == ()
    converted(path, tmp_path / "same.jsonl", columns=columns)
    assert values_of(tmp_path / "same.jsonl") == [{"instruction": "Hi", "output": "Hello", "id": 1}]


def test_columns_that_are_nowhere_are_refused_with_the_nearest(tmp_path):
    path = file_of(tmp_path, [{"question": "Hi", "answer": "Hello"}])
    error = refused(path, tmp_path / "new.jsonl", to="messages", columns={"instruction": "qestion"})
    assert "there is no column `qestion`; the columns are `question`, `answer`" in str(error)
    assert error.hint == "did you mean `--columns instruction=question`?"
    with pytest.raises(ConfigError, match="`columns` maps `instuction`, which is no field") as caught:
        converted(path, tmp_path / "new.jsonl", columns={"instuction": "question"})
    assert caught.value.hint == "did you mean `instruction=question`?"


@pytest.mark.parametrize("to", ["messages", "conversations"])
@pytest.mark.parametrize("name", ["new.csv", "new.csv.gz"])
def test_csv_refuses_lists_of_turns_before_a_row_is_read(tmp_path, to, name):
    error = refused(tmp_path / "rows.jsonl", tmp_path / name, to=to)
    assert f"CSV cannot hold the lists of turns of `{to}`" in str(error)
    assert "`--to instruction`" in error.hint


def test_csv_refuses_a_history_with_the_row(tmp_path):
    path = file_of(tmp_path, [GOOD, {"messages": GOOD["messages"] * 2}])
    error = refused(path, tmp_path / "new.csv", to="instruction")
    assert "row 2: `history` is a list" in str(error)


def test_unknown_names_and_existing_outputs_are_refused(tmp_path):
    path = file_of(tmp_path, [GOOD])
    assert "there is no format `chat`" in str(refused(path, tmp_path / "new.jsonl", to="chat"))
    assert "there is no format `chat`" in str(refused(path, tmp_path / "new.jsonl", format="chat"))
    assert "the output exists already" in str(refused(path, path, to="instruction"))
    assert "there is no such file" in str(refused(tmp_path / "none.jsonl", tmp_path / "new.jsonl"))
    path.write_text("\n", encoding="utf-8")
    assert "the file is empty" in str(refused(path, tmp_path / "new.jsonl"))


def test_a_written_file_that_cannot_be_read_is_not_left(tmp_path):
    # One column whose name holds a semicolon is taken for a table with another separator.
    path = file_of(tmp_path, [{"a;b": "x"}])
    assert "separated by" in str(refused(path, tmp_path / "new.csv"))


class Steps:
    """What a bar is told."""

    def __init__(self):
        self.labels, self.done, self.ends = [], 0, 0

    def say(self, text):
        raise AssertionError(text)

    def begin(self, label, total):
        self.labels.append((label, total))

    def advance(self, amount=1, figures=""):
        self.done += amount

    def end(self):
        self.ends += 1


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_the_bar_goes_over_all_lines_twice(tmp_path, name):
    plain = file_of(tmp_path, [GOOD] * 2500)
    path = tmp_path / name
    data = plain.read_bytes()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    steps = Steps()
    convert_file(Request(path, to="instruction"), tmp_path / "new.jsonl", progress=steps)
    assert (steps.labels, steps.done, steps.ends) == ([("convert", 2500), ("compare", 2500)], 5000, 2)


def test_parquet_has_no_lines_for_a_bar(tmp_path):
    converted(file_of(tmp_path, [GOOD]), tmp_path / "rows.parquet")
    steps = Steps()
    convert_file(Request(tmp_path / "rows.parquet", to="instruction"), tmp_path / "new.json", progress=steps)
    assert (steps.labels, steps.done, steps.ends) == ([], 0, 0)


@pytest.fixture
def command():
    app = App()
    app.command(convert)
    return lambda *words: app(
        ["convert", *map(str, words)], exit_on_error=False, print_error=False, result_action="return_value"
    )


def test_the_command_says_what_was_made_and_that_nothing_is_lost(tmp_path, command, capsys):
    path = file_of(tmp_path, [{"question": "Hi", "answer": "Hello"}])
    output = tmp_path / "new.jsonl"
    command(path, output, "--to", "messages", "--columns", "instruction=question", "output=answer")
    assert capsys.readouterr().out == (
        f"{output}: 1 rows, 1 instruction -> messages\n"
        "nothing is lost: converting back gives the same rows (keys may stand in another order)\n"
    )
    assert values_of(output) == [GOOD]


def test_the_command_lists_losses_and_rows_left_out(tmp_path, command, capsys):
    ask, answer = GOOD["messages"]
    named = {"messages": [ask | {"name": "Bo"}, answer | {"role": "gpt"}]}
    path = file_of(tmp_path, [named] * 6 + BAD)
    command(path, tmp_path / "new.jsonl", "--to", "instruction", "--skip-bad")
    said = capsys.readouterr()
    places = ", ".join(f"{path}:{line}" for line in range(1, 6))
    assert said.out.splitlines()[1:] == [
        "lost:",
        "  the key `name` of a turn: left out in 6 rows",
        f"    {places} ...",
        "the same, written in another way:",
        "  other names of roles, or of the keys of a turn: the usual names in 6 rows",
        f"    {places} ...",
    ]
    lines = [line for line in said.err.splitlines() if not line.startswith(("convert ", "compare "))]
    assert lines[0] == "6 rows left out:"
    assert lines[1].startswith(f"  {path}:7: ")
    assert lines[-1] == "  and 1 more"


def test_the_command_gives_one_json_object(tmp_path, command, capsys):
    path = file_of(tmp_path, [{**GOOD, "id": 1}])
    output = tmp_path / "new.csv"
    command(path, output, "--to", "prompt_completion", "--json")
    told = json.loads(capsys.readouterr().out)
    assert Path(told["output"]) == output
    assert (told["rows"], told["shapes"], told["to"]) == (1, {"messages": 1}, "prompt_completion")
    assert told["skipped"] == {"rows": 0, "places": []}
    assert told["losses"] == [
        {
            "kind": "as_text",
            "key": "id",
            "rows": 1,
            "places": [f"{path}:1"],
            "effect": "lost",
            "what": "`id`, where its value is no text",
            "done": "written as text",
        }
    ]
