"""BLEU and chrF against sacrebleu, ROUGE against rouge-score, on the same texts."""

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from tunesmith.evaluation.from_sums import bleu_percent, chrf_percent
from tunesmith.evaluation.metrics import Metric, bleu_metric, chrf_metric, rouge_metric
from tunesmith.evaluation.scripts import rouge_tokens

ENGLISH = (
    [
        "The cat sat on the mat, and it did not move.",
        "Restart the router & wait for two minutes.",
        "",
        "No.",
    ],
    [
        "The cat sat on the red mat and did not move at all.",
        "Switch the router off, wait for two minutes, then restart it.",
        "An answer was expected here.",
        "",
    ],
)
CHINESE = (
    ["请先重启路由器，然后等待两分钟。", "", "春风又绿江南岸。", "订单 A-17 已经发货"],
    ["请重启路由器，并等待两分钟。", "明月何时照我还。", "春风又绿江南岸。", "订单 A-17 昨天已经发货了"],
)
CORPORA = {"english": ENGLISH, "chinese": CHINESE, "empty": ([""], [""])}

# Formulas in float64 in another order of operations: agreement far below the promised 1e-6.
TOLERANCE = 1e-9

texts = st.text(alphabet="abc d.的我。é ", max_size=30)
corpora = st.lists(st.tuples(texts, texts), min_size=1, max_size=6).map(
    lambda rows: tuple(zip(*rows, strict=True))
)


def corpus_value(metric: Metric, predictions, references) -> float:
    return float(metric.from_sums(metric.statistics(predictions, references).sum(axis=0)))


@pytest.mark.parametrize(("name", "tokenizer"), [("english", "13a"), ("chinese", "zh"), ("empty", "13a")])
def test_bleu_equals_sacrebleu_with_its_defaults(name, tokenizer):
    predictions, references = CORPORA[name]
    expected = sacrebleu.corpus_bleu(predictions, [references], tokenize=tokenizer)
    metric = bleu_metric(references)
    assert f"tok:{tokenizer}|" in metric.signature
    assert corpus_value(metric, predictions, references) == pytest.approx(expected.score, abs=TOLERANCE)


@pytest.mark.parametrize("name", CORPORA)
def test_chrf_equals_sacrebleu_with_its_defaults(name):
    predictions, references = CORPORA[name]
    expected = sacrebleu.corpus_chrf(predictions, [references])
    assert corpus_value(chrf_metric(), predictions, references) == pytest.approx(
        expected.score, abs=TOLERANCE
    )


@settings(deadline=None)
@given(corpora)
def test_bleu_and_chrf_equal_sacrebleu_on_any_corpus(corpus):
    predictions, references = corpus
    metric = bleu_metric(references)
    tokenizer = metric.signature.partition("tok:")[2].partition("|")[0]
    bleu = BLEU(tokenize=tokenizer, effective_order=True, force=True)
    expected = bleu.corpus_score(predictions, [references]).score
    assert corpus_value(metric, predictions, references) == pytest.approx(expected, abs=TOLERANCE)
    expected = CHRF().corpus_score(predictions, [references]).score
    assert corpus_value(chrf_metric(), predictions, references) == pytest.approx(expected, abs=TOLERANCE)


def test_signatures_are_those_of_sacrebleu():
    predictions, references = ENGLISH
    bleu, chrf = BLEU(effective_order=True), CHRF()
    bleu.corpus_score(predictions, [references])
    chrf.corpus_score(predictions, [references])
    assert bleu_metric(references).signature == str(bleu.get_signature())
    assert chrf_metric().signature == str(chrf.get_signature())


@pytest.mark.parametrize(
    ("metric", "formula", "scorer"),
    [
        (bleu_metric(ENGLISH[1]), bleu_percent, BLEU(effective_order=True)),
        (chrf_metric(), chrf_percent, CHRF()),
    ],
    ids=["bleu", "chrf"],
)
def test_formulas_hold_on_every_leading_axis(metric, formula, scorer):
    rows = metric.statistics(*ENGLISH)
    sums = np.random.default_rng(3).integers(3, size=(5, 2, len(rows))) @ rows
    expected = [[scorer._compute_score_from_stats(list(each)).score for each in pair] for pair in sums]
    np.testing.assert_allclose(formula(sums), expected, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["rouge1", "rouge2", "rougeL"])
def test_rouge_of_english_equals_the_package_with_its_own_tokenizer(name):
    scorer = RougeScorer([name], use_stemmer=False)
    predictions, references = ENGLISH
    pairs = zip(predictions, references, strict=True)
    expected = [scorer.score(reference, prediction)[name].fmeasure for prediction, reference in pairs]
    rows = rouge_metric(name).statistics(predictions, references)
    np.testing.assert_allclose(rows[:, 0], expected, atol=TOLERANCE)
    assert corpus_value(rouge_metric(name), predictions, references) == pytest.approx(
        100 * np.mean(expected), abs=TOLERANCE
    )


class OurTokenizer:
    """The interface of rouge-score for other tokenizers."""

    def tokenize(self, text: str) -> list[str]:
        return rouge_tokens(text)


@settings(deadline=None)
@given(texts, texts)
def test_rouge_l_equals_the_package_on_any_text(prediction, reference):
    scorer = RougeScorer(["rougeL"], tokenizer=OurTokenizer())
    expected = scorer.score(reference, prediction)["rougeL"].fmeasure
    rows = rouge_metric("rougeL").statistics([prediction], [reference])
    assert rows[0, 0] == pytest.approx(expected, abs=TOLERANCE)


@settings(deadline=None)
@given(st.text(alphabet=st.characters(max_codepoint=127), max_size=60))
def test_tokens_of_ascii_text_are_those_of_rouge_score(text):
    assert rouge_tokens(text) == RougeScorer(["rouge1"], use_stemmer=False)._tokenizer.tokenize(text)
