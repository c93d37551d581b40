"""The training loss does not fall: the learning rate is too low, nothing is scored, or nothing can learn."""

from dataclasses import dataclass

import numpy as np

from tunesmith.doctor.finding import Change, Evidence, Finding
from tunesmith.doctor.numbers import scores_nothing
from tunesmith.doctor.rates import RATE, peak_rate, rounded, usual_rate
from tunesmith.doctor.signs import Curve, Signs
from tunesmith.doctor.trends import (
    LEAST_POINTS,
    error_of_difference,
    fifth_of,
    first_level,
    last_level,
    logs,
    noise_of,
    thinned,
)

TITLE = "the training loss does not fall"
IS_LIVE = True
# While a run goes on: judged from its middle, where a warmup is long over.
LIVE_SHARE = 0.5
# Clipping and number types leave a gradient that exists far above this.
NO_GRADIENT = 1e-6
# Validation is over the same rows each time; weights that move at all change it by more.
SAME = 1e-5
# Relative falls. Up to `STILL` a curve counts as flat; up to `SLOW` as far too little for a whole run.
STILL, SLOW, FOREIGN_SLOW = 0.02, 0.10, 0.03
# At a rate that is only somewhat low a validation loss has to stay even closer to where it was.
HARDLY = 0.012
# Rates that are low: below this share of the method's usual one; below this one for any method; and below
# this one for all but full fine-tuning of large models.
LOW_SHARE, LOW_FOR_ALL, LOW_FOR_MOST = 0.15, 1.5e-6, 1.05e-5
# A model this good already has nothing to fall by.
GOOD_NATS, GOOD_NATS_UNTOLD = 0.3, 1.0
# What a run should bring at least, to say how far off this one is.
WORTH = 0.2
# A rate to try where neither the method nor a pace is known: Hugging Face's own default, and a cap.
FOREIGN_RATES = (5e-5, 2e-4)


@dataclass(frozen=True, slots=True)
class Fall:
    """How far a loss fell.

    Attributes:
        name: of the curve.
        start: level at the beginning, nats a token.
        end: level at the end.
        share: relative fall, may be negative.
        error: standard error of `share`.
        first_step: of the curve.
        last_step: of the curve.
    """

    name: str
    start: float
    end: float
    share: float
    error: float
    first_step: float
    last_step: float

    @property
    def is_still(self) -> bool:
        """Whether there was neither a fall nor a rise, as far as the noise lets one see."""
        is_hidden = abs(self.share) <= STILL / 2 and self.error <= STILL
        return abs(self.share) + 2 * self.error <= STILL or is_hidden

    def is_less_than(self, share: float) -> bool:
        """Whether it may well be below `share`, and is no rise."""
        return -share - 2 * self.error < self.share < max(share, 2 * self.error)

    @property
    def is_surely_little(self) -> bool:
        """Whether it is far below what a run brings, whatever is trained."""
        return abs(self.share) < FOREIGN_SLOW and self.error < FOREIGN_SLOW

    @property
    def evidence(self) -> Evidence:
        """The fall in a sentence."""
        what = "validation loss" if self.name == "eval_loss" else "training loss"
        text = f"{what} {self.start:.3f} at first, {self.end:.3f} in the end: {self.share:+.1%} of a fall"
        text += f" (error {self.error:.1%})" if self.error >= 0.001 else ""
        return Evidence(text, self.name, self.first_step, self.last_step)


def examine(signs: Signs) -> Finding | None:
    """Speaks where nothing is scored or can learn, and where a low rate brings next to nothing."""
    return _nothing_scored(signs) or _no_gradient(signs) or _no_fall(signs)


def _nothing_scored(signs: Signs) -> Finding | None:
    scored = (signs.data.get("scored_tokens") or {}).get("train")
    loss, is_nothing = signs.loss, scores_nothing(signs)
    if not is_nothing and scored != 0:
        return None
    if is_nothing:
        value = "NaN, with a gradient of exactly 0," if np.isnan(loss.values).all() else "exactly 0"
        text = f"the loss is {value} at all {len(loss)} logged points, from step {loss.steps[0]:g} on"
        evidence = Evidence(text, "loss", float(loss.steps[0]), float(loss.steps[-1]))
    else:
        evidence = Evidence("not one token of the training rows is scored", "loss", 0, signs.last_step)
    return Finding(
        ailment="loss_not_decreasing",
        title=TITLE,
        cause="nothing is scored: every label is masked, so there is nothing to learn from",
        evidence=(evidence,),
        remedy="Check that answers are inside the length limit and that the mask fits this template "
        "(`tunesmith data preview FILE` shows the scored tokens).",
        confidence=0.95 if scored == 0 or not _has_bad_gradient(signs) else 0.7,
        changes=(Change("data.score", "answers", "the answer's tokens and its end of turn are scored"),),
    )


def _has_bad_gradient(signs: Signs) -> bool:
    return bool((~np.isfinite(signs.curve("grad_norm").values)).any())


def _no_gradient(signs: Signs) -> Finding | None:
    norm, loss = signs.curve("grad_norm").finite, signs.loss.finite
    if len(norm) < LEAST_POINTS or not len(loss) or float(norm.values.max()) > NO_GRADIENT:
        return None
    if float(np.median(loss.values)) < GOOD_NATS / 10:
        return None
    text = f"the gradient's norm is at most {norm.values.max():.1e} from step {norm.steps[0]:g} to "
    text += f"{norm.steps[-1]:g}, at a loss of {np.median(loss.values):.3f}"
    return _frozen(signs, (Evidence(text, "grad_norm", float(norm.steps[0]), float(norm.steps[-1])),), 0.95)


