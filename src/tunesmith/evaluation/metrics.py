"""What a metric is here, and the metrics: BLEU, chrF, TER, ROUGE, exact match, format checks, loss.

A metric turns each row into sufficient statistics, and summed statistics into the score. So the
score of a corpus and of its rows agree, and resampling (`significance.py`) never touches text.
The counting is in `row_statistics.py` and `rouge.py`, the formulas are in `from_sums.py`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER

from tunesmith.evaluation.answer_checks import (
    NO_CHECKS,
    AnswerChecks,
    choice_check,
    choices_among,
    pattern_check,
    schema_check,
)
from tunesmith.evaluation.formats import JsonValue, parse_strict_json
from tunesmith.evaluation.from_sums import (
    bleu_percent,
    chrf_percent,
    exponential_ratio,
    percent,
    ratio,
    ter_percent,
)
from tunesmith.evaluation.numeric_answers import is_numeric_answer, numeric_rows
from tunesmith.evaluation.repetition import REPEATED_TOKENS, distinct_rows, length_rows, repeated_rows
from tunesmith.evaluation.rouge import rouge_l_rows, rouge_lsum_rows, rouge_n_rows
from tunesmith.evaluation.row_statistics import (
    References,
    exact_match_rows,
    field_rows,
    fulfilled_rows,
    is_strict_json,
    no_text_rows,
    paired,
    token_f1_rows,
)
from tunesmith.evaluation.scripts import Script, dominant_script, rouge_tokens

Array = NDArray[np.float64]
RougeName = Literal["rouge1", "rouge2", "rougeL", "rougeLsum"]

# Japanese would need MeCab; single characters need nothing and lose nothing.
_BLEU_TOKENIZER: dict[Script, str] = {
    "han": "zh",
    "japanese": "char",
    "thai": "char",
    "lao": "char",
    "khmer": "char",
    "myanmar": "char",
}
# sacrebleu's TER cuts these into characters if asked; the others without spaces it cannot cut at all.
_TER_BY_CHARACTERS: frozenset[Script] = frozenset({"han", "japanese"})
_NO_TER: frozenset[Script] = frozenset({"thai", "lao", "khmer", "myanmar"})
# TER tries shifts one by one: seconds a row for two texts of 200 words. It is a measure of sentences anyway.
LONGEST_TER_TOKENS = 60
_TOKENS = "tok:tunesmith-words-and-characters"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric as data.

    Attributes:
        name: as in a Score, such as `chrf`.
        unit: the unit of the score, as in a Score.
        higher_is_better: False for loss, None where neither direction is better, as in a Score.
        signature: how to get the same number again from the same texts.
        statistics: (predictions, each row's references) to the rows' statistics, shape (rows, k).
        from_sums: statistics summed over rows, shape (..., k), to scores, shape (...).
        is_hit_or_miss: whether each row is 0 or 1 beside a 1, which allows an exact test.
    """

    name: str
    unit: str
    higher_is_better: bool | None
    signature: str
    statistics: Callable[[Sequence[str], References], Array]
    from_sums: Callable[[Array], Array]
    is_hit_or_miss: bool = False


def metrics_for(references: References, checks: AnswerChecks = NO_CHECKS) -> tuple[Metric, ...]:
    """The text metrics that make sense for these references, in report order.

    First likeness to the references, then the answer as such (equal, right number, right form), at the end
    its looks: distinct n-grams, repetition, length. BLEU and TER take the tokenizer of the references'
    script. TER is left out where it has none and where a reference is longer than `LONGEST_TER_TOKENS`;
    ROUGE-Lsum is there where a reference has several lines, since elsewhere it equals ROUGE-L.

    Args:
        references: at least one a row.
        checks: what the user demands of answers.
    """
    texts = [reference for given in references for reference in given]
    lengths = [len(rouge_tokens(text)) for text in texts]
    chosen = [bleu_metric(references), chrf_metric(references)]
    if dominant_script(texts) not in _NO_TER and max(lengths, default=0) <= LONGEST_TER_TOKENS:
        chosen.append(ter_metric(references))
    chosen += [rouge_metric(name, references) for name in ("rouge1", "rouge2", "rougeL")]
    if any("\n" in text.strip() for text in texts):
        chosen.append(rouge_metric("rougeLsum", references))
    chosen += [token_f1_metric(references), exact_match_metric(references)]
    chosen += _form_metrics(references, texts, checks)
    chosen += [distinct_metric(1), distinct_metric(2), repetition_metric()]
    if texts and all(lengths):
        chosen.append(length_ratio_metric(references))
    return tuple(chosen)


