"""Our own run on the task, as `tunesmith train` makes it: `python -m speed_ours MODEL WORK DROPOUT [DTYPE]`.

Leaves for the others what they need to learn the same: token ids, order, initial adapter weights.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peers import task

from tunesmith import pipeline
from tunesmith.config import RunConfig
from tunesmith.data.batches import windows
from tunesmith.data.prepare import Prepared
from tunesmith.data.render import Rendered
from tunesmith.hardware import choose_hardware, multiplies_in_bfloat16, peak_memory_bytes
from tunesmith.models.find import ModelSource, find_model
from tunesmith.planning.heap import keep_heap_small
from tunesmith.progress import Silent
from tunesmith.training.loop import Loop
from tunesmith.training.ranks import this_process

LIBRARIES = ("tunesmith", "transformers", "peft", "accelerate", "torch")


def configuration(
    model: str, data: Path, *, dropout: float = 0.0, dtype: str = "float32", **training: Any
) -> RunConfig:
    """The task as our configuration; nothing is held out."""
    return RunConfig.model_validate(
        {
            "model": {"name": model, "device": "cpu", "dtype": dtype},
            "data": {
                "path": str(data),
                "max_length": task.MAX_LENGTH,
                "overlong": "truncate",
                "validation_size": 0,
                "test_size": 0,
            },
            "method": {
                "rank": task.RANK,
                "alpha": task.ALPHA,
                "dropout": dropout,
                "target_modules": list(task.TARGETS),
            },
            "training": {
                "learning_rate": task.LEARNING_RATE,
                "num_train_epochs": 1,
                "per_device_train_batch_size": task.MICRO_BATCH_ROWS,
                "gradient_accumulation_steps": task.WINDOW_ROWS // task.MICRO_BATCH_ROWS,
                "lr_scheduler_type": "constant",
                "warmup_ratio": 0,
                "seed": task.SEED,
            }
            | training,
        }
    )


def train(
    config: RunConfig, source: ModelSource, data: Prepared, *, on_ready: Callable[[Any], None]
) -> tuple[float, list[dict[str, Any]]]:
    """Train as `pipeline.finetune` does; seconds, checkpoints included, and the lines of metrics.

    Args:
        config: of the run.
        source: its model.
        data: its rows.
        on_ready: gets the prepared model before the first step.
    """
    hardware = choose_hardware(device="cpu", dtype=config.model.dtype)
    launch = pipeline.plan(config, source, hardware, data, this_process())
    if launch.is_heap_small:
        keep_heap_small()
    tuned, _ = pipeline.prepare_model(source, config, hardware, launch)
    on_ready(tuned.model)
    lines: list[dict[str, Any]] = []
    with TemporaryDirectory() as folder:
        loop = Loop(
            tuned.model,
            data.train,
            (),
            settings=launch.training,
            hardware=hardware,
            pad_id=tuned.pad_id,
            eval_batch_rows=1,
            checkpoints=Path(folder),
            record=lambda **line: lines.append(line),
            progress=Silent(),
        )
        started = time.perf_counter()
        loop.run()
        return time.perf_counter() - started, lines


def same_rows(rows: tuple[Rendered, ...]) -> list[dict[str, list[int]]]:
    """The rows in the order of the steps, those of one step sorted by length, for other programs."""
    ordered = windows(rows, window_rows=task.WINDOW_ROWS, seed=task.SEED, epoch=0)
    return [
        {
            "input_ids": list(row.ids),
            "labels": [
                token if is_scored else task.IGNORED
                for token, is_scored in zip(row.ids, row.scored, strict=True)
            ],
        }
        for window in ordered
        for row in sorted(window, key=lambda row: -len(row.ids))
    ]


class ComputedTokens:
    """A hook on the embeddings that counts what goes in."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, module: Any, positional: tuple[torch.Tensor, ...]) -> None:
        """Count one micro-batch."""
        self.count += positional[0].numel()


def main() -> None:
    """Train and tell.

    Raises:
        SystemExit: if bfloat16 is asked for where it would be emulated.
    """
    model, work, dropout = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
    dtype = sys.argv[4] if len(sys.argv) > 4 else "float32"
    if dtype == "bfloat16" and not multiplies_in_bfloat16():
        raise SystemExit("this processor does not multiply in bfloat16")
    config, source = configuration(model, work / task.ROWS, dropout=dropout, dtype=dtype), find_model(model)
    _, data = pipeline.read_data(config, source, Silent())
    computed = ComputedTokens()

    def leave(ready: Any) -> None:
        if dtype == "float32":
            ready.save_pretrained(str(work / task.ADAPTER))
        (work / task.SAME_ROWS).write_text(json.dumps(same_rows(data.train)), encoding="utf-8")
        ready.get_input_embeddings().register_forward_pre_hook(computed)

    seconds, lines = train(config, source, data, on_ready=leave)
    task.tell(
        task.Measured(
            sum(len(row.ids) for row in data.train),
            computed.count,
            seconds,
            tuple(line["loss"] for line in lines if "loss" in line),
            peak_memory_bytes("cpu"),
            task.versions_of(LIBRARIES),
        )
    )


if __name__ == "__main__":
    main()
