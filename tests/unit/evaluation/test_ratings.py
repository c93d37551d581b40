"""Krippendorff's alpha against his own examples, and means that count items, not raters."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.evaluation.ratings import Level, Rating, agreement, mean_rating, rating_difference

# Krippendorff 2011, section C: four observers, twelve units, some values missing.
FOUR_OBSERVERS = [
    [1, 1, 1],
    [2, 2, 3, 2],
    [3, 3, 3, 3],
    [3, 3, 3, 3],
    [2, 2, 2, 2],
    [1, 2, 3, 4],
    [4, 4, 4, 4],
    [1, 1, 2, 1],
    [2, 2, 2, 2],
    [5, 5, 5],
    [1, 1],
    [3],
]
# Section A: two observers, binary; section B: two observers, five categories.
TWO_BINARY = list(zip([0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0], strict=True))
TWO_NOMINAL = [tuple(map("abcde".index, pair)) for pair in zip("aabbdcccedda", "babbbccceddd", strict=True)]

UNITS = st.lists(st.lists(st.integers(1, 5), min_size=0, max_size=4), max_size=8)


def alpha(units, level: Level) -> float:
    found = agreement(units, level=level, seed=17, resamples=10)
    assert found is not None
    return found.value


@pytest.mark.parametrize(
    ("units", "level", "expected"),
    [
        (FOUR_OBSERVERS, "nominal", 0.743),
        (FOUR_OBSERVERS, "ordinal", 0.815),
        (TWO_BINARY, "nominal", 0.095),
        (TWO_NOMINAL, "nominal", 0.692),
    ],
)
def test_alpha_equals_the_published_examples(units: list, level: Level, expected: float) -> None:
    assert alpha(units, level) == pytest.approx(expected, abs=5e-4)


def test_alpha_by_hand() -> None:
    # Two units, always opposite: 4 of 4 pairs differ, 8 of 12 are expected to, so 1 - 3 * 4 / 8.
    assert alpha([[0, 1], [1, 0]], "nominal") == pytest.approx(-0.5)
    # Two values make ranks and names the same thing.
    assert alpha(TWO_BINARY, "ordinal") == pytest.approx(alpha(TWO_BINARY, "nominal"))
    assert alpha([[1, 1], [2, 2, 2], [5, 5]], "ordinal") == pytest.approx(1.0)


def test_for_ranks_a_near_miss_is_no_far_one() -> None:
    near = [[1, 2], [2, 2], [3, 3], [4, 4], [5, 5]]
    far = [[1, 5], [2, 2], [3, 3], [4, 4], [5, 5]]
    assert alpha(near, "ordinal") > alpha(far, "ordinal")


def test_nothing_is_said_of_agreement_where_nothing_can_be() -> None:
    for units in ([], [[1], [2], [3]], [[4, 4], [4, 4, 4]]):
        assert agreement(units, level="ordinal", seed=17) is None


@settings(max_examples=50)
@given(UNITS, st.randoms())
def test_who_rated_and_in_which_order_does_not_matter(units: list, random) -> None:
    shuffled = [random.sample(unit, len(unit)) for unit in random.sample(units, len(units))]
    one, other = (agreement(each, level="ordinal", seed=17, resamples=5) for each in (units, shuffled))
    assert (one is None) == (other is None)
    if one and other:
        assert one.value == pytest.approx(other.value)
        assert one.value <= 1 + 1e-9


def test_alpha_carries_its_recipe() -> None:
    found = agreement(FOUR_OBSERVERS, level="ordinal", seed=17)
    assert found is not None
    assert found.n == 11
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high
    assert found.signature.startswith("krippendorff|level:ordinal|values:5|")
    assert "seed:17" in found.signature


RATINGS = [
    Rating("i1", "a", "Ada", 1),
    Rating("i1", "a", "Bo", 5),
    Rating("i2", "a", "Ada", 5),
    Rating("i3", "a", "Ada", 4),
    Rating("i1", "b", "Ada", 5),
    Rating("i2", "b", "Bo", 5),
]


def test_an_item_counts_once_however_many_rated_it() -> None:
    mean = mean_rating(RATINGS, scale="fluency", system="a", seed=17)
    assert mean is not None
    assert mean.value == pytest.approx((3 + 5 + 4) / 3)
    assert (mean.metric, mean.n) == ("fluency", 3)
    assert mean.low is not None
    assert mean.high is not None
    assert 3 <= mean.low <= mean.value <= mean.high <= 5
    assert mean_rating(RATINGS, scale="fluency", system="c", seed=17) is None


def test_differences_are_paired_on_the_items_both_have() -> None:
    change = rating_difference(RATINGS, scale="fluency", systems=("a", "b"), seed=17)
    assert change is not None
    assert (change.difference, change.n) == (pytest.approx(1.0), 2)
    back = rating_difference(RATINGS, scale="fluency", systems=("b", "a"), seed=17)
    assert back is not None
    assert back.difference == pytest.approx(-change.difference)
    assert rating_difference(RATINGS, scale="fluency", systems=("a", "c"), seed=17) is None


def test_the_interval_of_a_mean_shrinks_with_items_and_not_with_raters() -> None:
    values = np.random.default_rng(3).integers(1, 6, size=200)
    few = [Rating(f"i{n}", "a", "Ada", value) for n, value in enumerate(values[:20])]
    copied = few + [Rating(each.item, "a", f"rater{n}", each.value) for each in few for n in range(9)]
    many = [Rating(f"i{n}", "a", "Ada", value) for n, value in enumerate(values)]
    widths = []
    for ratings in (few, copied, many):
        mean = mean_rating(ratings, scale="s", system="a", seed=17)
        assert mean is not None
        assert mean.low is not None
        assert mean.high is not None
        widths.append(mean.high - mean.low)
    assert widths[0] == pytest.approx(widths[1])
    assert widths[2] < 0.6 * widths[0]
