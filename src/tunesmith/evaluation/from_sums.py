"""From summed statistics, shape (..., k), to scores, shape (...): the formulas of the metrics.

Knows no texts. Corpus, resample and single row go through the same formula.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_BETA_SQUARED = 4.0
"""chrF2: recall weighs twice as much as precision."""


def bleu_percent(sums: Array) -> Array:
    """BLEU-4 with effective order and exponential smoothing, in percent.

    Args:
        sums: prediction tokens, reference tokens, matched n-grams of order 1 to 4, n-grams of the
            prediction of order 1 to 4, as sacrebleu counts them.

    Returns:
        0 to 100; 0 where nothing matches.

    Source: Papineni et al. 2002, section 2.3; Chen and Cherry 2014, smoothing 3.
    """
    predicted, expected = sums[..., 0], sums[..., 1]
    matches, totals = sums[..., 2:6], sums[..., 6:10]
    possible = totals > 0
    halvings = np.cumsum(possible & (matches == 0), axis=-1)
    smoothed = np.where(matches > 0, matches, 0.5**halvings)
    logs = np.where(possible, np.log(smoothed / np.maximum(totals, 1)), 0.0)
    log_precision = logs.sum(axis=-1) / np.maximum(possible.sum(axis=-1), 1)
    log_brevity = np.minimum(0.0, 1 - expected / np.maximum(predicted, 1))
    return np.where(matches.any(axis=-1), 100 * np.exp(log_precision + log_brevity), 0.0)


def chrf_percent(sums: Array) -> Array:
    """chrF2 over the orders that both sides are long enough for, in percent.

    Args:
        sums: for each order n-grams of the prediction, of the reference, and in both.

    Returns:
        0 to 100; 0 where nothing matches.

    Source: Popović 2015; averages of precision and recall over orders as in sacrebleu.
    """
    by_order = sums.reshape(*sums.shape[:-1], -1, 3)
    predicted, expected, matches = by_order[..., 0], by_order[..., 1], by_order[..., 2]
    orders = np.maximum(((predicted > 0) & (expected > 0)).sum(axis=-1), 1)
    precision = (matches / np.maximum(predicted, 1)).sum(axis=-1) / orders
    recall = (matches / np.maximum(expected, 1)).sum(axis=-1) / orders
    weighted = _BETA_SQUARED * precision + recall
    score: Array = (1 + _BETA_SQUARED) * precision * recall / np.where(weighted > 0, weighted, 1.0)
    return 100 * score


def ter_percent(sums: Array) -> Array:
    """Edits by reference words, in percent; 100 where there are edits and no reference word.

    Args:
        sums: edits of each prediction to its closest reference, and its references' mean length in words.

    Returns:
        0 and up, above 100 where predictions are much longer than references.

    Source: Snover et al. 2006, section 3; empty references as in sacrebleu.
    """
    edits, words = sums[..., 0], sums[..., 1]
    return 100 * np.where(words > 0, edits / np.where(words > 0, words, 1.0), np.minimum(edits, 1.0))


def ratio(sums: Array) -> Array:
    """First sum over the second; not a number where the second is 0."""
    total, count = sums[..., 0], sums[..., 1]
    return np.where(count > 0, total / np.where(count > 0, count, 1.0), np.nan)


def percent(sums: Array) -> Array:
    """First sum over the second, times 100."""
    return 100 * ratio(sums)


def exponential_ratio(sums: Array) -> Array:
    """Exponential of the first sum over the second; infinite above 709."""
    with np.errstate(over="ignore"):
        return np.exp(ratio(sums))
