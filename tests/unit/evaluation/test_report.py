import re
from dataclasses import replace

import matplotlib
import pytest

from html_page import Page
from tunesmith.evaluation.curves import best_point, series, thin
from tunesmith.evaluation.elsewhere import GENERAL_PLACE, OTHERWISE_PLACE, Elsewhere, Place
from tunesmith.evaluation.marks import (
    ENOUGH_ROWS,
    flatten,
    format_difference,
    format_fact,
    format_interval,
    format_p,
    format_value,
    mark_of,
    metric_name,
    result_rows,
    verdict,
)
from tunesmith.evaluation.report import (
    SHOWN_CHARACTERS,
    SHOWN_SAMPLES,
    RunFacts,
    compare_answer,
    cut_text,
    nearest_reference,
    render_report,
)
from tunesmith.evaluation.scores import Comparison, Evaluation, Sample, Score, SliceScores

PAYLOAD = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>{{ 7 * 7 }}</style></title><!--"


def score(metric, value, *, half=1.0, n=64, higher=True, unit="percent"):
    low, high = (None, None) if n == 1 else (value - half, value + half)
    return Score(metric, value, low, high, n, f"{metric}|seed:17", higher, unit)


def comparison(metric, difference, *, half=1.0, p=0.0001, n=64):
    if n == 1:
        return Comparison(metric, difference, None, None, None, n, "paired|seed:17")
    return Comparison(metric, difference, difference - half, difference + half, p, n, "paired|seed:17")


def evaluation(*, loss=-0.9, chrf=20.0, n=64, half=0.1):
    return Evaluation(
        base=(score("loss", 2.3, half=half, n=n, higher=False, unit="nats/token"), score("chrf", 31.2, n=n)),
        tuned=(
            score("loss", 2.3 + loss, half=half, n=n, higher=False, unit="nats/token"),
            score("chrf", 31.2 + chrf, n=n),
        ),
        comparisons=(comparison("loss", loss, half=half, n=n), comparison("chrf", chrf, n=n)),
    )


METRICS = [
    {"step": 1, "epoch": 0.1, "loss": 2.5, "learning_rate": 1e-4, "grad_norm": 1.2},
    {"step": 2, "loss": 2.1, "learning_rate": 2e-4, "grad_norm": None},
    {"step": 2, "eval_loss": 2.0},
    {"step": 3, "loss": 1.9, "eval_loss": 2.2},
]


def run_facts(**changes):
    return replace(
        RunFacts(
            title="support",
            base_model="acme/small",
            method="lora",
            evaluation=evaluation(),
            samples=[Sample("rows.jsonl:4", "Ask", "the right answer", "a wrong answer", "the right answer")],
            metrics=METRICS,
            config=[("method.rank", 16, "default"), ("data.path", "rows.jsonl", "flag")],
            manifest={"status": "succeeded", "seed": 17, "data": {"sha256": "ab12", "rows": 12_000}},
        ),
        **changes,
    )


def hostile_facts():
    return run_facts(
        title=PAYLOAD,
        base_model=PAYLOAD,
        method=PAYLOAD,
        samples=[Sample(f"{PAYLOAD}.jsonl:1", PAYLOAD, PAYLOAD, f"{PAYLOAD} x", f"y {PAYLOAD}")],
        config=[(PAYLOAD, PAYLOAD, PAYLOAD)],
        manifest={"status": PAYLOAD, PAYLOAD: {PAYLOAD: [PAYLOAD, {PAYLOAD: PAYLOAD}]}},
    )


def test_same_facts_give_the_same_bytes():
    assert render_report(run_facts()) == render_report(run_facts())


def test_payloads_add_no_tag_and_no_attribute():
    hostile = Page(render_report(hostile_facts()))
    assert "script" not in hostile.tags
    assert not [name for _, name, _ in hostile.attributes if name.startswith("on")]
    assert hostile.tags.count("img") == Page(render_report(run_facts())).tags.count("img")
    assert hostile.tags.count("style") == 1
    assert "{{ 7 * 7 }}" in hostile.text
    assert PAYLOAD in hostile.text


