"""From held-out losses at a few sizes of the training data to what more data would give, with an interval.

The law is loss(n) = a + b n^-c (Hestness et al. 2017, arXiv:1712.00409; Kaplan et al. 2020,
arXiv:2001.08361), with a straight line over log n as its border at c = 0. Four sizes do not settle three
numbers, so no single curve is believed: every c of a grid is fitted by weighted least squares and counts as
far as the sizes speak for it. The interval carries that, the scatter of single runs, and the drawing of
held-out rows.

Shapes: K sizes, R held-out rows, S draws, C values of c.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Below 0 the fall would quicken with each doubling. Short runs do begin so, as they have few steps, but do
# not go on so: with c from -0.3, forecasts missed 2 of 15 real runs, both far too low; from 0 none.
POWERS = np.linspace(0.0, 1.5, 31)
# Two runs that differ in nothing but chance end within a few per cent of each other; a guess that counts as
# much as so many measured sizes.
RUN_SCATTER, SCATTER_WEIGHT = 0.03, 3.0
DRAWS = 4_000
MOST_TIMES = 1_000.0


@dataclass(frozen=True, slots=True)
class Forecast:
    """What so many rows would give.

    Attributes:
        rows: training rows of the forecast.
        loss: held-out loss there, nats a token: the middle of all draws.
        low: lower end of its interval.
        high: upper end.
        gain: how much lower than with all present rows.
        gain_low: lower end of its interval; below 0 where more rows may not help.
        gain_high: upper end.
        confidence: share of the draws inside, 0 to 1.
    """

    rows: int
    loss: float
    low: float
    high: float
    gain: float
    gain_low: float
    gain_high: float
    confidence: float

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Fitted:
    """Curves that the sizes allow, one a draw.

    Attributes:
        rows: training rows of each size, shape (K,).
        now: loss at the largest size, shape (S,).
        level: the curve there, shape (S,).
        slope: its fall there by a factor e of rows, from 0 up, shape (S,).
        power: its c, shape (S,).
        scatter: of a single run by its loss, shape (S,).
    """

    rows: tuple[int, ...]
    now: Array
    level: Array
    slope: Array
    power: Array
    scatter: Array

    def curve(self, rows: float) -> Array:
        """Each curve's loss at so many rows, from 0 up, shape (S,)."""
        return np.maximum(self.level + self.slope * basis(rows / self.rows[-1], self.power), 0.0)

    def forecast(self, rows: int, *, seed: int, confidence: float = 0.95) -> Forecast:
        """What one run on so many rows would reach, its own scatter included."""
        chance = np.random.default_rng([seed, rows]).standard_normal(len(self.level))
        curve = self.curve(rows)
        loss = np.maximum(curve * (1 + self.scatter * chance), 0.0)
        tail = (1 - confidence) / 2
        ends = (tail, 0.5, 1 - tail)
        low, middle, high = map(float, np.quantile(loss, ends))
        gain_low, gain, gain_high = map(float, np.quantile(self.now - loss, ends))
        return Forecast(rows, middle, low, high, gain, gain_low, gain_high, confidence)

    def rows_to_half(self, *, confidence: float = 0.95) -> tuple[float, float, float]:
        """Rows that reach half of what is still to gain, and the interval; infinite where no end is in sight.

        By a curve with c above 0 the loss ends at a, and half of the way is n 2^(1/c) rows.
        """
        power = np.maximum(self.power, 1e-9)
        times = np.where(self.power > 0, 2.0 ** np.minimum(1 / power, 1_000), np.inf)
        times = np.where(times > MOST_TIMES, np.inf, times)
        tail = (1 - confidence) / 2
        found = np.quantile(times, (0.5, tail, 1 - tail), method="inverted_cdf")
        middle, low, high = (float(each) * self.rows[-1] for each in found)
        return middle, low, high


