"""LitGPT's LoRA fine-tuning on the task: `python -m peers.litgpt MODEL WORK`.

Its own training function on its own model, with the token ids and scored tokens of our run. Its loss is a
mean over micro-batches, so it is not compared with others.
"""

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lightning import Fabric
from lightning.fabric.loggers import CSVLogger
from litgpt.args import EvalArgs, TrainArgs
from litgpt.data import JSON, get_sft_collate_fn
from litgpt.finetune.lora import fit, get_lr_scheduler
from litgpt.lora import GPT, Config, mark_only_lora_as_trainable
from litgpt.scripts.convert_hf_checkpoint import convert_hf_checkpoint
from litgpt.utils import instantiate_torch_optimizer, load_checkpoint
from torch.utils.data import DataLoader

from peers import task

LIBRARIES = ("litgpt", "lightning", "torch")
NAME = "SmolLM2-135M"


class Collate:
    """Makes batches, counts their tokens, and knows when the first one was asked for."""

    def __init__(self) -> None:
        self.make = get_sft_collate_fn(pad_id=0, ignore_index=task.IGNORED)
        self.tokens = self.computed_tokens = 0
        self.started: float | None = None

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """One batch."""
        self.started = self.started or time.perf_counter()
        batch: dict[str, Any] = self.make(samples)
        self.tokens += sum(len(sample["input_ids"]) for sample in samples)
        self.computed_tokens += batch["input_ids"].numel()
        return batch


def samples_of(work: Path) -> list[dict[str, Any]]:
    """The rows as LitGPT's data modules give them."""
    rows = json.loads((work / task.SAME_ROWS).read_text(encoding="utf-8"))
    return [
        {
            "input_ids": torch.tensor(row["input_ids"]),
            "labels": torch.tensor(row["labels"]),
            "token_counts": {"raw": len(row["input_ids"]), "raw_plus_prompt_template": len(row["input_ids"])},
        }
        for row in rows
    ]


def converted(model_path: str, work: Path) -> Path:
    """The model in LitGPT's own form."""
    folder = work / "litgpt"
    shutil.copytree(model_path, folder, dirs_exist_ok=True)
    convert_hf_checkpoint(folder, model_name=NAME)
    return folder


def ready_model(fabric: Fabric, checkpoint: Path) -> tuple[Any, Any]:
    """Model and optimizer, set up as its `finetune_lora` command does."""
    config = Config.from_file(
        checkpoint / "model_config.yaml",
        lora_r=task.RANK,
        lora_alpha=task.ALPHA,
        lora_dropout=task.USUAL_DROPOUT,
        lora_query=True,
        lora_key=True,
        lora_value=True,
        lora_projection=True,
    )
    model = GPT(config)
    mark_only_lora_as_trainable(model)
    model = fabric.setup_module(model)
    optimizer = instantiate_torch_optimizer("AdamW", model.parameters(), lr=task.LEARNING_RATE)
    load_checkpoint(fabric, model, checkpoint / "lit_model.pth", strict=False)
    return model, fabric.setup_optimizers(optimizer)


def main() -> None:
    """Train and tell."""
    model_path, work = sys.argv[1], Path(sys.argv[2])
    checkpoint = converted(model_path, work)
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true", loggers=CSVLogger(work, name="log"))
    fabric.launch()
    fabric.seed_everything(task.SEED)
    model, optimizer = ready_model(fabric, checkpoint)
    samples, collate = samples_of(work), Collate()
    steps = -(-len(samples) // task.WINDOW_ROWS)
    fit(
        fabric=fabric,
        model=model,
        optimizer=optimizer,
        scheduler=get_lr_scheduler(optimizer, warmup_steps=1, max_steps=steps + 1),
        train_dataloader=DataLoader(samples, batch_size=task.MICRO_BATCH_ROWS, collate_fn=collate),
        # It validates once before it starts; on one row, and outside of what is timed.
        val_dataloader=DataLoader(samples[-1:], collate_fn=get_sft_collate_fn()),
        devices=1,
        checkpoint_dir=checkpoint,
        out_dir=work / "out",
        train=TrainArgs(
            global_batch_size=task.WINDOW_ROWS,
            micro_batch_size=task.MICRO_BATCH_ROWS,
            max_steps=steps,
            epochs=1,
            lr_warmup_steps=None,
        ),
        eval=EvalArgs(interval=10 * steps, final_validation=False),
        data=JSON(work / task.ROWS, val_split_fraction=0.5),
    )
    seconds = time.perf_counter() - (collate.started or 0.0)
    task.tell(
        task.Measured(
            collate.tokens,
            collate.computed_tokens,
            seconds,
            (),
            task.peak_bytes(),
            task.versions_of(LIBRARIES),
        )
    )


if __name__ == "__main__":
    main()
