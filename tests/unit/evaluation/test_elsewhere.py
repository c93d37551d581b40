"""The verdict about other places: what an interval allows to say, and no more."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.errors import DataError, RunFailed
from tunesmith.evaluation.elsewhere import (
    GENERAL_PLACE,
    MARGIN_NATS,
    OTHERWISE_PLACE,
    Elsewhere,
    compare_place,
    finding_of,
    group_places,
)
from tunesmith.evaluation.scores import Comparison

RECIPE = {"seed": 17, "resamples": 200, "confidence": 0.95}


def change(low, high, *, n=96):
    middle = 0.0 if low is None else (low + high) / 2
    return Comparison("loss", middle, low, high, 0.5, n, "s")


def losses(count, *, nats, spread=0.0, seed=0):
    """Rows of 10 tokens with about `nats` a token."""
    random = np.random.default_rng(seed)
    return np.column_stack([10 * (nats + spread * random.standard_normal(count)), np.full(count, 10.0)])


def place(name, *, count=96, by=0.0, spread=0.0):
    base = losses(count, nats=2.0, spread=0.3)
    moved = base + losses(count, nats=by, spread=spread, seed=1) * [1, 0]
    return compare_place(name, base, moved, **RECIPE)


@pytest.mark.parametrize(
    ("low", "high", "finding"),
    [
        (-0.3, -0.1, "no worse"),
        (-0.02, 0.04, "no worse"),
        (0.01, 0.04, "no worse"),
        (0.01, MARGIN_NATS, "worse"),
        (0.001, 0.5, "worse"),
        (0.0, 0.5, "not shown"),
        (-0.1, 0.2, "not shown"),
        (float("nan"), float("nan"), "not shown"),
        (None, None, "too few rows"),
    ],
)
def test_finding_follows_the_interval(low, high, finding):
    assert finding_of(change(low, high)) == finding


def test_few_rows_allow_no_finding():
    assert finding_of(change(0.2, 0.3, n=29)) == "too few rows"
    assert finding_of(change(0.2, 0.3, n=30)) == "worse"


@settings(max_examples=100)
@given(st.floats(-2, 2), st.floats(0, 2), st.floats(0.001, 1))
def test_worse_and_no_worse_exclude_each_other_and_move_with_the_interval(low, width, shift):
    order = ("no worse", "not shown", "worse")
    here, there = (finding_of(change(low + by, low + by + width)) for by in (0.0, shift))
    assert order.index(there) >= order.index(here)


@pytest.mark.parametrize(
    ("by", "spread", "head", "finding"),
    [
        (0.0, 0.01, "No worse elsewhere: ", "no worse"),
        (-1.0, 0.1, "No worse elsewhere: ", "no worse"),
        (0.4, 0.1, "Worse elsewhere: ", "worse"),
        (0.05, 0.6, "Not shown either way whether it is worse elsewhere: ", "not shown"),
    ],
)
def test_verdict_says_finding_difference_interval_rows_and_margin(by, spread, head, finding):
    found = place(GENERAL_PLACE, by=by, spread=spread)
    verdict = Elsewhere((found,), (), 0, "ab").verdict
    assert found.finding == finding
    assert verdict.startswith(f"{head}loss in nats/token changed by ")
    assert "] on 96 general requests. No worse means: surely less than +0.050." in verdict
    assert ("This looks like forgetting: lower the learning rate" in verdict) == (finding == "worse")


def test_one_worse_place_decides_and_both_are_told_apart():
    both = Elsewhere((place(GENERAL_PLACE), place(OTHERWISE_PLACE, count=48, by=0.5)), (), 0, "ab")
    assert both.verdict.startswith("Worse elsewhere: ")
    assert "on 96 general requests (no worse); +0.500 " in both.verdict
    assert "on 48 held-out rows asked otherwise (worse)." in both.verdict
    assert "forgetting" not in both.verdict
    assert both.verdict.endswith("as `tunesmith data generate DATA OUTPUT --perturb` does.")


def test_place_of_few_rows_does_not_enter_the_verdict():
    found = Elsewhere((place(GENERAL_PLACE), place(OTHERWISE_PLACE, count=8, by=0.5)), (), 0, "ab")
    assert found.verdict.startswith("No worse elsewhere: ")
    assert "on 8 held-out rows asked otherwise (too few rows)." in found.verdict
    alone = Elsewhere((place(OTHERWISE_PLACE, count=8, by=0.5),), (), 0, "ab")
    assert alone.verdict.startswith("Too few rows to say whether it is worse elsewhere: ")


def test_no_place_is_said():
    assert Elsewhere((), (), 96, "ab").verdict.startswith("Not looked elsewhere: ")


def test_difference_is_tuned_minus_base_over_all_tokens():
    base, tuned = np.array([[10.0, 5], [9, 1]]), np.array([[16.0, 5], [9, 1]])
    found = compare_place("here", base, tuned, **RECIPE)
    assert (found.base.value, found.tuned.value) == pytest.approx((19 / 6, 25 / 6))
    assert found.comparison.difference == pytest.approx(1.0)
    assert found.comparison.low <= 1.0 <= found.comparison.high
    assert not found.base.higher_is_better


def test_numbers_carry_their_recipe_into_json():
    found = Elsewhere((place(GENERAL_PLACE),), (place("asked otherwise: typos", count=9),), 3, "ab")
    value = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert value["verdict"] == found.verdict
    assert (value["left_out"], value["general_sha256"], value["margin_nats"]) == (3, "ab", 0.05)
    [general] = value["places"]
    assert {"value", "low", "high", "n", "signature"} <= general["base"].keys()
    assert "seed:17" in general["comparison"]["signature"]
    assert [way["name"] for way in value["ways"]] == ["asked otherwise: typos"]


def test_table_shows_places_then_ways_with_marks():
    found = Elsewhere((place(GENERAL_PLACE), place(OTHERWISE_PLACE, by=0.5)), (place("w", count=9),), 0, "ab")
    rows = found.rows()
    assert [(row.name, row.colour, row.finding) for row in rows] == [
        (GENERAL_PLACE, "better", "no worse"),
        (OTHERWISE_PLACE, "worse", "worse"),
        ("w", "", "too few rows"),
    ]
    assert all(row.base_interval.startswith("[") and row.n for row in rows)


def test_no_rows_and_broken_losses_are_refused():
    with pytest.raises(DataError, match=r"^metric `loss` has 0 rows to score$"):
        compare_place("here", np.zeros((0, 2)), np.zeros((0, 2)), **RECIPE)
    broken = np.array([[float("nan"), 5], [1, 5]])
    with pytest.raises(RunFailed, match=r"^metric `loss` is not finite on 2 rows: nan$"):
        compare_place("here", broken, broken, **RECIPE)


def test_groups_keep_order_and_every_index():
    assert group_places(["b", "a", "b"]) == {"b": [0, 2], "a": [1]}
