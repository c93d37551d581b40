"""The loss diverges or swings: the rate is too high, the warmup too short, or a step sees too few rows."""

from dataclasses import dataclass

import numpy as np

from tunesmith.doctor.finding import Change, Evidence, Finding
from tunesmith.doctor.numbers import no_numbers
from tunesmith.doctor.rates import LONG_WARMUP, WARMUP, gentler, peak_rate, rate_at, usual_rate
from tunesmith.doctor.signs import Array, Curve, Signs
from tunesmith.doctor.trends import (
    LEAST_POINTS,
    between,
    error_of_difference,
    fifth_of,
    logs,
    noise_of,
    rolling_medians,
    stretches,
    thinned,
)

TITLE = "the training loss is unstable"
IS_LIVE = True
# Rises are differences of logarithms, over their standard error. A lowest level among many is low by chance,
# hence more than the usual two or three.
SURE_RISE, LATE_RISE = 4.5, 6.0
LEAST_RISE, LEAST_LATE_RISE = float(np.log(1.25)), float(np.log(1.5))
# Below this, in nats, a rise is none to speak of; from one point alone, below twice as much.
LEAST_NATS = 0.15
# A hump begins at the first point, which is alone.
HUMP_RISE, LEAST_HUMP = 4.0, float(np.log(1.45))
HUMP_WITHIN = 0.5
LONG_POINTS = 50
# Spikes: so many errors and so far above their surroundings, in more than one point, and that often.
SPIKE_NOISE, LEAST_SPIKE, SPIKE_POINTS, SPIKES, SPIKE_WINDOW = 5.0, float(np.log(1.35)), 2, 2, 15
# A curve as rough as this that has not fallen after so many points swings instead of learning.
ROUGH, ROUGH_POINTS = 0.6, 60
# Validation that rises and falls by these factors; it is over the same rows, so 3 % would be much by chance.
SWING_UP, SWING_BACK = 1.08, 1.04
# A rate so far above the usual one, and a loss that stays high in nats and as a share of the first, with less
# of a fall than `STUCK` after the first fifth, leave no other reading.
FAR_ABOVE, FOREIGN_EXTREME, HIGH_NATS, HIGH_SHARE, STUCK = 15.0, 5e-3, 2.0, 0.65, 0.06
# The first dozen steps of any run may look so.
LEAST_HIGH_POINTS = 12
# Windows of one or two rows make a loss as rough as the rows are unlike.
FEW_ROWS, ENOUGH_ROWS = 2, 8
RATE_PARTS = 4.0


@dataclass(frozen=True, slots=True)
class Swing:
    """One way of being unstable.

    Attributes:
        kind: `diverging`, `oscillating` or `hump`.
        text: a sentence with the figures.
        first_step: where it begins; until there all was well.
        last_step: where it ends.
        confidence: 0 to 1.
        curve: that it shows on.
    """

    kind: str
    text: str
    first_step: float
    last_step: float
    confidence: float
    curve: str = "loss"


def examine(signs: Signs) -> Finding | None:
    """Speaks of rises, humps and spikes far beyond the curve's own noise."""
    if no_numbers(signs):
        return None
    curve = thinned(signs.loss)
    if len(curve) < LEAST_POINTS or not curve.values.any():
        return None
    values = logs(curve.values)
    noise = noise_of(values)
    found = [
        swing
        for swing in (
            _rise(curve, values, noise),
            _swinging_validation(signs),
            _hump(curve, values, noise),
            _spikes(signs, curve, values, noise),
            _stays_high(signs, curve, noise),
            _rough(signs, curve, values, noise),
        )
        if swing
    ]
    return _finding(signs, found) if found else None


