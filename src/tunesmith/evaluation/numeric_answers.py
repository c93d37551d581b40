"""Which number a text answers with, in whatever words around it."""

import re
from collections.abc import Sequence
from decimal import Decimal

from tunesmith.evaluation.row_statistics import Array, References, best_rows
from tunesmith.evaluation.scripts import rouge_tokens

# What GSM8K and its followers put before the result.
RESULT_MARK = "####"
MOST_OTHER_TOKENS = 3
"""A reference of one number and at most this many other tokens, such as a unit, is a numeric answer."""

# Digits that belong to a name (x2, A-17) or to a version (1.2.3) are no number.
_NUMBER = re.compile(
    r"(?<![A-Za-z_\d])(?<![A-Za-z]-)(?<!\d\.)"
    r"[-−－]?"
    r"(?:(?:\d{1,3}(?:[,\u00a0\u202f]\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
    r"(?:[eE][+-]?\d{1,3}(?![A-Za-z\d]))?"
)
_PLAIN = str.maketrans({"−": "-", "－": "-", ",": None, "\u00a0": None, "\u202f": None})


def answered_number(text: str) -> Decimal | None:
    """The first number after the last `####`, or the last number where there is no such mark.

    Thousands may be set apart by commas or no-break spaces; decimals come after a point. Signs of money and
    percent are not looked at.
    """
    _, mark, result = text.rpartition(RESULT_MARK)
    numbers = _NUMBER.findall(result)
    if not numbers:
        return None
    return Decimal(numbers[0 if mark else -1].translate(_PLAIN))


def is_numeric_answer(text: str) -> bool:
    """Whether a reference is about its number: marked with `####`, or one number and little else."""
    if RESULT_MARK in text:
        return answered_number(text) is not None
    rest, numbers = _NUMBER.subn(" ", text)
    return numbers == 1 and len(rouge_tokens(rest)) <= MOST_OTHER_TOKENS


def numeric_rows(predictions: Sequence[str], references: References) -> Array:
    """1 where the prediction's number equals that of a reference (42 equals 42.0), else 0, and 1."""
    return best_rows(predictions, references, read=answered_number, value=_is_same)


def _is_same(own: Decimal | None, given: Decimal | None) -> float:
    return float(own is not None and own == given)
