"""How sure a number is: bootstrap intervals, and a paired test of tuned against base.

Works on the rows' statistics (`metrics.Metric`) alone. Every random draw comes from a generator of
its own, seeded per call: the same seed and rows give the same numbers, and all metrics of one
evaluation see the same resamples.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tunesmith.errors import DataError, RunFailed
from tunesmith.evaluation.metrics import Metric
from tunesmith.evaluation.scores import Comparison, Evaluation, Score

Array = NDArray[np.float64]

# Numbers held at once by one block of draws (rows x resamples): 16 MB as float64.
_BLOCK_NUMBERS = 2_000_000

# Equal differences may differ in the last digits, by the order of the sums; they count as equal.
_TIE_TOLERANCE = 1e-9


def score(
    metric: Metric, statistics: Array, *, seed: int, resamples: int = 1000, confidence: float = 0.95
) -> Score:
    """Value of one system on all rows, with its percentile bootstrap interval.

    Args:
        metric: turns summed statistics into the value.
        statistics: the rows' statistics, shape (rows, k).
        seed: of the resampling, at least 0.
        resamples: bootstrap samples, at least 1.
        confidence: share of the resampled values inside the interval, between 0 and 1.

    Returns:
        The score; without an interval where there is one row only.

    Raises:
        DataError: if there are no rows.
        RunFailed: if the value or the interval is not finite.

    Source: Efron and Tibshirani 1993, section 13.3; for corpus metrics Koehn 2004.
    """
    rows = _row_count(metric, statistics)
    value = float(metric.from_sums(statistics.sum(axis=0)))
    _require_finite(metric, value, rows=rows)
    interval = None
    if rows > 1:
        draws = _resample_counts(rows, seed=seed, resamples=resamples)
        values = np.concatenate([metric.from_sums(counts @ statistics) for counts in draws])
        interval = _percentile_interval(values, confidence=confidence)
        _require_finite(metric, *interval, rows=rows)
    low, high = interval or (None, None)
    return Score(
        metric=metric.name,
        value=value,
        low=low,
        high=high,
        n=rows,
        signature=f"{metric.signature}|{_recipe(seed=seed, resamples=resamples, confidence=confidence)}",
        higher_is_better=metric.higher_is_better,
        unit=metric.unit,
    )


def compare(
    metric: Metric,
    base_statistics: Array,
    tuned_statistics: Array,
    *,
    seed: int,
    resamples: int = 1000,
    confidence: float = 0.95,
) -> Comparison:
    """Tuned minus base on the same rows, with a paired interval and a paired test.

    The interval is that of the bootstrap with the same rows drawn for both. The p-value says how often the
    difference is as large when chance decides, row by row, which system gave which answer: exactly, by
    McNemar's test, where each row is a hit or a miss; else by two-sided approximate randomization, which is
    never 0: (c + 1) / (resamples + 1).

    Args:
        metric: turns summed statistics into the value.
        base_statistics: the base's rows, shape (rows, k).
        tuned_statistics: the tuned model's rows in the same order, same shape.
        seed: of both draws, at least 0.
        resamples: bootstrap samples, and trials of the test, at least 1.
        confidence: share of the resampled differences inside the interval, between 0 and 1.

    Returns:
        The comparison; with neither interval nor p-value where there is one row only.

    Raises:
        DataError: if there are no rows, or the two are not the same rows.
        RunFailed: if a value or the interval is not finite.

    Source: Koehn 2004 (paired bootstrap); McNemar 1947, the exact form with the binomial distribution;
        Riezler and Maxwell 2005, figure 1 (randomization).
    """
    rows = _row_count(metric, base_statistics)
    if base_statistics.shape != tuned_statistics.shape:
        raise DataError(
            f"metric `{metric.name}` has statistics of shape {base_statistics.shape} for the base "
            f"and {tuned_statistics.shape} for the tuned model: these are not the same rows",
            hint="let both models answer the same held-out rows in the same order",
        )
    base_value, tuned_value = (
        float(metric.from_sums(each.sum(axis=0))) for each in (base_statistics, tuned_statistics)
    )
    _require_finite(metric, base_value, tuned_value, rows=rows)
    interval = p_value = None
    if rows > 1:
        draws = _resample_counts(rows, seed=seed, resamples=resamples)
        differences = [_difference(metric, c @ base_statistics, c @ tuned_statistics) for c in draws]
        interval = _percentile_interval(np.concatenate(differences), confidence=confidence)
        if metric.is_hit_or_miss:
            p_value = mcnemar_p_value(base_statistics[:, 0], tuned_statistics[:, 0])
        else:
            p_value = _randomization_p_value(
                metric, base_statistics, tuned_statistics, seed=seed, trials=resamples
            )
        _require_finite(metric, *interval, rows=rows)
    low, high = interval or (None, None)
    recipe = _recipe(seed=seed, resamples=resamples, confidence=confidence)
    test = "mcnemar:exact" if metric.is_hit_or_miss else f"randomization:{resamples}"
    return Comparison(
        metric=metric.name,
        difference=tuned_value - base_value,
        low=low,
        high=high,
        p_value=p_value,
        n=rows,
        signature=f"{metric.signature}|{test}|{recipe}",
    )


def evaluate(
    metrics_with_statistics: Sequence[tuple[Metric, Array, Array]],
    *,
    seed: int,
    resamples: int = 1000,
    confidence: float = 0.95,
) -> Evaluation:
    """Scores of base and tuned and their comparison, for each (metric, base rows, tuned rows).

    The order of the metrics stays. Arguments and errors are those of `score` and `compare`.
    """
    base, tuned, comparisons = [], [], []
    for metric, base_rows, tuned_rows in metrics_with_statistics:
        base.append(score(metric, base_rows, seed=seed, resamples=resamples, confidence=confidence))
        tuned.append(score(metric, tuned_rows, seed=seed, resamples=resamples, confidence=confidence))
        comparisons.append(
            compare(metric, base_rows, tuned_rows, seed=seed, resamples=resamples, confidence=confidence)
        )
    return Evaluation(base=tuple(base), tuned=tuple(tuned), comparisons=tuple(comparisons))


def mcnemar_p_value(base_hits: Array, tuned_hits: Array) -> float:
    """Two-sided exact p-value of McNemar's test: only rows that one system alone gets right count.

    Args:
        base_hits: 1 for a hit and 0 for a miss, shape (rows,).
        tuned_hits: the other system's, in the same order.

    Returns:
        Twice the probability that a fair coin favours one side as clearly, at most 1.

    Source: McNemar 1947, exact form.
    """
    won = int(np.count_nonzero(tuned_hits > base_hits))
    lost = int(np.count_nonzero(tuned_hits < base_hits))
    ways = as_clear = 1
    for more in range(min(won, lost)):
        ways = ways * (won + lost - more) // (more + 1)
        as_clear += ways
    both_sides: float = 2 * as_clear / 2 ** (won + lost)
    return min(1.0, both_sides)


def paired_bootstrap_p_value(
    metric: Metric, base_statistics: Array, tuned_statistics: Array, *, seed: int, resamples: int = 1000
) -> float:
    """The p-value that sacrebleu calls paired bootstrap resampling, for whoever must report that one.

    How often the size of the resampled difference lies further above its mean than the observed difference
    is large: (c + 1) / (resamples + 1). `compare` does not use it: it is a test of the bootstrap distribution
    shifted to a mean of 0, no test of swapped answers.

    Args:
        metric: turns summed statistics into the value.
        base_statistics: one system's rows, shape (rows, k).
        tuned_statistics: the other's rows in the same order, same shape.
        seed: of the draws, at least 0.
        resamples: bootstrap samples, at least 1.

    Source: Koehn 2004, as counted by sacrebleu.
    """
    observed = abs(float(_difference(metric, base_statistics.sum(axis=0), tuned_statistics.sum(axis=0))))
    draws = _resample_counts(len(base_statistics), seed=seed, resamples=resamples)
    sizes = np.concatenate(
        [np.abs(_difference(metric, counts @ base_statistics, counts @ tuned_statistics)) for counts in draws]
    )
    as_large = int(np.count_nonzero(sizes - sizes.mean() > observed))
    return (as_large + 1) / (resamples + 1)


def _difference(metric: Metric, base_sums: Array, tuned_sums: Array) -> Array:
    return metric.from_sums(tuned_sums) - metric.from_sums(base_sums)


def _resample_counts(rows: int, *, seed: int, resamples: int) -> Iterator[Array]:
    """Blocks of shape (some resamples, rows): how often each resample drew each row."""
    generator = np.random.default_rng(seed)
    for size in _block_sizes(rows, draws=resamples):
        drawn = generator.integers(rows, size=(size, rows))
        places = drawn + rows * np.arange(size)[:, np.newaxis]
        counts = np.bincount(places.ravel(), minlength=size * rows)
        yield counts.reshape(size, rows).astype(np.float64)


def _randomization_p_value(metric: Metric, base: Array, tuned: Array, *, seed: int, trials: int) -> float:
    generator = np.random.default_rng(seed)
    base_sums, tuned_sums = base.sum(axis=0), tuned.sum(axis=0)
    observed = abs(float(_difference(metric, base_sums, tuned_sums)))
    as_large = 0
    for size in _block_sizes(len(base), draws=trials):
        swapped = generator.integers(2, size=(size, len(base))).astype(np.float64)
        moved = swapped @ (tuned - base)
        differences = _difference(metric, base_sums + moved, tuned_sums - moved)
        as_large += int(np.count_nonzero(np.abs(differences) >= observed - _TIE_TOLERANCE))
    return (as_large + 1) / (trials + 1)


def _block_sizes(rows: int, *, draws: int) -> Iterator[int]:
    block = max(1, _BLOCK_NUMBERS // rows)
    for start in range(0, draws, block):
        yield min(block, draws - start)


def _percentile_interval(values: Array, *, confidence: float) -> tuple[float, float]:
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def _recipe(*, seed: int, resamples: int, confidence: float) -> str:
    return f"bootstrap:{resamples}|confidence:{confidence:g}|seed:{seed}"


def _row_count(metric: Metric, statistics: Array) -> int:
    if len(statistics) == 0:
        raise DataError(
            f"metric `{metric.name}` has 0 rows to score",
            hint="hold rows out for the evaluation, or name a test file",
        )
    return len(statistics)


def _require_finite(metric: Metric, *values: float, rows: int) -> None:
    if not np.isfinite(values).all():
        shown = ", ".join(f"{value:g}" for value in values)
        raise RunFailed(
            f"metric `{metric.name}` is not finite on {rows} rows: {shown}",
            hint="find the rows whose loss is not finite or that score no token; try `dtype: float32`",
        )
