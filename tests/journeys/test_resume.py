"""Runs that stop and go on, as a user types it: signals, damaged checkpoints, and what may not change."""

import json
import os
import re
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
import torch

from tiny import tiny_model_folder
from tiny_run import timeless
from tunesmith.cli.main import main
from tunesmith.errors import Interrupted, RunFolderError
from tunesmith.pipeline import finetune
from tunesmith.progress import Silent
from tunesmith.resolve import resolve
from tunesmith.run_lock import LOCK_FILE
from tunesmith.runs import NO_WORD, open_run

STEPS = 12


def run(*words):
    """Exit code of `tunesmith WORDS`."""
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    return int(stopped.value.code or 0)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a tiny model and 40 rows."""
    folder = tmp_path_factory.mktemp("home")
    tiny_model_folder(folder / "model")
    rows = [{"instruction": f"Say the number {at}", "output": f"It is {at}."} for at in range(40)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def flags(home, folder, **others):
    chosen = {
        "model": home / "model",
        "data": home / "rows.jsonl",
        "output-dir": folder,
        "device": "cpu",
        "dropout": 0.1,
        "max-steps": STEPS,
        "eval-steps": 4,
        "gradient-accumulation-steps": 2,
        "learning-rate": 1e-2,
        "generate-rows": 3,
        "max-new-tokens": 8,
        "bootstrap-resamples": 100,
    } | {name.replace("_", "-"): value for name, value in others.items()}
    return [str(word) for name, value in chosen.items() for word in (f"--{name}", value)]


@pytest.fixture(scope="module")
def whole(home):
    """A run that nothing stopped."""
    torch.set_num_threads(1)
    folder = home / "runs" / "whole"
    assert run("train", *flags(home, folder), "--log-rows") == 0
    return folder


class Wire(Silent):
    """A progress that sends this process a signal at a step, or when a line is said or a bar begins."""

    def __init__(self, number, *, step=None, word=None):
        self.number, self.left, self.word, self.told = number, step, word, []

    def say(self, text):
        self.told.append(text)
        self._heed(text)

    def begin(self, label, total):
        self._heed(label)

    def advance(self, amount=1, figures=""):
        if self.left and figures.startswith("loss"):
            self.left -= 1
            if not self.left:
                send(self.number)

    def _heed(self, text):
        if self.word and self.word in text:
            self.word = None
            send(self.number)


def send(number):
    """The signal, handled when this returns or raises."""
    os.kill(os.getpid(), number)
    for _ in range(1000):
        pass


def stop(home, folder, wire, **others):
    """The error that ends a run in `folder` when the wire is touched."""
    words = flags(home, folder, **others)
    given = {name.removeprefix("--"): value for name, value in zip(words[::2], words[1::2], strict=True)}
    with pytest.raises(Interrupted) as caught:
        finetune(resolve(None, given), progress=wire, log_rows=True)
    return caught.value


@pytest.fixture(scope="module")
def stopped_once(home):
    """A run that SIGTERM stopped at its fifth step."""
    torch.set_num_threads(1)  # as in each test: this fixture comes before what a test sets up
    folder = home / "runs" / "stopped"
    error = stop(home, folder, Wire(signal.SIGTERM, step=5))
    assert str(error) == f"run `{folder}` was interrupted after step 5, which is saved"
    return folder


@pytest.fixture
def stopped(stopped_once, tmp_path):
    """A copy of it to go on with."""
    return Path(shutil.copytree(stopped_once, tmp_path / "run"))


def wait_for_step(folder, step):
    """Until a line of that step is there."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        file = folder / "metrics.jsonl"
        if file.exists() and f'"step": {step},' in file.read_text():
            return
        time.sleep(0.005)
    raise AssertionError(f"step {step} was never reached")


def lines(folder, name="metrics.jsonl"):
    return timeless(json.loads(line) for line in (folder / name).read_text().splitlines())


