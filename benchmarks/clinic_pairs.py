"""The same case trained by TRL and by us, each diagnosed from what it leaves behind."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from clinic import HEALTHY, Case, Diagnosed, Outcome
from clinic_base import made_models
from clinic_cases import full, lora
from clinic_rows import parts_of
from clinic_ward import signs_of, treat
from speed import python_of, run

from tunesmith.doctor.diagnose import diagnose

SAME = {"training.lr_scheduler_type": "linear", "training.early_stopping_patience": 0}
PAIRS = (
    Case("pair-fine", HEALTHY, settings=SAME | lora(5e-3)),
    Case("pair-high", "loss_unstable", settings=SAME | full(0.1, warmup=0.0)),
    Case("pair-low", "loss_not_decreasing", settings=SAME | lora(1e-7)),
    Case("pair-few", "overfitting", rows=16, settings=SAME | full(2e-3, epochs=40, every=10)),
)
VALIDATIONS = 4


def pairs_in(work: Path) -> list[tuple[str, Diagnosed, Diagnosed]]:
    """What was induced, TRL's run and ours; empty, with a word, where there is no TRL."""
    python = python_of("trl")
    if isinstance(python, str):
        print(f"without TRL: {python}", file=sys.stderr)
        return []
    models, found = made_models(work / "models"), []
    for case in PAIRS:
        own = treat(case, work, models, wants_cure=False)
        if own.diagnosed is None:
            raise RuntimeError(own.problem)
        theirs = replace(case, program="trl")
        found.append((case.ailment, _by_trl(theirs, work, models["tiny"], python), own.diagnosed))
    return found


def _by_trl(case: Case, work: Path, model: Path, python: Path) -> Diagnosed:
    folder = work / "cases" / f"{case.name}-trl"
    state = folder / "trainer_state.json"
    if not state.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        task = folder / "task.json"
        task.write_text(json.dumps(_task(case, folder, model)), encoding="utf-8")
        run(python, "clinic_trl", [str(task)], work=folder, threads=1)
    history = json.loads(state.read_text(encoding="utf-8"))["log_history"]
    evals = [line["eval_loss"] for line in history if "eval_loss" in line]
    outcome = Outcome(str(state), evals[0], evals[-1], "succeeded", 0.0)
    return Diagnosed(case, outcome, tuple(each.ailment for each in diagnose(signs_of(state))))


def _task(case: Case, folder: Path, model: Path) -> dict[str, Any]:
    """The case in TRL's words."""
    parts, settings = parts_of(case), case.settings
    epochs, batch = settings.get("training.num_train_epochs", 3.0), 4
    steps = round(epochs * len(parts.train) / batch)
    arguments = {
        "learning_rate": settings["training.learning_rate"],
        "lr_scheduler_type": settings["training.lr_scheduler_type"],
        "warmup_steps": settings.get("training.warmup_ratio", 0.05),
        "max_steps": steps,
        "eval_steps": settings.get("training.eval_steps", round(steps / VALIDATIONS)),
        "per_device_train_batch_size": batch,
        "seed": case.seed,
    }
    return {
        "model": str(model),
        "output": str(folder),
        "train": parts.train,
        "validation": parts.validation,
        "is_lora": settings["method.name"] == "lora",
        "arguments": arguments,
    }
