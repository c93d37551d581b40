"""LLaMA-Factory's supervised fine-tuning on the task: `python -m peers.llamafactory MODEL WORK`.

The settings are those of a LoRA configuration file for its command line; what is not named is as it comes.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from llamafactory.train.tuner import run_exp
from transformers import TrainerCallback

from peers import task

LIBRARIES = ("llamafactory", "transformers", "peft", "accelerate", "torch")


class Watch(TrainerCallback):
    """Times the training and counts its tokens."""

    def __init__(self) -> None:
        self.counter = task.Counter()
        self.started = self.seconds = 0.0
        self.losses: tuple[float, ...] = ()

    def on_train_begin(self, *_: Any, model: Any, **__: Any) -> None:
        """The model is ready."""
        model.register_forward_pre_hook(self.counter, with_kwargs=True)
        self.started = time.perf_counter()

    def on_train_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
        """All steps are done; saving is still to come."""
        self.seconds = time.perf_counter() - self.started
        self.losses = tuple(line["loss"] for line in state.log_history if "loss" in line)


def settings_of(model_path: str, work: Path) -> dict[str, Any]:
    """The configuration file, as a dict."""
    return {
        "stage": "sft",
        "do_train": True,
        "model_name_or_path": model_path,
        "finetuning_type": "lora",
        "lora_rank": task.RANK,
        "lora_alpha": task.ALPHA,
        "lora_dropout": task.USUAL_DROPOUT,
        "lora_target": ",".join(task.TARGETS),
        "dataset": "rows",
        "dataset_dir": str(work),
        "template": "smollm2",
        "cutoff_len": task.MAX_LENGTH,
        "output_dir": str(work / "llamafactory"),
        "per_device_train_batch_size": task.MICRO_BATCH_ROWS,
        "gradient_accumulation_steps": task.WINDOW_ROWS // task.MICRO_BATCH_ROWS,
        "learning_rate": task.LEARNING_RATE,
        "num_train_epochs": 1.0,
        "lr_scheduler_type": "cosine",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "seed": task.SEED,
    }


def main() -> None:
    """Train and tell."""
    model_path, work = sys.argv[1], Path(sys.argv[2])
    listed = {"rows": {"file_name": task.ROWS}}
    (work / "dataset_info.json").write_text(json.dumps(listed), encoding="utf-8")
    watch = Watch()
    run_exp(settings_of(model_path, work), callbacks=[watch])
    task.tell(
        task.Measured(
            watch.counter.tokens,
            watch.counter.computed_tokens,
            watch.seconds,
            watch.losses,
            task.peak_bytes(),
            task.versions_of(LIBRARIES),
        )
    )


if __name__ == "__main__":
    main()
