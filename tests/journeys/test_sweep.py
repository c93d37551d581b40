"""Sweeps with real runs on a tiny model: whole, killed, stopped, given again, and with a trial that lags."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from tiny import painted_rows, tiny_model_folder
from tunesmith.approaches import sweep_study
from tunesmith.approaches.sweep import sweep
from tunesmith.errors import ConfigError, RunFailed, RunFolderError
from tunesmith.resolve import resolve
from tunesmith.run_lock import LOCK_FILE
from tunesmith.runs import is_run_folder, open_run

OVER = ["training.learning_rate=1e-3:2e-2:log", "method.rank=2,4"]


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    """Flags of a run of 8 steps on 32 rows with 4 validations."""
    folder = tmp_path_factory.mktemp("shared")
    data = painted_rows(folder / "rows.jsonl", 40)
    return {
        "model": str(tiny_model_folder(folder / "model")),
        "data": str(data),
        "device": "cpu",
        "gradient-accumulation-steps": "1",
        "learning-rate": "5e-3",
        "rank": "4",
        "alpha": "8",
        "max-steps": "8",
        "eval-steps": "2",
        "bootstrap-resamples": "100",
    }


STARTED = []


@pytest.fixture(autouse=True)
def nothing_left():
    yield
    for process in STARTED:
        # SIGTERM, so that its runs end too.
        process.terminate()
        process.communicate()
    STARTED.clear()


def begun(folder, flags, *more, over=OVER, trials=3):
    """The command in a process of its own."""
    words = [word for name, value in flags.items() for word in (f"--{name}", value)]
    words += [word for each in over for word in ("--over", each)]
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tunesmith",
            "sweep",
            *words,
            "--trials",
            str(trials),
            "--output-dir",
            str(folder),
            *more,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    STARTED.append(process)
    return process


def table(folder):
    """What two runs of the same sweep must agree on."""
    told = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    names = ("number", "values", "state", "loss", "step", "validations")
    return [{name: trial[name] for name in names} for trial in told["trials"]]


def wait_until(condition, *, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def undisturbed(flags, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "sweep"
    process = begun(folder, flags, "--json")
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return folder, json.loads(out), err


def test_a_whole_sweep_leaves_trials_table_page_and_the_best_configuration(undisturbed, flags):
    folder, told, err = undisturbed
    trials = told["trials"]
    assert sorted(trial["number"] for trial in trials) == [0, 1, 2]
    losses = [trial["loss"] for trial in trials]
    assert losses == sorted(losses)
    given = next(trial for trial in trials if trial["number"] == 0)
    assert given["values"] == {"training.learning_rate": 5e-3, "method.rank": 4}
    for trial in trials:
        run = open_run(folder / f"trial-{trial['number']:03d}")
        assert run.manifest["training"]["best_loss"] == trial["loss"]
        assert run.manifest["training"]["best_step"] == trial["step"]
        config = resolve(run.config).config
        assert config.method.rank == trial["values"]["method.rank"]
        assert config.training.learning_rate == trial["values"]["training.learning_rate"]
        assert config.evaluation.generate_rows == 0
        assert not (run.path / "elsewhere.json").exists()
    assert "trial 0: learning_rate 0.005, rank 4 (as given)" in err
    page = (folder / "sweep.html").read_text(encoding="utf-8")
    assert "<script" not in page and page.count("<figure") == 3
    best = resolve(folder / "best.yaml")
    assert best.config.training.learning_rate == trials[0]["values"]["training.learning_rate"]
    assert best.config.evaluation.generate_rows == 32
    assert best.config.evaluation.elsewhere == "measure"
    assert best.origins["model.name"] == str(folder / "best.yaml")


@pytest.mark.parametrize("is_run_killed_too", [False, True])
def test_a_sweep_killed_in_the_middle_of_a_trial_ends_as_an_undisturbed_one(
    undisturbed, flags, tmp_path, is_run_killed_too
):
    folder = tmp_path / "sweep"
    process = begun(folder, flags)
    lock = folder / "trial-001" / LOCK_FILE
    wait_until(lambda: is_run_folder(lock.parent))
    process.kill()
    process.communicate()
    assert not (folder / "sweep.json").exists()
    if is_run_killed_too:
        with suppress(OSError):  # it may have finished just now
            os.kill(json.loads(lock.read_bytes())["process"], signal.SIGKILL)
    # Else its run is still at work, and the next sweep waits for it.
    process = begun(folder, flags)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert table(folder) == table(undisturbed[0])
    assert (folder / "best.yaml").read_text() == (undisturbed[0] / "best.yaml").read_text()
    assert "validation loss" in out and "tunesmith train" in out


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_the_trial_and_the_same_command_goes_on(flags, tmp_path, number, code, undisturbed):
    folder = tmp_path / "sweep"
    process = begun(folder, flags, trials=1)
    wait_until(lambda: is_run_folder(folder / "trial-000"))
    process.send_signal(number)
    _, err = process.communicate(timeout=600)
    assert process.returncode == code, err
    assert f"repeat the command with `--output-dir {folder}` to go on" in err
    assert open_run(folder / "trial-000").manifest["status"] in ("interrupted", "succeeded")
    found = sweep(resolve(None, flags), OVER, folder=folder, trials=1)
    assert [trial.loss for trial in found.trials] == [
        trial["loss"] for trial in table(undisturbed[0]) if trial["number"] == 0
    ]


def test_finished_trials_are_kept_and_another_search_is_refused_by_name(undisturbed, flags):
    folder, _, _ = undisturbed
    before = table(folder)
    times = {path: path.stat().st_mtime_ns for path in folder.glob("trial-*/manifest.json")}
    sweep(resolve(None, flags), OVER, folder=folder, trials=3)
    assert table(folder) == before
    assert {path: path.stat().st_mtime_ns for path in folder.glob("trial-*/manifest.json")} == times
    with pytest.raises(RunFolderError, match=r"--over method.rank: 2,4 before, now 2,8") as refused:
        sweep(resolve(None, flags), [OVER[0], "method.rank=2,8"], folder=folder)
    assert "learning_rate" not in str(refused.value)
    with pytest.raises(RunFolderError, match=r"training.max_steps: 8 before, now 9"):
        sweep(resolve(None, flags | {"max-steps": "9"}), OVER, folder=folder)
    with pytest.raises(RunFolderError, match=r"--over method.rank: 2,4 before, now not varied"):
        sweep(resolve(None, flags), OVER[:1], folder=folder)


def test_a_trial_that_lags_is_stopped_and_its_run_says_so(flags, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep_study, "FULL_TRIALS", 1)
    long = flags | {
        "max-steps": "600",
        "eval-steps": "5",
        "early-stopping-patience": "0",
        "learning-rate": "1e-2",
    }
    found = sweep(resolve(None, long), ["training.learning_rate=1e-7,1e-2"], folder=tmp_path / "sweep")
    assert [(trial.number, trial.state) for trial in found.trials] == [(0, "finished"), (1, "pruned")]
    lagging = found.trials[1]
    assert "above the median of the finished trials there" in lagging.why
    assert len(lagging.validations) == 2 and lagging.step in (5, 10)
    run = open_run(tmp_path / "sweep" / "trial-001")
    assert run.manifest["status"] == "interrupted"
    assert run.manifest["why"] == lagging.why
    assert 10 <= run.metrics[-1]["step"] < 600


def test_a_trial_that_fails_is_a_line_of_the_table_and_the_others_go_on(flags, tmp_path):
    rate = "training.learning_rate=5e-3,1e30"
    found = sweep(resolve(None, flags), [rate], folder=tmp_path / "sweep")
    assert [trial.state for trial in found.trials] == ["finished", "failed"]
    assert "is nan" in found.trials[1].why or "is inf" in found.trials[1].why
    with pytest.raises(RunFailed, match=r"none of 1 trials finished; the first one: .*step"):
        hot = flags | {"learning-rate": "1e30"}
        sweep(resolve(None, hot), [rate], folder=tmp_path / "hot", trials=1)


def test_data_that_cannot_be_used_end_the_sweep_with_the_words_of_train(flags, tmp_path):
    missing = resolve(None, flags | {"data": str(tmp_path / "none.jsonl")})
    with pytest.raises(ConfigError, match=r"trial 0: .*none.jsonl"):
        sweep(missing, OVER, folder=tmp_path / "sweep")


def test_two_at_a_time_try_as_many_and_never_the_same(flags, tmp_path):
    found = sweep(resolve(None, flags), OVER, folder=tmp_path / "sweep", trials=4, jobs=2)
    assert [trial.state for trial in found.trials].count("finished") == 4
    assert len({str(trial.values) for trial in found.trials}) == 4
