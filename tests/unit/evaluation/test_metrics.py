import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.errors import DataError, UserError
from tunesmith.evaluation.answer_checks import AnswerChecks
from tunesmith.evaluation.formats import JsonFailure, JsonValue, parse_strict_json
from tunesmith.evaluation.metrics import (
    Metric,
    bleu_metric,
    chrf_metric,
    distinct_metric,
    exact_match_metric,
    field_accuracy_metric,
    length_ratio_metric,
    loss_metric,
    metrics_for,
    perplexity_metric,
    reference_count,
    repetition_metric,
    rouge_metric,
    ter_metric,
    token_f1_metric,
    valid_json_metric,
)

ENGLISH = ["the cat sat on the mat", "Restart the router, then wait.", "It is eleven o'clock now"]
CHINESE = ["请先重启路由器，然后等待两分钟。", "明月何时照我还？", "订单已经发货"]
THAI = ["กรุณารีสตาร์ทเราเตอร์", "สวัสดีครับ"]
OBJECTS = ['{"name": "Ann", "age": 31}', '{"tags": ["a", "b"], "ok": true, "note": null}']
CORPORA = {"english": ENGLISH, "chinese": CHINESE, "thai": THAI, "json": OBJECTS}


def single(references) -> list[list[str]]:
    """One reference a row."""
    return [[reference] for reference in references]


def corpus_value(metric: Metric, predictions, references) -> float:
    return float(metric.from_sums(metric.statistics(predictions, references).sum(axis=0)))


# What texts that equal their references score, where that is not 100 percent.
OF_EQUAL_TEXTS = {"ter": 0, "length_ratio": 1}
OF_THE_ANSWER_ALONE = {"distinct1", "distinct2", "repetition"}


@pytest.mark.parametrize("name", CORPORA)
def test_every_metric_is_perfect_where_answers_equal_references(name):
    references = single(CORPORA[name])
    for metric in metrics_for(references):
        if metric.name not in OF_THE_ANSWER_ALONE:
            expected = pytest.approx(OF_EQUAL_TEXTS.get(metric.name, 100))
            assert corpus_value(metric, CORPORA[name], references) == expected, metric.name


@pytest.mark.parametrize("name", CORPORA)
def test_every_metric_is_as_good_as_its_best_reference(name):
    texts = CORPORA[name]
    others = [[texts[place - 1], text] for place, text in enumerate(texts)]
    for metric in metrics_for(others):
        if metric.name not in OF_THE_ANSWER_ALONE:
            expected = pytest.approx(OF_EQUAL_TEXTS.get(metric.name, 100))
            assert corpus_value(metric, texts, others) == expected, metric.name
            turned = [list(reversed(given)) for given in others]
            assert corpus_value(metric, texts, turned) == expected, metric.name