def everything(folder):
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def assert_same(folder, whole):
    assert lines(folder) == lines(whole)
    for name in ("adapter/adapter_model.safetensors", "evaluation.json", "samples.jsonl"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    assert open_run(folder).manifest["status"] == "succeeded"
    assert {file.name for file in folder.iterdir()} == {file.name for file in whole.iterdir()}


@pytest.mark.parametrize(
    ("number", "code", "why"),
    [
        (signal.SIGINT, 130, "interrupted by the user"),
        (signal.SIGTERM, 143, "interrupted by SIGTERM"),
    ],
)
def test_signal_saves_the_step_and_the_run_ends_in_the_same_bytes(home, whole, tmp_path, number, code, why):
    folder = tmp_path / "run"
    error = stop(home, folder, Wire(number, step=3))
    assert error.exit_code == code
    assert str(error) == f"run `{folder}` was interrupted after step 3, which is saved"
    assert error.hint == f"go on with `tunesmith train --resume {folder}`"
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-000003"]
    assert (open_run(folder).manifest["status"], open_run(folder).manifest["why"]) == ("interrupted", why)
    assert not (folder / LOCK_FILE).exists()
    assert run("train", "--resume", folder) == 0
    assert_same(folder, whole)
    assert lines(folder, "rows.jsonl") == lines(whole, "rows.jsonl")


def test_each_row_is_logged_once_an_epoch(home, whole):
    seen = lines(whole, "rows.jsonl")
    assert [line["step"] for line in seen] == list(range(1, STEPS + 1))
    for epoch in (seen[:4], seen[4:8], seen[8:]):
        rows = [row for line in epoch for row in line["rows"]]
        assert len(set(rows)) == len(rows) == 32
        assert all(row.startswith(f"{(home / 'rows.jsonl').resolve()}:") for row in rows)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_command_ends_with_the_code_of_its_signal_and_nobody_else_gets_in(
    home, tmp_path, capfd, number, code
):
    folder, found = tmp_path / "run", []

    def look_in():
        """What a second user meets while the run goes on; then it is stopped."""
        wait_for_step(folder, 2)
        found.append(open_run(folder).manifest["status"])
        for resume in (folder, None):
            try:
                finetune(resolve(folder / "config.yaml", {"output-dir": str(folder)}), resume=resume)
            except RunFolderError as error:
                found.append(str(error))
        os.kill(os.getpid(), number)

    before = signal.signal(number, lambda *_: None)
    try:
        watcher = threading.Thread(target=look_in)
        watcher.start()
        assert run("train", *flags(home, folder, max_steps=100_000, eval_steps=100_000)) == code
        watcher.join()
    finally:
        signal.signal(number, before)
    status, *refusals = found
    assert status == "running"
    assert len(refusals) == 2
    assert all(f"is in use by process {os.getpid()} on" in text for text in refusals)
    said = capfd.readouterr().err
    step = lines(folder)[-1]["step"]
    assert "stopping after this step, with its state saved" in said
    assert f"was interrupted after step {step}, which is saved" in said
    assert f"tunesmith train --resume {folder}" in said


def test_run_whose_process_is_gone_reads_as_interrupted(stopped):
    manifest = json.loads((stopped / "manifest.json").read_text())
    (stopped / "manifest.json").write_text(json.dumps(manifest | {"status": "running"}))
    assert (open_run(stopped).manifest["status"], open_run(stopped).manifest["why"]) == (
        "interrupted",
        NO_WORD,
    )


def test_run_stopped_in_its_evaluation_does_not_train_again(home, whole, tmp_path, capsys):
    folder, wire = tmp_path / "run", Wire(signal.SIGTERM, word="evaluating")
    error = stop(home, folder, wire)
    assert wire.word is None
    assert (str(error), error.exit_code) == (f"run `{folder}` was interrupted", 143)
    assert open_run(folder).manifest["status"] == "interrupted"
    before = (folder / "metrics.jsonl").read_bytes()
    assert run("train", "--resume", folder) == 0
    assert f"going on after step {STEPS}" in capsys.readouterr().err
    assert (folder / "metrics.jsonl").read_bytes() == before
    assert_same(folder, whole)


def test_damaged_checkpoints_are_named_and_the_one_before_is_used(home, whole, stopped, capsys):
    *_, newest = sorted((stopped / "checkpoints").iterdir())
    with (newest / "weights.safetensors").open("r+b") as file:
        file.truncate(100)
    assert run("train", "--resume", stopped) == 0
    said = capsys.readouterr().err
    assert f"checkpoint `{newest}` is damaged: weights.safetensors is truncated (100 of" in said
    assert "going on after step 4" in said
    assert lines(stopped) == lines(whole)
    adapter = "adapter/adapter_model.safetensors"
    assert (stopped / adapter).read_bytes() == (whole / adapter).read_bytes()


def test_damaged_best_checkpoint_is_made_again(home, whole, stopped, capsys):
    best, newest = sorted((stopped / "checkpoints").iterdir())
    state = best / "state.json"
    state.write_bytes(state.read_bytes()[:-5] + b"    \n")
    assert run("train", "--resume", stopped) == 0
    said = capsys.readouterr().err
    assert f"`{best}` is damaged: state.json changed" in said
    assert f"`{newest.name}` needs it" in said
    assert "no whole checkpoint: starting from the first step" in said
    adapter = "adapter/adapter_model.safetensors"
    assert lines(stopped) == lines(whole)
    assert (stopped / adapter).read_bytes() == (whole / adapter).read_bytes()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--seed", "18"], ["training.seed: 17 then, 18 now"]),
        (["--per-device-train-batch-size", "2"], ["training.per_device_train_batch_size: 4 then, 2 now"]),
        (["--gradient-accumulation-steps", "4"], ["training.gradient_accumulation_steps: 2 then, 4 now"]),
        (["--max-length", "512"], ["data.max_length: 1024 then, 512 now"]),
        (["--template", "instruction"], ["data.template", "template.sha256"]),
        (
            ["--rank", "8", "--alpha", "16"],
            ["method.rank: 16 then, 8 now", "method.alpha: 32.0 then, 16.0 now"],
        ),
    ],
    ids=lambda value: value[0] if value[0].startswith("--") else "",
)
def test_changed_setting_is_refused_and_named(stopped_once, capsys, words, told):
    stopped, before = stopped_once, everything(stopped_once)
    assert run("train", "--resume", stopped, *words) == 2
    said = capsys.readouterr().err
    assert f"run `{stopped}` began otherwise" in said
    for field in told[-1:] if "template" in told[0] else told:
        assert field in said
    assert everything(stopped) == before


