"""`tunesmith recommend`: what it prints, writes and hands to machines."""

import json

import pytest

from data_files import typed
from tiny import tiny_model_folder
from tunesmith.cli.recommend import recommend
from tunesmith.errors import ConfigError, DataError
from tunesmith.resolve import resolve


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recommend")
    rows = [{"instruction": f"Say {at}", "output": f"word {at % 3}"} for at in range(120)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return (
        "--model",
        tiny_model_folder(folder / "model"),
        "--data",
        folder / "rows.jsonl",
        "--device",
        "cpu",
    )


@pytest.fixture
def call(capsys):
    return typed(recommend, "recommend", capsys)


def test_a_table_with_reasons_and_a_file_that_trains(words, call, tmp_path):
    file = tmp_path / "better.yaml"
    shown = call(*words, "--rank", 4, "--output", file).out
    lines = {line.split()[0]: line.split() for line in shown.splitlines() if line.strip()}
    assert lines["setting"][1:] == ["value", "yours", "reason", "and", "source"]
    assert lines["rank"][1:3] == ["4", "4"]
    assert lines["alpha"][1:3] == ["8", "32"]
    assert "simple task: 96 answers are only 3 different ones" in shown
    assert f"next: tunesmith train {file}" in " ".join(shown.split())
    config = resolve(file).config
    assert (config.method.rank, config.method.alpha, config.training.num_train_epochs) == (4, 8.0, 5.0)
    assert "  # recommend: twice the rank" in file.read_text()


def test_the_file_is_compared_and_flags_win(words, call, tmp_path):
    given = tmp_path / "mine.yaml"
    given.write_text("data:\n  path: none\ntraining:\n  learning_rate: 0.3\n  num_train_epochs: 9\n")
    told = json.loads(call(given, *words, "--num-train-epochs", 2, "--json").out)
    by_key = {each["key"]: each for each in told["settings"]}
    rate, passes = by_key["training.learning_rate"], by_key["training.num_train_epochs"]
    assert (rate["value"], rate["yours"], rate["is_kept"]) == (5e-4, 0.3, False)
    assert (passes["value"], passes["is_kept"], passes["source"]) == (2.0, True, "your flag")
    assert told["config"]["training.learning_rate"] == 5e-4
    assert told["written"] is None and told["range_test"] is None and told["learning_curve"] is None
    assert told["data"]["verdict"].startswith("96 training rows are few")


def test_a_range_test_replaces_the_rate_and_shows_its_curve(words, call):
    shown = call(*words, "--learning-rate", 1e-3, "--range-test")
    assert "Range test: the loss falls fastest at" in shown.out
    told = json.loads(call(*words, "--range-test", "--json").out)
    measured = told["range_test"]
    assert len(measured["rates"]) == len(measured["smoothed"])
    assert told["config"]["training.learning_rate"] == measured["rate"]
    rate = next(each for each in told["settings"] if each["key"] == "training.learning_rate")
    assert (rate["reason"], rate["source"]) == (measured["reason"], "range test, arXiv:1506.01186")


def test_an_output_that_cannot_be_is_refused_before_the_work(words, call, tmp_path):
    with pytest.raises(ConfigError, match=r"does not end in `\.yaml`") as refused:
        call(*words, "--output", tmp_path / "better.txt")
    assert refused.value.hint == f"`--output {tmp_path / 'better.yaml'}`"
    taken = tmp_path / "taken.yaml"
    taken.write_text("mine", encoding="utf-8")
    with pytest.raises(DataError, match="exists already"):
        call(*words, "--output", taken)
    assert taken.read_text() == "mine"


def test_a_typo_and_missing_data_are_told(call):
    with pytest.raises(ConfigError, match="--lerning-rate: no such flag; nearest: --learning-rate"):
        call("--data", "rows.jsonl", "--lerning-rate", 1)
    with pytest.raises(ConfigError, match="required, and not given"):
        call()
