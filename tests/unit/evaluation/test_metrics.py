import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.errors import DataError, UserError
from tunesmith.evaluation.formats import JsonFailure, JsonValue, parse_strict_json
from tunesmith.evaluation.metrics import (
    Metric,
    bleu_metric,
    chrf_metric,
    exact_match_metric,
    field_accuracy_metric,
    loss_metric,
    metrics_for,
    perplexity_metric,
    rouge_metric,
    valid_json_metric,
)

ENGLISH = ["the cat sat on the mat", "Restart the router, then wait.", "It is eleven o'clock now"]
CHINESE = ["请先重启路由器，然后等待两分钟。", "明月何时照我还？", "订单已经发货"]
THAI = ["กรุณารีสตาร์ทเราเตอร์", "สวัสดีครับ"]
OBJECTS = ['{"name": "Ann", "age": 31}', '{"tags": ["a", "b"], "ok": true, "note": null}']
CORPORA = {"english": ENGLISH, "chinese": CHINESE, "thai": THAI, "json": OBJECTS}


def corpus_value(metric: Metric, predictions, references) -> float:
    return float(metric.from_sums(metric.statistics(predictions, references).sum(axis=0)))


@pytest.mark.parametrize("name", CORPORA)
def test_every_metric_is_perfect_where_answers_equal_references(name):
    references = CORPORA[name]
    for metric in metrics_for(references):
        assert corpus_value(metric, references, references) == pytest.approx(100), metric.name


@settings(deadline=None)
@given(st.lists(st.text(alphabet="ab 的。", max_size=8), min_size=1, max_size=4))
def test_bleu_and_chrf_of_equal_short_answers_are_perfect_or_there_is_nothing_to_match(references):
    perfect = pytest.approx(100 if any(text.strip() for text in references) else 0)
    assert corpus_value(bleu_metric(references), references, references) == perfect
    assert corpus_value(chrf_metric(), references, references) == perfect


@pytest.mark.parametrize("name", CORPORA)
def test_no_order_of_rows_changes_a_score(name):
    references = CORPORA[name]
    predictions = [text[: len(text) // 2] for text in references[1:]] + [references[0]]
    for metric in metrics_for(references):
        expected = corpus_value(metric, predictions, references)
        for order in itertools.permutations(range(len(references))):
            shuffled = [[texts[place] for place in order] for texts in (predictions, references)]
            assert corpus_value(metric, *shuffled) == pytest.approx(expected, abs=1e-9), metric.name


def test_all_metrics_stay_finite_and_in_range_on_empty_texts():
    for references in (["", ""], ["a b", ""], ["{}", "{}"], ["{}", '{"a": 1}']):
        for metric in metrics_for(references):
            rows = metric.statistics(["", ""], references)
            assert rows.shape[0] == 2
            assert 0 <= float(metric.from_sums(rows.sum(axis=0))) <= 100
            assert metric.statistics([], []).shape == (0, rows.shape[1])


def test_different_lengths_are_refused_by_every_text_metric():
    for metric in metrics_for(OBJECTS):
        with pytest.raises(DataError, match="3 predictions do not match 2 references") as caught:
            metric.statistics(["a", "b", "c"], OBJECTS)
        assert "same order" in caught.value.hint


@pytest.mark.parametrize(
    ("references", "tokenizer"),
    [
        (ENGLISH, "13a"),
        (CHINESE, "zh"),
        (["京都の天気は晴れです。"], "char"),
        (THAI, "char"),
        (["ສະບາຍດີ"], "char"),
        (["សួស្តី"], "char"),
        (["မင်္ဂလာပါ"], "char"),
        (["안녕하세요 반갑습니다"], "13a"),
        (["这个牌子叫优の良品，请在货架上找一找它的位置再告诉我价格，谢谢你的帮助"], "zh"),
        (["A long English answer with 一 word"], "13a"),
        (["1234", "?!"], "13a"),
        ([], "13a"),
    ],
)
def test_the_script_of_the_references_chooses_the_bleu_tokenizer(references, tokenizer):
    assert f"|tok:{tokenizer}|" in bleu_metric(references).signature


@pytest.mark.parametrize("name", ["rouge1", "rouge2", "rougeL"])
def test_rouge_sees_chinese(name):
    metric = rouge_metric(name)
    assert corpus_value(metric, CHINESE, CHINESE) == 100
    partial = corpus_value(metric, ["请重启路由器"], ["请先重启路由器，然后等待两分钟。"])
    assert 0 < partial < 100
    assert corpus_value(metric, ["天地玄黄"], ["宇宙洪荒"]) == 0


def test_rouge_counts_by_hand():
    # 3 of 4 and 3 of 5 words; 1 of 3 and 1 of 4 pairs; "a b d" in order.
    predictions, references = ["A b, d c"], ["a b x d y"]
    assert corpus_value(rouge_metric("rouge1"), predictions, references) == pytest.approx(100 * 6 / 9)
    assert corpus_value(rouge_metric("rouge2"), predictions, references) == pytest.approx(100 * 2 / 7)
    assert corpus_value(rouge_metric("rougeL"), predictions, references) == pytest.approx(100 * 6 / 9)


def test_rouge_keeps_words_of_other_alphabets_whole():
    metric = rouge_metric("rouge1")
    assert corpus_value(metric, ["Der Café"], ["der CAFÉ"]) == 100
    assert corpus_value(metric, ["हिन्दी भाषा"], ["हिन्दी बोली"]) == 50
    assert corpus_value(metric, ["की"], ["कि"]) == 0
    assert corpus_value(metric, ["привет, мир"], ["Привет!"]) == pytest.approx(100 * 2 / 3)
    assert corpus_value(metric, ["caf\u00e9"], ["cafe\u0301"]) == 100
    assert corpus_value(metric, ["fine \u2764\ufe0f"], ["fine"]) == 100


def test_rouge_of_two_long_answers_is_quick_to_count():
    # 10,000 x 10,000 characters: a full table would need 100 million cells.
    long = "春夏秋冬东南西北" * 1250
    assert corpus_value(rouge_metric("rougeL"), [long], [long[1:]]) == pytest.approx(100, abs=0.01)


def test_exact_match_ignores_outer_white_space_and_nothing_else():
    predictions = [" yes\n", "Yes", "yes .", "a b", "a  b"]
    references = ["yes", "yes", "yes.", "a b\t", "a b"]
    rows = exact_match_metric().statistics(predictions, references)
    assert rows[:, 0].tolist() == [1, 0, 0, 1, 0]


@pytest.mark.parametrize(
    ("prediction", "is_valid"),
    [
        ("{}", 1),
        (' [1, {"a": "NaN"}]\n', 1),
        ('"text"', 1),
        ("", 0),
        ('```json\n{"a": 1}\n```', 0),
        ('{"a": 1, "a": 1}', 0),
        ('{"b": {"a": 1, "a": 2}}', 0),
        ('{"a": NaN}', 0),
        ("[-Infinity]", 0),
        ("[1e999]", 0),
        ("{'a': 1}", 0),
        ('{"a": 1,}', 0),
        ("[" * 100 + "]" * 100, 1),
        ("[" * 101 + "]" * 101, 0),
        ("[" * 100_000, 0),
        ('"' + "[" * 1000 + '"', 1),
        ("1" * 5000, 0),
    ],
)
def test_json_is_strict(prediction, is_valid):
    assert valid_json_metric().statistics([prediction], ["{}"])[0, 0] == is_valid


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        ('{"a": 1, "a": 2}', JsonFailure("duplicate key `a`")),
        ("[NaN]", JsonFailure("`NaN` is not JSON")),
        ("[1e999]", JsonFailure("number `1e999` is outside the range of a double")),
        ("[" * 150, JsonFailure("nested 150 levels deep; the limit is 100")),
        ('{"a": 1\n "b": 2}', JsonFailure("Expecting ',' delimiter", line=2, column=2)),
    ],
)
def test_a_json_failure_says_why_and_where(text, failure):
    assert parse_strict_json(text) == failure


