"""Learning rate as a function of the step, so that a continued run needs no scheduler state.

transformers' schedules start at exactly 0, which makes the first step of a run learn nothing; here
step 1 already moves, and the last step still does.
"""

import math


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
