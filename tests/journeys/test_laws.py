"""Whole runs on a tiny random model: what a run leaves behind, and that it can be repeated and resumed."""

import json
import re
from pathlib import Path

import pytest
import torch

from tiny import painted_rows, tiny_model_folder
from tiny_run import timeless
from tunesmith.errors import Interrupted, RunFailed, RunFolderError
from tunesmith.pipeline import finetune
from tunesmith.progress import Silent
from tunesmith.resolve import resolve
from tunesmith.runs import open_run

FILES = {
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
ADAPTER_FILES = {
    "adapter_config.json",
    "adapter_model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "README.md",
    "tunesmith.json",
}


class Wire(Silent):
    """A progress that does something when the run reaches a step."""

    def __init__(self, *, step, do):
        self.left, self.do = step, do

    def advance(self, amount=1, figures=""):
        self.left -= amount if figures.startswith("loss") else 0
        if self.left == 0 and figures:
            self.do()


def interrupt():
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    """The flags of a run of 12 steps, but for its folder."""
    data = painted_rows(tmp_path_factory.mktemp("data") / "rows.jsonl", 40)
    return {
        "model": str(tiny_model_folder(tmp_path_factory.mktemp("model"))),
        "data": str(data),
        "learning-rate": 0.02,
        "dropout": 0.1,
        "max-steps": 12,
        "eval-steps": 3,
        "per-device-train-batch-size": 4,
        "gradient-accumulation-steps": 2,
        "generate-rows": 4,
        "max-new-tokens": 8,
        "bootstrap-resamples": 100,
        "device": "cpu",
    }


def run_of(flags, folder, **others):
    return resolve(None, flags | {"output-dir": str(folder)} | others)


def adapter_bytes(run):
    return (run.adapter / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def finished(flags, tmp_path_factory):
    torch.set_num_threads(1)  # as in each test: this fixture comes before what a test sets up
    return finetune(run_of(flags, tmp_path_factory.mktemp("runs") / "whole"))


def test_finished_run_succeeded_and_all_its_files_are_there(finished):
    run = open_run(finished.run.path)
    assert run.manifest["status"] == "succeeded"
    assert {path.name for path in run.path.iterdir()} == FILES
    assert {path.name for path in run.adapter.iterdir()} >= ADAPTER_FILES
    assert not [
        path for path in run.path.rglob("*") if path.name.endswith((".partial", ".bin", ".pt", ".pkl"))
    ]
    assert all(path.stat().st_size for path in run.path.rglob("*") if path.is_file())
    assert len(run.read_text("samples.jsonl").splitlines()) == 4


def test_losses_fall(finished):
    losses = [line["loss"] for line in finished.run.metrics if "loss" in line]
    assert len(losses) == finished.trained.steps == 12
    assert max(losses[-3:]) < min(losses[:3])
    assert finished.trained.best_loss < finished.trained.first_loss - 0.1
    evaluation = json.loads((finished.run.path / "evaluation.json").read_text())
    assert evaluation == json.loads(json.dumps(finished.evaluation.as_dict()))


def test_manifest_accounts_for_every_row(finished):
    manifest = finished.run.manifest
    assert manifest["data"]["rows"] == {"train": 32, "validation": 4, "test": 4}
    assert manifest["training"]["steps"] == 12
    assert manifest["seed"] == 17
    assert 0 < manifest["parameters"]["trainable"] < manifest["parameters"]["base"]


def test_run_repeated_from_its_own_configuration_gives_the_same_bytes(finished, tmp_path):
    again = finetune(resolve(finished.run.config, {"output-dir": str(tmp_path / "again")}))
    assert again.run.path != finished.run.path
    assert adapter_bytes(again.run) == adapter_bytes(finished.run)
    assert timeless(again.run.metrics) == timeless(finished.run.metrics)
    for name in ("samples.jsonl", "evaluation.json", "template.jinja"):
        assert again.run.read_text(name) == finished.run.read_text(name)


def test_another_seed_gives_another_adapter(flags, finished, tmp_path):
    other = finetune(run_of(flags, tmp_path / "other", seed=18))
    assert adapter_bytes(other.run) != adapter_bytes(finished.run)


@pytest.mark.parametrize("step", [2, 8])
def test_interrupted_run_resumed_ends_in_the_same_bytes(flags, finished, tmp_path, step):
    path = tmp_path / "run"
    with pytest.raises(Interrupted, match=r"run `.*run` was interrupted") as caught:
        finetune(run_of(flags, path), progress=Wire(step=step, do=interrupt))
    assert caught.value.hint == f"go on with `tunesmith train --resume {path}`"
    run = open_run(path)
    assert (run.manifest["status"], run.manifest["why"]) == ("interrupted", "interrupted by the user")
    assert not run.adapter.exists()
    assert run.metrics[-1]["step"] == step
    resumed = finetune(resolve(run.config), resume=path)
    assert adapter_bytes(resumed.run) == adapter_bytes(finished.run)
    assert timeless(resumed.run.metrics) == timeless(finished.run.metrics)
    assert run.manifest["status"] == "succeeded"
    assert "why" not in run.manifest
    assert run.read_text("evaluation.json") == finished.run.read_text("evaluation.json")
    assert {file.name for file in path.iterdir()} == FILES


def test_run_whose_data_changed_is_not_resumed(flags, tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text(Path(flags["data"]).read_text(encoding="utf-8"), encoding="utf-8")
    path = tmp_path / "run"
    with pytest.raises(Interrupted):
        finetune(run_of(flags, path, data=str(data)), progress=Wire(step=4, do=interrupt))
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    data.write_text(data.read_text(encoding="utf-8").replace("red", "pink"), encoding="utf-8")
    message = rf"(?s)run `{re.escape(str(path))}` began otherwise.*data\.path: sha256 .* is another row"
    with pytest.raises(RunFolderError, match=message) as caught:
        finetune(resolve(open_run(path).config), resume=path)
    assert "--accept-drift" in caught.value.hint
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


def test_failed_run_says_so_in_its_manifest(flags, tmp_path):
    path = tmp_path / "run"
    with pytest.raises(RunFailed, match=r"step \d+ was not taken: loss is (nan|inf)") as caught:
        finetune(run_of(flags, path, **{"learning-rate": 1e30, "warmup-ratio": 0}))
    run = open_run(path)
    assert run.manifest["status"] == "failed"
    assert run.manifest["why"] == f"RunFailed: {caught.value}"
    assert "rows.jsonl:" in run.manifest["why"]
    assert all(line["loss"] for line in run.metrics if "loss" in line)
    assert not run.adapter.exists()