def _form_metrics(references: References, texts: Sequence[str], checks: AnswerChecks) -> list[Metric]:
    """Right number and right form: what the references allow, and what the user demands."""
    parsed = [parse_strict_json(text) for text in texts]
    values = [result.value for result in parsed if isinstance(result, JsonValue)]
    is_json = (
        bool(texts) and len(values) == len(texts) and all(isinstance(each, dict | list) for each in values)
    )
    is_numeric = bool(texts) and not is_json and all(map(is_numeric_answer, texts))
    chosen = [numeric_metric(references)] if is_numeric else []
    # Repeated numbers and objects are answers that happen to be equal, not labels.
    choices = checks.choices or (() if is_numeric or is_json else choices_among(references))
    if choices:
        chosen.append(choice_metric(choices, origin="settings" if checks.choices else "references"))
    if is_json or checks.schema is not None:
        chosen.append(valid_json_metric())
    if checks.schema is not None:
        chosen.append(json_schema_metric(checks.schema))
    if is_json and all(isinstance(each, dict) for each in values):
        chosen.append(field_accuracy_metric(references))
    if checks.pattern is not None:
        chosen.append(pattern_metric(checks.pattern))
    return chosen


def reference_count(references: References) -> str:
    """How many references a row has, as sacrebleu's signatures say it: `1`, `3`, or `var` where it varies."""
    counts = {len(given) for given in references} or {1}
    return str(counts.pop()) if len(counts) == 1 else "var"


def bleu_metric(references: References) -> Metric:
    """BLEU-4 in percent, as sacrebleu counts it; the references' script chooses the tokenizer.

    `eff:yes` in the signature: orders that no prediction is long enough for are left out. It
    changes nothing where some prediction has four tokens, and without it perfect short answers
    would score 0.

    Source: Papineni et al. 2002; exponential smoothing as in Chen and Cherry 2014.
    """
    tokenizer = _BLEU_TOKENIZER.get(_script(references), "13a")
    # `force` only silences a warning about texts that end in " .", which is no fault in an answer.
    scorer = BLEU(tokenize=tokenizer, effective_order=True, force=True)
    return _sacrebleu_metric("bleu", scorer, references, columns=10, from_sums=bleu_percent)


def chrf_metric(references: References = ()) -> Metric:
    """chrF2 in percent (characters 1 to 6, no words), as sacrebleu counts it. Source: Popović 2015."""
    return _sacrebleu_metric("chrf", CHRF(), references, columns=18, from_sums=chrf_percent)


def ter_metric(references: References) -> Metric:
    """Edits by reference words in percent, as sacrebleu counts it; lower is better, above 100 possible.

    Chinese and Japanese are cut into characters (`norm:yes|asian:yes` in the signature): a sentence without
    spaces would be one word.

    Source: Snover et al. 2006.
    """
    by_characters = _script(references) in _TER_BY_CHARACTERS
    scorer = TER(normalized=by_characters, asian_support=by_characters)
    return _sacrebleu_metric(
        "ter", scorer, references, columns=2, from_sums=ter_percent, higher_is_better=False
    )


def rouge_metric(name: RougeName, references: References = ()) -> Metric:
    """Mean F1 over rows in percent for `rouge1`, `rouge2`, `rougeL` or `rougeLsum`, of the best reference.

    A row with no token scores 0, and so does a row of one token in `rouge2`, equal or not: the
    published counts do the same.

    Source: Lin 2004, as counted by the rouge-score package, with our `rouge_tokens`.
    """
    rows: dict[str, Callable[[Sequence[str], References], Array]] = {
        "rouge1": partial(rouge_n_rows, 1),
        "rouge2": partial(rouge_n_rows, 2),
        "rougeL": rouge_l_rows,
        "rougeLsum": rouge_lsum_rows,
    }
    return _mean_metric(
        name,
        f"nrefs:{reference_count(references)}|case:lc|{_TOKENS}|stemmer:no|average:rows|counts:rouge-score-0.1.2",
        rows[name],
    )


def token_f1_metric(references: References = ()) -> Metric:
    """Mean F1 of the bags of tokens in percent, articles left out; for short answers in free words.

    Source: Rajpurkar et al. 2016, with our `rouge_tokens`.
    """
    return _mean_metric(
        "token_f1",
        f"nrefs:{reference_count(references)}|case:lc|{_TOKENS}|articles:no|average:rows",
        token_f1_rows,
    )


def exact_match_metric(references: References = ()) -> Metric:
    """Percent of predictions equal to a reference of theirs, white space around both aside."""
    signature = f"nrefs:{reference_count(references)}|case:mixed|space:outer-stripped"
    return _mean_metric("exact_match", signature, exact_match_rows, is_hit_or_miss=True)


