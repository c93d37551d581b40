"""Win rates against published numbers, and the stop rule's error rate, exactly and by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from tunesmith.errors import DataError
from tunesmith.evaluation.blind_ab import (
    adjusted,
    confidence_sequence,
    log_evidence,
    majority,
    sign_test,
    watch,
    wilson_interval,
    win_rate,
)

HORIZON = 500
OUTCOMES = st.lists(st.sampled_from(["win", "tie", "loss"]), min_size=1, max_size=60)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # Newcombe 1998, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_equals_the_published_intervals(successes: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-5)


@given(OUTCOMES)
def test_changing_sides_mirrors_the_win_rate(outcomes: list) -> None:
    mirrored = [{"win": "loss", "loss": "win"}.get(outcome, outcome) for outcome in outcomes]
    one, other = win_rate(outcomes), win_rate(mirrored)
    assert one.value == pytest.approx(1 - other.value)
    assert (one.low, one.high) == pytest.approx((1 - other.high, 1 - other.low))
    assert one.p_value == other.p_value
    assert one.low <= one.value <= one.high
    assert one.wins + one.ties + one.losses == one.n == len(outcomes)


def test_ties_count_half_and_the_recipe_says_so() -> None:
    rate = win_rate(["win", "win", "tie", "loss"])
    assert rate.value == pytest.approx(2.5 / 4)
    assert "ties:half" in rate.signature
    assert "no-ties" in rate.signature


def test_the_sign_test_is_scipys() -> None:
    for n in range(1, 26):
        for wins in range(n + 1):
            assert sign_test(wins, n - wins) == pytest.approx(binomtest(wins, n).pvalue)
    assert sign_test(0, 0) == 1.0
    assert sign_test(9, 1) == pytest.approx(22 / 1024)


def test_no_outcome_is_refused() -> None:
    with pytest.raises(DataError, match="0 outcomes to take a win rate of") as refused:
        win_rate([])
    assert "vote on at least one item" in refused.value.hint


def test_the_evidence_is_the_closed_form() -> None:
    for n in range(40):
        for wins in range(n + 1):
            expected = 2**n / ((n + 1) * math.comb(n, wins))
            found = math.exp(float(log_evidence(np.array(wins), np.array(n - wins))))
            assert found == pytest.approx(expected)


def test_eight_wins_in_a_row_are_enough_and_seven_are_not() -> None:
    assert watch([]).word == "go on"
    assert watch([]).p_value == 1.0
    seven, eight = watch([True] * 7), watch([True] * 8)
    assert (seven.word, seven.is_ahead, seven.stopped_at) == ("go on", None, None)
    assert (eight.word, eight.is_ahead, eight.stopped_at) == ("winner", True, 8)
    assert eight.p_value == pytest.approx(9 / 256)
    assert watch([False] * 8).is_ahead is False


def test_a_winner_once_found_stays_found() -> None:
    later = watch([True] * 8 + [False] * 30)
    assert (later.word, later.is_ahead, later.stopped_at) == ("winner", True, 8)


def test_systems_that_are_as_good_are_called_about_equal_in_the_end() -> None:
    assert watch([True, False] * 100).word == "go on"
    assert watch([True, False] * 300).word == "about equal"


@given(st.integers(0, 60), st.integers(0, 60))
def test_interval_and_evidence_say_the_same_of_one_half(wins: int, losses: int) -> None:
    low, high = confidence_sequence(wins, losses)
    evidence = float(log_evidence(np.array(wins), np.array(losses)))
    assert (low < 0.5 < high) == (evidence < math.log(20))
    assert 0 <= low <= high <= 1


def crossing_probability(share: float, horizon: int, is_crossed) -> float:
    """Exact chance that a walk of wins and losses is ever at a place where `is_crossed` holds."""
    alive, crossed = np.array([1.0]), 0.0
    for n in range(1, horizon + 1):
        moved = np.zeros(n + 1)
        moved[1:] += alive * share
        moved[:-1] += alive * (1 - share)
        wins = np.arange(n + 1)
        gone = is_crossed(wins, n - wins)
        crossed += float(moved[gone].sum())
        alive = np.where(gone, 0.0, moved)
    return crossed


def test_without_a_difference_the_exact_error_rate_is_kept_at_every_look() -> None:
    error = crossing_probability(
        0.5, HORIZON, lambda wins, losses: log_evidence(wins, losses) >= math.log(20)
    )
    # Above 0, or the rule would never speak at all.
    assert 0.01 < error <= 0.05


@pytest.mark.parametrize("share", [0.5, 0.3, 0.95])
def test_the_interval_holds_the_true_share_at_all_looks_together(share: float) -> None:
    def is_missed(wins: np.ndarray, losses: np.ndarray) -> np.ndarray:
        intervals = [confidence_sequence(int(w), int(x)) for w, x in zip(wins, losses, strict=True)]
        return np.array([not low <= share <= high for low, high in intervals])

    assert crossing_probability(share, 50, is_missed) <= 0.05


def found_winners(win: float, tie: float, *, trials: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """For each trial whether a winner was named at any look, and whether it was the first system."""
    draws = np.random.default_rng(seed).random((trials, HORIZON))
    wins = np.cumsum(draws < win, axis=1)
    losses = np.cumsum(draws >= win + tie, axis=1)
    is_past = log_evidence(wins, losses) >= math.log(20)
    named = is_past.any(axis=1)
    at = is_past.argmax(axis=1)
    rows = np.arange(trials)
    return named, named & (wins[rows, at] > losses[rows, at])


@pytest.mark.parametrize("tie", [0.0, 0.3])
def test_simulated_voters_without_preference_name_a_false_winner_in_5_percent_at_most(tie: float) -> None:
    named, _ = found_winners((1 - tie) / 2, tie, trials=4000, seed=17)
    assert 0 < named.mean() <= 0.05


def test_where_one_is_clearly_better_it_is_found() -> None:
    named, right = found_winners(0.56, 0.2, trials=1000, seed=17)
    assert named.mean() > 0.99
    assert right.sum() >= 0.995 * named.sum()


def test_looking_at_the_sign_test_after_every_vote_would_break_its_promise() -> None:
    """What the stop rule is for: the plain test's 5 percent hold for one look only."""

    def is_crossed(wins: np.ndarray, losses: np.ndarray) -> np.ndarray:
        return np.array([sign_test(int(w), int(x)) <= 0.05 for w, x in zip(wins, losses, strict=True)])

    assert crossing_probability(0.5, 150, is_crossed) > 0.15


def test_raters_of_one_item_are_merged_by_majority() -> None:
    assert majority(["win", "loss", "win"]) == "win"
    assert majority(["win", "loss"]) == "tie"
    assert majority(["tie", "loss", "tie"]) == "loss"


def test_p_values_looked_at_together_are_holms() -> None:
    assert adjusted([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert adjusted([]) == []
    assert adjusted([0.6, 0.7]) == [1.0, 1.0]
