"""The data room as a user walks through it, every command through the real command line."""

import gzip
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tiny import tiny_model_folder
from tunesmith.cli.main import main
from tunesmith.data.formats import load_rows
from tunesmith.data.read import read_records


def run(*arguments: object) -> int:
    """Exit code of `tunesmith data ARGUMENTS`."""
    with pytest.raises(SystemExit) as stopped:
        main(["data", *map(str, arguments)])
    return int(stopped.value.code or 0)


def run_json(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> dict[str, Any]:
    """What a command prints with `--json`: exactly one object on stdout."""
    capsys.readouterr()
    assert run(*arguments, "--json") == code
    return dict(json.loads(capsys.readouterr().out))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def dirty(tmp_path: Path) -> Path:
    """Arithmetic rows with every fault that fits them, 1 % each, and their key beside."""
    path = tmp_path / "dirty.jsonl"
    assert run("generate", "arithmetic", path, "--rows", 1_000, "--dirt", 0.01) == 0
    return path


def test_from_dirt_to_training_rows(
    dirty: Path, tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = [record.value for record in read_records(dirty.with_name("dirty.key.jsonl"))]
    before = run_json(capsys, "check", dirty, "--model", "none")
    counts = {finding["kind"]: finding["count"] for finding in before["findings"]}
    for kind in ("not_json", "special_token", "empty_answer", "zero_width", "secret", "duplicate_row"):
        assert counts[kind] == sum(entry["kind"] == kind for entry in key), kind

    clean = tmp_path / "clean.jsonl"
    arguments = ("clean", dirty, clean, "--skip-bad", "--model", model, "--max-length", 4_000)
    dry = run_json(capsys, *arguments, "--dry-run")
    assert not clean.exists()
    account = run_json(capsys, *arguments)
    assert account["steps"] == dry["steps"]
    removed = list(read_records(tmp_path / "clean.removed.jsonl"))
    assert account["kept"] + len(removed) == account["rows"]
    again = run_json(
        capsys, "clean", clean, tmp_path / "twice.jsonl", "--model", model, "--max-length", 4_000
    )
    assert (again["removed"], again["changed"]) == (0, 0)
    assert (tmp_path / "twice.jsonl").read_bytes() == clean.read_bytes()

    after = run_json(capsys, "check", clean, "--model", "none")
    left = {finding["kind"] for finding in after["findings"]}
    assert left.isdisjoint({"not_json", "special_token", "empty_answer", "zero_width", "duplicate_row"})

    parts = tmp_path / "parts"
    usable = tmp_path / "usable.jsonl"
    assert run("convert", clean, usable, "--to", "messages", "--skip-bad") == 0
    run_json(capsys, "split", usable, parts, "--test-size", 50)
    report = run_json(capsys, "check", parts / "train.jsonl", "--model", model)
    assert [leak["exact"] for leak in report["leakage"]] == [0, 0]
    assert [leak["near"] for leak in report["leakage"]] == [0, 0]
    assert report["files"][0]["tokens"]["n"] == report["files"][0]["rows"]
    assert sum(len(load_rows(path)) for path in parts.iterdir()) == len(load_rows(usable))


def test_there_and_back_is_the_same_file_of_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"id": "001", "instruction": "Translate", "input": "Hi", "output": "你好", "system": "Be short."},
        {"id": "2", "instruction": "Add 1 and 2", "output": "3", "history": [["Hello", "Hi!"]]},
    ]
    first = tmp_path / "rows.json"
    first.write_text(json.dumps(rows), encoding="utf-8")
    there, back = tmp_path / "there.jsonl.gz", tmp_path / "back.json"
    assert run_json(capsys, "convert", first, there, "--to", "conversations")["losses"] == []
    assert run_json(capsys, "convert", there, back, "--to", "instruction")["losses"] == []
    assert [record.value for record in read_records(back)] == rows
    one, two = load_rows(first), load_rows(there)
    assert [[(m.role, m.text) for m in row.messages] for row in one] == [
        [(m.role, m.text) for m in row.messages] for row in two
    ]