def numeric_metric(references: References = ()) -> Metric:
    """Percent of predictions whose number equals that of a reference (`numeric_answers.answered_number`)."""
    signature = f"nrefs:{reference_count(references)}|number:last-or-after-####|equal:exact"
    return _mean_metric("numeric", signature, numeric_rows, is_hit_or_miss=True)


def choice_metric(
    choices: Sequence[str], *, origin: Literal["settings", "references"] = "settings"
) -> Metric:
    """Percent of predictions that are one of the list, right or wrong, white space around them aside."""
    signature = f"choices:{len(choices)}|from:{origin}|sha256:{_digest(sorted(choices))}|space:outer-stripped"
    return _form_metric("choice", signature, choice_check(choices))


def valid_json_metric() -> Metric:
    """Percent of predictions that parse as strict JSON (`formats.parse_strict_json`)."""
    return _form_metric("valid_json", "json:rfc8259|duplicates:refused|nan:refused", is_strict_json)


def json_schema_metric(schema: Mapping[str, Any]) -> Metric:
    """Percent of predictions that are strict JSON and obey the schema."""
    signature = f"json:rfc8259|schema-sha256:{_digest(schema)}|version:jsonschema-{version('jsonschema')}"
    return _form_metric("json_schema", signature, schema_check(schema))


def pattern_metric(pattern: str) -> Metric:
    """Percent of predictions that the regular expression matches as a whole."""
    return _form_metric(
        "pattern",
        f"pattern-sha256:{_digest(pattern)}|match:full|space:outer-stripped",
        pattern_check(pattern),
    )


def field_accuracy_metric(references: References = ()) -> Metric:
    """Percent of the references' top-level fields that the predictions give with an equal value.

    Each field weighs the same, whatever row it is in. An empty reference object counts as one
    field, given only by an empty object. Extra fields in a prediction cost nothing.
    """
    signature = f"nrefs:{reference_count(references)}|json:rfc8259|fields:top-level|average:micro"
    return _mean_metric("field_accuracy", signature, field_rows)


def distinct_metric(order: Literal[1, 2]) -> Metric:
    """Mean over rows of different n-grams by n-grams in percent; it falls as answers get longer."""
    signature = f"{_TOKENS}|case:lc|order:{order}|average:rows"
    return _mean_metric(f"distinct{order}", signature, partial(distinct_rows, order), higher_is_better=None)


def repetition_metric() -> Metric:
    """Mean over rows of the share of 4-grams that stood in the same answer before, in percent."""
    signature = f"{_TOKENS}|case:lc|order:{REPEATED_TOKENS}|average:rows"
    return _mean_metric("repetition", signature, repeated_rows, higher_is_better=False)


def length_ratio_metric(references: References = ()) -> Metric:
    """Tokens of all predictions by tokens of the references closest in length; every reference needs one."""
    return Metric(
        name="length_ratio",
        unit="",
        higher_is_better=None,
        signature=f"nrefs:{reference_count(references)}|case:lc|{_TOKENS}|reference:closest",
        statistics=length_rows,
        from_sums=ratio,
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


def _mean_metric(
    name: str,
    signature: str,
    statistics: Callable[[Sequence[str], References], Array],
    *,
    higher_is_better: bool | None = True,
    is_hit_or_miss: bool = False,
) -> Metric:
    return Metric(name, "percent", higher_is_better, signature, statistics, percent, is_hit_or_miss)


def _form_metric(name: str, signature: str, holds: Callable[[str], bool]) -> Metric:
    return _mean_metric(name, signature, partial(fulfilled_rows, holds), is_hit_or_miss=True)


def _sacrebleu_metric(
    name: str,
    scorer: BLEU | CHRF | TER,
    references: References,
    *,
    columns: int,
    from_sums: Callable[[Array], Array],
    higher_is_better: bool = True,
) -> Metric:
    # A part of the signature; sacrebleu writes the varying number as -1.
    count = reference_count(references)
    scorer.num_refs = -1 if count == "var" else int(count)

    def statistics(predictions: Sequence[str], references: References) -> Array:
        if not paired(predictions, references):
            return np.empty((0, columns))
        most = max(map(len, references))
        # One stream for each place among the references; None marks a row that has fewer.
        streams = [
            [given[place] if place < len(given) else None for given in references] for place in range(most)
        ]
        rows = scorer._extract_corpus_statistics(predictions, streams)  # type: ignore[arg-type]
        return np.array(rows, dtype=np.float64)

    return Metric(name, "percent", higher_is_better, str(scorer.get_signature()), statistics, from_sums)


def _script(references: References) -> Script:
    return dominant_script(reference for given in references for reference in given)


def _digest(value: object) -> str:
    """First 8 hex digits of a value's SHA-256, its keys in order."""
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]
