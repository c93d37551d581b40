"""What a metric is here, and the metrics: BLEU, chrF, ROUGE, exact match, JSON checks, loss.

A metric turns each row into sufficient statistics, and summed statistics into the score. So the
score of a corpus and of its rows agree, and resampling (`significance.py`) never touches text.
The counting is in `row_statistics.py`, the formulas are in `from_sums.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from tunesmith.evaluation.formats import JsonValue, parse_strict_json
from tunesmith.evaluation.from_sums import bleu_percent, chrf_percent, exponential_ratio, percent, ratio
from tunesmith.evaluation.row_statistics import (
    exact_match_rows,
    field_rows,
    no_text_rows,
    paired,
    rouge_l_rows,
    rouge_n_rows,
    valid_json_rows,
)
from tunesmith.evaluation.scripts import Script, dominant_script

Array = NDArray[np.float64]

# Japanese would need MeCab; single characters need nothing and lose nothing.
_BLEU_TOKENIZER: dict[Script, str] = {
    "han": "zh",
    "japanese": "char",
    "thai": "char",
    "lao": "char",
    "khmer": "char",
    "myanmar": "char",
}


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric as data.

    Attributes:
        name: as in a Score, such as `chrf`.
        unit: the unit of the score, as in a Score.
        higher_is_better: False for loss and perplexity.
        signature: how to get the same number again from the same texts.
        statistics: (predictions, references) to the rows' statistics, shape (rows, k).
        from_sums: statistics summed over rows, shape (..., k), to scores, shape (...).
    """

    name: str
    unit: str
    higher_is_better: bool
    signature: str
    statistics: Callable[[Sequence[str], Sequence[str]], Array]
    from_sums: Callable[[Array], Array]


def metrics_for(references: Sequence[str]) -> tuple[Metric, ...]:
    """The text metrics that make sense for these references, in report order.

    BLEU takes the tokenizer of their script. `valid_json` is there only where every reference is
    a JSON object or array, `field_accuracy` only where every one is an object.
    """
    parsed = [parse_strict_json(reference) for reference in references]
    values = [result.value for result in parsed if isinstance(result, JsonValue)]
    all_parsed = bool(references) and len(values) == len(references)
    chosen = [bleu_metric(references), chrf_metric()]
    chosen += [rouge_metric("rouge1"), rouge_metric("rouge2"), rouge_metric("rougeL")]
    chosen.append(exact_match_metric())
    if all_parsed and all(isinstance(value, (dict, list)) for value in values):
        chosen.append(valid_json_metric())
    if all_parsed and all(isinstance(value, dict) for value in values):
        chosen.append(field_accuracy_metric())
    return tuple(chosen)


def bleu_metric(references: Sequence[str]) -> Metric:
    """BLEU-4 in percent, as sacrebleu counts it; the references' script chooses the tokenizer.

    `eff:yes` in the signature: orders that no prediction is long enough for are left out. It
    changes nothing where some prediction has four tokens, and without it perfect short answers
    would score 0.

    Source: Papineni et al. 2002; exponential smoothing as in Chen and Cherry 2014.
    """
    tokenizer = _BLEU_TOKENIZER.get(dominant_script(references), "13a")
    # `force` only silences a warning about texts that end in " .", which is no fault in an answer.
    scorer = BLEU(tokenize=tokenizer, effective_order=True, force=True)
    return _sacrebleu_metric("bleu", scorer, columns=10, from_sums=bleu_percent)


def chrf_metric() -> Metric:
    """chrF2 in percent (characters 1 to 6, no words), as sacrebleu counts it. Source: Popović 2015."""
    return _sacrebleu_metric("chrf", CHRF(), columns=18, from_sums=chrf_percent)


def rouge_metric(name: Literal["rouge1", "rouge2", "rougeL"]) -> Metric:
    """Mean F1 over rows in percent for `rouge1`, `rouge2` or `rougeL`.

    A row with no token scores 0, and so does a row of one token in `rouge2`, equal or not: the
    published counts do the same.

    Source: Lin 2004, as counted by the rouge-score package, with our `rouge_tokens`.
    """
    return Metric(
        name=name,
        unit="percent",
        higher_is_better=True,
        signature=(
            "nrefs:1|case:lc|tok:tunesmith-words-and-characters|stemmer:no|average:rows"
            f"|version:rouge-score-{version('rouge-score')}"
        ),
        statistics=rouge_l_rows if name == "rougeL" else partial(rouge_n_rows, name),
        from_sums=percent,
    )


def exact_match_metric() -> Metric:
    """Percent of predictions equal to their reference, white space around both aside."""
    return Metric(
        name="exact_match",
        unit="percent",
        higher_is_better=True,
        signature="nrefs:1|case:mixed|space:outer-stripped",
        statistics=exact_match_rows,
        from_sums=percent,
    )


def valid_json_metric() -> Metric:
    """Percent of predictions that parse as strict JSON (`formats.parse_strict_json`)."""
    return Metric(
        name="valid_json",
        unit="percent",
        higher_is_better=True,
        signature="json:rfc8259|duplicates:refused|nan:refused",
        statistics=valid_json_rows,
        from_sums=percent,
    )


def field_accuracy_metric() -> Metric:
    """Percent of the references' top-level fields that the predictions give with an equal value.

    Each field weighs the same, whatever row it is in. An empty reference object counts as one
    field, given only by an empty object. Extra fields in a prediction cost nothing.
    """
    return Metric(
        name="field_accuracy",
        unit="percent",
        higher_is_better=True,
        signature="nrefs:1|json:rfc8259|fields:top-level|average:micro",
        statistics=field_rows,
        from_sums=percent,
    )


def loss_metric() -> Metric:
    """Cross-entropy in nats per token, from the model's own (nats, scored tokens) per row."""
    return Metric(
        name="loss",
        unit="nats/token",
        higher_is_better=False,
        signature="tok:model|log:e|average:tokens",
        statistics=no_text_rows,
        from_sums=ratio,
    )


def perplexity_metric() -> Metric:
    """Exponential of the loss, from the same statistics; infinite above 709 nats per token."""
    return Metric(
        name="perplexity",
        unit="",
        higher_is_better=False,
        signature="tok:model|log:e|average:tokens",
        statistics=no_text_rows,
        from_sums=exponential_ratio,
    )


def _sacrebleu_metric(
    name: str, scorer: BLEU | CHRF, *, columns: int, from_sums: Callable[[Array], Array]
) -> Metric:
    # sacrebleu knows the number of references, a part of the signature, only after scoring once.
    scorer.corpus_score(["a"], [["a"]])

    def statistics(predictions: Sequence[str], references: Sequence[str]) -> Array:
        paired(predictions, references)
        rows = scorer._extract_corpus_statistics(predictions, [references])
        return np.array(rows, dtype=np.float64).reshape(-1, columns)

    return Metric(
        name=name,
        unit="percent",
        higher_is_better=True,
        signature=str(scorer.get_signature()),
        statistics=statistics,
        from_sums=from_sums,
    )