def test_page_reaches_nothing_outside_itself():
    page = Page(render_report(run_facts()))
    policy = next(value for _, name, value in page.attributes if name == "content" and "default-src" in value)
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")
    sources = [value for _, name, value in page.attributes if name in ("src", "srcset", "href", "action")]
    assert sources
    assert all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    assert not {"link", "iframe", "object", "form", "base"} & set(page.tags)


def test_drawing_leaves_matplotlib_settings_alone():
    before = dict(matplotlib.rcParams)
    render_report(run_facts())
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"evaluation": None}, "Not evaluated"),
        ({"evaluation": Evaluation((), (), ())}, "Not evaluated"),
        ({"samples": []}, "No samples"),
        ({"metrics": []}, "No curves"),
        ({"metrics": [{"step": 1, "loss": 2.0}]}, "No validation loss was recorded"),
        ({"metrics": [{"step": 1, "loss": float("nan")}, {"loss": 1.0}]}, "No curves"),
        ({"metrics": [{"step": 1, "eval_loss": 2.0}]}, "Lowest validation loss: 2.000 at step 1"),
        ({"evaluation": evaluation(n=1)}, "one row allows no interval"),
        ({"metrics": [{"step": 7, "grad_norm": 1.25}]}, "1.25 at the one logged step."),
        ({"config": []}, "No configuration was recorded"),
        ({"manifest": {}}, "No manifest was recorded"),
        ({"manifest": {"status": "interrupted"}}, "This run is not complete. Its status: interrupted."),
    ],
)
def test_what_is_missing_is_said(changes, said):
    assert said in Page(render_report(run_facts(**changes))).text


@pytest.mark.parametrize("n", [1, 12, 64])
def test_every_score_has_interval_and_rows_or_says_why_not(n):
    for row in result_rows(evaluation(n=n)):
        assert row.n == str(n)
        for interval in (row.base_interval, row.tuned_interval, row.difference_interval):
            assert interval.startswith("[") or (interval == "no interval" and row.note)
        assert all(signature for _, signature in row.signatures)


def test_page_of_ten_long_samples_stays_below_400_kb():
    text = "\n".join(f"Sentence number {number} about tea & 红茶." for number in range(500))
    other = text.replace("about", "on").replace("红茶", "绿茶")
    samples = [Sample(f"rows.jsonl:{place}", text, text, other, text) for place in range(40)]
    metrics = [{"step": step, "loss": 1 / step, "grad_norm": step % 7} for step in range(1, 20_000)]
    html = render_report(run_facts(samples=samples, metrics=metrics))
    assert len(html.encode()) < 400_000
    assert html.count("<article") == SHOWN_SAMPLES
    assert "The first 10 of 40" in html


def test_lone_surrogates_and_control_signs_can_be_written():
    html = render_report(run_facts(title="a\x00b\ud800c"))
    assert "\N{SYMBOL FOR NULL}" in html
    assert html.encode()


def test_marks_follow_sign_and_direction():
    up, down = comparison("m", 5.0), comparison("m", -5.0)
    assert mark_of(up, higher_is_better=True) == mark_of(down, higher_is_better=False) == "better"
    assert mark_of(down, higher_is_better=True) == mark_of(up, higher_is_better=False) == "worse"
    assert mark_of(comparison("m", 0.5), higher_is_better=True) == "no clear difference"
    assert mark_of(comparison("m", 1.0), higher_is_better=True) == "no clear difference"
    assert mark_of(comparison("m", 5.0, n=1), higher_is_better=True) == "not compared"
    assert mark_of(comparison("m", float("nan")), higher_is_better=True) == "no clear difference"


def test_whisker_points_right_where_better():
    better, worse = result_rows(evaluation(chrf=-20.0))
    assert 0 < better.whisker[0] <= better.whisker[1] <= better.whisker[2] == 1
    assert -1 == worse.whisker[0] <= worse.whisker[1] <= worse.whisker[2] < 0


