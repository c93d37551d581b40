"""Time before launch: the operations of a step over the rate at which this machine does them."""

import time
from dataclasses import dataclass

import torch
from transformers import PretrainedConfig

from tunesmith.hardware import DTYPES
from tunesmith.planning.rehearse import Setup
from tunesmith.planning.terms import Memory
from tunesmith.planning.workload import Workload

MEASURED_SECONDS = 0.5
MOST_TOKENS = 2048
# Share of the matrix rate that a training micro-batch reaches. Measured, see docs/guide/memory.md; where
# nothing was measured, no time is told.
EFFICIENCY = {"cpu": 0.8}


@dataclass(frozen=True, slots=True)
class Duration:
    """How long training takes, validation and evaluation not counted.

    Attributes:
        seconds_per_step: mean over the run's optimizer steps.
        steps: optimizer steps of the run, or None where that is not known without data.
        is_measured: whether a real micro-batch was timed, or only this machine's matrix rate.
    """

    seconds_per_step: float
    steps: int | None
    is_measured: bool

    @property
    def seconds(self) -> float | None:
        """Of the whole run, if the number of steps is known."""
        return None if self.steps is None else self.steps * self.seconds_per_step


def matrix_rate(config: PretrainedConfig, *, tokens: int, device: str, dtype: str) -> float:
    """Floating-point operations a second in the model's own two matrix products of the feed-forward layer.

    Args:
        config: shape of the model.
        tokens: of a micro-batch; above 2048 the rate no longer changes.
        device: must be here.
        dtype: `float32` or `bfloat16`.
    """
    shape = config.get_text_config()
    width = int(shape.hidden_size)
    inner = int(getattr(shape, "intermediate_size", None) or 4 * width)

    def ones(rows: int, columns: int) -> torch.Tensor:
        return torch.ones(rows, columns, device=device, dtype=DTYPES[dtype])

    hidden_TD = ones(min(tokens, MOST_TOKENS), width)
    up_DI, down_ID = ones(width, inner), ones(inner, width)
    operations = 4 * len(hidden_TD) * width * inner
    with torch.no_grad():
        (hidden_TD @ up_DI) @ down_ID
        _wait(device)
        count, started = 0, time.perf_counter()
        while (seconds := time.perf_counter() - started) < MEASURED_SECONDS:
            (hidden_TD @ up_DI) @ down_ID
            _wait(device)
            count += 1
    return operations * count / seconds


def duration(
    setup: Setup,
    memory: Memory,
    workload: Workload,
    *,
    rate: float | None,
    seconds_per_micro_batch: float | None,
) -> Duration | None:
    """How long the run takes; None where nothing was measured to tell it by.

    Other micro-batches than the largest are taken in proportion to their padded tokens.

    Args:
        setup: of the largest micro-batch.
        memory: its operations.
        workload: padded tokens and number of steps.
        rate: of matrix products on the device, operations a second; None where the device is not here.
        seconds_per_micro_batch: of the largest one, if it was measured.
    """
    share = EFFICIENCY.get(setup.device)
    if seconds_per_micro_batch is None and rate is not None and share is not None:
        seconds = memory.flops_per_micro_batch / (rate * share)
    elif seconds_per_micro_batch is not None:
        seconds = seconds_per_micro_batch
    else:
        return None
    largest_tokens = setup.rows * setup.length_tokens
    return Duration(
        seconds * workload.padded_tokens_per_step / largest_tokens,
        workload.steps,
        seconds_per_micro_batch is not None,
    )


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()
