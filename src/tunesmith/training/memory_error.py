"""Work that does not fit into memory: how that is noticed, and what is cleaned up after it."""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from tunesmith.errors import RunFailed
from tunesmith.training.randomness import random_states, restore_random_states
from tunesmith.training.ranks import Ranks

T = TypeVar("T")
# torch's CPU allocator, MPS and cuBLAS say it in a plain RuntimeError.
SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")
REMEDY = "`--gradient-checkpointing always`, a smaller `--max-length` or `--method qlora` need less memory; "
REMEDY += "`tunesmith plan` says how much"


@dataclass(frozen=True, slots=True)
class NoMemory:
    """Memory was short.

    Attributes:
        told: what the allocator said, in one line.
    """

    told: str


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory is short, on any device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


def within_memory(work: Callable[[], T]) -> T | NoMemory:
    """The result of `work`, or that memory was short; the random generators are then as before it.

    The error and its traceback are gone on return, and with them the last references to the tensors of
    the failed try. Any other error passes.
    """
    random = random_states()
    try:
        return work()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        told = next(iter(str(error).splitlines()), "") or type(error).__name__
    restore_random_states(random)
    return NoMemory(told)


def half_of(rows: int, *, what: str, ranks: Ranks) -> int:
    """Rows to try next where `rows` at once did not fit.

    Args:
        rows: at once, at least 1.
        what: the fact, for the message.
        ranks: the processes of the run.

    Raises:
        RunFailed: at one row; and with several processes, since the others already wait for this one.
    """
    if ranks.count > 1:
        raise RunFailed(
            f"{what}, on process {ranks.rank} of {ranks.count}",
            hint="halve `--per-device-train-batch-size` and double `--gradient-accumulation-steps`; "
            f"beyond that, {REMEDY}",
        )
    if rows == 1:
        raise RunFailed(what.replace("1 rows of up to", "one row of", 1), hint=REMEDY)
    return rows // 2


def release_memory() -> None:
    """Give back what nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()
