"""How long a run is, when it looks up, and the learning rate as a function of the step.

So a continued run needs no scheduler state. transformers' schedules start at exactly 0, which makes the
first step of a run learn nothing; here step 1 already moves, and the last step still does.
"""

import math
from dataclasses import dataclass

from tunesmith.config import TrainingConfig

VALIDATIONS_PER_RUN = 4


@dataclass(frozen=True, slots=True)
class Plan:
    """How long a run is and when it looks up, in steps."""

    window_rows: int
    total_steps: int
    steps_per_epoch: int
    warmup_steps: int
    eval_every: int
    save_every: int


def plan_steps(
    settings: TrainingConfig, *, rows: int, processes: int = 1, window_rows: int | None = None
) -> Plan:
    """Steps of a run over `rows` training rows.

    Args:
        settings: the configuration's `training` section.
        rows: training rows.
        processes: that share the rows of a step.
        window_rows: rows of a step, where a run that goes on has decided that before.
    """
    if window_rows is None:
        micro_rows, micro_batches = settings.per_device_train_batch_size, settings.gradient_accumulation_steps
        window_rows = micro_rows * micro_batches * processes
    steps_per_epoch = math.ceil(rows / window_rows)
    total_steps = settings.max_steps or math.ceil(settings.num_train_epochs * steps_per_epoch)
    eval_every = settings.eval_steps or math.ceil(total_steps / VALIDATIONS_PER_RUN)
    return Plan(
        window_rows=window_rows,
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
        warmup_steps=round(settings.warmup_ratio * total_steps),
        eval_every=eval_every,
        save_every=settings.save_steps or eval_every,
    )


def learning_rate_at(step: int, *, peak: float, total_steps: int, warmup_steps: int, kind: str) -> float:
    """Learning rate of optimizer step `step` (1 to `total_steps`).

    It rises linearly over `warmup_steps` to `peak`, then falls along `kind`: `cosine` (half a cosine;
    Loshchilov and Hutter 2017, arXiv:1608.03983, eq. 5 without restarts), `linear`, or `constant`.
    """
    if step <= warmup_steps:
        return peak * step / (warmup_steps + 1)
    if kind == "constant":
        return peak
    done = (step - warmup_steps - 1) / max(1, total_steps - warmup_steps)
    return peak * (0.5 * (1 + math.cos(math.pi * done)) if kind == "cosine" else 1 - done)
