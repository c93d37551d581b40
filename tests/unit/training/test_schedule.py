from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.training.schedule import learning_rate_at

KINDS = ("cosine", "linear", "constant")
PEAK = 2e-4


@st.composite
def plans(draw):
    total = draw(st.integers(1, 200))
    return total, draw(st.integers(0, total - 1))


def rates(total, warmup, kind):
    return [
        learning_rate_at(step, peak=PEAK, total_steps=total, warmup_steps=warmup, kind=kind)
        for step in range(1, total + 1)
    ]


@given(plans(), st.sampled_from(KINDS))
def test_every_step_moves_and_none_exceeds_the_peak(plan, kind):
    assert all(0 < rate <= PEAK for rate in rates(*plan, kind))


@given(plans(), st.sampled_from(KINDS))
def test_warmup_rises_and_the_first_step_after_it_has_the_peak(plan, kind):
    total, warmup = plan
    found = rates(total, warmup, kind)
    assert all(before < after for before, after in pairwise(found[: warmup + 1]))
    assert found[warmup] == PEAK


@given(plans(), st.sampled_from(("cosine", "linear")))
def test_cosine_and_linear_fall_after_warmup(plan, kind):
    total, warmup = plan
    assert all(before > after for before, after in pairwise(rates(total, warmup, kind)[warmup:]))


@given(plans())
def test_constant_stays_at_the_peak_after_warmup(plan):
    total, warmup = plan
    assert rates(total, warmup, "constant")[warmup:] == [PEAK] * (total - warmup)


@given(plans(), st.sampled_from(KINDS))
def test_warmup_does_not_depend_on_what_follows(plan, kind):
    total, warmup = plan
    assert rates(total, warmup, kind)[:warmup] == rates(total, warmup, "constant")[:warmup]


def test_rates_of_a_short_run_by_hand():
    assert rates(5, 1, "linear") == pytest.approx([PEAK / 2, PEAK, PEAK * 3 / 4, PEAK / 2, PEAK / 4])
    half = (1 + 2**-0.5) / 2
    assert rates(5, 1, "cosine") == pytest.approx([PEAK / 2, PEAK, PEAK * half, PEAK / 2, PEAK * (1 - half)])
