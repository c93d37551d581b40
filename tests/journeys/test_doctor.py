"""A training that goes wrong: from the warning beside the bar to a second run from the corrected file."""

import json
from pathlib import Path

import pytest

from html_page import Page
from tiny import tiny_model_folder
from tiny_run import Told
from tunesmith.cli.doctor import doctor
from tunesmith.pipeline import finetune
from tunesmith.resolve import resolve
from tunesmith.runs import open_run

WORDS = ("red", "green", "blue", "black")


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    """A run of 48 steps over rows that can be learned, but for its learning rate and folder."""
    data = tmp_path_factory.mktemp("data") / "rows.jsonl"
    rows = [
        {"instruction": f"Say {word} number {number}", "output": f"{word} {word}"}
        for number in range(12)
        for word in WORDS
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {
        "data": str(data),
        "model": str(tiny_model_folder(tmp_path_factory.mktemp("model"))),
        "template": "auto",
        "device": "cpu",
        "method": "full",
        "per-device-train-batch-size": 4,
        "gradient-accumulation-steps": 2,
        "max-steps": 48,
        "early-stopping-patience": 0,
        "validation-size": 4,
        "test-size": 4,
        "max-new-tokens": 8,
        "bootstrap-resamples": 100,
        "lr-scheduler-type": "constant",
        "warmup-ratio": 0,
    }


@pytest.fixture(scope="module")
def sick(flags, tmp_path_factory):
    """A run whose learning rate is a hundred times what the method takes, and what was said meanwhile."""
    told, path = Told(), tmp_path_factory.mktemp("runs") / "sick"
    chosen = flags | {"learning-rate": 3.0, "output-dir": str(path)}
    finetune(resolve(None, chosen), progress=told)
    return path, told.lines


def test_what_ails_a_run_is_said_while_it_goes_on_and_stays_on_record(sick):
    path, lines = sick
    manifest = open_run(path).manifest
    assert manifest["status"] == "succeeded"
    assert manifest["findings_trouble"] is None
    ailments = [found["ailment"] for found in manifest["findings"]]
    assert {"loss_unstable", "worse_than_before"} & set(ailments)
    warnings = [line for line in lines if line.startswith("doctor: ")]
    # Once each, and where there is more of it.
    assert len(warnings) == len(set(warnings)) >= len(ailments) + 1
    assert f"tunesmith doctor {path}" in warnings[-1]
    last_validation = max(place for place, line in enumerate(lines) if "validation loss" in line)
    assert lines.index(warnings[0]) < last_validation


def test_the_report_shows_the_findings_and_marks_the_curve(sick):
    path, _ = sick
    page = Page(open_run(path).report.read_text(encoding="utf-8"))
    assert "What the doctor found" in page.text
    assert "Shaded and numbered" in page.text
    for found in open_run(path).manifest["findings"]:
        assert found["title"][1:] in page.text
        assert found["remedy"] in page.text


def test_the_command_finds_what_is_on_record_and_its_file_trains_better(sick, tmp_path: Path, capsys):
    path, _ = sick
    file = tmp_path / "fixed.yaml"
    doctor(path, fix=file, json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["findings"] == open_run(path).manifest["findings"]
    fixed = resolve(file, {"output-dir": str(tmp_path / "cured")})
    assert fixed.config.training.learning_rate < 3.0
    finetune(fixed)
    before, after = (open_run(each).manifest["training"]["best_loss"] for each in (path, tmp_path / "cured"))
    assert after < before


def test_a_healthy_run_is_told_nothing(flags, tmp_path: Path):
    told, path = Told(), tmp_path / "well"
    finetune(resolve(None, flags | {"learning-rate": 1.5e-4, "output-dir": str(path)}), progress=told)
    assert [line for line in told.lines if line.startswith("doctor: ")] == []
    assert open_run(path).manifest["findings"] == []
    assert "none of the ailments it knows" in Page(open_run(path).report.read_text(encoding="utf-8")).text
