"""`tunesmith doctor` as typed: text, plot, page, JSON, and the file of the corrected configuration."""

import json
import math
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from cyclopts import App

from html_page import Page
from tunesmith.cli.doctor import doctor
from tunesmith.cli.loss_plot import HEIGHT, loss_plot
from tunesmith.doctor import diagnose as diagnosing
from tunesmith.doctor import rules as all_rules
from tunesmith.doctor.finding import Change, Evidence, Finding
from tunesmith.doctor.signs import Curve, Signs
from tunesmith.errors import DataError
from tunesmith.evaluation.findings import Mark
from tunesmith.resolve import resolve
from tunesmith.run_lock import locked
from tunesmith.runs import create_run, open_run

PAYLOAD = "<script>alert(1)</script>"


def examine(signs):
    """A toy ailment: the loss ends above where it was lowest."""
    if len(signs.loss) == 0 or signs.loss.values[-1] <= signs.loss.values.min():
        return None
    return Finding(
        ailment="rising",
        title="loss rises",
        cause=f"the rate is too high {PAYLOAD}",
        evidence=(
            Evidence("loss rises from 1 to 3 in steps 2 to 3", "loss", 2.0, 3.0),
            Evidence("nothing else is odd"),
            Evidence("the rate stays at its peak at step 3", "learning_rate", 3.0, 3.0),
        ),
        remedy="Lower the learning rate.",
        confidence=0.7,
        changes=(
            Change("training.learning_rate", 5e-5, "a quarter of it"),
            Change("training.speed", 1, "faster"),
        ),
        commands=("tunesmith data check {data}",),
    )


@pytest.fixture(autouse=True)
def one_rule(monkeypatch):
    toy = {"rising": SimpleNamespace(TITLE="loss rises", IS_LIVE=True, examine=examine)}
    monkeypatch.setattr(diagnosing, "RULES", toy)
    monkeypatch.setattr(all_rules, "RULES", toy)


@pytest.fixture
def run(capsys):
    """Stdout of the command with these arguments."""

    def call(*arguments):
        app = App()
        app.command(doctor)
        words = ["doctor", *map(str, arguments)]
        app(words, exit_on_error=False, print_error=False, result_action="return_value")
        return capsys.readouterr().out

    return call


@pytest.fixture
def sick(tmp_path):
    """A run folder of ours whose loss rises."""
    folder = create_run(tmp_path / "sick run")
    folder.write_text("config.yaml", resolve(None, {"data": "my rows.jsonl"}).as_yaml())
    folder.update_manifest(status="succeeded", data={})
    for step, loss in enumerate((2.0, 1.0, 3.0), start=1):
        folder.add_metrics(step=step, epoch=step / 3, loss=loss, learning_rate=2e-4)
    folder.add_metrics(step=3, epoch=1.0, eval_loss=2.5)
    return folder.path


@pytest.fixture
def log(tmp_path):
    file = tmp_path / "log.csv"
    file.write_text("step,loss,lr\n1,2,1e-3\n2,1,1e-3\n3,3,1e-3\n")
    return file


def test_a_finding_reads_top_down(run, sick):
    text = run(sick)
    assert text.startswith("1 finding in 1 checks: loss rises (likely).\n")
    assert "1. Loss rises (likely)\n" in text
    assert (
        "   - [1] Loss rises from 1 to 3 in steps 2 to 3.\n   - Nothing else is odd.\n   - [2] The rate"
        in text
    )
    assert "   training.learning_rate: 0.0002 -> 5e-05\n" in text
    assert "   run: tunesmith data check 'my rows.jsonl'\n" in text
    assert "⠒ training   o validation" in text


def test_a_healthy_log_has_nothing(run, tmp_path):
    file = tmp_path / "log.csv"
    file.write_text("3\n2\n1\n")
    assert run(file).startswith("Nothing found in 1 checks.\n")
    found = json.loads(run(file, "--json"))
    assert (found["findings"], found["fix"], found["kind"]) == ([], None, "csv")


def test_the_corrected_configuration_is_written_with_its_difference_and_what_to_run(run, sick, tmp_path):
    file = tmp_path / "fixed.yaml"
    text = run(sick, "--fix", file)
    assert "+  learning_rate: 5.0e-05  # doctor: rising" in text
    assert "left out: training.speed = 1: no such option" in text
    assert text.endswith(f"next:\n  tunesmith data check 'my rows.jsonl'\n  tunesmith train {file}\n")
    fixed = resolve(file).config
    assert fixed == resolve(sick / "config.yaml", {"learning-rate": 5e-5}).config


def test_of_a_foreign_log_only_the_changes_are_written(run, log, tmp_path):
    file = tmp_path / "fixed.yaml"
    text = run(log, "--fix", file)
    assert "training.learning_rate: 0.001 -> 5e-05  # rising" in text
    assert f"add the model and the data to {file}, then: tunesmith train {file}" in text
    assert yaml.safe_load(file.read_text()) == {"training": {"learning_rate": 5e-5}}
    assert "add `data:` with `path:`" in file.read_text()


