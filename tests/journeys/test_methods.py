"""Every method through the whole house: trained, stopped and resumed, loaded, asked, measured, compared."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tiny import painted_rows, tiny_model_folder
from tunesmith.cli.main import main
from tunesmith.config import METHOD_NAMES
from tunesmith.data.conversation import Message
from tunesmith.errors import Interrupted
from tunesmith.models.generate import Decoding
from tunesmith.pipeline import finetune
from tunesmith.progress import Silent
from tunesmith.resolve import resolve
from tunesmith.runs import open_run
from tunesmith.use import answer, open_session

# High rates, because the tiny model is random and the runs are short.
RATES = {"full": 1e-3, "lora": 5e-3, "qlora": 5e-3, "prefix": 5e-2, "adapter": 5e-3}


class Stop(Silent):
    """Interrupts the run at its fifth step."""

    left = 5

    def advance(self, amount=1, figures=""):
        self.left -= amount if figures.startswith("loss") else 0
        if self.left == 0 and figures:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Flags all methods share: 12 steps on 32 rows."""
    folder = tmp_path_factory.mktemp("shared")
    data = painted_rows(folder / "rows.jsonl", 40)
    return {
        "model": str(tiny_model_folder(folder / "model")),
        "data": str(data),
        "gradient-accumulation-steps": "1",
        "max-steps": "12",
        "generate-rows": "4",
        "max-new-tokens": "8",
        "bootstrap-resamples": "100",
    }


@pytest.fixture(scope="module")
def finished(shared, tmp_path_factory):
    """One finished run of each method, trained when it is first asked for."""
    runs = {}

    def of(method):
        if method not in runs:
            torch.set_num_threads(1)
            folder = tmp_path_factory.mktemp("runs") / method
            runs[method] = finetune(resolve(None, flags_of(shared, method, folder)))
        return runs[method]

    return of


def flags_of(shared, method, folder):
    return shared | {"method": method, "learning-rate": str(RATES[method]), "output-dir": str(folder)}


def weights_of(run):
    """What was saved, byte by byte."""
    return {file.name: file.read_bytes() for file in run.result.glob("*.safetensors")}


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_losses_fall_and_the_run_says_what_it_was(finished, method):
    run = finished(method).run
    losses = [line["loss"] for line in run.metrics if "loss" in line]
    assert len(losses) == 12
    assert max(losses[-3:]) < min(losses[:3])
    manifest = run.manifest
    assert (manifest["status"], manifest["method"]) == ("succeeded", method)
    assert (run.model.is_dir(), run.adapter.is_dir()) == (method == "full", method != "full")
    assert run.result.name == ("model" if method == "full" else "adapter")
    learning, base = (manifest["parameters"][name] for name in ("trainable", "base"))
    assert learning == base if method == "full" else 0 < learning < base
    assert manifest["plan"]["peak_bytes"] > manifest["plan"]["weights_bytes"] > 0


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_base_and_tuned_are_two_models(finished, method):
    loss = finished(method).evaluation
    base, tuned = (next(s.value for s in part if s.metric == "loss") for part in (loss.base, loss.tuned))
    assert tuned < base - 0.005


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_what_was_saved_answers_as_what_was_trained(finished, method):
    run = finished(method).run
    samples = [json.loads(line) for line in run.read_text("samples.jsonl").splitlines()]
    session = open_session(str(run.path), device="cpu")
    prompts = [[Message("user", sample["prompt"])] for sample in samples]
    answers = answer(session, prompts, decoding=Decoding(max_new_tokens=8))
    assert answers == [sample["tuned"] for sample in samples]


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_a_stopped_run_ends_in_the_same_bytes(shared, finished, tmp_path, method):
    path = tmp_path / method
    with pytest.raises(Interrupted):
        finetune(resolve(None, flags_of(shared, method, path)), progress=Stop())
    resumed = finetune(resolve(open_run(path).config), resume=path)
    assert weights_of(resumed.run) == weights_of(finished(method).run)


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_recomputed_activations_give_the_same_run(shared, finished, tmp_path, method):
    flags = flags_of(shared, method, tmp_path / method) | {"gradient-checkpointing": "always"}
    run = finetune(resolve(None, flags)).run
    losses, before = (
        [line["loss"] for line in each.metrics if "loss" in line] for each in (run, finished(method).run)
    )
    assert losses == pytest.approx(before, abs=1e-5)
    assert run.manifest["plan"]["gradient_checkpointing"] == "always"


def command(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "tunesmith", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
    )


def code_of(*arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    return caught.value.code


def test_methods_compares_all_five_and_keeps_what_is_finished(shared, tmp_path, monkeypatch, capsys):
    flags = [f"--{name}={value}" for name, value in (shared | {"max-steps": "2"}).items()]
    flags += ["--validation-size=4", "--output-dir=side"]
    result = command(tmp_path, "methods", *flags, "--rank=4", "--json")
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert [row["method"] for row in told["methods"]] == list(METHOD_NAMES)
    assert all(row["tokens_per_second"] > 0 and row["size_bytes"] > 0 for row in told["methods"])
    page = Path(tmp_path / told["page"]).read_text(encoding="utf-8")
    assert all(f"<td>{name}</td>" in page for name in METHOD_NAMES)
    monkeypatch.chdir(tmp_path)
    assert code_of("methods", *flags, "--rank=4") == 0
    printed = capsys.readouterr()
    assert printed.err.count("finished before, kept") == len(METHOD_NAMES)
    assert "held-out loss" in printed.out
    assert code_of("methods", *flags, "--rank=2") == 2
    assert "was trained with another method.rank" in capsys.readouterr().err
