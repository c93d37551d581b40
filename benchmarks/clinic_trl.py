"""TRL's SFTTrainer on one case of the clinic: `python -m clinic_trl TASK.json`, with TRL's own Python.

It trains as a tutorial would, from prompts and completions, and leaves its trainer_state.json.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer


def conversation(row: dict[str, str]) -> dict[str, Any]:
    """A row as TRL's prompt and completion, both as messages."""
    names = (("system", "system"), ("user", "prompt"))
    asked = [{"role": role, "content": row[key]} for role, key in names if key in row]
    return {"prompt": asked, "completion": [{"role": "assistant", "content": row["completion"]}]}


def main() -> None:
    """Train and save the state."""
    task = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    arguments = SFTConfig(
        **task["arguments"],
        output_dir=task["output"],
        logging_steps=1,
        eval_strategy="steps",
        eval_on_start=True,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(task["model"], dtype=torch.float32),
        args=arguments,
        train_dataset=Dataset.from_list([conversation(row) for row in task["train"]]),
        eval_dataset=Dataset.from_list([conversation(row) for row in task["validation"]]),
        processing_class=AutoTokenizer.from_pretrained(task["model"]),
        peft_config=lora if task["is_lora"] else None,
    )
    trainer.train()
    trainer.save_state()


if __name__ == "__main__":
    main()
