"""Runs killed anywhere end in the bytes they would have reached. `make soak` kills hundreds."""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import count

import pytest

from kill_harness import KILLED, TORN, Job, Nursery
from tiny import painted_rows, tiny_model_folder
from tiny_run import of, timeless
from tunesmith.runs import is_run_folder, open_run
from tunesmith.training.checkpoint import check_checkpoint, checkpoints_in

pytestmark = pytest.mark.xdist_group("kill")
KILLS = int(os.environ.get("TUNESMITH_KILLS", "24"))
KILLS_EACH = -(-KILLS // 6)
# 19 rows to train in windows of 4: in each epoch the fifth and last has 3.
ROWS, TRAIN_ROWS, STEPS_PER_EPOCH = 26, 19, 5
METHODS = {
    "lora": {"learning-rate": 0.03, "early-stopping-patience": 4, "dropout": 0.1, "rank": 4},
    "qlora": {"learning-rate": 0.01, "dropout": 0.1, "rank": 4},
    "full": {"learning-rate": 0.01},
}


@pytest.fixture(scope="module")
def nursery():
    """Starts children, and kills them."""
    found = Nursery()
    yield found
    found.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A tiny model and some rows."""
    folder = tmp_path_factory.mktemp("home")
    tiny_model_folder(folder / "model")
    painted_rows(folder / "rows.jsonl", ROWS)
    return folder


def flags_of(home, method, **changes):
    """A run of at most 15 steps; two micro-batches a step, and a checkpoint after each."""
    flags = {
        "model": str(home / "model"),
        "data": str(home / "rows.jsonl"),
        "method": method,
        "num-train-epochs": 3,
        "per-device-train-batch-size": 2,
        "gradient-accumulation-steps": 2,
        "validation-size": 4,
        "test-size": ROWS - TRAIN_ROWS - 4,
        "eval-steps": 2,
        "save-steps": 1,
        "generate-rows": 2,
        "max-new-tokens": 6,
        "bootstrap-resamples": 100,
        "device": "cpu",
    }
    return flags | METHODS[method] | changes


@pytest.fixture(scope="module")
def undisturbed(nursery, home):
    """How a run of a method ends that nobody disturbs, and its folder; once each."""
    known = {}

    def of_method(method):
        if method not in known:
            run = home / f"{method}-undisturbed"
            ended = nursery.run(Job(flags_of(home, method), str(run)))
            assert ended.code == 0, ended.log
            known[method] = ended, run
        return known[method]

    return of_method


def evidence(run):
    """What equal runs have in common: digests of result, scores, answers and rows; lines without times."""
    folder = open_run(run)
    names = [path for path in folder.result.iterdir() if path.name != "README.md"]
    names += [run / name for name in ("evaluation.json", "samples.jsonl", "template.jinja", "rows.jsonl")]
    sums = {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in names}
    trained = {name: value for name, value in folder.manifest["training"].items() if name != "seconds"}
    return {"files": sums, "trained": trained, "metrics": timeless(folder.metrics)}


def assert_equal(run, other):
    """Same evidence; each step is in the metrics once, and each row in each epoch."""
    found = evidence(run)
    assert found == evidence(other)
    steps = found["trained"]["steps"]
    assert [line["step"] for line in found["metrics"] if "loss" in line] == list(range(1, steps + 1))
    judged = [line["step"] for line in found["metrics"] if "eval_loss" in line]
    assert judged == sorted(set(judged))
    assert_each_row_once(open_run(run).rows, steps=steps)
    assert open_run(run).manifest["status"] == "succeeded"
    assert [path.name for path in (run / "checkpoints").iterdir() if not path.name.startswith("step-")] == []


def assert_each_row_once(lines, *, steps):
    """No row comes twice in an epoch; in a whole one all come."""
    assert [line["step"] for line in lines] == list(range(1, steps + 1))
    every = set()
    for first in range(0, steps, STEPS_PER_EPOCH):
        epoch = lines[first : first + STEPS_PER_EPOCH]
        seen = [place for line in epoch for place in line["rows"]]
        assert len(seen) == len(set(seen))
        if len(epoch) == STEPS_PER_EPOCH:
            assert len(seen) == TRAIN_ROWS
            every |= set(seen)
    assert len(every) == TRAIN_ROWS


def assert_sound(run):
    """What a SIGKILL left: every checkpoint under its name is whole, and nobody says it still runs."""
    for path in checkpoints_in(run / "checkpoints"):
        check_checkpoint(path)
    if is_run_folder(run):
        assert open_run(run).manifest["status"] in ("interrupted", "succeeded")


def newest(run):
    """The newest checkpoint, or None."""
    return next(reversed(checkpoints_in(run / "checkpoints")), None)


def newest_step(run):
    """Its step, 0 without one."""
    return int(newest(run).name.removeprefix("step-")) if newest(run) else 0


def survive(nursery, flags, home, deaths, *, kills, whole):
    """Runs that die and go on until each has come to its end, `kills` deaths in all."""
    died, newest, run = 0, 0, home / next(NAMES)
    while died < kills or is_run_folder(run):
        death = next(deaths) if died < kills else Death()
        job = Job(flags, str(run), resume=is_run_folder(run), die_at=death.at_disk_step)
        ended = nursery.run(job, after_seconds=death.after)
        if ended.code == 0:
            assert_equal(run, whole)
            shutil.rmtree(run)
            newest = 0
            continue
        assert ended.code == KILLED, f"{death}: {ended.log}"
        assert_sound(run)
        assert newest_step(run) >= newest, f"{death} lost a checkpoint"
        died, newest = died + 1, newest_step(run)


@dataclass(frozen=True)
class Death:
    """When a child is killed: never, some seconds after its start, or before a step in the file system."""

    after: float | None = None
    at_disk_step: int | None = None


NAMES = (f"killed-{number}" for number in count())


@pytest.mark.parametrize("method", METHODS)
def test_killed_at_random_moments(nursery, home, undisturbed, method):
    ended, whole = undisturbed(method)
    chance = random.Random(f"moments {method}")  # noqa: S311  nothing secret is drawn
    deaths = (Death(after=chance.uniform(0, ended.seconds)) for _ in count())
    survive(nursery, flags_of(home, method), home, deaths, kills=KILLS_EACH, whole=whole)


@pytest.mark.parametrize("method", METHODS)
def test_killed_inside_the_save_and_the_load(nursery, home, undisturbed, method):
    ended, whole = undisturbed(method)
    chance = random.Random(f"disk {method}")  # noqa: S311  nothing secret is drawn
    a_save = len(ended.disk_steps) // evidence(whole)["trained"]["steps"]
    deaths = (Death(at_disk_step=chance.randint(1, 3 * a_save)) for _ in count())
    survive(nursery, flags_of(home, method), home, deaths, kills=KILLS_EACH, whole=whole)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_killed_while_the_result_is_written(nursery, home, undisturbed, method):
    _, whole = undisturbed(method)
    chance = random.Random(f"result {method}")  # noqa: S311  nothing secret is drawn
    run, flags = home / f"result-{method}", flags_of(home, method)
    steps = nursery.run(Job(flags, str(home / f"watched-{method}"), within="")).disk_steps
    trained = 1 + max(at for at, step in enumerate(steps) if "-> step-" in step)
    assert nursery.run(Job(flags, str(run), within="", die_at=trained + 5)).code == KILLED
    for _ in range(KILLS_EACH):
        at = chance.randint(1, len(steps) - trained)
        ended = nursery.run(Job(flags, str(run), resume=True, within="", die_at=at))
        assert ended.code == KILLED, f"{at}: {ended.log}"
        assert_sound(run)
    assert nursery.run(Job(flags, str(run), resume=True)).code == 0
    assert_equal(run, whole)


def test_killed_as_soon_as_it_is_on_record_it_still_logs_its_rows(nursery, home, undisturbed):
    _, whole = undisturbed("lora")
    run, flags = home / "barely-begun", flags_of(home, "lora")
    steps = nursery.run(Job(flags, str(home / "watched-beginning"), within="")).disk_steps
    on_record = 1 + next(at for at, step in enumerate(steps) if step.endswith("-> manifest.json"))
    assert nursery.run(Job(flags, str(run), within="", die_at=on_record + 1)).code == KILLED
    assert is_run_folder(run)
    assert nursery.run(Job(flags, str(run), resume=True)).code == 0
    assert_equal(run, whole)


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors"])
def test_killed_in_the_middle_of_a_file(nursery, home, undisturbed, name):
    """The second checkpoint is cut off at half a file: the first one stays, and nobody takes the torn one."""
    ended, whole = undisturbed("full")
    run = home / f"torn-{name}"
    sizes = sorted(path.stat().st_size for path in newest(whole).glob("*.safetensors"))
    half = sizes[0] // 2 if name.startswith("weights") else sum(sizes) // 2
    first = 1 + next(at for at, step in enumerate(ended.disk_steps) if step.endswith("-> step-000001"))
    flags = flags_of(home, "full")
    assert nursery.run(Job(flags, str(run), die_at=first + 1)).code == KILLED
    assert nursery.run(Job(flags, str(run), resume=True, most_bytes=half)).code == TORN
    left = {path.name: path.stat().st_size for path in run.glob("checkpoints/.*/*")}
    assert min(left.values()) == 0, "safetensors asks for room first; refused, the file stays empty"
    assert "MANIFEST.json" not in left
    assert_sound(run)
    assert newest_step(run) == 1
    assert nursery.run(Job(flags, str(run), resume=True)).code == 0
    assert_equal(run, whole)


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_once_and_says_how_to_go_on(nursery, home, undisturbed, by):
    rare = {"eval-steps": 15, "save-steps": 15}
    run, whole = home / f"told-{by.name}", home / f"untold-{by.name}"
    flags = flags_of(home, "lora", **rare)
    assert nursery.run(Job(flags, str(whole))).code == 0
    child = nursery.start(Job(flags, str(run)))
    wait_until(lambda: lines_of(run) >= 6)
    os.kill(child, by)
    ended = nursery.end(child)
    assert ended.code == 128 + by, ended.log
    assert f"tunesmith train --resume {run}" in ended.log
    folder = open_run(run)
    assert folder.manifest["status"] == "interrupted"
    assert [path.name for path in checkpoints_in(run / "checkpoints")] == [
        f"step-{of(folder.metrics, 'step')[-1]:06d}"
    ]
    assert 5 <= newest_step(run) < 15
    assert nursery.run(Job(flags, str(run), resume=True)).code == 0
    assert_equal(run, whole)


def test_two_runs_never_share_a_folder(nursery, home, undisturbed):
    _, whole = undisturbed("full")
    run, flags = home / "shared", flags_of(home, "full")
    child = nursery.start(Job(flags, str(run)))
    wait_until(lambda: lines_of(run) >= 4)
    os.kill(child, signal.SIGSTOP)
    try:
        assert open_run(run).manifest["status"] == "running"
        before = tree(run)
        second, new = nursery.run(Job(flags, str(run), resume=True)), nursery.run(Job(flags, str(run)))
        assert (second.code, new.code) == (2, 2)
        assert "RunFolderError" in second.log
        assert str(child) in second.log
        assert os.uname().nodename in second.log
        assert tree(run) == before
    finally:
        os.kill(child, signal.SIGCONT)
    assert nursery.end(child).code == 0
    assert_equal(run, whole)


def test_the_command_killed_goes_on(home, undisturbed, tmp_path):
    _, whole = undisturbed("lora")
    run = tmp_path / "typed"
    flags = flags_of(home, "lora") | {"output-dir": str(run)}
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "tunesmith", "train"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([*command, *words, "--log-rows"], env=ALONE, **quiet) as first:
        try:
            wait_until(lambda: newest_step(run) >= 2 or first.poll() is not None)
        finally:
            first.kill()
    assert first.returncode == KILLED
    assert_sound(run)
    assert newest_step(run) < evidence(whole)["trained"]["steps"]
    again = subprocess.run([*command, "--resume", str(run)], capture_output=True, text=True, env=ALONE)
    assert again.returncode == 0, again.stderr
    assert_equal(run, whole)


ALONE = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def wait_until(is_so, *, most_seconds=60):
    """Look every millisecond."""
    end = time.monotonic() + most_seconds
    while not is_so():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.001)


def lines_of(run):
    """How many lines of metrics there are."""
    path = run / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def tree(run):
    """Every file's bytes."""
    return {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}
