"""What users get wrong: one screen with fact, place and hint, exit 2, no traceback, nothing left behind."""

import json
from pathlib import Path

import pytest

from tunesmith.cli.main import main

GOOD = '{"instruction": "Say hi", "output": "hi there"}\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with one good data file, `rows.jsonl`."""
    (tmp_path / "rows.jsonl").write_text(GOOD * 3, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run, check exit 2 and the shape of the message, return it."""
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    printed = capsys.readouterr()
    assert stopped.value.code == 2
    assert printed.out == ""
    assert "Traceback" not in printed.err
    assert printed.err.count("error:") == 1
    assert printed.err.count("\nhint: ") == 1
    assert len(printed.err.splitlines()) <= 20
    return printed.err


def train(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """`tunesmith train` refused before anything is written."""
    before = sorted(Path().rglob("*"))
    message = refused(capsys, "train", *arguments)
    assert sorted(Path().rglob("*")) == before
    return message


def test_missing_file_names_the_nearest(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = train(capsys, "--data", "row.jsonl")
    assert "row.jsonl: there is no such file" in message
    assert "`rows.jsonl`" in message


def test_broken_json_line_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "broken.jsonl").write_text(GOOD + '{"instruction": "a", "output": \n' + GOOD, encoding="utf-8")
    assert "broken.jsonl:2" in train(capsys, "--data", "broken.jsonl")


def test_wrong_column_lists_those_there_are(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "qa.csv").write_text("question,answer\nWhy?,Because.\n", encoding="utf-8")
    message = train(capsys, "--data", "qa.csv", "--columns", "instruction=question", "output=answr")
    assert "qa.csv" in message
    assert "`answr`" in message
    assert "`answer`" in message


def test_unknown_shape_says_how_to_map(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "qa.jsonl").write_text('{"question": "Why?", "answer": "Because."}\n', encoding="utf-8")
    message = train(capsys, "--data", "qa.jsonl")
    assert "qa.jsonl:1" in message
    assert "--columns" in message


def test_empty_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "empty.jsonl").touch()
    assert "empty.jsonl:1: the file is empty" in train(capsys, "--data", "empty.jsonl")


def test_all_problems_of_a_configuration_at_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "run.yaml").write_text(
        "data:\n  path: rows.jsonl\ntraining:\n  learning_rat: 1e-4\n  max_steps: many\n", encoding="utf-8"
    )
    message = train(capsys, "run.yaml", "--rank", "abc", "--learning-rte", "1")
    assert "4 problems" in message
    assert "run.yaml:4: training.learning_rat: unknown key; nearest: learning_rate" in message
    assert "run.yaml:5: training.max_steps: 'many' is not a whole number" in message
    assert "--rank: 'abc' is not a whole number" in message
    assert "--learning-rte: no such flag; nearest: --learning-rate" in message


def test_learning_rate_abc(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = train(capsys, "--data", "rows.jsonl", "--learning-rate", "abc")
    assert "--learning-rate: 'abc' is not a number" in message


def test_no_data_given(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "data.path: required, and not given (flag `--data`)" in train(capsys)


def test_model_not_found_offline(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = train(capsys, "--data", "rows.jsonl", "--model", "nobody/no-such-model")
    assert "there is no folder `nobody/no-such-model` here, and the hub gave no such model" in message
    assert "smollm2-135m" in message


def test_model_folder_not_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = train(capsys, "--data", "rows.jsonl", "--model", "./models/mine")
    assert "`./models/mine` is not a model folder" in message


def test_output_path_not_writable(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = train(capsys, "--data", "rows.jsonl", "--output-dir", "rows.jsonl/run")
    assert "`rows.jsonl/run` cannot be written: Not a directory" in message


def test_output_folder_in_use(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = train(capsys, "--data", "rows.jsonl", "--output-dir", ".")
    assert "holds files already" in message


def test_resume_of_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "`runs/none` is no folder" in train(capsys, "--resume", "runs/none")
    assert "`runs/none` is no folder" in train(capsys, "--resume", "runs/none", "--learning-rate", "1")


def test_unknown_command_and_missing_value(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert 'Did you mean "train"?' in refused(capsys, "trian")
    assert "--learning-rate requires an argument" in refused(capsys, "train", "--learning-rate")


def test_generate_needs_one_source_of_prompts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, "generate", "smollm2-135m", "--prompt", "a", "--file", "b.txt")
    assert "`--prompt` and `--file` are both given" in message
    assert "`b.txt` cannot be read: No such file" in refused(
        capsys, "generate", "smollm2-135m", "--file", "b.txt"
    )
    (folder / "blank.txt").write_text("\n \n", encoding="utf-8")
    assert "`blank.txt` holds no prompt" in refused(capsys, "generate", "smollm2-135m", "--file", "blank.txt")


def test_merge_of_a_model_without_adapter(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "has no adapter to merge" in refused(capsys, "merge", "smollm2-135m")


def test_json_errors_are_one_object_on_stdout(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["train", "--data", "row.jsonl", "--json"])
    assert stopped.value.code == 2
    told = json.loads(capsys.readouterr().out)
    assert told["exit_code"] == 2
    assert "no such file" in told["error"]
    assert told["hint"]


def test_debug_shows_the_traceback(folder: Path) -> None:
    from tunesmith.errors import DataError

    with pytest.raises(DataError, match="no such file"):
        main(["train", "--data", "row.jsonl", "--debug"])
