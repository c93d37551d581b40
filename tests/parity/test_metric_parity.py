"""BLEU, chrF and TER against sacrebleu and its command line, ROUGE against rouge-score, on the same texts."""

import json
import subprocess
import sys

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER

from tunesmith.evaluation.from_sums import bleu_percent, chrf_percent, ter_percent
from tunesmith.evaluation.metrics import Metric, bleu_metric, chrf_metric, rouge_metric, ter_metric
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
PRINTED_DIGITS = 8

texts = st.text(alphabet="abc d.的我。é \n", max_size=30)
corpora = st.lists(st.tuples(texts, st.lists(texts, min_size=1, max_size=3)), min_size=1, max_size=5).map(
    lambda rows: tuple(zip(*rows, strict=True))
)


def single(references) -> list[list[str]]:
    return [[reference] for reference in references]


def streams(references) -> list[list[str | None]]:
    """References as sacrebleu takes them: one list for each place, None where a row has fewer."""
    most = max(map(len, references))
    return [[given[place] if place < len(given) else None for given in references] for place in range(most)]


def corpus_value(metric: Metric, predictions, references) -> float:
    return float(metric.from_sums(metric.statistics(predictions, references).sum(axis=0)))


def tokenizer_of(metric: Metric) -> str:
    return metric.signature.partition("tok:")[2].partition("|")[0]


WORDS = ["the", "a", "cat", "dog", "router", "sat", "ran", "on", "off", "mat", "red", "not", "restart"]
WORDS += [",", ".", "--", "&", "it's", "U.S.", "3.5", "10%", "(two)", '"wait"']
CHARACTERS = "请先重启路由器然后等待两分钟春风又绿江南岸，。订单已经发货了A17 "


def generated(*, is_chinese: bool, references: int) -> tuple[list[str], list[list[str]]]:
    """40 rows: each reference and the prediction are the same sentence, damaged each in its own way."""
    generator = np.random.default_rng(7 + references)
    rows = []
    for _ in range(40):
        pool, joint = (list(CHARACTERS), "") if is_chinese else (WORDS, " ")
        sentence = list(generator.choice(pool, size=generator.integers(4, 25)))
        damaged = []
        for _ in range(references + 1):
            kept = [word for word in sentence if generator.random() > 0.15]
            place = int(generator.integers(0, max(len(kept), 1)))
            moved = kept[place:] + kept[:place] if generator.random() < 0.4 else kept
            # The command line reads a file by lines and drops white space at their ends.
            damaged.append(joint.join(moved).strip() or "x")
        rows.append((damaged[0], damaged[1:]))
    return [prediction for prediction, _ in rows], [given for _, given in rows]


@pytest.mark.parametrize(
    ("is_chinese", "references"), [(False, 1), (False, 3), (True, 2)], ids=["one", "three", "chinese-two"]
)
def test_scores_are_those_of_the_command_line_to_all_printed_digits(tmp_path, is_chinese, references):
    predictions, given = generated(is_chinese=is_chinese, references=references)
    (tmp_path / "answers").write_text("\n".join(predictions) + "\n", encoding="utf-8")
    names = [f"references{place}" for place in range(references)]
    for name, lines in zip(names, streams(given), strict=True):
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "sacrebleu", *names, "-i", "answers", "-m", "bleu", "chrf", "ter"]
    command += ["--width", str(PRINTED_DIGITS), "--format", "json", "--force"]
    command += ["--tokenize", "zh", "--ter-normalized", "--ter-asian-support"] if is_chinese else []
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    printed = {score["name"]: score for score in json.loads(answer.stdout)}
    metrics = {"BLEU": bleu_metric(given), "chrF2": chrf_metric(given), "TER": ter_metric(given)}
    assert printed.keys() == metrics.keys()
    for name, metric in metrics.items():
        value = corpus_value(metric, predictions, given)
        assert 10 < value < 95, name
        assert f"{value:.{PRINTED_DIGITS}f}" == f"{printed[name]['score']:.{PRINTED_DIGITS}f}", name
        # The command line has no flag for effective order, which changes nothing for answers of four tokens.
        assert metric.signature.replace("eff:yes|tok", "eff:no|tok") == printed[name]["signature"]


@pytest.mark.parametrize(("name", "tokenizer"), [("english", "13a"), ("chinese", "zh"), ("empty", "13a")])
def test_bleu_equals_sacrebleu_with_its_defaults(name, tokenizer):
    predictions, references = CORPORA[name]
    expected = sacrebleu.corpus_bleu(predictions, [references], tokenize=tokenizer)
    metric = bleu_metric(single(references))
    assert tokenizer_of(metric) == tokenizer
    assert corpus_value(metric, predictions, single(references)) == pytest.approx(
        expected.score, abs=TOLERANCE
    )


