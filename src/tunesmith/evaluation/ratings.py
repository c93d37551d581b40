"""What several people's ratings say: means with intervals, paired differences, and how far raters agree.

An item is the unit of all resampling: raters of one item are merged into its mean, because their ratings
are not independent of each other. Knows nothing of pages or files.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tunesmith.evaluation.from_sums import ratio
from tunesmith.evaluation.metrics import Metric
from tunesmith.evaluation.row_statistics import no_text_rows
from tunesmith.evaluation.scores import Comparison, Score
from tunesmith.evaluation.significance import compare, score

Array = NDArray[np.float64]
Level = Literal["nominal", "ordinal"]


@dataclass(frozen=True, slots=True)
class Rating:
    """One number that one rater gave to one system's answer.

    Attributes:
        item: the item's id.
        system: who answered.
        rater: who rated.
        value: on the scale.
    """

    item: str
    system: str
    rater: str
    value: float


def mean_rating(
    ratings: Iterable[Rating], *, scale: str, system: str, seed: int, resamples: int = 1000
) -> Score | None:
    """Mean over items of the raters' mean, with its bootstrap interval over items; None without ratings.

    Args:
        ratings: of one scale, any systems.
        scale: its name, for the score.
        system: whose answers count.
        seed: of the resampling.
        resamples: bootstrap samples.
    """
    means = _means_by_item(ratings, system)
    if not means:
        return None
    return score(_mean_metric(scale), _rows(means.values()), seed=seed, resamples=resamples)


def rating_difference(
    ratings: Sequence[Rating], *, scale: str, systems: tuple[str, str], seed: int, resamples: int = 1000
) -> Comparison | None:
    """The second system's mean minus the first's on the items where both were rated; None without such.

    Arguments are those of `mean_rating`.
    """
    first, second = (_means_by_item(ratings, system) for system in systems)
    both = [item for item in first if item in second]
    if not both:
        return None
    return compare(
        _mean_metric(scale),
        _rows(first[item] for item in both),
        _rows(second[item] for item in both),
        seed=seed,
        resamples=resamples,
    )


def agreement(
    units: Iterable[Sequence[float]], *, level: Level, seed: int, resamples: int = 1000
) -> Score | None:
    """Krippendorff's alpha with its bootstrap interval over units.

    1 is perfect agreement, 0 what chance gives, below 0 systematic disagreement. Above 0.8 is commonly
    called reliable, below 0.667 not.

    Args:
        units: the values that one thing got, from whichever raters rated it; who gave which does not
            matter, and raters may be missing. Things with less than two values say nothing and are left out.
        level: "nominal" where values differ or not, "ordinal" where they are ranks.
        seed: of the resampling.
        resamples: bootstrap samples.

    Returns:
        The score, n counting the units; None where no unit has two values or all values are equal, for
        then nothing can be said of agreement.

    Source: Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability".
    """
    pairable = [unit for unit in units if len(unit) >= 2]
    values = sorted({value for unit in pairable for value in unit})
    if len(values) < 2:
        return None
    statistics = np.stack([_coincidences(unit, values).ravel() for unit in pairable])
    metric = Metric(
        name="alpha",
        unit="",
        higher_is_better=True,
        signature=f"krippendorff|level:{level}|values:{len(values)}",
        statistics=no_text_rows,
        from_sums=lambda sums: _alpha(sums, level=level),
    )
    return score(metric, statistics, seed=seed, resamples=resamples)


def _coincidences(unit: Sequence[float], values: Sequence[float]) -> Array:
    """Ordered pairs of values within one unit, each weighing 1 / (raters - 1); shape (values, values)."""
    counts = np.array([unit.count(value) for value in values], dtype=np.float64)
    return (np.outer(counts, counts) - np.diag(counts)) / (len(unit) - 1)


def _alpha(sums: Array, *, level: Level) -> Array:
    """Alpha from summed coincidences, shape (..., values²); 0 for resamples that hold one value only.

    Without variation there is no agreement beyond chance to see, so that 0 is the careful word.
    """
    size = round(sums.shape[-1] ** 0.5)
    coincidences = sums.reshape(*sums.shape[:-1], size, size)
    totals = coincidences.sum(axis=-1)
    n = totals.sum(axis=-1)
    distances = _distances(totals, level)
    observed = (coincidences * distances).sum(axis=(-2, -1))
    expected = (totals[..., :, None] * totals[..., None, :] * distances).sum(axis=(-2, -1))
    has_variation = expected > 0
    result: Array = np.where(
        has_variation, 1 - (n - 1) * observed / np.where(has_variation, expected, 1.0), 0.0
    )
    return result


def _distances(totals: Array, level: Level) -> Array:
    """Squared differences between values, shape (..., values, values).

    For ranks: how many values lie between the two, those at both ends counting half.
    """
    size = totals.shape[-1]
    if level == "nominal":
        return np.broadcast_to(1.0 - np.eye(size), (*totals.shape[:-1], size, size))
    middles = np.cumsum(totals, axis=-1) - totals / 2
    difference: Array = middles[..., :, None] - middles[..., None, :]
    return difference**2


def _means_by_item(ratings: Iterable[Rating], system: str) -> Mapping[str, float]:
    by_item: dict[str, list[float]] = {}
    for rating in ratings:
        if rating.system == system:
            by_item.setdefault(rating.item, []).append(rating.value)
    return {item: sum(values) / len(values) for item, values in by_item.items()}


def _rows(means: Iterable[float]) -> Array:
    return np.array([(mean, 1.0) for mean in means], dtype=np.float64)


def _mean_metric(scale: str) -> Metric:
    return Metric(
        name=scale,
        unit="",
        higher_is_better=True,
        signature="mean:items|raters:averaged",
        statistics=no_text_rows,
        from_sums=ratio,
    )
