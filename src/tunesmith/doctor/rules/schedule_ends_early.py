"""The learning rate is at zero long before the run is over, so its last part learns nothing."""

from dataclasses import dataclass

import numpy as np

from tunesmith.doctor.finding import Change, Evidence, Finding
from tunesmith.doctor.signs import Curve, Signs
from tunesmith.doctor.trends import LEAST_POINTS

TITLE = "the learning rate ends before the run"
IS_LIVE = True
# A cosine is below a hundredth of its peak for its last 6 %, a square for its last 10 %.
NEAR_ZERO = 0.01
TAIL_SHARE = 0.10
LEAST_ZEROS = 2
# A cosine that goes on beyond its length rises again; so far up it is seen.
RISEN = 0.1
# A schedule that is cut off while it still falls: as high as this at the end of the run.
CUT_OFF = 0.3


@dataclass(frozen=True, slots=True)
class Misfit:
    """How schedule and run do not fit: sentence, stretch, and how sure it is."""

    text: str
    first_step: float
    last_step: float
    confidence: float
    is_early: bool = True


def examine(signs: Signs) -> Finding | None:
    """Speaks where more than a tenth of the run has no rate, and where a falling schedule was cut off."""
    curve = signs.curve("learning_rate").finite
    if len(curve) < LEAST_POINTS or not curve.values.max() > 0:
        return None
    length = signs.last_step if signs.is_over else max(float(signs.total_steps or 0), signs.last_step)
    found = _dead_end(curve, length) or _second_rise(curve, length) or _cut_off(signs, curve)
    if found is None:
        return None
    kind = str(signs.setting("training.lr_scheduler_type", ""))
    kind = kind if kind in ("cosine", "linear") else "cosine"
    return Finding(
        ailment="schedule_ends_early",
        title=TITLE if found.is_early else "the run ends before its learning rate",
        cause="the schedule was made for another number of steps than the run takes, as when it counts "
        "micro-batches, epochs or processes otherwise",
        evidence=(Evidence(found.text, "learning_rate", found.first_step, found.last_step),),
        remedy=f"Make the schedule as long as the run, {length:g} optimizer steps; `tunesmith train` does so "
        "by itself.",
        confidence=found.confidence,
        changes=(
            Change("training.max_steps", int(length), "schedule and run get the same length"),
            Change("training.lr_scheduler_type", kind, "it falls to 0 with the last step"),
        ),
    )


def _dead_end(curve: Curve, length: float) -> Misfit | None:
    """No rate from some step to the last one."""
    alive = np.flatnonzero(curve.values > NEAR_ZERO * curve.values.max())
    zeros = len(curve) - 1 - int(alive[-1])
    end = float(curve.steps[alive[-1]])
    share = (length - end) / length
    if zeros < LEAST_ZEROS or share <= TAIL_SHARE:
        return None
    text = f"after step {end:g} the learning rate is at most {NEAR_ZERO:.0%} of its peak "
    text += f"{curve.values.max():.2g}, for {share:.0%} of the run's {length:g} steps"
    return Misfit(text, end, float(curve.steps[-1]), 0.95)


def _second_rise(curve: Curve, length: float) -> Misfit | None:
    """Down to zero and slowly up again; a restart jumps, and a warmup comes before the peak."""
    values, peak = curve.values, float(curve.values.max())
    after = int(np.argmax(values))
    low = after + int(np.argmin(values[after:]))
    rise = values[low:]
    is_slow = len(rise) >= LEAST_ZEROS + 2 and bool((np.diff(rise) < peak / 3).all())
    share = (length - float(curve.steps[low])) / length
    if values[low] > NEAR_ZERO * peak or not is_slow or share <= TAIL_SHARE or rise[-1] < RISEN * peak:
        return None
    text = f"the learning rate reaches 0 at step {curve.steps[low]:g} and climbs to {rise[-1]:.2g} until "
    text += f"step {curve.steps[-1]:g}: its schedule was {share:.0%} shorter than the run"
    return Misfit(text, float(curve.steps[low]), float(curve.steps[-1]), 0.7)


def _cut_off(signs: Signs, curve: Curve) -> Misfit | None:
    """The run did all its steps, and the rate was still on its way down."""
    kind, total = signs.setting("training.lr_scheduler_type"), signs.total_steps
    is_done = signs.status in ("", "succeeded") and bool(total) and signs.last_step >= float(total or 0)
    peak, last = float(curve.values.max()), float(curve.values[-1])
    # One that stays where it is was meant to, whatever it is called.
    is_falling = bool(curve.values[-1] < curve.values[-2] < curve.values[-3])
    if kind not in ("cosine", "linear") or not is_done or last < CUT_OFF * peak or not is_falling:
        return None
    text = f"at step {curve.steps[-1]:g}, the last one, the rate is still {last / peak:.0%} of its peak "
    text += f"{peak:.2g} and falling"
    at = float(curve.steps[int(np.argmax(curve.values))])
    return Misfit(text, at, float(curve.steps[-1]), 0.6, is_early=False)
