"""`tunesmith data clean` over files: three files hold every row, dry runs, the guide's costs."""

import gzip
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_files import file_of, typed, values_of
from tiny import tiny_model_folder
from tunesmith.cli.data_clean import Cleaning, clean
from tunesmith.data.clean.run import output_files
from tunesmith.errors import ConfigError, DataError, ModelError

# One folder for all examples of a test is meant: each example writes its own files anew.
same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)

GOOD = {
    "instruction": "Name the capital of France.",
    "input": "",
    "output": "Paris is the capital of France.",
}
CHINESE = {"instruction": "Translate to Chinese: I like to learn.", "input": "", "output": "我喜欢学习。"}
DIRTY = {"instruction": "Say yes.", "input": "<noinput>", "output": "Yes, of course.</s>"}
EMPTY = {"instruction": "Say nothing.", "input": "", "output": " "}


@pytest.fixture
def run(capsys):
    return typed(clean, "clean", capsys)


QUICK = ("--without", "length")


@same_folder
@given(values=st.lists(st.sampled_from([GOOD, CHINESE, DIRTY, EMPTY]), max_size=5))
def test_the_three_files_hold_every_row_as_it_was(tmp_path, values):
    output = tmp_path / "clean.jsonl"
    for path in output_files(output).values():
        path.unlink(missing_ok=True)
    values = [GOOD, *values]
    file = file_of(tmp_path, values)
    clean(file, output, cleaning=Cleaning(without=["length"]))
    paths = output_files(output)
    about = {kind: values_of(paths[kind]) if paths[kind].exists() else [] for kind in ("removed", "changed")}
    kept = values_of(output)
    assert len(kept) + len(about["removed"]) == len(values)
    changed = {each["place"]: each for each in about["changed"]}
    removed = {each["place"]: each for each in about["removed"]}
    rest = iter(kept)
    for line, value in enumerate(values, start=1):
        place = f"{file}:{line}"
        if place in removed:
            assert removed[place]["before"] == value
            assert removed[place]["reasons"]
            continue
        after = next(rest)
        assert after == (changed[place]["after"] if place in changed else value)
        assert changed.get(place, {"before": value})["before"] == value


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".parquet", ".jsonl.gz"])
def test_cleaning_the_cleaned_file_writes_the_same_bytes_and_nothing_else(tmp_path, run, suffix):
    file = file_of(tmp_path, [GOOD, DIRTY, EMPTY, CHINESE, GOOD])
    once, twice = tmp_path / f"once{suffix}", tmp_path / f"twice{suffix}"
    run(file, once, *QUICK)
    run(once, twice, *QUICK)
    assert twice.read_bytes() == once.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("twice")) == [twice.name]


def test_a_short_whole_answer_survives_the_default_and_the_guide_says_that_it_drops_it(tmp_path, run):
    file = file_of(tmp_path, [GOOD, CHINESE])
    run(file, tmp_path / "default.jsonl", *QUICK)
    assert values_of(tmp_path / "default.jsonl") == [GOOD, CHINESE]
    shown = run(file, tmp_path / "guide.jsonl", "--preset", "guide")
    assert values_of(tmp_path / "guide.jsonl") == [GOOD]
    assert f"whole answers that the 10-character rule drops: 1 ({file}:2 '我喜欢学习。')" in shown.err


def test_the_guide_does_its_five_steps_and_says_what_they_cost(tmp_path, run):
    poem = {
        "instruction": " Write\ta  poem. ",
        "input": "",
        "output": "Roses are red,\nviolets are blue.\n",
        "id": 7,
    }
    code = {"instruction": "Add.", "output": "```\ndef add(a, b):\n    return a + b\n```"}
    talk = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello, you."}]}
    long = {"instruction": "Go on.", "output": "a" * 2049}
    file = file_of(tmp_path, [poem, code, talk, long, EMPTY, CHINESE])
    shown = json.loads(run(file, tmp_path / "out.jsonl", "--preset", "guide", "--json").out)
    assert values_of(tmp_path / "out.jsonl") == [
        {"instruction": "Write a poem.", "input": "", "output": "Roses are red, violets are blue."},
        {"instruction": "Add.", "output": "``` def add(a, b): return a + b ```"},
    ]
    assert list(shown["steps"]) == [
        "strip",
        "empty_fields",
        "output_characters",
        "white_space",
        "three_fields",
    ]
    assert shown["guide_costs"] == {
        "short_answers": 1,
        "short_rows": [{"place": f"{file}:6", "answer": "我喜欢学习。"}],
        "long_answers": 1,
        "texts_without_breaks": {"of several paragraphs or verses": 1, "with code": 1},
        "lost_keys": {"id": 1},
        "other_shapes": {"messages": 1},
    }
    assert len(shown["warnings"]) == 5


def test_a_dry_run_counts_the_same_and_writes_nothing(tmp_path, run):
    file = file_of(tmp_path, [GOOD, DIRTY, EMPTY])
    dry = json.loads(run(file, "--dry-run", "--json", *QUICK).out)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]
    wet = json.loads(run(file, tmp_path / "out.jsonl", "--json", *QUICK).out)
    assert dry["steps"] == wet["steps"]
    counts = ("rows", "kept", "changed", "removed")
    assert [wet[name] for name in counts] == [dry[name] for name in counts] == [3, 2, 1, 1]
    assert dry["steps"]["placeholders"] == {"changed": 1, "removed": 0}
    assert set(wet["files"]) == {"cleaned", "removed", "changed"}
    assert dry["files"] == {}


