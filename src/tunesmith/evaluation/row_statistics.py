"""From texts to rows: what each prediction gets right against its references, as numbers to sum.

All functions take predictions and each one's references, and give float64 of shape (rows, k). Where a row
has several references, the one that the prediction does best on counts. The sums become scores in
`from_sums.py`. ROUGE is in `rouge.py`, what needs no reference in `repetition.py`.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from tunesmith.errors import DataError, UserError
from tunesmith.evaluation.formats import JsonValue, equal_json, parse_strict_json
from tunesmith.evaluation.scripts import rouge_tokens

Array = NDArray[np.float64]
References = Sequence[Sequence[str]]
Read = TypeVar("Read")

_ARTICLES = frozenset({"a", "an", "the"})


def paired(predictions: Sequence[str], references: References) -> list[tuple[str, Sequence[str]]]:
    """Each prediction with its references.

    Raises:
        DataError: if there are more of the one than of the other, or a row has no reference.
    """
    if len(predictions) != len(references):
        raise DataError(
            f"{len(predictions)} predictions do not match {len(references)} references",
            hint="give one prediction for each row's references, in the same order",
        )
    for number, given in enumerate(references, start=1):
        # A text is a sequence of texts too, and its letters would be taken for references.
        if isinstance(given, str) or not given:
            what = "a bare text" if given else "nothing"
            raise DataError(
                f"row {number} has {what} where its references should be",
                hint="give each row a list with at least one reference",
            )
    return list(zip(predictions, references, strict=True))


def best_rows(
    predictions: Sequence[str],
    references: References,
    *,
    read: Callable[[str], Read],
    value: Callable[[Read, Read], float],
) -> Array:
    """The value of each prediction against the reference it does best on, and 1.

    Args:
        predictions: one text a row.
        references: at least one text a row.
        read: what is compared of a text.
        value: of (prediction, reference) as read.
    """
    values = []
    for prediction, given in paired(predictions, references):
        own = read(prediction)
        values.append(max(value(own, read(reference)) for reference in given))
    return shares(values)


def fulfilled_rows(holds: Callable[[str], bool], predictions: Sequence[str], references: References) -> Array:
    """1 where `holds` says yes to the prediction alone, else 0, and 1."""
    return shares([holds(prediction) for prediction, _ in paired(predictions, references)])


def exact_match_rows(predictions: Sequence[str], references: References) -> Array:
    """1 where the prediction equals a reference after `strip()`, else 0, and 1."""
    return best_rows(predictions, references, read=str.strip, value=lambda own, given: float(own == given))


def token_f1_rows(predictions: Sequence[str], references: References) -> Array:
    """F1 of the bags of tokens without English articles as a fraction, and 1.

    Two texts without any such token count as equal, as in SQuAD's own script.
    """
    return best_rows(predictions, references, read=_content_tokens, value=_bag_f1)


def is_strict_json(text: str) -> bool:
    """Whether the text parses as strict JSON (`formats.parse_strict_json`)."""
    return isinstance(parse_strict_json(text), JsonValue)


def field_rows(predictions: Sequence[str], references: References) -> Array:
    """Top-level fields of the best reference given with an equal value, and its number of fields.

    Raises:
        DataError: if a reference is no JSON object.
    """
    rows = [
        max(
            (_matched_fields(prediction, reference) for reference in given),
            key=lambda pair: pair[0] / pair[1],
        )
        for prediction, given in paired(predictions, references)
    ]
    return np.array(rows, dtype=np.float64).reshape(-1, 2)


def no_text_rows(predictions: Sequence[str], references: References) -> NoReturn:
    """Stand-in for metrics whose rows come from the model.

    Raises:
        UserError: always.
    """
    raise UserError(
        f"loss and perplexity cannot be counted on {len(predictions)} texts: the model gives them",
        hint="pass the model's (nats, scored tokens) per row as the statistics",
    )


def ngrams(tokens: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    """How often each run of `order` tokens occurs."""
    return Counter(zip(*(tokens[start:] for start in range(order)), strict=False))


def shares(values: Sequence[float]) -> Array:
    """Rows of a mean: each value beside a 1 to count it."""
    return np.column_stack([np.array(values, dtype=np.float64), np.ones(len(values))])


def _content_tokens(text: str) -> Counter[str]:
    return Counter(token for token in rouge_tokens(text) if token not in _ARTICLES)


def _bag_f1(own: Counter[str], given: Counter[str]) -> float:
    total = own.total() + given.total()
    return 2 * (own & given).total() / total if total else 1.0


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