@pytest.mark.parametrize("name", CORPORA)
def test_chrf_equals_sacrebleu_with_its_defaults(name):
    predictions, references = CORPORA[name]
    expected = sacrebleu.corpus_chrf(predictions, [references])
    value = corpus_value(chrf_metric(), predictions, single(references))
    assert value == pytest.approx(expected.score, abs=TOLERANCE)


@pytest.mark.parametrize("name", ["english", "empty"])
def test_ter_equals_sacrebleu_with_its_defaults(name):
    predictions, references = CORPORA[name]
    expected = sacrebleu.corpus_ter(predictions, [references])
    value = corpus_value(ter_metric(single(references)), predictions, single(references))
    assert value == pytest.approx(expected.score, abs=TOLERANCE)


@settings(deadline=None)
@given(corpora)
def test_all_equal_sacrebleu_on_any_corpus_with_any_number_of_references(corpus):
    predictions, references = corpus
    bleu, chrf, ter = bleu_metric(references), chrf_metric(references), ter_metric(references)
    by_characters = "asian:yes" in ter.signature
    scorers = (
        (bleu, BLEU(tokenize=tokenizer_of(bleu), effective_order=True, force=True)),
        (chrf, CHRF()),
        (ter, TER(normalized=by_characters, asian_support=by_characters)),
    )
    for metric, scorer in scorers:
        expected = scorer.corpus_score(predictions, streams(references)).score
        assert corpus_value(metric, predictions, references) == pytest.approx(expected, abs=TOLERANCE)
        assert metric.signature == str(scorer.get_signature())


@pytest.mark.parametrize(
    ("metric", "formula", "scorer"),
    [
        (bleu_metric(single(ENGLISH[1])), bleu_percent, BLEU(effective_order=True)),
        (chrf_metric(), chrf_percent, CHRF()),
        (ter_metric(single(ENGLISH[1])), ter_percent, TER()),
    ],
    ids=["bleu", "chrf", "ter"],
)
def test_formulas_hold_on_every_leading_axis(metric, formula, scorer):
    rows = metric.statistics(ENGLISH[0], single(ENGLISH[1]))
    sums = np.random.default_rng(3).integers(3, size=(5, 2, len(rows))) @ rows
    expected = [[scorer._compute_score_from_stats(list(each)).score for each in pair] for pair in sums]
    np.testing.assert_allclose(formula(sums), expected, atol=TOLERANCE)


ROUGES = ["rouge1", "rouge2", "rougeL", "rougeLsum"]


@pytest.mark.parametrize("name", ROUGES)
def test_rouge_of_english_equals_the_package_with_its_own_tokenizer(name):
    scorer = RougeScorer([name], use_stemmer=False)
    predictions, references = ENGLISH
    pairs = zip(predictions, references, strict=True)
    expected = [scorer.score(reference, prediction)[name].fmeasure for prediction, reference in pairs]
    rows = rouge_metric(name).statistics(predictions, single(references))
    np.testing.assert_allclose(rows[:, 0], expected, atol=TOLERANCE)
    assert corpus_value(rouge_metric(name), predictions, single(references)) == pytest.approx(
        100 * np.mean(expected), abs=TOLERANCE
    )


@pytest.mark.parametrize("name", ROUGES)
def test_rouge_of_several_references_equals_the_package(name):
    predictions, references = generated(is_chinese=False, references=3)
    # Sentences by lines, for ROUGE-Lsum.
    predictions = [text.replace(" . ", "\n") for text in predictions]
    references = [
        [text.replace(" , ", "\n") for text in given[: 1 + row % 3]] for row, given in enumerate(references)
    ]
    scorer = RougeScorer([name], use_stemmer=False)
    expected = [
        scorer.score_multi(given, prediction)[name].fmeasure
        for prediction, given in zip(predictions, references, strict=True)
    ]
    rows = rouge_metric(name, references).statistics(predictions, references)
    np.testing.assert_allclose(rows[:, 0], expected, atol=TOLERANCE)


class OurTokenizer:
    """The interface of rouge-score for other tokenizers."""

    def tokenize(self, text: str) -> list[str]:
        return rouge_tokens(text)


@pytest.mark.parametrize("name", ROUGES)
@settings(deadline=None)
@given(texts, st.lists(texts, min_size=1, max_size=3))
def test_rouge_equals_the_package_on_any_text(name, prediction, references):
    scorer = RougeScorer([name], tokenizer=OurTokenizer())
    expected = scorer.score_multi(references, prediction)[name].fmeasure
    rows = rouge_metric(name).statistics([prediction], [references])
    assert rows[0, 0] == pytest.approx(expected, abs=TOLERANCE)


@settings(deadline=None)
@given(st.text(alphabet=st.characters(max_codepoint=127), max_size=60))
def test_tokens_of_ascii_text_are_those_of_rouge_score(text):
    assert rouge_tokens(text) == RougeScorer(["rouge1"], use_stemmer=False)._tokenizer.tokenize(text)
