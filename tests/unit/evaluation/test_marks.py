import pytest

from tunesmith.evaluation.marks import mark_of, metric_name, result_rows, slice_rows, verdict
from tunesmith.evaluation.metrics import metrics_for
from tunesmith.evaluation.scores import Comparison, Evaluation, Score, SliceScores


def score(metric, value, *, higher=True, unit="percent", n=64):
    return Score(metric, value, value - 1, value + 1, n, f"{metric}|seed:17", higher, unit)


def change(metric, difference, *, n=64, half=0.5):
    return Comparison(metric, difference, difference - half, difference + half, 0.01, n, "paired|seed:17")


def with_length(*, difference=0.8, n=64):
    return Evaluation(
        base=(score("chrf", 30.0, n=n), score("length_ratio", 2.0, higher=None, unit="", n=n)),
        tuned=(score("chrf", 40.0, n=n), score("length_ratio", 2.0 + difference, higher=None, unit="", n=n)),
        comparisons=(change("chrf", 10.0, n=n), change("length_ratio", difference, n=n)),
    )


def test_what_has_no_direction_is_neither_better_nor_worse():
    assert mark_of(change("m", 5.0), higher_is_better=None) == "no direction"
    assert mark_of(change("m", 0.0), higher_is_better=None) == "no direction"
    bare = Comparison("m", 1.0, None, None, None, 1, "paired")
    assert mark_of(bare, higher_is_better=None) == "not compared"
    row = result_rows(with_length())[1]
    assert (row.mark, row.whisker, row.arrow, row.direction) == (
        "no direction",
        None,
        "↔",
        "neither is better",
    )


@pytest.mark.parametrize("difference", [0.8, 0.0, -0.8])
def test_what_has_no_direction_stays_out_of_the_verdict(difference):
    said = verdict(with_length(difference=difference))
    assert said.startswith("The tuned model is better than the base model on chrF. chrF went from")
    assert "Length" not in said


def test_few_rows_of_what_has_no_direction_are_not_named_either():
    both = with_length()
    few = with_length(n=8)
    mixed = Evaluation(
        (both.base[0], few.base[1]), (both.tuned[0], few.tuned[1]), (both.comparisons[0], few.comparisons[1])
    )
    assert "Length" not in verdict(mixed)


def test_every_metric_has_a_name_for_people():
    names = {
        metric.name for references in ([["{}"]], [["1\n2 a b c d e f"]]) for metric in metrics_for(references)
    }
    assert len(names) > 10
    assert all(metric_name(name) != name.replace("_", " ") for name in names)


def slice_of(*metrics, tuned=True, n=64):
    sides = tuple(score(metric, 20.0, n=n) for metric in metrics)
    return SliceScores(
        "length",
        "short (up to 3)",
        n,
        sides,
        tuple(score(metric, 25.0, n=n) for metric in metrics) if tuned else (),
        tuple(change(metric, 5.0, n=n) for metric in metrics) if tuned else (),
    )


@pytest.mark.parametrize(
    ("metrics", "shown"),
    [
        (("bleu", "chrf", "exact_match"), "chrF"),
        (("bleu", "chrf", "exact_match", "choice"), "Exact match"),
        (("chrf", "exact_match", "valid_json", "field_accuracy"), "Field accuracy"),
        (("chrf", "exact_match", "numeric"), "Right number"),
        (("mine",), "mine"),
    ],
)
def test_a_slice_is_judged_by_the_score_of_its_task(metrics, shown):
    [row] = slice_rows(Evaluation((), (), (), (slice_of(*metrics),)))
    assert (row.metric, row.kind, row.name, row.n, row.note) == (shown, "length", "short (up to 3)", "64", "")
    assert (row.base, row.tuned, row.difference) == ("20.0", "25.0", "+5.0")
    assert (row.base_interval, row.difference_interval) == ("[19.0, 21.0]", "[+4.5, +5.5]")


def test_a_slice_of_few_rows_says_so_and_one_without_tuned_model_has_empty_cells():
    [row] = slice_rows(Evaluation((), (), (), (slice_of("chrf", tuned=False, n=7),)))
    assert row.note == "few rows: 7, below 30"
    assert (row.tuned, row.tuned_interval, row.difference, row.difference_interval) == ("", "", "", "")


def test_an_evaluation_without_slices_has_no_rows_of_them():
    assert slice_rows(with_length()) == []
