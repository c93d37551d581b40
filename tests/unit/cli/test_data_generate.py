"""`data generate` as a function: what it writes, says and refuses."""

import json
from pathlib import Path

import pytest
from cyclopts import App

from tunesmith.cli.data_generate import generate
from tunesmith.data.generate.tasks import TASKS
from tunesmith.errors import ConfigError, DataError


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("name", TASKS)
def test_rows_of_a_task_are_written_and_the_same_seed_gives_the_same_bytes(tmp_path: Path, name: str) -> None:
    first, again, other, longer = (tmp_path / f"{n}.jsonl" for n in ("first", "again", "other", "longer"))
    for path, rows, seed in ((first, 20, 3), (again, 20, 3), (other, 20, 4), (longer, 25, 3)):
        generate(name, path, rows=rows, seed=seed)
    assert lines(first) == list(TASKS[name].rows(3, 20))
    assert first.read_bytes() == again.read_bytes() != other.read_bytes()
    assert longer.read_bytes().startswith(first.read_bytes())


def test_what_was_made_is_said_in_text_or_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "rows.jsonl"
    generate("dates", output)
    assert capsys.readouterr().out == f"{output}: 1,000 rows\n"
    generate("dates", tmp_path / "more.json", rows=5, json=True)
    assert json.loads(capsys.readouterr().out) == {
        "source": "dates", "seed": 17, "output": str(tmp_path / "more.json"), "rows": 5, "kinds": {},
        "key": None,
    }  # fmt: skip
    assert len(json.loads((tmp_path / "more.json").read_text(encoding="utf-8"))) == 5


def test_the_list_shows_each_task_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    generate(list_tasks=True)
    text = capsys.readouterr().out
    generate(list_tasks=True, json=True)
    tasks = json.loads(capsys.readouterr().out)["tasks"]
    assert [entry["task"] for entry in tasks] == list(TASKS)
    for entry in tasks:
        assert entry["what"] in text
        assert entry["example"]["prompt"].split("\n")[0] in text


def test_faults_are_planted_with_a_key_beside_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, key = tmp_path / "dirty.jsonl", tmp_path / "dirty.key.jsonl"
    generate("tickets", output, rows=200, dirt=0.02, kinds=["empty_answer", "html"])
    assert len(output.read_bytes().splitlines()) == 200
    entries = lines(key)
    assert {entry["kind"] for entry in entries} >= {"empty_answer", "html"}
    for entry in entries:
        if entry["kind"] == "empty_answer":
            assert not lines(output)[int(str(entry["line"])) - 1]["completion"].strip()
    assert f"{key}: where the faults are" in capsys.readouterr().out


def test_a_data_file_can_be_dirtied(tmp_path: Path) -> None:
    clean = tmp_path / "clean.jsonl"
    generate("style", clean, rows=100)
    generate(str(clean), tmp_path / "dirty.jsonl", dirt=0.01, kinds=["html"])
    before, after = (path.read_bytes().splitlines() for path in (clean, tmp_path / "dirty.jsonl"))
    changed = [n for n, (old, new) in enumerate(zip(before, after, strict=True), start=1) if old != new]
    assert [entry["line"] for entry in lines(tmp_path / "dirty.key.jsonl")] == changed


def test_a_file_is_perturbed_by_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    test, harder = tmp_path / "test.jsonl", tmp_path / "harder.jsonl"
    generate("style", test, rows=30)
    capsys.readouterr()
    generate(str(test), harder, perturb=True, kinds=["typos", "case"], json=True)
    found = json.loads(capsys.readouterr().out)
    made = lines(harder)
    assert set(found["kinds"]) == {"typos", "case"} == {row["perturbation"] for row in made}
    assert found["rows"] == len(made) == sum(found["kinds"].values())
    originals = lines(test)
    for row in made:
        original = originals[int(str(row["original_line"])) - 1]
        assert row["prompt"] != original["prompt"]
        assert row["completion"] == original["completion"]


def test_a_task_is_perturbed_without_a_file(tmp_path: Path) -> None:
    generate("style", tmp_path / "harder.jsonl", rows=10, perturb=True, kinds=["typos"])
    assert 0 < len(lines(tmp_path / "harder.jsonl")) <= 10


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    output = tmp_path / "rows.jsonl"
    with pytest.raises(ConfigError, match="a task and an output are needed"):
        generate("dates")
    with pytest.raises(ConfigError, match="`--dirt` and `--perturb` are both given"):
        generate("dates", output, dirt=0.1, perturb=True)
    with pytest.raises(ConfigError, match="`--kinds html` says nothing about plain rows of `dates`"):
        generate("dates", output, kinds=["html"])
    with pytest.raises(DataError, match="is a data file, and there is nothing to do with it"):
        generate("test.jsonl", output)
    with pytest.raises(DataError, match="faults can be planted in JSON lines alone"):
        generate("dates", tmp_path / "rows.csv", dirt=0.1)
    assert list(tmp_path.iterdir()) == []


def test_rows_that_cannot_be_dirtied_are_named(tmp_path: Path) -> None:
    chat = tmp_path / "chat.jsonl"
    chat.write_text(
        '{"prompt": "a", "completion": "b"}\n{"instruction": "a", "output": "b"}\n', encoding="utf-8"
    )
    with pytest.raises(
        DataError, match=r"chat\.jsonl:2: the row has `instruction`, `output`; faults"
    ) as raised:
        generate(str(chat), tmp_path / "dirty.jsonl", dirt=0.5)
    assert "--to prompt_completion" in raised.value.hint


def test_rows_that_no_kind_changes_are_an_error(tmp_path: Path) -> None:
    plain = tmp_path / "plain.jsonl"
    plain.write_text('{"prompt": "7", "completion": "b"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"no row of `.*` can be changed in these ways"):
        generate(str(plain), tmp_path / "harder.jsonl", perturb=True, kinds=["reordering"])
    assert not (tmp_path / "harder.jsonl").exists()


def test_nothing_is_written_over_and_nothing_half(tmp_path: Path) -> None:
    output, key = tmp_path / "rows.jsonl", tmp_path / "rows.key.jsonl"
    key.write_text("mine", encoding="utf-8")
    with pytest.raises(DataError, match="the output exists already"):
        generate("dates", output, dirt=0.1)
    file = tmp_path / "small.yaml"
    file.write_text(
        'fields: {a: {choices: [1, 2]}}\nprompts: ["{a}"]\ncompletions: ["{a}"]\n', encoding="utf-8"
    )
    with pytest.raises(DataError, match="can make 2 different prompts") as raised:
        generate(str(file), output)
    assert raised.value.hint.startswith("ask for `--rows 2`")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.key.jsonl", "small.yaml"]
    assert key.read_text(encoding="utf-8") == "mine"


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    app = App()
    app.command(generate)
    output = tmp_path / "harder.jsonl"
    words = f"generate dates {output} --rows 9 --perturb --kinds typos case --json".split()
    app(words, exit_on_error=False, result_action="return_value")
    assert set(json.loads(capsys.readouterr().out)["kinds"]) == {"typos", "case"}
    app(["generate", "--list"], exit_on_error=False, result_action="return_value")
    assert capsys.readouterr().out.startswith("tickets ")
