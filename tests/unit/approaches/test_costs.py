"""Costs: laws of the break-even, prices by hand, and a peak of memory that begins anew."""

import mmap
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.approaches.costs import (
    Costs,
    Training,
    break_even,
    break_evens,
    forget_peak_memory,
    request_price,
    training_price,
)
from tunesmith.approaches.settings import Prices
from tunesmith.hardware import peak_memory_bytes

amounts = st.floats(min_value=0, max_value=1e12, allow_nan=False)
savings = st.floats(min_value=-1e9, max_value=1e9, allow_nan=False)


def costs(*, requests=10, prompt=1000, shared=0, answer=200, seconds=5.0, training=None):
    return Costs(requests, prompt, shared, answer, seconds, 1_000_000, True, training)


@given(amounts, savings)
def test_break_even_is_the_least_number_that_pays(training, saving):
    found = break_even(training, saving)
    if found is None:
        assert saving <= 0 < training
        return
    assert found * Fraction(saving) >= Fraction(training) or training == 0
    assert found == 0 or (found - 1) * Fraction(saving) < Fraction(training)


@given(amounts, st.floats(min_value=1e-6, max_value=1e9), st.floats(min_value=1, max_value=100))
def test_dearer_training_never_pays_earlier_and_greater_savings_never_later(training, saving, factor):
    assert break_even(training * factor, saving) >= break_even(training, saving)
    assert break_even(training, saving * factor) <= break_even(training, saving)


def test_a_request_is_priced_by_tokens_else_by_time():
    spent = costs()
    assert request_price(spent, Prices(prompt=2.0, answer=10.0)) == pytest.approx((1000 * 2 + 200 * 10) / 1e7)
    assert request_price(spent, Prices(hour=3.6)) == pytest.approx(0.5 * 0.001)
    both = Prices(prompt=2.0, answer=10.0, hour=3.6)
    assert request_price(spent, both) == request_price(spent, Prices(prompt=2.0, answer=10.0))
    assert request_price(spent, Prices()) is None
    training = Training(5000, 1800.0, 0)
    assert training_price(training, Prices(hour=2.0)) == 1.0
    assert training_price(training, Prices(prompt=1.0, answer=1.0)) is None


def test_every_pair_has_a_break_even_in_tokens_and_in_money_where_both_have_prices():
    tuned = ("fine-tuned", costs(prompt=500, training=Training(10_000, 3600.0, 0)))
    prompted = [("zero-shot", costs(prompt=500)), ("few-shot", costs(prompt=4500))]
    found = break_evens([tuned], prompted, Prices())
    assert [(each.against, each.is_money, each.requests) for each in found] == [
        ("zero-shot", False, None),
        ("few-shot", False, 75),  # 3 x 10,000 tokens by 400 a request
    ]
    priced = break_evens([tuned], prompted, Prices(prompt=1000.0, answer=0.0, hour=2.0, currency="EUR"))
    money = [each for each in priced if each.is_money]
    assert [(each.against, each.requests) for each in money] == [("zero-shot", None), ("few-shot", 5)]
    assert (money[1].training, money[1].saving) == (2.0, pytest.approx(0.4))
    assert break_evens([("fine-tuned", costs())], prompted, Prices()) == []


def test_means_are_by_requests():
    spent = costs(shared=250)
    assert (spent.prompt_tokens_per_request, spent.answer_tokens_per_request) == (100, 20)
    assert (spent.tokens_per_request, spent.seconds_per_request, spent.shared_share) == (120, 0.5, 0.25)
    assert spent.as_dict()["shared_share"] == 0.25
    assert costs(prompt=0).shared_share == 0


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process cannot be forgotten elsewhere")
def test_a_forgotten_peak_begins_anew():
    # Not from the C library's heap: in a process that trained before, that may keep what is freed.
    with mmap.mmap(-1, 320_000_000) as held:
        np.frombuffer(held, dtype=np.uint8)[:] = 1
        before = peak_memory_bytes("cpu")
    if not forget_peak_memory("cpu"):
        pytest.skip("this system does not let it begin anew")
    assert peak_memory_bytes("cpu") < before - 200_000_000
