"""README's five-minute tour, typed as it stands there, on the real model."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from test_docs import ROOT, readme_commands

TOUR = [command for command in readme_commands() if command.startswith("tunesmith ")]


@pytest.mark.real_model
def test_readme_tour_runs_and_the_held_out_loss_falls(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    assert [command.split()[1] for command in TOUR] == [
        "data",
        "data",
        "plan",
        "train",
        "train",
        "generate",
        "chat",
        "evaluate",
        "merge",
        "adapters",
        "advise",
        "diff",
        "recommend",
        "sweep",
        "doctor",
    ]
    for command in TOUR:
        result = subprocess.run(
            [sys.executable, "-m", "tunesmith", *shlex.split(command)[1:]],
            cwd=tmp_path,
            input="Hello, my kettle leaks. Ada\n/exit\n",
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, f"{command}\n{result.stderr}"
        assert result.stdout.strip()
    run = tmp_path / "runs" / "tickets"
    loss = json.loads((run / "evaluation.json").read_text())["comparisons"][0]
    assert loss["metric"] == "loss"
    assert loss["high"] < 0
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["status"] == "succeeded"
    assert sum(manifest["data"]["rows"].values()) == 48
    plain = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
turns = [{"role": "user", "content": "Hi"}]
asked = tokenizer.apply_chat_template(
    turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
)
print(model.generate(**asked, max_new_tokens=3).shape[1] > asked["input_ids"].shape[1])
"""
    merged = subprocess.run(
        [sys.executable, "-c", plain, str(run / "merged")], capture_output=True, text=True, check=True
    )
    assert merged.stdout.strip() == "True"