def test_verdict_is_as_honest_as_the_numbers():
    assert verdict(evaluation()).startswith("The tuned model is better than the base model on Loss and chrF.")
    assert verdict(evaluation(loss=0.9, chrf=-20)).startswith("The tuned model is worse than the base model")
    assert verdict(evaluation(chrf=-20)).startswith(
        "Mixed: the tuned model is better than the base model on Loss"
    )
    assert "is not shown to be better" in verdict(evaluation(loss=0.0, chrf=0.5))
    assert "better than the base model on Loss; no clear difference on chrF." in verdict(evaluation(chrf=0.5))


def test_verdict_quotes_value_interval_and_rows():
    assert "Loss went from 2.300 [2.200, 2.400] to 1.400 [1.300, 1.500] nats/token" in verdict(evaluation())
    assert "a difference of −0.900 [−1.000, −0.800] on 64 rows." in verdict(evaluation())


def test_verdict_on_few_rows_is_none():
    few = verdict(evaluation(n=ENOUGH_ROWS - 1))
    assert few.startswith("Too few held-out rows for a verdict: 29 where at least 30 are needed.")
    assert verdict(evaluation(n=ENOUGH_ROWS)).startswith("The tuned model is better")


def test_metric_with_few_rows_does_not_enter_the_verdict():
    many, few = evaluation(n=64), evaluation(n=8)
    mixed = Evaluation(
        (many.base[0], few.base[1]), (many.tuned[0], few.tuned[1]), (many.comparisons[0], few.comparisons[1])
    )
    assert verdict(mixed).startswith("The tuned model is better than the base model on Loss; too few rows")


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1.23456, "nats/token", "1.235"),
        (54.04, "percent", "54.0"),
        (0.98765, "fraction", "0.988"),
        (-0.0001, "percent", "0.0"),
        (-2.5, "percent", "−2.5"),
        (12345.678, "", "12,345.68"),
        (float("inf"), "", "not finite"),
    ],
)
def test_values_have_the_digits_of_their_unit(value, unit, text):
    assert format_value(value, unit=unit) == text


def test_differences_show_their_sign():
    assert format_difference(1.5, unit="percent") == "+1.5"
    assert format_difference(-1.5, unit="percent") == "−1.5"
    assert format_difference(0.0, unit="percent") == format_difference(0.001, unit="percent") == "0.0"
    assert format_difference(float("inf"), unit="percent") == "not finite"


def test_intervals_and_p_values():
    assert format_interval(1.0, 2.0, unit="percent") == "[1.0, 2.0]"
    assert format_interval(-1.0, 2.0, unit="percent", signed=True) == "[−1.0, +2.0]"
    assert format_interval(None, None, unit="percent") == "no interval"
    assert [format_p(p) for p in (0.0, 0.0009, 0.001, 0.0456, 1.0, None)] == [
        "< 0.001",
        "< 0.001",
        "0.001",
        "0.046",
        "1.000",
        "not tested",
    ]


def test_names_and_facts():
    assert [metric_name(metric) for metric in ("rougeL", "my_metric")] == ["ROUGE-L", "my metric"]
    assert [format_fact(value) for value in (True, 12_000, 0.0002, None, [], [1, "a"], {}, "")] == [
        "true",
        "12,000",
        "0.0002",
        "none",
        "none",
        "1, a",
        "none",
        "none",
    ]


def test_flatten_keeps_every_leaf_in_order():
    tree = {"a": {"b": 1, "c": {"d": [1, 2]}}, "e": [{"f": 3}, 4], "g": {}}
    assert flatten(tree) == [("a.b", "1"), ("a.c.d", "1, 2"), ("e.1.f", "3"), ("e.2", "4"), ("g", "none")]


def test_best_step_is_the_lowest_validation_loss():
    assert best_point(series(METRICS, key="eval_loss")) == (2.0, 2.0)
    assert best_point([(5.0, 1.0), (3.0, 1.0)]) == (3.0, 1.0)
    assert best_point([]) is None


def test_thinned_points_keep_their_mean():
    points = [(float(step), float(step % 5)) for step in range(1_000)]
    few = thin(points, most=100)
    assert len(few) == 100
    assert sum(value for _, value in few) / 100 == pytest.approx(sum(value for _, value in points) / 1_000)
    assert thin(points[:100], most=100) == points[:100]


