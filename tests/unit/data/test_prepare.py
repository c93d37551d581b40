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


def notes(data: Prepared) -> tuple[str, ...]:
    """All but what the check found, which comes last."""
    return tuple(note for note in data.notes if not note.startswith("data check: "))


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
    assert notes(data) == ()


def test_given_files_are_respected_and_their_overlap_is_counted_and_said(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", rows(10))
    test = write(tmp_path / "test.jsonl", [*rows(2), *rows(3, word="letter")])
    data = prepared(path, test_file=test, validation_size=0)
    assert data.account["rows"] == {"train": 10, "validation": 0, "test": 5}
    assert data.account["prompts_also_in_train"]["test"] == 2
    assert notes(data) == ("2 test prompts are also in the training rows; their scores flatter the model",)


def test_dropped_and_truncated_rows_are_noted_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [*rows(10), {"instruction": "long", "output": "x" * 300}])
    dropped = prepared(path, max_length=100, overlong="drop", validation_size=0, test_size=0)
    assert notes(dropped) == (f"1 train rows dropped as too long: {path}:11",)
    cut = prepared(path, max_length=100, overlong="truncate", validation_size=0, test_size=0)
    assert notes(cut) == ("1 train rows truncated; their answers end without an end of turn",)
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


def test_what_the_check_finds_is_said_and_kept(tmp_path: Path) -> None:
    bad = [{"instruction": "a", "output": "I am {{name}}."}, {"instruction": "b", "output": "done</s>"}]
    path = write(tmp_path / "rows.jsonl", [*rows(20), *bad])
    data = prepared(path)
    assert data.account["check"]["unrendered"] == data.account["check"]["special_token"] == 1
    said = "1 row with a template field nobody filled in; 22 usable rows only; 1 row with a control token"
    assert data.notes[-1] == f"data check: {said} written out; see `tunesmith data check {path}`"


def test_bad_rows_are_refused_or_skipped_and_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write(path, [*rows(20), {"instruction": "a", "output": ""}])
    path.write_text(path.read_text(encoding="utf-8") + "{broken\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"rows.jsonl:22: not JSON"):
        prepared(str(path))
    data = prepared(str(path), bad_rows="skip")
    assert sum(data.account["rows"].values()) == 20
    assert data.account["skipped"] == {"not_json": 1, "empty_answer": 1}
    assert data.notes[0].startswith(f"2 bad rows skipped: {path}:22: not JSON in column 2")
    assert f"{path}:21: the answer is empty (turn 2)" in data.notes[0]


def test_near_copies_of_training_prompts_are_counted(tmp_path: Path) -> None:
    long = " ".join(f"word{n}" for n in range(40))
    train = [*rows(10), {"instruction": long, "output": "yes"}]
    path = write(tmp_path / "rows.jsonl", train)
    test = write(
        tmp_path / "test.jsonl", [{"instruction": f"{long} more", "output": "no"}, *rows(2, word="letter")]
    )
    data = prepared(path, test_file=test, validation_size=0, test_size=0)
    assert data.account["prompts_nearly_in_train"] == {"validation": 0, "test": 1}
    assert "1 test prompts are near copies of training prompts" in data.notes
