"""What answers look like whatever they should say: how much they repeat themselves, and how long they are."""

from collections.abc import Sequence

import numpy as np

from tunesmith.evaluation.row_statistics import Array, References, ngrams, paired, shares
from tunesmith.evaluation.scripts import rouge_tokens

REPEATED_TOKENS = 4
"""A run of this many tokens that comes again is a loop, not grammar."""


def distinct_rows(order: int, predictions: Sequence[str], references: References) -> Array:
    """Different n-grams by n-grams of each prediction as a fraction, and 1.

    A prediction too short for one n-gram has none that comes again: 1.

    Source: Li et al. 2016, distinct-n; here for each answer, so that long files do not look poorer.
    """
    return shares([_distinct_share(prediction, order) for prediction, _ in paired(predictions, references)])


def repeated_rows(predictions: Sequence[str], references: References) -> Array:
    """Share of a prediction's 4-grams that stood in it before as a fraction, and 1.

    Source: Welleck et al. 2020, seq-rep-4.
    """
    rows = distinct_rows(REPEATED_TOKENS, predictions, references)
    rows[:, 0] = 1 - rows[:, 0]
    return rows


def length_rows(predictions: Sequence[str], references: References) -> Array:
    """Tokens of each prediction, and tokens of the reference closest in length (of two, the shorter)."""
    rows = []
    for prediction, given in paired(predictions, references):
        own = len(rouge_tokens(prediction))
        lengths = sorted(len(rouge_tokens(reference)) for reference in given)
        rows.append((own, min(lengths, key=lambda length: abs(length - own))))
    return np.array(rows, dtype=np.float64).reshape(-1, 2)


def _distinct_share(text: str, order: int) -> float:
    found = ngrams(rouge_tokens(text), order)
    return len(found) / found.total() if found else 1.0
