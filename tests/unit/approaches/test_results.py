"""What is measured of the approaches: the score that decides, differences both ways, the best."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.approaches.results import TASK_SCORES, measure, task_score
from tunesmith.config import EvaluationConfig

SETTINGS = EvaluationConfig(bootstrap_resamples=200)
COLOURS = ("red", "green", "blue", "black")
REFERENCES = [(COLOURS[at % 4],) for at in range(40)]


def answers(right):
    """The first `right` answers are right, the others wrong."""
    return [reference if at < right else "pink" for at, (reference,) in enumerate(REFERENCES)]


@given(st.sets(st.sampled_from([*TASK_SCORES, "bleu", "ter"]), min_size=1).map(sorted))
def test_the_deciding_score_is_one_that_was_measured(names):
    assert task_score(names, [("a long reference of more than five words",)]) in names
    assert task_score(names, [("word",)]) in names


def test_exact_match_decides_only_where_it_can():
    names = ("bleu", "exact_match", "rougeL", "chrf")
    long = [("The river is low and children are welcome there",)]
    assert task_score(names, [("red",), ("dark blue",)]) == "exact_match"
    assert task_score(names, long) == "rougeL"
    assert task_score((*names, "choice"), long) == "exact_match"
    assert task_score((*names, "numeric"), long) == "numeric"
    assert task_score((*names, "field_accuracy"), [("red",)]) == "field_accuracy"
    assert task_score(("bleu", "ter"), long) == "bleu"


def test_differences_are_opposite_both_ways_and_contain_what_was_seen():
    measured = measure(
        {"zero-shot": answers(10), "few-shot": answers(20), "fine-tuned": answers(36)},
        REFERENCES,
        settings=SETTINGS,
        seed=3,
    )
    assert measured.task_score == "exact_match"
    by_pair = {(pair.better, pair.other): pair.comparison for pair in measured.pairs}
    assert len(by_pair) == 6
    for (better, other), found in by_pair.items():
        back = by_pair[other, better]
        assert found.difference == pytest.approx(-back.difference)
        assert (found.low, found.high) == pytest.approx((-back.high, -back.low))
        assert found.low <= found.difference <= found.high
    assert by_pair["fine-tuned", "zero-shot"].difference == pytest.approx(65)
    scores = {score.metric: score.value for score in measured.scores["few-shot"]}
    assert scores["exact_match"] == 50
    assert measured.differences["zero-shot"] == ()
    to_zero = {each.metric: each.difference for each in measured.differences["few-shot"]}
    assert to_zero["exact_match"] == pytest.approx(25)
    against = {each.metric: each for each in measured.against("fine-tuned", "few-shot")}
    assert against["exact_match"] == by_pair["fine-tuned", "few-shot"]


def test_without_zero_shot_there_is_no_difference_to_it():
    measured = measure({"rag": answers(5), "fine-tuned": answers(9)}, REFERENCES, settings=SETTINGS, seed=3)
    assert measured.differences == {"rag": (), "fine-tuned": ()}


def test_several_references_are_all_right():
    measured = measure({"zero-shot": ["red", "crimson"]}, [("red", "crimson")] * 2, settings=SETTINGS, seed=0)
    scores = {score.metric: score.value for score in measured.scores["zero-shot"]}
    assert scores["exact_match"] == 100


def test_slices_are_scored_by_their_own_inputs():
    measured = measure({"zero-shot": answers(20), "rag": answers(40)}, REFERENCES, settings=SETTINGS, seed=3)
    labels = [{"length": "short" if at < 20 else "long"} for at in range(40)]
    found = {each.name: [score.value for score in each.scores] for each in measured.by_slice(labels)}
    assert found == {"short": [100, 100], "long": [0, 100]}
    assert measured.by_slice([{}] * 40) == ()
