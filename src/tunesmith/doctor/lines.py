"""Logged lines of a run as curves: the names that ours and a Hugging Face Trainer's logs share."""

import math
from array import array
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tunesmith.doctor.signs import Curve

# Curves that are logged under their own name; `input_share` is made of two figures.
NAMES = ("loss", "eval_loss", "learning_rate", "grad_norm", "tokens_per_second")
INPUT_SHARE = "input_share"


class Curves:
    """Curves that grow line by line."""

    def __init__(self, lines: Iterable[Mapping[str, Any]] = ()) -> None:
        self._steps: dict[str, array[float]] = {}
        self._values: dict[str, array[float]] = {}
        for line in lines:
            self.add(line)

    def add(self, line: Mapping[str, Any]) -> None:
        """Take the figures of one line; passes over a line without a step, and what is no number."""
        step = number(line.get("step"))
        if step is None or not math.isfinite(step):
            return
        for name in NAMES:
            value = number(line.get(name))
            if value is not None:
                self._put(name, step, value)
        waited, whole = number(line.get("input_seconds")), number(line.get("step_seconds"))
        if waited is not None and whole is not None and whole > 0:
            self._put(INPUT_SHARE, step, waited / whole)

    def _put(self, name: str, step: float, value: float) -> None:
        self._steps.setdefault(name, array("d")).append(step)
        self._values.setdefault(name, array("d")).append(value)

    def as_curves(self) -> dict[str, Curve]:
        """Each curve in the order of its steps; of two values for one step the one that was logged later."""
        return {name: _in_order(self._steps[name], self._values[name]) for name in self._steps}


def _in_order(steps: "array[float]", values: "array[float]") -> Curve:
    step_array, value_array = np.array(steps), np.array(values)
    if len(step_array) < 2 or bool((np.diff(step_array) > 0).all()):
        return Curve(step_array, value_array)
    # The last of equal steps, which is what a run that went on from a checkpoint did again.
    order = np.argsort(step_array, kind="stable")
    step_array, value_array = step_array[order], value_array[order]
    is_last = np.append(step_array[1:] > step_array[:-1], True)
    return Curve(step_array[is_last], value_array[is_last])


def number(value: object) -> float | None:
    """A logged figure, NaN and infinity too, also where a program wrote them as words; None for all else."""
    if isinstance(value, str):
        return {"nan": math.nan, "inf": math.inf, "infinity": math.inf, "-inf": -math.inf}.get(value.lower())
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def peak_rate(curves: Mapping[str, Curve]) -> dict[str, float]:
    """The peak of the schedule as a setting, as far as it was logged; nothing where it was not."""
    rates = curves["learning_rate"].finite.values if "learning_rate" in curves else np.empty(0)
    peak = float(rates.max()) if len(rates) else 0.0
    return {"training.learning_rate": peak} if peak > 0 else {}


def last_epoch(lines: Iterable[Mapping[str, Any]]) -> tuple[float, float] | None:
    """Step and epoch of the last line that names both, each above 0; None where no line does."""
    pairs = [
        (step, epoch)
        for line in lines
        if (step := number(line.get("step"))) and (epoch := number(line.get("epoch")))
    ]
    return next(((s, e) for s, e in reversed(pairs) if s > 0 and e > 0 and math.isfinite(s / e)), None)
