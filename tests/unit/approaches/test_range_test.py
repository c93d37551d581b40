"""The curve of a range test is read by its two rules, and a real model's is measured without a trace."""

import numpy as np
import pytest
import torch

from tiny_run import PAD, bits, random_rows, tiny_lora, weights
from tunesmith.approaches.range_test import SMOOTHING, measure_rate, range_test, read_curve, smooth
from tunesmith.config import TrainingConfig
from tunesmith.errors import RunFailed
from tunesmith.hardware import choose_hardware
from tunesmith.resolve import resolve


def trial(*, steps=48, seed=3, **settings):
    chosen = {"learning_rate": 5e-3, "gradient_accumulation_steps": 1, "seed": seed} | settings
    model = tiny_lora()
    found = range_test(
        model,
        random_rows(12),
        settings=TrainingConfig(**chosen),
        hardware=choose_hardware(device="cpu"),
        pad_id=PAD,
        steps=steps,
    )
    return model, found


def test_smoothing_is_a_mean_of_what_came_before():
    values = np.array([1.0, 3.0, 2.0])
    weights_3 = SMOOTHING ** np.array([2, 1, 0])
    assert smooth(values)[0] == 1.0
    assert smooth(values)[2] == pytest.approx((weights_3 * values).sum() / weights_3.sum())
    assert smooth(np.full(9, 0.4)) == pytest.approx(0.4)


def test_the_rates_are_read_where_the_curve_falls_fastest_and_is_lowest():
    rates = np.geomspace(1e-6, 1.0, 61)
    logs = np.log10(rates)
    # Falls around 1e-4, lowest at about 1e-2, then rises.
    shares = 1 - 0.6 / (1 + np.exp(-4 * (logs + 4))) + np.exp(4 * (logs + 1))
    found = read_curve(rates, shares, is_diverged=True)
    assert found.steepest == pytest.approx(1e-4, rel=0.6)
    assert 10**-2.7 < found.lowest < 10**-1.7
    assert found.rate == pytest.approx(min(found.steepest, found.lowest / 10), rel=0.35)
    assert found.as_dict()["reason"] == found.reason
    assert "usual" not in found.reason


def test_a_rate_out_of_the_usual_range_says_so():
    rates = np.geomspace(1e-3, 10.0, 41)
    found = read_curve(rates, 1 - 0.5 / (1 + np.exp(-4 * (np.log10(rates)))), is_diverged=False)
    assert found.rate > 5e-4
    assert found.reason.endswith("measured, so it may leave the usual 1e-05 to 5e-04")


def test_a_real_test_gives_a_rate_that_learns():
    _, found = trial()
    assert not found.is_diverged
    assert len(found.rates) == len(found.shares) == len(found.smoothed) == 48
    assert found.shares[0] == pytest.approx(1.0, abs=1e-4)
    assert found.rates[0] == pytest.approx(5e-3 / 30)
    assert found.rates[-1] == pytest.approx(5e-3 * 300)
    assert min(found.smoothed) < 0.75
    assert found.rate <= found.steepest * 1.5 and found.rate <= found.lowest / 10 * 1.5


def test_divergence_ends_a_test(monkeypatch):
    # Whether the loss of so small a model rises to four times its lowest depends on the machine's rounding.
    monkeypatch.setattr("tunesmith.approaches.range_test.DIVERGED", 1.25)
    _, found = trial(steps=96)
    assert found.is_diverged
    assert len(found.rates) == len(found.shares) < 96
    assert found.smoothed[-1] > 1.25 * min(found.smoothed)


def test_the_same_seed_gives_the_same_curve_and_another_one_another():
    (one, first), (other, second), (_, third) = trial(steps=12), trial(steps=12), trial(steps=12, seed=4)
    assert first == second
    assert bits(weights(one)) == bits(weights(other))
    assert first.shares != third.shares


def test_rates_that_do_nothing_are_an_error_with_a_remedy():
    with pytest.raises(
        RunFailed, match=r"no rate that learns: over 12 steps with rates from 3e-14"
    ) as failed:
        trial(steps=12, learning_rate=1e-12)
    assert "tunesmith data preview" in failed.value.hint


def test_a_loss_that_is_not_finite_ends_the_test():
    model = tiny_lora()
    with torch.no_grad():
        next(each for each in model.parameters() if each.requires_grad).fill_(float("nan"))
    with pytest.raises(RunFailed, match="no rate that learns: over 0 steps"):
        range_test(
            model,
            random_rows(12),
            settings=TrainingConfig(),
            hardware=choose_hardware(device="cpu"),
            pad_id=PAD,
        )


def test_it_writes_nothing(tmp_path, monkeypatch):
    from tiny import tiny_model_folder

    rows = tmp_path / "rows.jsonl"
    lines = [f'{{"instruction": "Say {at}", "output": "word word {at % 3}"}}\n' for at in range(20)]
    rows.write_text("".join(lines), encoding="utf-8")
    model = tiny_model_folder(tmp_path / "model")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    flags = {"model": str(model), "data": str(rows), "learning-rate": 5e-3, "device": "cpu"}
    found = measure_rate(resolve(None, flags))
    assert found.rate > 0
    assert sorted(tmp_path.rglob("*")) == before
