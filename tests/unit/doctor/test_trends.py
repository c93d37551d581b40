"""Levels, noise and stretches of curves."""

import numpy as np
import pytest

from made_runs import curve
from tunesmith.doctor.trends import (
    MOST_POINTS,
    between,
    error_of_difference,
    noise_of,
    rolling_medians,
    stretches,
    thinned,
)


def test_noise_is_that_around_the_trend_and_odd_points_do_not_count():
    random = np.random.default_rng(1)
    values = np.linspace(5, -20, 2000) + random.normal(0, 0.3, 2000)
    assert noise_of(values) == pytest.approx(0.3, rel=0.06)
    values[::50] += 10
    assert noise_of(values) == pytest.approx(0.3, rel=0.1)
    assert noise_of(np.linspace(3, 1, 50)) == pytest.approx(0, abs=1e-12)
    assert noise_of(np.array([1.0, 2.0])) == np.inf


def test_of_few_values_the_noise_is_seldom_half_of_what_it_is():
    random = np.random.default_rng(2)
    found = np.array([noise_of(random.normal(0, 1, 8)) for _ in range(1000)])
    assert (found < 0.5).mean() < 0.08


def test_the_error_of_a_difference_is_that_of_medians():
    random = np.random.default_rng(3)
    draws = np.median(random.normal(0, 2, (4000, 25)), axis=1) - np.median(
        random.normal(0, 2, (4000, 9)), axis=1
    )
    assert error_of_difference(2, 25, 9) == pytest.approx(draws.std(), rel=0.06)
    assert error_of_difference(2, 1, 10**9) == pytest.approx(2)


@pytest.mark.parametrize("count", [1, 399, 400, 401, 1000, 12_345])
def test_a_long_curve_becomes_means_of_neighbours(count):
    whole = curve(np.arange(count) * 2.0)
    thin = thinned(whole)
    assert len(thin) <= MOST_POINTS
    assert thin.values[0] <= 2.0 * count / len(thin)
    np.testing.assert_allclose(thin.values, (thin.steps - 1) * 2)
    if count <= MOST_POINTS:
        np.testing.assert_array_equal(thin.values, whole.values)


def test_thinning_leaves_out_what_is_no_number():
    assert thinned(curve([1.0, np.nan, 3.0, np.inf])).steps.tolist() == [1, 3]


def test_parts_and_medians_and_stretches():
    assert between(curve([5, 6, 7, 8]), 2, 3).values.tolist() == [6, 7]
    assert rolling_medians(np.array([1.0, 9, 2, 3]), 3).tolist() == [2, 3]
    assert list(stretches(np.array([True, False, True, True]))) == [(0, 0), (2, 3)]
    assert list(stretches(np.zeros(3, dtype=bool))) == []
