"""Levels, noise and rises of a loss curve that neither one odd row nor a noisy small batch moves much.

Losses are compared as logarithms, since the noise of a loss grows with the loss. Medians are used throughout;
the noise is that of single points around the line through their neighbours, so a trend counts as none.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from tunesmith.doctor.signs import Array, Curve

# Added to a loss before its logarithm is taken: between 0.001 and 0.002 nats nothing happens that matters.
FLOOR_NATS = 0.1
# A curve with more points is looked at in so many means of neighbours.
MOST_POINTS = 400
# No rule looks at fewer points: the noise of fewer says nothing.
LEAST_POINTS = 8
# Of normal noise a standard deviation is so many median deviations (Rousseeuw and Croux 1993, eq. 1.2).
MAD_TO_DEVIATION = 1.4826
# With eight values it is often a third too small by chance, with sixty seldom by a tenth.
SMALL_SAMPLE = 4.0
# The error of a median of normal noise, against that of a mean (the square root of pi / 2).
MEDIAN_ERROR = 1.2533


@dataclass(frozen=True, slots=True)
class Level:
    """Where a stretch of a curve lies.

    Attributes:
        value: median, in the curve's unit.
        first_step: of the stretch.
        last_step: of the stretch.
        points: how many it holds.
    """

    value: float
    first_step: float
    last_step: float
    points: int


def thinned(curve: Curve, *, most: int = MOST_POINTS) -> Curve:
    """The finite points, or means of neighbours where there are more than `most`."""
    curve = curve.finite
    size = -(-len(curve) // most)
    if size <= 1:
        return curve
    starts = np.arange(0, len(curve), size)
    counts = np.diff(np.append(starts, len(curve)))
    return Curve(
        np.add.reduceat(curve.steps, starts) / counts, np.add.reduceat(curve.values, starts) / counts
    )


def between(curve: Curve, first: float, last: float) -> Curve:
    """The points from step `first` to step `last`, both counted."""
    kept = (curve.steps >= first) & (curve.steps <= last)
    return Curve(curve.steps[kept], curve.values[kept])


def level_of(curve: Curve) -> Level:
    """Where all of a curve, of at least one point, lies."""
    return Level(float(np.median(curve.values)), float(curve.steps[0]), float(curve.steps[-1]), len(curve))


def first_level(curve: Curve, points: int) -> Level:
    """Where its first points lie."""
    return level_of(Curve(curve.steps[:points], curve.values[:points]))


def last_level(curve: Curve, points: int) -> Level:
    """Where its last points lie."""
    return level_of(Curve(curve.steps[-points:], curve.values[-points:]))


def fifth_of(curve: Curve) -> int:
    """Points in a fifth of a curve, at least three: wide enough to be calm, and short beside the whole."""
    return max(3, len(curve) // 5)


def logs(losses: Array) -> Array:
    """Logarithms of losses in nats; see `FLOOR_NATS`."""
    return np.log(np.maximum(losses, 0) + FLOOR_NATS)


def noise_of(values: Array) -> float:
    """Standard deviation of single values around their trend; infinite for fewer than three.

    The median size of v[i] - (v[i-1] + v[i+1]) / 2, which a straight trend leaves at 0, is scaled to that of
    normal noise. Of few values it may come out far too small by chance, so it is taken as somewhat larger.
    """
    if len(values) < 3:
        return float("inf")
    bends = values[1:-1] - (values[:-2] + values[2:]) / 2
    spread = float(np.median(np.abs(bends))) / float(np.sqrt(1.5))
    return MAD_TO_DEVIATION * spread * (1 + SMALL_SAMPLE / len(values))


def error_of_difference(noise: float, one: int, other: int) -> float:
    """Standard error of the difference of two medians, of so many points each."""
    # One or two points have no median but themselves or their mean.
    variances = (1 / points * (MEDIAN_ERROR**2 if points > 2 else 1.0) for points in (one, other))
    return noise * float(np.sqrt(sum(variances)))


def rolling_medians(values: Array, width: int) -> Array:
    """Median of each `width` neighbours, shape (N - width + 1,)."""
    return np.asarray(np.median(sliding_window_view(values, width), axis=1), dtype=np.float64)


def stretches(chosen: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """(first, last) position of each unbroken run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], chosen, [False])).astype(np.int8)))
    yield from ((int(first), int(end) - 1) for first, end in zip(edges[::2], edges[1::2], strict=True))
