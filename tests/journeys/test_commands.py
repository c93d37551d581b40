"""Every command as a user types it, on a tiny random model; the real one is in `test_readme_tour.py`."""

import json
from pathlib import Path
from typing import Any

import pytest

from tiny import tiny_model_folder
from tunesmith.cli.main import main
from tunesmith.training.loop import Loop


def run(*arguments: str) -> int:
    """Exit code of `tunesmith ARGUMENTS`."""
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    return int(stopped.value.code or 0)


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """What a command prints with `--json`: exactly one object on stdout."""
    capsys.readouterr()
    assert run(*arguments, "--json") == 0
    return dict(json.loads(capsys.readouterr().out))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model, 40 rows, and one finished run in `runs/one`."""
    folder = tmp_path_factory.mktemp("home")
    tiny_model_folder(folder / "model")
    rows = [{"instruction": f"Say the number {n}", "output": f"It is {n}."} for n in range(40)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert run("train", *options(folder), "--output-dir", str(folder / "runs" / "one")) == 0
    return folder


def options(folder: Path) -> list[str]:
    """Flags of a short run."""
    flags = {
        "model": folder / "model",
        "data": folder / "rows.jsonl",
        "max-steps": 6,
        "learning-rate": 1e-2,
        "generate-rows": 3,
        "max-new-tokens": 8,
        "bootstrap-resamples": 100,
    }
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


def test_dry_run_shows_every_value_with_its_origin(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = run_json(capsys, "train", *options(home), "--dry-run")
    assert shown["training.max_steps"] == {"value": 6, "origin": "--max-steps"}
    assert shown["method.rank"] == {"value": 16, "origin": "default"}
    assert run("train", *options(home), "--dry-run") == 0
    assert "max_steps: 6  # --max-steps" in capsys.readouterr().out


def test_train_leaves_a_whole_run_folder(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = home / "runs" / "two"
    told = run_json(capsys, "train", *options(home), "--output-dir", str(path))
    assert told["run"] == str(path)
    assert {file.name for file in path.iterdir()} == {
        "config.yaml",
        "manifest.json",
        "template.jinja",
        "metrics.jsonl",
        "checkpoints",
        "adapter",
        "samples.jsonl",
        "evaluation.json",
        "elsewhere.json",
        "report.html",
    }
    assert json.loads((path / "manifest.json").read_text())["status"] == "succeeded"
    names = [score["metric"] for score in told["evaluation"]["base"]]
    assert names[:2] == ["loss", "perplexity"]
    assert all(score["low"] <= score["value"] <= score["high"] for score in told["evaluation"]["tuned"])


def test_a_runs_config_repeats_it_to_the_bit(
    home: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    again = run_json(capsys, "train", str(home / "runs" / "one" / "config.yaml"))
    weights = "adapter_model.safetensors"
    assert (Path(again["adapter"]) / weights).read_bytes() == (
        home / "runs" / "one" / "adapter" / weights
    ).read_bytes()


def test_an_interrupted_run_says_so_and_resumes_to_the_same_bits(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = home / "runs" / "stopped"
    step = Loop._step

    def interrupted(loop: Loop, window: Any) -> None:
        if loop.state.step == 4:
            raise KeyboardInterrupt
        step(loop, window)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_step", interrupted)
        assert run("train", *options(home), "--output-dir", str(path)) == 130
    assert f"--resume {path}" in capsys.readouterr().err
    assert json.loads((path / "manifest.json").read_text())["status"] == "interrupted"
    run_json(capsys, "train", "--resume", str(path))
    assert json.loads((path / "manifest.json").read_text())["status"] == "succeeded"
    for name in ("adapter/adapter_model.safetensors", "evaluation.json"):
        assert (path / name).read_bytes() == (home / "runs" / "one" / name).read_bytes()
    steps = [json.loads(line)["step"] for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)


def test_evaluate_a_run_and_a_model(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--data", str(home / "rows.jsonl"), "--generate-rows", "2", "--max-new-tokens", "4"]
    both = run_json(capsys, "evaluate", str(home / "runs" / "one"), *few)["evaluation"]
    alone = run_json(capsys, "evaluate", str(home / "model"), *few)["evaluation"]
    assert alone["tuned"] == []
    assert both["base"][0]["value"] == pytest.approx(alone["base"][0]["value"], rel=1e-6)
    assert both["tuned"][0]["value"] < both["base"][0]["value"]
    assert run("evaluate", str(home / "model"), *few) == 0
    assert "Loss" in capsys.readouterr().out


def test_evaluate_says_on_request_whether_the_model_is_worse_elsewhere(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--data", str(home / "rows.jsonl"), "--generate-rows", "1", "--max-new-tokens", "2", "--elsewhere"]
    found = run_json(capsys, "evaluate", str(home / "runs" / "one"), *few)["elsewhere"]
    of_the_run = json.loads((home / "runs" / "one" / "elsewhere.json").read_text(encoding="utf-8"))
    general, general_then = found["places"][0], of_the_run["places"][0]
    assert general["comparison"]["n"] == general_then["comparison"]["n"] > 30
    assert general["tuned"]["value"] == pytest.approx(general_then["tuned"]["value"], rel=1e-6)
    assert run("evaluate", str(home / "runs" / "one"), *few) == 0
    assert found["verdict"] in capsys.readouterr().out
    assert run("evaluate", str(home / "model"), *few) == 2
    told = capsys.readouterr().err
    assert "was not tuned, so there is no base that it could be worse than" in told
    assert "leave `--elsewhere` out" in told


def test_generate_from_flag_file_and_stdin(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = str(home / "runs" / "one")
    (home / "prompts.txt").write_text("Say the number 3\n\nSay the number 4\n", encoding="utf-8")
    two = run_json(capsys, "generate", target, "--file", str(home / "prompts.txt"), "--max-new-tokens", "5")
    assert [pair["prompt"] for pair in two["answers"]] == ["Say the number 3", "Say the number 4"]
    with (home / "prompts.txt").open(encoding="utf-8") as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert run_json(capsys, "generate", target, "--max-new-tokens", "5")["answers"] == two["answers"]
    one = run_json(capsys, "generate", target, "--prompt", "Say the number 4", "--max-new-tokens", "5")
    assert one["answers"] == two["answers"][1:]


def test_sampling_follows_the_seed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask = ["generate", str(home / "model"), "--prompt", "Hi", "--temperature", "1", "--top-p", "0.9"]
    first, same, other = (run_json(capsys, *ask, "--seed", seed)["answers"] for seed in ("1", "1", "2"))
    assert first == same
    assert first != other


def test_chat_streams_and_keeps_the_conversation(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "lines.txt").write_text(
        "Say the number 3\n/reset\nSay the number 3\n/exit\n", encoding="utf-8"
    )
    with (tmp_path / "lines.txt").open(encoding="utf-8") as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert run("chat", str(home / "runs" / "one"), "--max-new-tokens", "5") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second


def test_merge_writes_a_folder_that_answers_like_the_adapter(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_path = home / "runs" / "one"
    merged = run_json(capsys, "merge", str(run_path))
    assert merged["max_logit_difference"] <= merged["tolerance"]
    ask = ["--prompt", "Say the number 7", "--max-new-tokens", "8"]
    unmerged = run_json(capsys, "generate", str(run_path), *ask)["answers"]
    assert run_json(capsys, "generate", merged["path"], *ask)["answers"] == unmerged
    assert run("merge", str(run_path)) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_run_whose_data_changed_is_not_resumed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = home / "rows.jsonl"
    before = rows.read_text(encoding="utf-8")
    rows.write_text(before.replace("number 1", "number 01", 1), encoding="utf-8")
    assert run("train", "--resume", str(home / "runs" / "one")) == 2
    assert "rows.jsonl" in capsys.readouterr().err
    rows.write_text(before, encoding="utf-8")
    assert json.loads((home / "runs" / "one" / "manifest.json").read_text())["status"] == "succeeded"


def test_evaluate_skips_bad_rows_on_request(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"instruction": "Say 1", "output": "It is 1."}\n{broken\n', encoding="utf-8")
    arguments = ("evaluate", str(home / "runs" / "one"), "--data", str(rows), "--bootstrap-resamples", "100")
    assert run(*arguments) == 2
    assert f"{rows}:2: not JSON" in capsys.readouterr().err
    assert run(*arguments, "--bad-rows", "skip") == 0
    assert f"1 bad rows skipped: {rows}:2: not JSON" in capsys.readouterr().err
