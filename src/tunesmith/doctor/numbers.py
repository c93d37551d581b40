"""Where a run's losses or gradients stopped being numbers, however its log says so."""

import re

import numpy as np

from tunesmith.doctor.finding import Evidence
from tunesmith.doctor.signs import Signs

# `loss is nan`, `grad_norm is inf`: the loop's guard says it so (training/loop.py), others much alike.
TOLD = re.compile(r"\b(\w*(?:loss|grad\w*))\b\W*(?:is|became)?\s*(-?inf\w*|nan)\b", re.IGNORECASE)
# Float16 training skips its first steps, whose gradients overflow, and goes on well (loss scaling, arXiv:
# 1710.03740, section 3.2); a gradient that is no number at the end, so many points long, does not pass.
LAST_GRADIENTS = 2
# No loss falls from here to exactly 0 between two points of a log, and stays there.
FALLS_TO_ZERO_NATS, LAST_ZEROS = 0.2, 2
# So many points of nothing but 0 or NaN have no scored token behind them.
LEAST_UNSCORED = 3


def no_numbers(signs: Signs) -> tuple[Evidence, ...]:
    """All evidence of NaN and infinity: what ended the run, losses, and gradients that stay so."""
    if scores_nothing(signs):
        return ()
    losses = (_in_losses(signs, name) for name in ("loss", "eval_loss"))
    found = (_told(signs), *losses, _in_gradients(signs), _as_zero(signs))
    return tuple(each for each in found if each)


def scores_nothing(signs: Signs) -> bool:
    """Whether the loss is 0, or NaN with a gradient of exactly 0, all along: a mean over no token."""
    loss, norm = signs.loss.values, signs.curve("grad_norm").values
    if len(loss) < LEAST_UNSCORED:
        return False
    is_mean_of_none = bool(np.isnan(loss).all()) and len(norm) >= LEAST_UNSCORED and not norm.any()
    return is_mean_of_none or not loss.any()


def is_broken_from_the_start(signs: Signs) -> bool:
    """Whether the first pass, before any weight had moved, gave no number: then no rate is to blame."""
    if signs.status == "failed" and TOLD.search(signs.why) and signs.last_step == 0:
        return True
    first_steps = (("eval_loss", 0), ("loss", 1))
    curves = ((signs.curve(name), step) for name, step in first_steps)
    return any(
        len(curve) > 0 and curve.steps[0] <= step and not np.isfinite(curve.values[0])
        for curve, step in curves
    )


def _told(signs: Signs) -> Evidence | None:
    found = TOLD.search(signs.why) if signs.status == "failed" else None
    if found is None:
        return None
    return Evidence(
        f"the run ended at step {signs.last_step:g}: {found.group(1)} is {found.group(2)}",
        curve="grad_norm" if "grad" in found.group(1).lower() else "loss",
        first_step=signs.last_step,
        last_step=signs.last_step,
    )


def _in_losses(signs: Signs, name: str) -> Evidence | None:
    curve = signs.curve(name)
    bad = ~np.isfinite(curve.values)
    if not bad.any():
        return None
    first = int(np.argmax(bad))
    what = "training loss" if name == "loss" else "validation loss"
    text = f"{what} is {curve.values[first]} at step {curve.steps[first]:g}"
    text += f" and at {int(bad.sum())} of {len(curve)} logged points"
    return Evidence(text, name, float(curve.steps[first]), float(curve.steps[bad][-1]))


def _in_gradients(signs: Signs) -> Evidence | None:
    curve = signs.curve("grad_norm")
    bad = ~np.isfinite(curve.values)
    if len(curve) < LAST_GRADIENTS or not bad[-LAST_GRADIENTS:].all():
        return None
    good = np.flatnonzero(~bad)
    first = int(good[-1]) + 1 if len(good) else 0
    text = f"the gradient is no number from step {curve.steps[first]:g} to the last, {curve.steps[-1]:g}"
    return Evidence(text, "grad_norm", float(curve.steps[first]), float(curve.steps[-1]))


def _as_zero(signs: Signs) -> Evidence | None:
    """A Hugging Face Trainer leaves NaN out of its sums and so logs 0 (`logging_nan_inf_filter`)."""
    loss = signs.loss
    above = np.flatnonzero(loss.values != 0)
    first = int(above[-1]) + 1 if len(above) else 0
    if not 0 < first <= len(loss) - LAST_ZEROS or not loss.values[first - 1] > FALLS_TO_ZERO_NATS:
        return None
    text = (
        f"the loss is {loss.values[first - 1]:.3f} at step {loss.steps[first - 1]:g} and exactly 0 from step "
    )
    text += f"{loss.steps[first]:g} on, as a Hugging Face Trainer writes NaN"
    return Evidence(text, "loss", float(loss.steps[first]), float(loss.steps[-1]))
