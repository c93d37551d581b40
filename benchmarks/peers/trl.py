"""TRL's SFTTrainer on the task: `python -m peers.trl MODEL WORK MODE`.

`guide` is the usual tutorial: one text a row, all tokens scored, everything else as it comes. `tuned` is the
same without gradient checkpointing and with rows of similar length together. `same` is tuned by hand to
learn exactly what our own run learns: its token ids, scored tokens, order, steps and initial weights, no
dropout; rows of one step lie sorted by length.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from peers import task

LIBRARIES = ("trl", "transformers", "peft", "accelerate", "torch")
TUNED = {"gradient_checkpointing": False}
MODES: dict[str, dict[str, Any]] = {
    "guide": {"warmup_steps": 0.03},
    "tuned": {"warmup_steps": 0.03, "train_sampling_strategy": "group_by_length", **TUNED},
    "same": {
        "lr_scheduler_type": "constant",
        "train_sampling_strategy": "sequential",
        # Already done by whoever made the rows.
        "dataset_kwargs": {"skip_prepare_dataset": True},
        **TUNED,
    },
}


def rows_of(work: Path, mode: str) -> Dataset:
    """The rows as the mode has them."""
    if mode == "same":
        return Dataset.from_list(json.loads((work / task.SAME_ROWS).read_text(encoding="utf-8")))
    rows = json.loads((work / task.ROWS).read_text(encoding="utf-8"))
    return Dataset.from_list([{"text": task.instruction_text(row)} for row in rows])


def trainer_of(model_path: str, work: Path, mode: str) -> SFTTrainer:
    """The trainer, loaded and ready."""
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    lora = LoraConfig(
        r=task.RANK,
        lora_alpha=task.ALPHA,
        lora_dropout=task.USUAL_DROPOUT,
        target_modules=list(task.TARGETS),
        task_type="CAUSAL_LM",
    )
    if mode == "same":
        model = PeftModel.from_pretrained(model, work / task.ADAPTER, is_trainable=True)
    return SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(work / f"trl-{mode}"),
            num_train_epochs=1,
            per_device_train_batch_size=task.MICRO_BATCH_ROWS,
            gradient_accumulation_steps=task.WINDOW_ROWS // task.MICRO_BATCH_ROWS,
            learning_rate=task.LEARNING_RATE,
            max_length=task.MAX_LENGTH,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=False,
            dataloader_pin_memory=False,
            seed=task.SEED,
            **MODES[mode],
        ),
        train_dataset=rows_of(work, mode),
        processing_class=AutoTokenizer.from_pretrained(model_path),
        peft_config=None if mode == "same" else lora,
    )


def main() -> None:
    """Train and tell."""
    model_path, work, mode = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    trainer = trainer_of(model_path, work, mode)
    counter = task.Counter()
    trainer.model.register_forward_pre_hook(counter, with_kwargs=True)
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    losses = tuple(line["loss"] for line in trainer.state.log_history if "loss" in line)
    task.tell(
        task.Measured(
            counter.tokens,
            counter.computed_tokens,
            seconds,
            losses,
            task.peak_bytes(),
            task.versions_of(LIBRARIES),
        )
    )


if __name__ == "__main__":
    main()
