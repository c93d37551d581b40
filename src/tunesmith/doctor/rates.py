"""Learning rates of a run: what it used, what its method usually takes, and what to try next."""

import numpy as np

from tunesmith.config import LEARNING_RATES, METHOD_NAMES, TrainingConfig
from tunesmith.doctor.finding import Change
from tunesmith.doctor.signs import Signs

RATE, WARMUP = "training.learning_rate", "training.warmup_ratio"
# The default of low-rank methods, and the only one that is not by name.
LOW_RANK_RATE = float(TrainingConfig.model_fields["learning_rate"].default)
# Where the method is not known: usual are 1e-5 to 5e-4, from all weights to an adapter.
FOREIGN_RATE = 2e-4
# A rate that was far too high comes down to twice the usual one, which all guides still hold for good.
TIMES_USUAL = 2.0
# The guides' longest warmup.
LONG_WARMUP = 0.1


def peak_rate(signs: Signs) -> float | None:
    """The highest learning rate of the run, or None where no source tells one."""
    told = signs.setting(RATE)
    logged = signs.curve("learning_rate").finite.values
    known = [float(told)] if isinstance(told, int | float) else []
    known += [float(logged.max())] if len(logged) else []
    return max(known, default=None)


def rate_at(signs: Signs, step: float) -> float | None:
    """The learning rate that was logged last up to `step`."""
    curve = signs.curve("learning_rate").finite
    at = int(np.searchsorted(curve.steps, step, side="right")) - 1
    return float(curve.values[at]) if at >= 0 else None


def usual_rate(signs: Signs) -> float | None:
    """Our default for the method of the run, or None where the method is not known."""
    method = signs.setting("method.name")
    return LEARNING_RATES.get(str(method), LOW_RANK_RATE) if method in METHOD_NAMES else None


def gentler(signs: Signs, *, parts: float, good: float | None = None) -> tuple[Change, ...]:
    """Changes to a lower rate with a longer warmup.

    Args:
        signs: of the run.
        parts: the rate is divided by this, and taken no higher than twice the usual one.
        good: a rate at which the loss still fell; the new one is no higher.
    """
    changes: list[Change] = []
    if peak := peak_rate(signs):
        usual = usual_rate(signs)
        most = TIMES_USUAL * usual if usual else FOREIGN_RATE
        new = min(peak / parts, most, *([good] if good else []))
        changes.append(Change(RATE, rounded(new), f"{peak:.2g} was too high"))
    if float(signs.setting(WARMUP, 0.0)) < LONG_WARMUP:
        changes.append(Change(WARMUP, LONG_WARMUP, "Adam's first steps are its least certain ones"))
    return tuple(changes)


def rounded(rate: float) -> float:
    """Two digits, as people write a rate."""
    return float(f"{rate:.1e}")