def test_without_a_change_nothing_is_written(run, tmp_path):
    (tmp_path / "log.csv").write_text("3\n2\n1\n")
    file = tmp_path / "fixed.yaml"
    assert f"No setting to change, so {file} was not written." in run(tmp_path / "log.csv", "--fix", file)
    assert not file.exists()


@pytest.mark.parametrize("flag", ["--fix", "--html"])
def test_no_file_is_written_over(run, sick, tmp_path, flag):
    taken = tmp_path / "taken"
    taken.write_text("mine")
    with pytest.raises(DataError, match="the output exists already"):
        run(sick, flag, taken)
    assert taken.read_text() == "mine"


def test_json_holds_findings_and_fix(run, sick, tmp_path):
    file = tmp_path / "fixed.yaml"
    found = json.loads(run(sick, "--fix", file, "--json"))
    assert (found["source"], found["kind"], found["status"], found["checks"]) == (
        str(sick),
        "run",
        "succeeded",
        1,
    )
    (finding,) = found["findings"]
    assert finding["commands"] == ["tunesmith data check 'my rows.jsonl'"]
    assert finding["evidence"][0]["first_step"] == 2.0
    assert found["fix"] == {
        "file": str(file),
        "changes": [{"key": "training.learning_rate", "old": 2e-4, "new": 5e-5, "ailment": "rising"}],
        "left_out": [{"key": "training.speed", "value": 1, "why": "no such option"}],
    }
    assert json.loads(run(sick, "--json"))["fix"]["file"] is None


def test_the_page_shows_marks_and_findings_and_runs_nothing(run, sick, tmp_path):
    file = tmp_path / "page.html"
    assert f"page: {file}" in run(sick, "--html", file)
    html = file.read_text(encoding="utf-8")
    page = Page(html)
    assert "script" not in page.tags
    assert PAYLOAD in page.text
    assert "Shaded and numbered" in page.text
    assert "0.0002 → 5e-05" in page.text
    assert "+  learning_rate: 5.0e-05" in page.text
    sources = [value for _, name, value in page.attributes if name in ("src", "srcset", "href")]
    assert len(sources) == 4  # loss and learning rate, light and dark
    assert all(source.startswith("data:image/svg+xml;base64,") for source in sources)


def test_a_run_that_goes_on_says_so(run, sick):
    open_run(sick).update_manifest(status="running")
    with locked(sick):
        assert json.loads(run(sick, "--json"))["status"] == "running"


def signs(loss, *, validation=(), steps=None):
    steps = np.arange(1.0, len(loss) + 1) if steps is None else np.array(steps, dtype=float)
    curves = {"loss": Curve(steps, np.array(loss, dtype=float))}
    if validation:
        at, values = zip(*validation, strict=True)
        curves["eval_loss"] = Curve(np.array(at, dtype=float), np.array(values, dtype=float))
    return Signs("x", "csv", curves)


def test_the_plot_falls_where_the_loss_falls():
    lines = loss_plot(signs([3, 2, 1]), [], width=80)
    first, last = lines[0].split("│")[1], lines[HEIGHT - 1].split("│")[1]
    assert first.strip() == first.rstrip() == first[: len(first.rstrip())]
    assert len(last) == 71
    assert len(first.rstrip()) < 10
    assert lines[0].startswith("      3 │")
    assert lines[HEIGHT - 1].startswith("      1 │")
    assert all(len(line) <= 80 for line in lines)


def test_marks_stand_below_their_steps():
    lines = loss_plot(signs([1.0] * 101), [Mark(1, "loss", 1, 1), Mark(2, "loss", 51, 101)], width=109)
    first, second = (line for line in lines if "▔" in line)
    assert first.split("  ", 2)[-1].count("▔") == 1
    assert first.index("▔") == 9
    assert second.index("▔") == 9 + 45
    assert len(second) == 9 + 91


@pytest.mark.parametrize(
    ("loss", "said"),
    [([2.0, math.nan, 1.0], "x not finite"), ([1.0], "⠒ training"), ([1.0, 1.0], "⠒ training")],
)
def test_odd_curves_are_drawn(loss, said):
    lines = loss_plot(signs(loss), [], width=20)
    assert said in lines[-1]
    assert ("x" in "".join(lines[:HEIGHT])) == (not np.isfinite(loss).all())


def test_nothing_finite_has_no_plot():
    assert loss_plot(signs([math.nan]), [], width=80) == []
    assert loss_plot(signs([]), [], width=80) == []


def test_the_command_needs_no_torch(log):
    start = "import sys, pathlib, tunesmith.cli.doctor as it; it.doctor(pathlib.Path(sys.argv[1]))"
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", start, str(log)],
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "tunesmith.doctor.diagnose" in imported
    assert imported & {"torch", "transformers", "peft", "accelerate", "matplotlib"} == set()