def test_edited_configuration_and_edited_row_are_refused_and_named(home, stopped, capsys):
    config, data = stopped / "config.yaml", home / "rows.jsonl"
    texts = config.read_text(), data.read_text()
    config.write_text(texts[0].replace("seed: 17", "seed: 18").replace("rank: 16", "rank: 4"))
    data.write_text(texts[1].replace("It is 7.", "It is 8."))
    try:
        assert run("train", "--resume", stopped) == 2
    finally:
        data.write_text(texts[1])
    said = capsys.readouterr().err
    for field in (
        "training.seed: 17 then, 18 now",
        "method.rank: 16 then, 4 now",
        "rows.jsonl:8 is another row",
    ):
        assert field in said
    assert "with another `method.rank` the checkpoints do not fit" in said


def test_equal_flags_and_other_evaluation_go_on(whole, stopped):
    words = ["--seed", "17", "--rank", "16", "--confidence", "0.9", "--save-steps", "3"]
    assert run("train", "--resume", stopped, *words) == 0
    adapter = "adapter/adapter_model.safetensors"
    assert (stopped / adapter).read_bytes() == (whole / adapter).read_bytes()
    assert "confidence: 0.9" in (stopped / "config.yaml").read_text()


def test_drift_is_accepted_on_request_and_stays_on_record(stopped, capsys):
    assert run("train", "--resume", stopped, "--seed", "18") == 2
    assert f"tunesmith train --resume {stopped} --accept-drift" in capsys.readouterr().err
    assert run("train", "--resume", stopped, "--seed", "18", "--accept-drift") == 0
    assert "training.seed: 17 then, 18 now" in capsys.readouterr().err
    manifest = open_run(stopped).manifest
    assert manifest["accepted_drift"] == ["training.seed: 17 then, 18 now"]
    assert (manifest["status"], manifest["seed"]) == ("succeeded", 18)
    assert "seed: 18" in (stopped / "config.yaml").read_text()
    assert run("train", "--resume", stopped) == 0


def test_what_does_not_go_together_with_resume(tmp_path, capsys):
    (tmp_path / "a.yaml").write_text("data: {path: a.json}\n")
    for words, message in (
        (["--accept-drift", "--data", "a.json"], "`--accept-drift` has no effect without `--resume`"),
        ([tmp_path / "a.yaml", "--resume", "runs/a"], "`--resume` takes the configuration of its run"),
        (["--resume", "runs/a", "--output-dir", "b"], "`--resume` goes on in `runs/a`, so `--output-dir`"),
    ):
        assert run("train", *words) == 2
        assert message in capsys.readouterr().err


def test_loss_that_is_no_number_ends_with_1_and_keeps_the_last_checkpoint(home, tmp_path, capsys):
    folder = tmp_path / "run"
    words = flags(home, folder, learning_rate=1e30, save_steps=1, warmup_ratio=0)
    assert run("train", *words) == 1
    said = capsys.readouterr().err
    assert re.search(r"step \d+ was not taken: loss is (nan|inf)", said)
    assert f"{home / 'rows.jsonl'}:" in said
    *_, kept = sorted((folder / "checkpoints").iterdir())
    assert f"the last good checkpoint is `{kept}`" in said
    assert open_run(folder).manifest["status"] == "failed"


def test_signal_before_the_run_began_leaves_nothing(home, tmp_path):
    error = stop(home, tmp_path / "run", Wire(signal.SIGTERM, word="rendered with"))
    assert (str(error), error.exit_code) == ("interrupted before the run began", 143)
    assert error.hint == "nothing was kept; give the command again"
    assert os.listdir(tmp_path) == []


def test_run_of_before_identities_were_kept_is_told_apart(stopped, capsys):
    manifest = json.loads((stopped / "manifest.json").read_text())
    del manifest["identity"]
    Path(stopped / "manifest.json").write_text(json.dumps(manifest))
    assert run("train", "--resume", stopped) == 2
    assert "training.seed: nothing then, 17 now" in capsys.readouterr().err