def test_null_is_a_json_value():
    assert parse_strict_json("null") == JsonValue(None)


@pytest.mark.parametrize(
    ("prediction", "hits"),
    [
        ('{"n": 1, "ok": true, "list": [1, {"x": null}]}', 3),
        ('{"list": [1.0, {"x": null}], "extra": 0, "ok": true, "n": 1.0}', 3),
        ('{"n": true, "ok": 1, "list": [1, {"x": 0}]}', 0),
        ('{"n": "1", "ok": true}', 1),
        ('{"list": [1]}', 0),
        ("[1]", 0),
        ("not JSON", 0),
    ],
)
def test_field_accuracy_compares_values_as_json(prediction, hits):
    reference = '{"n": 1, "ok": true, "list": [1, {"x": null}]}'
    assert field_accuracy_metric().statistics([prediction], [reference]).tolist() == [[hits, 3]]


def test_field_accuracy_weighs_fields_not_rows():
    references = ['{"a": 1, "b": 2, "c": 3}', '{"a": 1}', "{}"]
    predictions = ['{"a": 1, "b": 2, "c": 3}', '{"a": 0}', "{ }"]
    assert corpus_value(field_accuracy_metric(), predictions, references) == pytest.approx(80)
    assert corpus_value(field_accuracy_metric(), ["no"], ["{}"]) == 0


def test_field_accuracy_refuses_a_reference_without_fields():
    with pytest.raises(DataError, match=r"JSON object as reference, not `\[1\]`") as caught:
        field_accuracy_metric().statistics(["{}"], ["[1]"])
    assert "metrics_for" in caught.value.hint


@pytest.mark.parametrize(
    ("references", "extra"),
    [
        (OBJECTS, ["valid_json", "field_accuracy"]),
        (["[1]", "{}"], ["valid_json"]),
        (["1", "true"], []),
        (['{"a": 1}', "plain"], []),
        (['{"a": 1, "a": 2}'], []),
        ([], []),
    ],
)
def test_json_metrics_apply_only_where_every_reference_is_json(references, extra):
    names = [metric.name for metric in metrics_for(references)]
    assert names == ["bleu", "chrf", "rouge1", "rouge2", "rougeL", "exact_match", *extra]


def test_loss_and_perplexity_weigh_tokens_not_rows():
    rows = np.array([[2.0, 1.0], [3.0, 9.0]])
    assert float(loss_metric().from_sums(rows.sum(axis=0))) == pytest.approx(0.5)
    assert float(perplexity_metric().from_sums(rows.sum(axis=0))) == pytest.approx(math.exp(0.5))
    assert loss_metric().from_sums(rows).tolist() == pytest.approx([2.0, 1 / 3])
    assert float(perplexity_metric().from_sums(np.array([800.0, 1.0]))) == math.inf
    assert not loss_metric().higher_is_better
    assert not perplexity_metric().higher_is_better


def test_loss_cannot_be_counted_on_texts():
    for metric in (loss_metric(), perplexity_metric()):
        with pytest.raises(UserError, match="cannot be counted on 2 texts") as caught:
            metric.statistics(["a", "b"], ["a", "b"])
        assert "scored tokens" in caught.value.hint


def test_metrics_start_without_heavy_packages():
    code = "import sys, tunesmith.evaluation.significance; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"torch", "transformers", "scipy", "nltk", "rouge_score"} & set(loaded.split())
