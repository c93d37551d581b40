"""Two processes on the CPU, started by accelerate with the example files, learn what one process learns."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from tiny import tiny_model_folder
from tiny_run import bits, tiny_full, tiny_llama, tiny_lora
from tunesmith.training.checkpoint import check_checkpoint, checkpoints_in
from two_processes import PROMPT, loop_of, run, step_of

TESTS = Path(__file__).parents[1]
EXAMPLES = TESTS.parent / "examples" / "devices"
# The launches are made once, whatever the number of workers.
pytestmark = pytest.mark.xdist_group("two processes")
DROPOUT = ("dropout", "dropout-resumed")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The runs of one process, with the micro-batches of both in one window."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("alone")
    run(tiny_lora(), folder / "lora", accumulation=4)
    run(tiny_full(), folder / "full", accumulation=4)
    return folder


@pytest.fixture(scope="module", params=["ddp", "fsdp2"])
def together(request, tmp_path_factory, alone):
    """The runs of two processes."""
    folder = tmp_path_factory.mktemp(request.param)
    launch = ["-m", "accelerate.commands.launch", "--config_file", str(EXAMPLES / f"{request.param}.yaml")]
    command = [sys.executable, *launch, "--main_process_port", "0", str(TESTS / "two_processes.py")]
    environment = os.environ | {"PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [*command, str(alone), str(folder)], capture_output=True, text=True, env=environment, timeout=300
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return folder


def outcome(folder, *, rank=0):
    return json.loads((folder / f"rank{rank}.json").read_text())


def by_step(found, name):
    return {line["step"]: line[name] for line in found["lines"] if name in line}


@pytest.mark.parametrize("name", ["lora", "full"])
def test_losses_norms_and_weights_are_those_of_one_process(alone, together, name):
    one, two = outcome(alone / name), outcome(together / name)
    for figure, times in (("loss", 6), ("grad_norm", 6), ("eval_loss", 4)):
        assert len(by_step(two, figure)) == times
        assert by_step(two, figure) == pytest.approx(by_step(one, figure), abs=1e-4)
    for fact in ("steps", "tokens", "best", "answer"):
        assert two[fact] == one[fact]
    expected, found = (load_file(folder / name / "weights.safetensors") for folder in (alone, together))
    assert found.keys() == expected.keys()
    for tensor in expected:
        torch.testing.assert_close(found[tensor], expected[tensor], rtol=0, atol=1e-4)


def test_one_process_writes_and_the_other_is_silent(together):
    assert outcome(together / "lora", rank=1)["lines"] == []
    assert len(checkpoints_in(together / "lora" / "checkpoints")) == 6
    for path in checkpoints_in(together / "lora" / "checkpoints"):
        check_checkpoint(path)


def test_weights_are_held_whole_or_cut_as_asked(alone, together):
    whole = outcome(alone / "full")["held"]
    held = [outcome(together / "full", rank=rank)["held"] for rank in (0, 1)]
    if together.name.startswith("ddp"):
        assert held == [whole, whole]
    else:
        assert sum(held) == whole
        assert max(held) < 0.6 * whole


def test_run_of_one_process_is_resumed_by_two(alone, together):
    one, two = outcome(alone / "lora"), outcome(together / "resumed")
    assert by_step(two, "loss").keys() == {4, 5, 6}
    late = {step: loss for step, loss in by_step(one, "loss").items() if step > 3}
    assert by_step(two, "loss") == pytest.approx(late, abs=1e-4)


@pytest.mark.parametrize("name", ["lora", "full"])
def test_run_of_two_processes_is_resumed_by_one(tmp_path, alone, together, name):
    model = tiny_lora() if name == "lora" else tiny_full()
    lines = []
    loop = loop_of(model, tmp_path, lambda **line: lines.append(line), accumulation=2)
    loop.resume(step_of(together / name, 3))
    loop.run()
    late = {step: loss for step, loss in by_step(outcome(alone / name), "loss").items() if step > 3}
    assert by_step({"lines": lines}, "loss") == pytest.approx(late, abs=1e-4)
    expected = load_file(alone / name / "weights.safetensors")
    for parameter, value in model.named_parameters():
        if value.requires_grad:
            torch.testing.assert_close(value.detach(), expected[parameter], rtol=0, atol=1e-4)


def test_adapter_saved_by_two_processes_loads_anywhere(together):
    model = PeftModel.from_pretrained(tiny_llama(), together / "lora" / "saved").eval()
    answer = model.generate(input_ids=PROMPT, max_new_tokens=5, do_sample=False, pad_token_id=0)
    assert answer.tolist() == outcome(together / "lora")["answer"]


def test_resumed_equals_uninterrupted_with_dropout_too(together):
    """What each process drops follows from the step alone."""
    whole, resumed = (load_file(together / name / "weights.safetensors") for name in DROPOUT)
    assert bits(resumed) == bits(whole)
    assert bits(whole) != bits(load_file(together / "lora" / "weights.safetensors"))


def test_the_whole_command_in_two_processes_gives_the_evidence_of_one(tmp_path):
    """Full fine-tuning with cut weights: the base is put into the shards and taken out again."""
    rows = [{"prompt": f"Paint thing {at}", "completion": f"It is {at % 4}."} for at in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tiny_model_folder(tmp_path / "model")
    flags = ["--model=model", "--data=rows.jsonl", "--method=full", "--learning-rate=1e-3", "--max-steps=4"]
    flags += ["--generate-rows=2", "--max-new-tokens=4", "--bootstrap-resamples=100"]
    launch = ["-m", "accelerate.commands.launch", "--config_file", str(EXAMPLES / "fsdp2.yaml"), "-m"]
    ways = {
        "two": [*launch, "tunesmith", "train", "--gradient-accumulation-steps=1"],
        "one": ["-m", "tunesmith", "train", "--gradient-accumulation-steps=2"],
    }
    for name, way in ways.items():
        result = subprocess.run(
            [sys.executable, *way, *flags, f"--output-dir={name}", "--json"],
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert result.returncode == 0, result.stderr[-4000:]
        assert json.loads(result.stdout)["model"] == str(Path(name) / "model")  # one process talks
    one, two = (json.loads((tmp_path / name / "evaluation.json").read_text()) for name in ("one", "two"))
    for part in ("base", "tuned"):
        assert two[part][0]["metric"] == "loss"
        assert two[part][0]["value"] == pytest.approx(one[part][0]["value"], abs=1e-5)
    assert load_file(tmp_path / "two" / "model" / "model.safetensors").keys()
