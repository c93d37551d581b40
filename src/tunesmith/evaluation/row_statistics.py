"""From texts to rows: what each prediction gets right against its reference, as numbers to sum.

All functions take predictions and references of equal length and give float64 of shape (rows, k).
The sums become scores in `from_sums.py`.
"""

from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from tunesmith.errors import DataError, UserError
from tunesmith.evaluation.formats import JsonValue, equal_json, parse_strict_json
from tunesmith.evaluation.scripts import rouge_tokens

Array = NDArray[np.float64]


def paired(predictions: Sequence[str], references: Sequence[str]) -> list[tuple[str, str]]:
    """Each prediction with its reference.

    Raises:
        DataError: if there are more of the one than of the other.
    """
    if len(predictions) != len(references):
        raise DataError(
            f"{len(predictions)} predictions do not match {len(references)} references",
            hint="give one prediction for each reference, in the same order",
        )
    return list(zip(predictions, references, strict=True))


def rouge_n_rows(name: str, predictions: Sequence[str], references: Sequence[str]) -> Array:
    """F1 of `rouge1`, `rouge2` and so on as a fraction, and 1."""
    # Imported here: the package loads all of nltk, two seconds that the other metrics do not need.
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([name], tokenizer=SimpleNamespace(tokenize=rouge_tokens))
    pairs = paired(predictions, references)
    return _shares([scorer.score(reference, prediction)[name].fmeasure for prediction, reference in pairs])


def rouge_l_rows(predictions: Sequence[str], references: Sequence[str]) -> Array:
    """F1 of the longest common subsequence of tokens as a fraction, and 1.

    Equal to the rouge-score package, which fills a table of tokens x tokens instead: minutes for
    a few hundred long answers in Chinese.
    """
    values = []
    for prediction, reference in paired(predictions, references):
        predicted, expected = rouge_tokens(prediction), rouge_tokens(reference)
        common = _longest_common_subsequence(predicted, expected)
        values.append(2 * common / max(len(predicted) + len(expected), 1))
    return _shares(values)


def exact_match_rows(predictions: Sequence[str], references: Sequence[str]) -> Array:
    """1 where both are equal after `strip()`, else 0, and 1."""
    pairs = paired(predictions, references)
    return _shares([prediction.strip() == reference.strip() for prediction, reference in pairs])


def valid_json_rows(predictions: Sequence[str], references: Sequence[str]) -> Array:
    """1 where the prediction is strict JSON, else 0, and 1."""
    pairs = paired(predictions, references)
    return _shares([isinstance(parse_strict_json(prediction), JsonValue) for prediction, _ in pairs])


def field_rows(predictions: Sequence[str], references: Sequence[str]) -> Array:
    """Top-level fields of the reference given with an equal value, and fields of the reference.

    Raises:
        DataError: if a reference is no JSON object.
    """
    rows = [_matched_fields(*pair) for pair in paired(predictions, references)]
    return np.array(rows, dtype=np.float64).reshape(-1, 2)


def no_text_rows(predictions: Sequence[str], references: Sequence[str]) -> NoReturn:
    """Stand-in for metrics whose rows come from the model.

    Raises:
        UserError: always.
    """
    raise UserError(
        f"loss and perplexity cannot be counted on {len(predictions)} texts: the model gives them",
        hint="pass the model's (nats, scored tokens) per row as the statistics",
    )


def _longest_common_subsequence(left: Sequence[str], right: Sequence[str]) -> int:
    """Its length in tokens, one row of the usual table at a time as bits of an integer.

    Source: Hyyrö 2004, "Bit-parallel LCS-length computation revisited".
    """
    places: Counter[str] = Counter()
    for place, token in enumerate(left):
        places[token] |= 1 << place
    every_place = (1 << len(left)) - 1
    row = every_place
    for token in right:
        matched = row & places[token]
        row = ((row + matched) | (row - matched)) & every_place
    return len(left) - row.bit_count()


def _matched_fields(prediction: str, reference: str) -> tuple[int, int]:
    expected, given = _json_object(reference), _json_object(prediction)
    if expected is None:
        raise DataError(
            f"field accuracy needs a JSON object as reference, not `{reference[:60]}`",
            hint="take the metrics that `metrics_for` gives for these references",
        )
    if not expected:
        return int(given == {}), 1
    given = given or {}
    hits = sum(key in given and equal_json(given[key], value) for key, value in expected.items())
    return hits, len(expected)


def _json_object(text: str) -> dict[str, object] | None:
    result = parse_strict_json(text)
    if isinstance(result, JsonValue) and isinstance(result.value, dict):
        return result.value
    return None


def _shares(values: Sequence[float]) -> Array:
    """Rows of a mean: each value beside a 1 to count it."""
    return np.column_stack([np.array(values, dtype=np.float64), np.ones(len(values))])