def _rise(curve: Curve, values: Array, noise: float) -> Swing | None:
    """A stretch far above the lowest one before it, in wide windows or in narrow ones."""
    for width, sure, least in (
        (fifth_of(curve), SURE_RISE, LEAST_RISE),
        (max(_narrow(curve), len(curve) // 20), LATE_RISE, LEAST_LATE_RISE),
    ):
        if len(values) < 2 * width:
            continue
        levels = rolling_medians(values, width)
        before = np.minimum.accumulate(levels)[:-width]
        rises = levels[width:] - before
        top = int(np.argmax(rises))
        low, top = int(np.argmin(levels[: top + 1])), top + width
        start = float(np.median(curve.values[low : low + width]))
        high = float(np.median(curve.values[top : top + width]))
        needed = max(least, sure * error_of_difference(noise, width, width))
        if levels[top] - levels[low] < needed or high - start < LEAST_NATS:
            continue
        end = float(np.median(curve.values[-width:]))
        first, last = float(curve.steps[low + width - 1]), float(curve.steps[top + width - 1])
        text = f"the loss rises from {start:.3f} (up to step {first:g}) to {high:.3f} (up to step {last:g})"
        is_back = end < start + (high - start) / 2
        text += f", and ends at {end:.3f}" if top + width < len(values) else ""
        last = last if is_back else float(curve.steps[-1])
        sure_of_it = 0.9 if high > 1.5 * start else 0.8
        return Swing("oscillating" if is_back else "diverging", text, first, last, sure_of_it)
    return None


def _narrow(curve: Curve) -> int:
    """Of five points, two may be odd rows, one at the end of an epoch and one at the start of the next."""
    return 5 if len(curve) >= LONG_POINTS else 3


def _swinging_validation(signs: Signs) -> Swing | None:
    """Validation loss that rises and falls again; overfitting does not come back by so much."""
    curve = signs.validation.finite
    found = None
    for at in range(1, len(curve) - 1):
        low, high = curve.values[:at].min(), curve.values[at]
        back = curve.values[at + 1 :].min()
        if high > SWING_UP * low and back * SWING_BACK < high and high - low > LEAST_NATS:
            first, last = float(curve.steps[int(np.argmin(curve.values[:at]))]), float(curve.steps[at])
            text = f"validation loss rises from {low:.3f} at step {first:g} to {high:.3f} at step {last:g}, "
            text += f"and falls to {back:.3f} later"
            found = found or Swing("oscillating", text, first, last, 0.7, curve="eval_loss")
    return found


def _hump(curve: Curve, values: Array, noise: float) -> Swing | None:
    """The loss climbs from where it began, and may come back."""
    width = _narrow(curve)
    early = rolling_medians(values[1 : max(width + 1, int(len(values) * HUMP_WITHIN))], width)
    top = int(np.argmax(early))
    rise = float(early[top] - values[0])
    high = float(np.median(curve.values[1 + top : 1 + top + width]))
    if high < curve.values[0] + 2 * LEAST_NATS or rise < max(
        LEAST_HUMP, HUMP_RISE * error_of_difference(noise, 1, width)
    ):
        return None
    first, last = float(curve.steps[0]), float(curve.steps[top + width])
    text = f"the loss climbs from {curve.values[0]:.3f} at step {first:g} to {high:.3f} up to step {last:g}"
    is_back = float(np.median(values[-3:])) < values[0]
    return Swing("hump" if is_back else "diverging", text, first, last, 0.75 if is_back else 0.9)


def _spikes(signs: Signs, curve: Curve, values: Array, noise: float) -> Swing | None:
    """Jumps of more than one point above their surroundings, which come again."""
    if len(values) <= SPIKE_WINDOW:
        return None
    half = SPIKE_WINDOW // 2
    # At both ends the nearest whole window stands in, and there a steep fall is no spike.
    calm = rolling_medians(values, SPIKE_WINDOW)
    above = values[half:-half] - calm
    high = above > max(LEAST_SPIKE, SPIKE_NOISE * noise)
    found = [
        (first + half, last + half) for first, last in stretches(high) if last - first + 1 >= SPIKE_POINTS
    ]
    epochs = signs.epoch_of(float(curve.steps[-1]))
    # One odd row comes once in each epoch.
    if len(found) < SPIKES or (epochs is not None and len(found) <= epochs):
        return None
    first, last = float(curve.steps[found[0][0]]), float(curve.steps[found[-1][1]])
    tops = [float(curve.values[a : b + 1].max()) for a, b in found]
    where = ", ".join(f"{curve.steps[a]:g}" for a, _ in found[:6]) + (" ..." if len(found) > 6 else "")
    text = f"the loss jumps {len(found)} times, to {max(tops):.3f} at most, and comes back: at steps {where}"
    return Swing("oscillating", text, first, last, min(0.9, 0.55 + 0.1 * len(found)))


def _stays_high(signs: Signs, curve: Curve, noise: float) -> Swing | None:
    """A rate far above the usual one, and a loss that stops falling early and high."""
    rate, usual = peak_rate(signs), usual_rate(signs)
    limit = FAR_ABOVE * usual if usual else FOREIGN_EXTREME
    if rate is None or rate < limit:
        return None
    while_high = _while_high(signs, curve)
    width = fifth_of(curve)
    if len(while_high) < max(2 * width, LEAST_HIGH_POINTS):
        return None
    values = logs(while_high.values)
    early, end = float(np.median(values[width : 2 * width])), float(np.median(values[-width:]))
    level = float(np.median(while_high.values[-width:]))
    is_falling = early - end > max(STUCK, 2 * error_of_difference(noise, width, width))
    # The first one may be the base model's.
    validation = _while_high(signs, signs.validation.finite).values[1:]
    is_better = len(validation) > 1 and validation.min() < (1 - STUCK) * validation[0]
    if level < max(HIGH_NATS, HIGH_SHARE * float(curve.values[0])) or is_falling or is_better:
        return None
    usually = f", where {usual:.2g} is usual for {signs.setting('method.name')}," if usual else ""
    text = f"at a learning rate of {rate:.2g}{usually} the loss stays at {level:.3f}"
    first, last = float(while_high.steps[width]), float(while_high.steps[-1])
    return Swing("diverging", text, first, last, 0.65)


def _while_high(signs: Signs, curve: Curve) -> Curve:
    """The part of a curve before the rate falls below half its peak; a loss may well fall after that."""
    rates = signs.curve("learning_rate").finite
    if not len(rates):
        return curve
    high = rates.steps[rates.values >= rates.values.max() / 2]
    return between(curve, 0, float(high[-1]))


def _rough(signs: Signs, curve: Curve, values: Array, noise: float) -> Swing | None:
    """So much noise that no fall shows after many steps."""
    validation = signs.validation.finite.values
    if noise < ROUGH or len(values) < ROUGH_POINTS or float(np.median(curve.values)) < HIGH_NATS / 4:
        return None
    width = fifth_of(curve)
    fall = float(np.median(values[:width]) - np.median(values[-width:]))
    is_better = len(validation) > 1 and validation[-1] < 0.97 * validation[0]
    if is_better or fall > 1.5 * error_of_difference(noise, width, width):
        return None
    text = f"single steps are {np.expm1(noise):.0%} above or below their neighbours, and no fall shows"
    return Swing("oscillating", text, float(curve.steps[0]), float(curve.steps[-1]), 0.55)


def _window_rows(signs: Signs) -> int | None:
    """Rows of one step, as far as they are known."""
    rows = signs.setting("training.per_device_train_batch_size")
    return int(rows) * int(signs.setting("training.gradient_accumulation_steps", 1)) if rows else None


def _finding(signs: Signs, found: list[Swing]) -> Finding:
    surest = max(found, key=lambda swing: swing.confidence)
    rate, rows = peak_rate(signs), _window_rows(signs)
    warmup = float(signs.setting(WARMUP, LONG_WARMUP))
    told = f"the learning rate{f' {rate:.2g}' if rate else ''} is too high"
    causes = {"hump": f"the warmup is too short, or {told}"}
    cause = causes.get(surest.kind, told)
    if surest.kind != "hump" and warmup < 0.01:
        cause += ", and it begins without a warmup"
    changes = gentler(signs, parts=RATE_PARTS, good=_good_rate(signs, found))
    if rows and rows <= FEW_ROWS:
        cause += f"; a step sees {rows} row{'s' if rows > 1 else ''} only"
        batch = int(signs.setting("training.per_device_train_batch_size"))
        reason = f"steps of {ENOUGH_ROWS} rows are less at the mercy of one row"
        changes += (Change("training.gradient_accumulation_steps", ENOUGH_ROWS // batch, reason),)
    return Finding(
        ailment="loss_unstable",
        title=f"{TITLE} ({'swinging' if surest.kind == 'oscillating' else 'diverging'})",
        cause=cause,
        evidence=tuple(
            Evidence(swing.text, swing.curve, swing.first_step, swing.last_step)
            for swing in sorted(found, key=lambda swing: -swing.confidence)
        ),
        remedy="Lower the learning rate and let it rise over the first tenth of the run"
        + ("; let a step see more rows." if rows and rows <= FEW_ROWS else "."),
        confidence=surest.confidence,
        changes=changes,
    )


def _good_rate(signs: Signs, found: list[Swing]) -> float | None:
    """The rate up to which the loss still fell, if that was on the way up."""
    first = min(swing.first_step for swing in found)
    peak, rate = peak_rate(signs), rate_at(signs, first)
    is_rising = rate is not None and peak is not None and rate < 0.9 * peak
    curve = signs.curve("learning_rate").finite
    before_peak = is_rising and bool(first <= curve.steps[int(np.argmax(curve.values))])
    return rate if before_peak and rate else None