def test_the_table_names_steps_counts_and_files(tmp_path, run):
    shown = run(file_of(tmp_path, [GOOD, DIRTY, EMPTY]), tmp_path / "out.jsonl.gz", *QUICK).out
    lines = [line.split() for line in shown.splitlines()]
    assert ["special_tokens", "1", "0"] in [line[:3] for line in lines]
    assert ["empty", "0", "1"] in [line[:3] for line in lines]
    assert "3 rows: 2 kept (1 of them changed), 1 removed" in shown
    assert f"removed: {tmp_path / 'out.removed.jsonl'}" in shown
    assert gzip.decompress((tmp_path / "out.jsonl.gz").read_bytes()).count(b"\n") == 2


def test_bad_rows_refuse_the_file_or_are_set_aside(tmp_path, run):
    file = file_of(tmp_path, [GOOD, {"messages": [{"role": "assistant", "content": "Hm."}]}])
    with file.open("a") as stream:
        stream.write('{"instruction": "a\n')
    with pytest.raises(DataError, match=r"rows\.jsonl:3: "):
        run(file, tmp_path / "out.jsonl", *QUICK)
    assert not (tmp_path / "out.jsonl").exists()
    run(file, tmp_path / "out.jsonl", "--skip-bad", *QUICK)
    assert values_of(tmp_path / "out.jsonl") == [GOOD]
    removed = values_of(tmp_path / "out.removed.jsonl")
    assert [each["reasons"][0]["step"] for each in removed] == ["unusable", "reading"]
    assert removed[1]["before"] == '{"instruction": "a'


def test_fill_replaces_and_says_where_there_was_nothing_to_fill(tmp_path, run):
    file = file_of(tmp_path, [{"prompt": "Who are you?", "completion": "I am {{name}}, made by {{author}}."}])
    run(file, tmp_path / "out.jsonl", "--fill", "name=Ada", "author=a = b", *QUICK)
    assert values_of(tmp_path / "out.jsonl")[0]["completion"] == "I am Ada, made by a = b."
    shown = run(file, "--dry-run", "--fill", "nam=Ada", *QUICK)
    assert "`--fill` changed nothing: no row that is kept holds {{nam}}" in shown.err


def test_any_file_can_be_cleaned(tmp_path, run):
    file = file_of(
        tmp_path, [{"text": "a\u200bb", "n": 1}, {"text": "", "n": 2}, {"text": "a\u200bb", "n": 1}]
    )
    run(file, tmp_path / "out.jsonl", *QUICK)
    assert values_of(tmp_path / "out.jsonl") == [{"text": "ab", "n": 1}]


def test_nothing_left_is_refused_and_writes_nothing(tmp_path, run):
    file = file_of(tmp_path, [EMPTY, EMPTY])
    with pytest.raises(DataError, match="of 2 rows none would be left: `empty` removes 2") as caught:
        run(file, tmp_path / "out.jsonl", *QUICK)
    assert "--without empty" in caught.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


@pytest.mark.parametrize("taken", ["out.jsonl", "out.removed.jsonl", "out.changed.jsonl"])
def test_no_existing_file_is_written_over(tmp_path, run, taken):
    (tmp_path / taken).write_text("mine")
    with pytest.raises(DataError, match=f"{taken}: the output exists already"):
        run(file_of(tmp_path, [GOOD]), tmp_path / "out.jsonl", *QUICK)
    assert (tmp_path / taken).read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--columns", "instrution=question"], ConfigError, "maps `instrution`, which is no field"),
        (
            ["--columns", "instruction=questoin"],
            DataError,
            "there is no column `questoin`; the columns are `instruction`",
        ),
        (["--fill", "name"], ConfigError, "`--fill name` is no name and value"),
        (["--fill", "name={{other}}"], ConfigError, "puts in a placeholder again"),
        (["--max-length", "9", "--model", "no/such-folder"], ModelError, "no/such-folder"),
    ],
)
def test_flags_that_make_no_sense(tmp_path, run, arguments, error, message):
    quick = () if "--model" in arguments else QUICK
    with pytest.raises(error) as caught:
        run(file_of(tmp_path, [GOOD]), tmp_path / "out.jsonl", *arguments, *quick)
    assert message in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_without_an_output_only_a_dry_run_makes_sense(tmp_path, run):
    with pytest.raises(ConfigError, match="there is no output"):
        run(file_of(tmp_path, [GOOD]), *QUICK)


def test_length_by_a_real_tokenizer(tmp_path, run):
    tiny_model_folder(tmp_path / "model")
    file = file_of(tmp_path, [CHINESE, GOOD | {"output": "Paris. " * 40}, {"text": "of no shape"}])
    shown = json.loads(
        run(file, tmp_path / "out.jsonl", "--model", tmp_path / "model", "--max-length", 200, "--json").out
    )
    assert shown["steps"]["length"] == {"changed": 0, "removed": 1}
    reason = values_of(tmp_path / "out.removed.jsonl")[0]["reasons"][0]["what"]
    # The tokens are bytes: those of the texts, of two roles and line breaks, and four control tokens.
    texts = len(GOOD["instruction"]) + len("Paris. " * 40)
    frame = len("user\n\nassistant\n\n") + 4
    assert reason == f"the row has {texts + frame} tokens, more than 200"