def test_answers_are_compared_with_the_reference():
    marked = compare_answer("the wrong answer", reference="the right answer")
    assert [span.text for span in marked.spans if span.kind == "insert"] == ["wrong"]
    assert compare_answer("same", reference="same").note == "Same as the reference."
    assert compare_answer("", reference="x").note == "Empty answer."
    far = compare_answer("nothing alike", reference="x y z")
    assert (len(far.spans), far.note) == (1, "Shares little with the reference; differences not marked.")


def test_differences_are_marked_in_the_page():
    html = render_report(run_facts(samples=[Sample("r:1", "Ask", "the right answer", "", "the <b> answer")]))
    assert re.search(r"the <del>right</del><ins>&lt;b&gt;</ins> answer", html)


def test_cut_text_says_how_much_is_missing():
    assert cut_text("a" * SHOWN_CHARACTERS) == "a" * SHOWN_CHARACTERS
    assert cut_text("a" * (SHOWN_CHARACTERS + 1_500)).endswith("a … (1,500 more characters)")


def elsewhere_facts(*, difference, finding):
    loss = score("loss", 2.0, half=0.1, n=96, higher=False, unit="nats/token")
    places = [
        Place(name, loss, replace(loss, value=2.0 + by), comparison("loss", by, half=0.01, n=n), mark)
        for name, n, by, mark in (
            (GENERAL_PLACE, 96, difference, finding),
            (OTHERWISE_PLACE, 48, -0.8, "no worse"),
            (PAYLOAD, 9, 0.0, "too few rows"),
        )
    ]
    return Elsewhere(tuple(places[:2]), tuple(places[2:]), 2, "ab12" * 16)


@pytest.mark.parametrize(
    ("difference", "finding", "head"),
    [(0.3, "worse", "Worse elsewhere: "), (0.0, "no worse", "No worse elsewhere: ")],
)
def test_page_shows_whether_it_is_worse_elsewhere(difference, finding, head):
    found = elsewhere_facts(difference=difference, finding=finding)
    page = Page(render_report(run_facts(elsewhere=found)))
    assert page.text.index("Before and after") < page.text.index("Is it worse elsewhere?")
    assert page.text.index("Is it worse elsewhere?") < page.text.index("One step is one optimizer step.")
    assert head in page.text and found.verdict in page.text
    for name in (GENERAL_PLACE, OTHERWISE_PLACE, PAYLOAD, "ab12" * 16, "2: too long, or refused"):
        assert name in page.text
    assert "script" not in page.tags
    assert "Is it worse elsewhere?" not in Page(render_report(run_facts())).text


def test_place_without_rows_leaves_the_sentence_alone():
    page = Page(render_report(run_facts(elsewhere=Elsewhere((), (), 96, "ab"))))
    assert "Not looked elsewhere: " in page.text


def test_slices_have_a_table_where_there_are_any():
    whole = evaluation()
    part = SliceScores(PAYLOAD, PAYLOAD, 12, whole.base[1:], whole.tuned[1:], whole.comparisons[1:])
    page = Page(render_report(run_facts(evaluation=replace(whole, slices=(part,)))))
    assert "By slices" in page.text
    assert f"{PAYLOAD}: {PAYLOAD}" in page.text
    assert "few rows: 12, below 30" in page.text
    assert "script" not in page.tags
    assert "By slices" not in Page(render_report(run_facts())).text


def test_each_answer_is_compared_with_the_nearest_of_several_references():
    references = ("Lima is the capital of Peru.", "It is Lima, of course.")
    sample = Sample("r:1", "Capital?", references[0], "It is Lima, of cause.", references[0], references)
    page = render_report(run_facts(samples=[sample]))
    assert "It is Lima, of <del>course</del><ins>cause</ins>." in page
    assert "Same as the reference." in page
    assert page.count('<div class="text reference"') == 2
    assert "<h4>References</h4>" in page
    assert "<h4>Reference</h4>" in render_report(run_facts())


def test_nearest_reference_is_the_equal_one_and_the_first_of_equals():
    assert nearest_reference("b", ("a", "b")) == "b"
    assert nearest_reference("x", ("only",)) == "only"
    assert nearest_reference("", ("one", "two")) == "one"