def fit(rows: Sequence[int], statistics: Sequence[Array], *, seed: int, draws: int = DRAWS) -> Fitted:
    """Curves through the sizes' losses, as many as draws.

    Each draw takes the held-out rows anew, the same for all sizes (so that hard rows move all of them alike),
    then a power c by its weight, then the curve and the scatter by their posterior given c: a linear model
    with a scaled inverse chi-squared prior of `SCATTER_WEIGHT` runs on the squared scatter (Gelman et al.
    2013, Bayesian Data Analysis, sections 2.6 and 14.2). Errors are relative to the loss.

    Args:
        rows: training rows of each size, growing, at least 3 sizes.
        statistics: of each size nats and scored tokens of the same held-out rows, each of shape (R, 2).
        seed: of all draws.
        draws: how many.
    """
    random = np.random.default_rng(seed)
    losses_KS = _resampled(np.stack(statistics), random, draws)
    sizes = np.array(rows, dtype=np.float64) / rows[-1]
    usual = np.array([each[:, 0].sum() / each[:, 1].sum() for each in statistics])
    weights = 1 / usual**2
    degrees = SCATTER_WEIGHT + len(rows) - 2
    log_weight_CS = np.empty((len(POWERS), draws))
    best_C2S, spread_C22, scatter_CS = [], [], np.empty((len(POWERS), draws))
    for at, power in enumerate(POWERS):
        design_K2 = np.column_stack([np.ones(len(rows)), basis(sizes, np.full(len(rows), power))])
        spread_22 = np.linalg.inv(design_K2.T * weights @ design_K2)
        best_2S = spread_22 @ (design_K2.T * weights) @ losses_KS
        squares_S = (weights[:, None] * (losses_KS - design_K2 @ best_2S) ** 2).sum(axis=0)
        scatter_CS[at] = (SCATTER_WEIGHT * RUN_SCATTER**2 + squares_S) / degrees
        log_weight_CS[at] = 0.5 * np.log(np.linalg.det(spread_22)) - degrees / 2 * np.log(scatter_CS[at])
        # A curve whose end lies below 0 is none.
        is_possible = (best_2S[1] >= 0) & ((power <= 0) | (best_2S[0] - best_2S[1] / max(power, 1e-9) >= 0))
        log_weight_CS[at] -= np.where(is_possible, 0.0, 20.0)
        best_C2S.append(best_2S)
        spread_C22.append(np.linalg.cholesky(spread_22))
    chosen_S = _drawn(log_weight_CS, random)
    each_S = np.arange(draws)
    variance_S = scatter_CS[chosen_S, each_S] * degrees / random.chisquare(degrees, draws)
    noise_2S = np.stack(spread_C22)[chosen_S] @ random.standard_normal((draws, 2, 1))
    curve_S2 = np.stack(best_C2S)[chosen_S, :, each_S] + np.sqrt(variance_S)[:, None] * noise_2S[:, :, 0]
    return Fitted(
        tuple(rows),
        losses_KS[-1],
        curve_S2[:, 0],
        np.maximum(curve_S2[:, 1], 0.0),
        POWERS[chosen_S],
        np.sqrt(variance_S),
    )


def basis(times: Array | float, power: Array) -> Array:
    """(times^-c - 1) / c, and -log(times) at c = 0: all are 0 at 1, and fall there alike."""
    logs = np.log(times)
    safe = np.where(np.abs(power) < 1e-9, 1.0, power)
    found: Array = np.where(np.abs(power) < 1e-9, -logs, np.expm1(-safe * logs) / safe)
    return found


def _resampled(statistics_KR2: Array, random: np.random.Generator, draws: int) -> Array:
    """Loss of each size on held-out rows drawn anew, the same rows for all sizes, shape (K, S)."""
    count = statistics_KR2.shape[1]
    counts_SR = random.multinomial(count, np.full(count, 1 / count), size=draws).astype(np.float64)
    sums_KS2 = counts_SR @ statistics_KR2
    losses: Array = sums_KS2[..., 0] / sums_KS2[..., 1]
    return losses


def _drawn(log_weight_CS: Array, random: np.random.Generator) -> NDArray[np.intp]:
    """The place of one power a draw, by weight."""
    weight_CS = np.exp(log_weight_CS - log_weight_CS.max(axis=0))
    shares_CS = (weight_CS / weight_CS.sum(axis=0)).cumsum(axis=0)
    uniform_S = random.random(log_weight_CS.shape[1])
    places: NDArray[np.intp] = (shares_CS < uniform_S).sum(axis=0)
    return np.minimum(places, len(log_weight_CS) - 1)