@pytest.mark.parametrize("name", CORPORA)
def test_another_reference_never_costs_anything(name):
    texts = CORPORA[name]
    predictions = [text[: len(text) // 2] for text in texts]
    more = [[text, texts[place - 1]] for place, text in enumerate(texts)]
    for metric in metrics_for(single(texts)):
        if metric.is_hit_or_miss or metric.name.startswith("rouge") or metric.name == "token_f1":
            alone = metric.statistics(predictions, single(texts))
            assert (metric.statistics(predictions, more)[:, 0] >= alone[:, 0]).all(), metric.name


@settings(deadline=None)
@given(st.lists(st.text(alphabet="ab 的。", max_size=8), min_size=1, max_size=4))
def test_bleu_and_chrf_of_equal_short_answers_are_perfect_or_there_is_nothing_to_match(texts):
    perfect = pytest.approx(100 if any(text.strip() for text in texts) else 0)
    assert corpus_value(bleu_metric(single(texts)), texts, single(texts)) == perfect
    assert corpus_value(chrf_metric(), texts, single(texts)) == perfect


@pytest.mark.parametrize("name", CORPORA)
def test_no_order_of_rows_changes_a_score(name):
    texts = CORPORA[name]
    references = [[text, text[::2]] if place else [text] for place, text in enumerate(texts)]
    predictions = [text[: len(text) // 2] for text in texts[1:]] + [texts[0]]
    for metric in metrics_for(single(texts)):
        expected = corpus_value(metric, predictions, single(texts))
        for order in itertools.permutations(range(len(texts))):
            shuffled = [[each[place] for place in order] for each in (predictions, single(texts))]
            assert corpus_value(metric, *shuffled) == pytest.approx(expected, abs=1e-9), metric.name
    for metric in metrics_for(references):
        backwards = [list(reversed(each)) for each in (predictions, references)]
        expected = corpus_value(metric, predictions, references)
        assert corpus_value(metric, *backwards) == pytest.approx(expected, abs=1e-9), metric.name


def test_all_metrics_stay_finite_and_in_range_on_empty_texts():
    for texts in (["", ""], ["a b", ""], ["{}", "{}"], ["{}", '{"a": 1}'], ["42", "7"], ["yes", "no"] * 2):
        references = single(texts)
        for metric in metrics_for(references, AnswerChecks({}, "x", ("x",))):
            rows = metric.statistics([""] * len(texts), references)
            assert rows.shape[0] == len(texts)
            assert 0 <= float(metric.from_sums(rows.sum(axis=0))) <= 100
            assert metric.statistics([], []).shape == (0, rows.shape[1])


def test_rows_that_do_not_fit_are_refused_by_every_text_metric():
    for metric in metrics_for(single(OBJECTS)):
        with pytest.raises(DataError, match="3 predictions do not match 2 references") as caught:
            metric.statistics(["a", "b", "c"], single(OBJECTS))
        assert "same order" in caught.value.hint
        with pytest.raises(DataError, match="row 2 has nothing where its references should be") as caught:
            metric.statistics(["a", "b"], [["a"], []])
        assert "at least one" in caught.value.hint
        with pytest.raises(DataError, match="row 1 has a bare text where its references should be"):
            metric.statistics(["a", "b"], ["a", "b"])


@pytest.mark.parametrize(
    ("references", "count"),
    [([], "1"), ([["a"], ["b"]], "1"), ([["a", "b"], ["c", "d"]], "2"), ([["a"], ["b", "c"]], "var")],
)
def test_signatures_say_how_many_references_there_were(references, count):
    assert reference_count(references) == count
    with_references = {"bleu", "chrf", "ter", "rouge1", "rouge2", "rougeL", "token_f1", "exact_match"}
    for metric in metrics_for(references):
        if metric.name in with_references:
            assert f"nrefs:{count}|" in metric.signature, metric.name


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
    assert f"|tok:{tokenizer}|" in bleu_metric(single(references)).signature


@pytest.mark.parametrize(
    ("references", "wanted"),
    [
        (ENGLISH, "norm:no|punct:yes|asian:no"),
        (CHINESE, "norm:yes|punct:yes|asian:yes"),
        (["京都の天気は晴れです。"], "norm:yes|punct:yes|asian:yes"),
    ],
)
def test_the_script_of_the_references_chooses_how_ter_cuts(references, wanted):
    assert wanted in ter_metric(single(references)).signature


def test_ter_counts_characters_of_chinese_and_is_left_out_where_nothing_can_cut():
    # One of seven characters differs.
    value = corpus_value(ter_metric([["春风又绿江南岸"]]), ["春风又到江南岸"], [["春风又绿江南岸"]])
    assert value == pytest.approx(100 / 7)
    assert "ter" not in {metric.name for metric in metrics_for(single(THAI))}


@pytest.mark.parametrize(("words", "is_there"), [(60, True), (61, False)])
def test_ter_is_for_sentences(words, is_there):
    names = {metric.name for metric in metrics_for([["one"], ["one", "word " * words]])}
    assert ("ter" in names) is is_there


def test_ter_counts_edits_by_the_mean_length_of_the_references():
    # One word replaced; the references have 4 and 2 words.
    metric = ter_metric([["a b c d", "a b"]])
    assert corpus_value(metric, ["a b c e"], [["a b c d", "a b"]]) == pytest.approx(100 / 3)
    assert corpus_value(metric, ["a b c d e f g h i"], [["a"]]) == 800
    assert corpus_value(metric, ["a b"], [[""]]) == 100
    assert corpus_value(metric, [""], [[""]]) == 0
    assert not metric.higher_is_better


@pytest.mark.parametrize("name", ["rouge1", "rouge2", "rougeL", "rougeLsum"])
def test_rouge_sees_chinese(name):
    metric = rouge_metric(name)
    assert corpus_value(metric, CHINESE, single(CHINESE)) == 100
    partial = corpus_value(metric, ["请重启路由器"], [["请先重启路由器，然后等待两分钟。"]])
    assert 0 < partial < 100
    assert corpus_value(metric, ["天地玄黄"], [["宇宙洪荒"]]) == 0


def test_rouge_counts_by_hand():
    # 3 of 4 and 3 of 5 words; 1 of 3 and 1 of 4 pairs; "a b d" in order.
    predictions, references = ["A b, d c"], [["a b x d y"]]
    assert corpus_value(rouge_metric("rouge1"), predictions, references) == pytest.approx(100 * 6 / 9)
    assert corpus_value(rouge_metric("rouge2"), predictions, references) == pytest.approx(100 * 2 / 7)
    assert corpus_value(rouge_metric("rougeL"), predictions, references) == pytest.approx(100 * 6 / 9)


def test_rouge_lsum_reads_line_by_line():
    # The lines changed places: in order only one fits, line by line both.
    predictions, references = ["c d\na b"], [["a b\nc d"]]
    assert corpus_value(rouge_metric("rougeL"), predictions, references) == 50
    assert corpus_value(rouge_metric("rougeLsum"), predictions, references) == 100
    # No token of the prediction counts twice.
    assert corpus_value(rouge_metric("rougeLsum"), ["a b"], [["a b\na b"]]) == pytest.approx(100 * 2 / 3)


def test_rouge_keeps_words_of_other_alphabets_whole():
    metric = rouge_metric("rouge1")
    assert corpus_value(metric, ["Der Café"], [["der CAFÉ"]]) == 100
    assert corpus_value(metric, ["हिन्दी भाषा"], [["हिन्दी बोली"]]) == 50
    assert corpus_value(metric, ["की"], [["कि"]]) == 0
    assert corpus_value(metric, ["привет, мир"], [["Привет!"]]) == pytest.approx(100 * 2 / 3)
    assert corpus_value(metric, ["caf\u00e9"], [["cafe\u0301"]]) == 100
    assert corpus_value(metric, ["fine \u2764\ufe0f"], [["fine"]]) == 100


@pytest.mark.parametrize("name", ["rougeL", "rougeLsum"])
def test_rouge_of_two_long_answers_is_quick_to_count(name):
    # 10,000 x 10,000 characters: a full table would need 100 million cells.
    long = "春夏秋冬东南西北" * 1250
    assert corpus_value(rouge_metric(name), [long], [[long[1:]]]) == pytest.approx(100, abs=0.01)


def test_token_f1_is_that_of_bags_without_articles():
    metric = token_f1_metric()
    assert corpus_value(metric, ["The Eiffel tower"], [["eiffel Tower."]]) == 100
    # 2 of 3 and 2 of 4 tokens.
    assert corpus_value(metric, ["in May 1999"], [["on 3 May, 1999"]]) == pytest.approx(100 * 4 / 7)
    assert corpus_value(metric, ["b", "the"], [["a", "b"], ["a"]]) == 100
    assert corpus_value(metric, ["the", ""], [["b"], ["b"]]) == 0


def test_exact_match_ignores_outer_white_space_and_nothing_else():
    predictions = [" yes\n", "Yes", "yes .", "a b", "a  b"]
    references = [["yes"], ["no", "yes"], ["yes."], ["x", "a b\t"], ["a b"]]
    rows = exact_match_metric().statistics(predictions, references)
    assert rows[:, 0].tolist() == [1, 0, 0, 1, 0]


def test_distinct_and_repetition_by_hand():
    # a b c a b c a: 7 words of which 3 differ; 6 pairs of which 3 differ; 4 runs of four, one of them again.
    loop, references = ["A b, c a b c a"], [["x"]]
    assert corpus_value(distinct_metric(1), loop, references) == pytest.approx(100 * 3 / 7)
    assert corpus_value(distinct_metric(2), loop, references) == pytest.approx(100 * 3 / 6)
    assert corpus_value(repetition_metric(), loop, references) == pytest.approx(100 / 4)
    assert corpus_value(repetition_metric(), ["明月几时有明月几时有"], references) == pytest.approx(
        100 * 2 / 7
    )


def test_what_is_too_short_to_repeat_itself_does_not():
    assert corpus_value(distinct_metric(2), ["", "a"], [["x"], ["x"]]) == 100
    assert corpus_value(repetition_metric(), ["", "a a a"], [["x"], ["x"]]) == 0


def test_length_ratio_takes_the_closest_reference():
    metric = length_ratio_metric()
    references = [["a b", "a b c d e f"], ["a"]]
    assert metric.statistics(["a b c d e", "a b c"], references).tolist() == [[5, 6], [3, 1]]
    # As far from both: the shorter one.
    assert metric.statistics(["a b c d"], [["a b c d e f", "a b"]]).tolist() == [[4, 2]]
    assert corpus_value(metric, ["a b c d e", "a b c"], references) == pytest.approx(8 / 7)
    assert metric.higher_is_better is None


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
    assert valid_json_metric().statistics([prediction], [["{}"]])[0, 0] == is_valid


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
    assert field_accuracy_metric().statistics([prediction], [[reference]]).tolist() == [[hits, 3]]


def test_field_accuracy_weighs_fields_not_rows():
    references = single(['{"a": 1, "b": 2, "c": 3}', '{"a": 1}', "{}"])
    predictions = ['{"a": 1, "b": 2, "c": 3}', '{"a": 0}', "{ }"]
    assert corpus_value(field_accuracy_metric(), predictions, references) == pytest.approx(80)
    assert corpus_value(field_accuracy_metric(), ["no"], [["{}"]]) == 0


def test_field_accuracy_refuses_a_reference_without_fields():
    with pytest.raises(DataError, match=r"JSON object as reference, not `\[1\]`") as caught:
        field_accuracy_metric().statistics(["{}"], [["[1]"]])
    assert "metrics_for" in caught.value.hint


def test_field_accuracy_takes_the_reference_of_which_the_largest_share_is_given():
    # 1 of 2 fields beats 1 of 3, though 2 of 5 are more.
    references = [
        ['{"a": 1, "b": 0, "c": 0}', '{"a": 1, "b": 0}', '{"a": 1, "z": 2, "x": 0, "y": 0, "w": 0}']
    ]
    rows = field_accuracy_metric().statistics(['{"a": 1, "z": 2}'], references)
    assert rows.tolist() == [[1, 2]]


ALWAYS = ["bleu", "chrf", "ter", "rouge1", "rouge2", "rougeL", "token_f1", "exact_match"]
AT_THE_END = ["distinct1", "distinct2", "repetition"]


@pytest.mark.parametrize(
    ("references", "of_form"),
    [
        (OBJECTS, ["valid_json", "field_accuracy"]),
        (["[1]", '{"a": 2}'], ["valid_json"]),
        (["true", "null"], []),
        (['{"a": 1}', "plain"], []),
        (['{"a": 1, "a": 2}'], []),
        (["42", "17 apples"], ["numeric"]),
        (["42", "42", "17", "17"], ["numeric"]),
        (["yes", "no", "no", "yes"], ["choice"]),
        (['["a"]', '["a"]', '["b"]', '["b"]'], ["valid_json"]),
        (["plain words", "other words"], []),
    ],
)
def test_number_and_form_are_judged_where_every_reference_allows_it(references, of_form):
    names = [metric.name for metric in metrics_for(single(references))]
    assert names == [*ALWAYS, *of_form, *AT_THE_END, "length_ratio"]


def test_without_references_there_is_no_form_and_no_length():
    assert [metric.name for metric in metrics_for([])] == [*ALWAYS, *AT_THE_END]


def test_length_is_compared_only_where_every_reference_has_a_token():
    assert "length_ratio" not in {metric.name for metric in metrics_for([["a", "!"], ["b", "c"]])}


def test_lines_are_judged_where_a_reference_has_several():
    names = [metric.name for metric in metrics_for([["a\nb"], ["c"]])]
    assert names[: names.index("token_f1")] == [*ALWAYS[:6], "rougeLsum"]
    assert "rougeLsum" not in {metric.name for metric in metrics_for([["a\n"], ["c"]])}


def test_checks_of_the_user_are_metrics_whatever_the_references_are():
    checks = AnswerChecks(schema={"type": "object"}, pattern="[a-z]+", choices=("a", "b"))
    names = [metric.name for metric in metrics_for([["42"], ["7"]], checks)]
    assert names[len(ALWAYS) : -4] == ["numeric", "choice", "valid_json", "json_schema", "pattern"]


def test_metrics_of_hits_and_misses_say_so_and_are():
    references = single(['{"label": "a"}', '{"label": "b"}'])
    checks = AnswerChecks(schema={"type": "object"}, pattern=".*", choices=("a",))
    chosen = [*metrics_for(references, checks), *metrics_for([["1"], ["2"]])]
    hits = {metric.name for metric in chosen if metric.is_hit_or_miss}
    assert hits == {"exact_match", "numeric", "choice", "valid_json", "json_schema", "pattern"}
    for metric in chosen:
        if metric.is_hit_or_miss:
            rows = metric.statistics(["{}", "a"], [["{}"], ["b"]])
            assert set(rows[:, 0].tolist()) <= {0.0, 1.0}
            assert rows[:, 1].tolist() == [1.0, 1.0]


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
            metric.statistics(["a", "b"], [["a"], ["b"]])
        assert "scored tokens" in caught.value.hint


def test_metrics_start_without_heavy_packages():
    code = "import sys, tunesmith.evaluation.significance; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"torch", "transformers", "scipy", "nltk", "rouge_score", "jsonschema"} & set(loaded.split())