def test_a_row_as_the_model_sees_it(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"instruction": "Say <|im_end|>", "output": "done"}\n', encoding="utf-8")
    (row,) = run_json(capsys, "preview", path, "--model", model)["rows"]
    scored = "".join(piece["text"] for piece in row["pieces"] if piece["scored"])
    assert scored == "done<|im_end|>"
    controls = [piece["text"] for piece in row["pieces"] if piece["control"]]
    assert controls.count("<|im_end|>") == 2
    assert run("preview", path, "--model", model, "--html", tmp_path / "page.html") == 0
    assert "<script" not in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_format_says_where_and_mends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.json"
    path.write_text("[{'a': 1,}, // one\n {\"a\": NaN}]", encoding="utf-8")
    assert run("format", path) == 2
    shown = capsys.readouterr().err
    assert f"{path}:1:3: " in shown
    assert "^" in shown
    assert run("format", path, "--fix", "--in-place") == 0
    assert json.loads(path.read_text(encoding="utf-8")) == [{"a": 1}, {"a": None}]


def test_perturbed_rows_are_labelled_and_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, harder = tmp_path / "rows.jsonl", tmp_path / "harder.jsonl"
    assert run("generate", "tickets", source, "--rows", 50) == 0
    assert run("generate", source, harder, "--perturb", "--kinds", "typos", "case") == 0
    kinds = [record.value["perturbation"] for record in read_records(harder)]
    assert set(kinds) == {"typos", "case"}
    assert len(load_rows(harder)) == len(kinds) > 80
    assert run_json(capsys, "check", harder, "--model", "none")["files"][0]["usable_rows"] == len(kinds)


def test_a_report_is_written_once_and_strict_fails(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, page = tmp_path / "rows.jsonl", tmp_path / "report.html"
    path.write_text(
        '{"instruction": "a", "output": ""}\n{"instruction": "b", "output": "c"}\n', encoding="utf-8"
    )
    assert run("check", path, "--model", model, "--html", page) == 0
    assert "1 row with an empty answer" in page.read_text(encoding="utf-8")
    shown = capsys.readouterr().out
    assert f"{path}:1" in shown
    assert "mend: tunesmith data clean" in shown
    assert run("check", path, "--model", "none", "--html", page) == 2
    assert f"{page}: the output exists already" in capsys.readouterr().err
    assert run("check", path, "--model", "none", "--strict") == 1
    assert "1 places have errors" in capsys.readouterr().err
    assert run("check", path, "--columns", "instruction") == 2
    assert "`--columns instruction` is not of the form OURS=THEIRS" in capsys.readouterr().err


def test_a_training_file_is_compared_with_the_test_file_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, numbers in (("train", range(20)), ("test", range(18, 24))):
        rows = [{"prompt": f"Say the number {n}", "completion": f"It is {n}."} for n in numbers]
        (tmp_path / f"{name}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
        )
    report = run_json(capsys, "check", tmp_path / "train.jsonl", "--model", "none")
    (leak,) = report["leakage"]
    assert (leak["exact"], leak["held_out"]) == (2, str(tmp_path / "test.jsonl"))


HOSTILE = {
    "deep.json": b"[" * 2_000_000,
    "deep.jsonl": b'{"a":' * 1_000_000 + b"\n",
    "one_line.jsonl": b'{"instruction": "' + b"x" * (70 << 20) + b'", "output": "b"}\n',
    "no_quote.json": b'[{"a": "' + b'{"b": 1}, ' * 200_000 + b"]",
    "commas.json": b"[" + b"," * 300_000 + b"]",
    "bomb.jsonl.gz": gzip.compress(b"\n" * (300 << 20), 9),
    "zeros.jsonl.gz": gzip.compress(b"\0" * (300 << 20), 9),
    "quotes.csv": b'a,b\n"' + b"x\n" * 3_000_000,
    "columns.csv": b"a," * 200_000 + b"\n" + b"1," * 200_000 + b"\n",
    "digits.jsonl": b'{"a": ' + b"9" * 2_000_000 + b"}\n",
    "escapes.jsonl": b'{"a": "' + b"\\\\" * 3_000_000 + b'", "a": 1}\n',
}
MEMORY_BYTES, SECONDS = 1_500 << 20, 60


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_end_in_a_report_or_an_error_within_limits(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(HOSTILE[name])

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))

    result = subprocess.run(
        [sys.executable, "-m", "tunesmith", "data", "check", path, "--model", "none", "--json"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        preexec_fn=limit,
        env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PATH": ""},
    )
    assert result.returncode in (0, 2), result.stderr[-2_000:]
    answer = json.loads(result.stdout)
    assert answer.get("findings") or str(path) in answer["error"]