def _no_fall(signs: Signs) -> Finding | None:
    falls = [fall for fall in (_fall_of_validation(signs), _fall_of_training(signs)) if fall]
    if not falls or (not signs.is_over and signs.last_step < LIVE_SHARE * float(signs.total_steps or np.inf)):
        return None
    if signs.kind == "run" and signs.is_over and signs.last_step < LEAST_POINTS:
        return None  # so few steps need not show in a loss
    rate = peak_rate(signs)
    low = _low_limit(signs)
    level = min(max(fall.start, fall.end) for fall in falls)
    # Any curve that clearly fell, or may have, speaks against.
    if rate is not None and rate < low:
        is_low = usual_rate(signs) is not None or rate < LOW_FOR_ALL
        is_little = all(fall.is_less_than(SLOW) if is_low else fall.is_surely_little for fall in falls)
        return _too_low(signs, rate, falls) if is_little and level >= GOOD_NATS else None
    if rate is not None and _is_same(signs.validation) and level >= GOOD_NATS / 10:
        return _frozen(signs, tuple(fall.evidence for fall in falls), 0.9)
    is_little = falls[0].name == "eval_loss" and falls[0].share < HARDLY
    if rate is not None and rate < 3 * low and is_little:
        is_fallen = falls[-1].share - 2 * falls[-1].error > STILL
        return None if is_fallen or level < GOOD_NATS_UNTOLD else _too_low(signs, rate, falls)
    if not all(fall.is_still for fall in falls) or level < GOOD_NATS_UNTOLD:
        return None
    evidence = tuple(fall.evidence for fall in falls)
    return _frozen(signs, evidence, 0.6) if rate is not None else _too_low(signs, None, falls)


def _low_limit(signs: Signs) -> float:
    usual = usual_rate(signs)
    return LOW_SHARE * usual if usual else LOW_FOR_MOST


def _is_same(validation: Curve) -> bool:
    values = validation.finite.values
    return len(values) >= 2 and bool(np.ptp(values) <= SAME * np.abs(values).max())


def _fall_of_validation(signs: Signs) -> Fall | None:
    curve = signs.validation.finite
    if len(curve) < 2:
        return None
    start, end = float(curve.values[0]), float(curve.values[1:].min())
    share = (start - end) / start if start > 0 else 0.0
    return Fall("eval_loss", start, end, share, 0.0, float(curve.steps[0]), float(curve.steps[-1]))


def _fall_of_training(signs: Signs) -> Fall | None:
    curve = thinned(signs.loss)
    if len(curve) < LEAST_POINTS:
        return None
    width, values = fifth_of(curve), logs(curve.values)
    before, after = first_level(curve, width), last_level(curve, width)
    noise = noise_of(values)
    share = 1 - float(np.exp(np.median(values[-width:]) - np.median(values[:width])))
    error = error_of_difference(noise, width, width)
    # A drop within the first steps is over before a fifth of the run is.
    early = 1 - float(np.exp(np.median(values[-width:]) - values[0]))
    early_error = error_of_difference(noise, 1, width)
    if early - 2 * early_error > share:
        share, error = early, early_error
    return Fall("loss", before.value, after.value, share, error, before.first_step, after.last_step)


def _too_low(signs: Signs, rate: float | None, falls: list[Fall]) -> Finding:
    share = max(0.0, max((fall.share for fall in falls if fall.share > 2 * fall.error), default=0.0))
    usual = usual_rate(signs)
    evidence = [fall.evidence for fall in falls]
    if rate is not None:
        text = f"the learning rate is at most {rate:.2g}"
        text += f"; usual for {signs.setting('method.name')} is {usual:.2g}" if usual else ""
        evidence.append(Evidence(text, "learning_rate", falls[0].first_step, falls[0].last_step))
    times = WORTH / share if share > 0 else 0.0
    pace = f"At this pace a fall of {WORTH:.0%} takes {times:.0f} times as long. " if times else ""
    if usual:
        new = usual
    else:
        low, high = FOREIGN_RATES
        new = min(max((rate or 0) * times, low), high)
    sure = 0.6 if rate is None else 0.95 if usual or rate < LOW_FOR_ALL else 0.75
    told = f" from {rate:.2g}" if rate is not None else ""
    return Finding(
        ailment="loss_not_decreasing",
        title=TITLE,
        cause="the learning rate is too low for what is trained",
        evidence=tuple(evidence),
        remedy=f"{pace}Raise the learning rate{told} to about {new:.2g}.",
        confidence=sure if rate is not None else min(sure, 0.5),
        changes=(Change(RATE, rounded(new), "so low a rate moves next to nothing"),),
    )


def _frozen(signs: Signs, evidence: tuple[Evidence, ...], confidence: float) -> Finding:
    rate = peak_rate(signs)
    return Finding(
        ailment="loss_not_decreasing",
        title=TITLE,
        cause="the weights that should learn are frozen, or the optimizer holds others"
        + (f": a learning rate of {rate:.2g} would move them" if rate else ""),
        evidence=evidence,
        remedy="Check `requires_grad` of what should learn, and that the optimizer was made after the "
        "adapter was added. `tunesmith train` takes care of both.",
        confidence=confidence,
    )
