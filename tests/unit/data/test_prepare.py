"""From files to splits with an account of every row."""

import json
from pathlib import Path
from typing import Any

import pytest

from tiny import tiny_tokenizer
from tunesmith.config import DataConfig
from tunesmith.data.prepare import Prepared, prepare_data
from tunesmith.data.render import Renderer, choose_template
from tunesmith.errors import DataError


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def rows(count: int, *, word: str = "number", answer: str = "yes") -> list[dict[str, Any]]:
    return [{"instruction": f"{word} {n}", "output": answer} for n in range(count)]


def prepared(path: str, *, score_all: bool = False, **settings: Any) -> Prepared:
    tokenizer = tiny_tokenizer()
    renderer = Renderer(tokenizer, choose_template(tokenizer), score_all=score_all)
    return prepare_data(DataConfig(path=path, **settings), renderer, seed=3)


def test_every_row_is_accounted_for(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [*rows(20), {"prompt": "p", "completion": "c"}])
    data = prepared(path)
    assert data.account["formats"] == {"instruction": 20, "prompt_completion": 1}
    assert data.account["rows"] == {"train": 17, "validation": 2, "test": 2}
    assert len(data.account["files"][path]) == 64
    assert data.account["scored_tokens"]["test"] == sum(row.scored_tokens for row in data.test)
    assert data.notes == ()


def test_given_files_are_respected_and_their_overlap_is_counted_and_said(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", rows(10))
    test = write(tmp_path / "test.jsonl", [*rows(2), *rows(3, word="letter")])
    data = prepared(path, test_file=test, validation_size=0)
    assert data.account["rows"] == {"train": 10, "validation": 0, "test": 5}
    assert data.account["prompts_also_in_train"]["test"] == 2
    assert data.notes == ("2 test prompts are also in the training rows; their scores flatter the model",)


def test_dropped_and_truncated_rows_are_noted_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [*rows(10), {"instruction": "long", "output": "x" * 300}])
    dropped = prepared(path, max_length=100, overlong="drop", validation_size=0, test_size=0)
    assert dropped.notes == (f"1 train rows dropped as too long: {path}:11",)
    cut = prepared(path, max_length=100, overlong="truncate", validation_size=0, test_size=0)
    assert cut.notes == ("1 train rows truncated; their answers end without an end of turn",)
    with pytest.raises(DataError, match=r"1 of 11 rows are longer than `max_length`, 100 tokens"):
        prepared(path, max_length=100)


def test_nothing_left_to_train_on_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", rows(4, answer="x" * 300))
    with pytest.raises(DataError, match=r"no training row of .* is left under `max_length` 100"):
        prepared(path, max_length=100, overlong="drop")


def test_a_system_message_all_rows_share_is_remembered(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", rows(6))
    assert prepared(path, system="be kind").system == "be kind"
    assert prepared(path).system is None
    mixed = write(tmp_path / "mixed.jsonl", [row | {"system": str(n % 2)} for n, row in enumerate(rows(6))])
    assert prepared(mixed).system is None


def test_held_out_rows_are_judged_by_their_answers_whatever_training_scores(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", rows(20))
    data, plain = prepared(path, score_all=True), prepared(path)
    assert all(all(row.scored) for row in (*data.train, *data.validation))
    assert [row.scored for row in data.test] == [row.scored for row in plain.test]
