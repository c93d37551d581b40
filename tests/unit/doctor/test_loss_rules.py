"""The rules that read loss curves: silent about healthy runs of every shape, not about sick ones."""

from dataclasses import replace

import numpy as np
import pytest

from made_runs import (
    HEALTHY,
    RATE,
    SICK,
    curve,
    falling,
    foreign,
    long_run,
    noisy,
    quarters,
    run,
    schedule,
    seen_so_far,
)
from tunesmith.config import LEARNING_RATES, RunConfig
from tunesmith.doctor.rules import (
    loss_not_decreasing,
    loss_unstable,
    non_finite,
    overfitting,
    schedule_ends_early,
    slow_input,
)
from tunesmith.doctor.signs import Signs

RULES = {
    rule.__name__.rpartition(".")[2]: rule
    for rule in (
        loss_not_decreasing,
        loss_unstable,
        overfitting,
        non_finite,
        schedule_ends_early,
        slow_input,
    )
}
SEEDS = 40


def findings(signs):
    """By ailment, of these six rules."""
    return {name: found for name, rule in RULES.items() if (found := rule.examine(signs))}


def changes(finding):
    return {change.key: change.value for change in finding.changes}


def random():
    return np.random.default_rng(0)


@pytest.mark.parametrize("shape", HEALTHY, ids=lambda shape: shape.__name__)
def test_healthy_runs_of_every_shape_get_no_finding(shape):
    for seed in range(SEEDS):
        signs = shape(np.random.default_rng(seed))
        assert findings(signs) == {}, f"seed {seed}"
        assert findings(foreign(signs)) == {}, f"seed {seed}, from another program"


@pytest.mark.parametrize("shape", HEALTHY, ids=lambda shape: shape.__name__)
def test_healthy_runs_that_go_on_get_next_to_none(shape):
    """Each is looked at many times, with few points at first."""
    alarms = 0
    for seed in range(SEEDS):
        signs = shape(np.random.default_rng(seed))
        looks = (seen_so_far(signs, part * signs.last_step) for part in (0.1, 0.25, 0.5, 0.75, 0.95))
        alarms += any(rule.IS_LIVE and rule.examine(look) for look in looks for rule in RULES.values())
    assert alarms <= SEEDS // 20


def test_a_run_of_many_steps_gets_none():
    for seed in range(3):
        assert findings(long_run(np.random.default_rng(seed))) == {}


@pytest.mark.parametrize(("shape", "ailment"), SICK, ids=[shape.__name__ for shape, _ in SICK])
def test_sick_runs_are_found(shape, ailment):
    runs = [shape(np.random.default_rng(seed)) for seed in range(SEEDS)]
    for source in (lambda signs: signs, foreign):
        found = [findings(source(signs)).get(ailment) for signs in runs]
        assert sum(each is not None for each in found) >= 0.95 * SEEDS
        for each in filter(None, found):
            assert each.ailment == ailment
            assert 0 < each.confidence <= 1
            assert all(evidence.text and evidence.curve for evidence in each.evidence)
            assert all(evidence.first_step <= evidence.last_step for evidence in each.evidence)


@pytest.mark.parametrize(("shape", "ailment"), SICK, ids=[shape.__name__ for shape, _ in SICK])
def test_what_a_rule_changes_is_a_valid_configuration(shape, ailment):
    for seed in range(10):
        found = findings(shape(np.random.default_rng(seed))).get(ailment)
        for key, value in changes(found).items() if found else ():
            section, name = key.split(".")
            values = {"data": {"path": "rows.jsonl"}}
            values.setdefault(section, {})[name] = value
            assert getattr(getattr(RunConfig.model_validate(values), section), name) == value


# Loss not decreasing.


@pytest.mark.parametrize("method", ["full", "lora", "qlora", "prefix", "adapter"])
def test_too_low_a_rate_is_raised_to_the_usual_one_of_the_method(method):
    usual = LEARNING_RATES.get(method, RATE)
    levels = np.linspace(2.0, 1.98, 60)
    signs = run(noisy(random(), levels, 0.02), rates=schedule(60, peak=usual / 50), method=method)
    found = loss_not_decreasing.examine(signs)
    assert changes(found) == {"training.learning_rate": usual}
    assert "too low" in found.cause
    assert any(f"usual for {method} is {usual:.2g}" in each.text for each in found.evidence)
    assert f"to about {usual:.2g}" in found.remedy


def test_a_low_rate_that_brings_enough_is_not_too_low():
    levels = falling(60, start=2.0, end=1.2, speed=4)
    signs = run(noisy(random(), levels, 0.05), rates=schedule(60, peak=5e-6))
    assert loss_not_decreasing.examine(signs) is None


def test_it_says_how_much_longer_this_pace_would_take():
    signs = run(noisy(random(), np.linspace(2.0, 1.9, 60), 0.001), rates=schedule(60, peak=1e-6))
    signs = replace(signs, curves={**signs.curves, "eval_loss": curve([2.0, 1.95, 1.9], steps=[0, 30, 60])})
    found = loss_not_decreasing.examine(signs)
    assert "a fall of 20% takes 4 times as long" in found.remedy
    assert found.evidence[0].text.startswith(
        "validation loss 2.000 at first, 1.900 in the end: +5.0% of a fall"
    )


def test_a_validation_loss_that_fell_outweighs_a_noisy_training_loss():
    levels = falling(30, start=2.0, end=1.5, speed=4)
    losses = noisy(random(), np.full(30, 1.8), 0.4)
    signs = run(losses, rates=schedule(30, peak=1e-5), validation=quarters(30, random(), levels))
    assert loss_not_decreasing.examine(signs) is None


def test_a_loss_of_nothing_but_zeros_has_nothing_scored():
    found = loss_not_decreasing.examine(run(np.zeros(20)))
    assert "nothing is scored" in found.cause
    assert "exactly 0 at all 20 logged points" in found.evidence[0].text


def test_a_mean_over_no_token_is_nan_with_no_gradient():
    """As transformers logs it where all labels are -100."""
    signs = foreign(run(np.full(20, np.nan)))
    signs = replace(signs, curves={**signs.curves, "grad_norm": curve(np.zeros(20))})
    assert set(findings(signs)) == {"loss_not_decreasing"}
    text = loss_not_decreasing.examine(signs).evidence[0].text
    assert text.startswith("the loss is NaN, with a gradient of exactly 0, at all 20 logged points")
    broken = replace(signs, curves={**signs.curves, "grad_norm": curve(np.full(20, np.nan))})
    assert set(findings(broken)) == {"non_finite"}


def test_no_scored_token_in_the_data_is_enough():
    signs = run([0.5, 0.4], data={"scored_tokens": {"train": 0}})
    assert (
        "not one token of the training rows is scored" in loss_not_decreasing.examine(signs).evidence[0].text
    )


def test_weights_that_do_not_move_at_a_usual_rate_are_frozen():
    signs = run(noisy(random(), np.full(40, 2.0), 0.2), validation=([0, 10, 20, 30, 40], [2.1] * 5))
    found = loss_not_decreasing.examine(signs)
    assert "frozen" in found.cause
    assert "`requires_grad`" in found.remedy
    assert found.changes == ()


def test_without_a_rate_in_the_log_only_a_high_and_flat_loss_speaks():
    def log(level):
        return Signs("losses.csv", "csv", {"loss": curve(noisy(random(), np.full(400, level), 0.03))})

    found = loss_not_decreasing.examine(log(3.0))
    assert "too low" in found.cause
    assert found.confidence <= 0.5
    assert loss_not_decreasing.examine(log(0.1)) is None


def test_a_run_that_goes_on_is_judged_from_its_middle():
    signs = run(noisy(random(), np.full(100, 2.0), 0.05), rates=schedule(100, peak=1e-7))
    assert loss_not_decreasing.examine(seen_so_far(signs, 30)) is None
    assert loss_not_decreasing.examine(seen_so_far(signs, 60))


def test_a_rate_somewhat_low_that_moves_validation_by_next_to_nothing():
    levels = np.linspace(2.0, 1.99, 60)
    others = {"rates": schedule(60, peak=7e-5), "validation": ([0, 15, 30, 45, 60], np.linspace(2, 1.98, 5))}
    found = loss_not_decreasing.examine(run(noisy(random(), levels, 0.1), **others))
    assert "too low" in found.cause
    others["rates"] = schedule(60, peak=RATE)
    assert loss_not_decreasing.examine(run(noisy(random(), levels, 0.1), **others)) is None
    others["rates"] = schedule(60, peak=7e-5)
    assert loss_not_decreasing.examine(run(noisy(random(), levels / levels * 0.5, 0.1), **others)) is None


# Loss unstable.


def unstable(levels, **others):
    return loss_unstable.examine(run(noisy(random(), levels, 0.05), **others))


def test_a_rising_end_is_told_with_both_levels_and_where_it_began():
    levels = np.concatenate([np.linspace(2.5, 1.0, 40), np.full(40, 5.0)])
    found = unstable(levels, rates=schedule(80, peak=8e-3))
    assert found.title == "the training loss is unstable (diverging)"
    assert "the learning rate 0.008 is too high" in found.cause
    rise = next(each for each in found.evidence if each.text.startswith("the loss rises from 1."))
    assert 30 <= rise.first_step <= 41
    assert rise.last_step == 80
    assert changes(found) == {"training.learning_rate": 2 * RATE, "training.warmup_ratio": 0.1}


def test_a_collapse_to_a_plateau_below_the_start_counts():
    assert unstable(np.concatenate([np.linspace(3.0, 0.4, 50), np.full(50, 1.5)]))


def test_a_rate_that_is_usual_is_divided_by_four():
    levels = np.concatenate([np.linspace(2.5, 1.0, 40), np.full(40, 4.0)])
    found = unstable(levels, rates=schedule(80, kind="constant", peak=3e-4))
    assert changes(found)["training.learning_rate"] == pytest.approx(7.5e-5)


def test_a_rate_of_the_warmup_at_which_all_was_well_is_not_passed():
    rates = schedule(100, peak=2e-3, warmup=0.6)
    levels = np.concatenate([np.linspace(2.5, 2.0, 12), np.full(88, 6.0)])
    assert changes(unstable(levels, rates=rates))["training.learning_rate"] < 5e-4
    levels = np.concatenate([[2.5], np.linspace(2.5, 2.0, 2), np.full(97, 6.0)])
    assert changes(unstable(levels, rates=rates))["training.learning_rate"] < 1.5e-4


def test_a_hump_that_passes_is_a_short_warmup():
    levels = falling(80, start=2.5, end=0.8, speed=4)
    levels[2:14] += 4.0
    found = unstable(levels, rates=schedule(80, warmup=0))
    assert "warmup is too short" in found.cause
    assert any(each.text.startswith("the loss climbs from 2.5") for each in found.evidence)


def test_spikes_are_told_with_their_steps():
    levels = np.full(100, 2.0)
    for at in (30, 55, 80):
        levels[at : at + 3] *= 3
    found = unstable(levels, epochs=1.0)
    assert "swinging" in found.title
    assert any(each.text.startswith("the loss jumps 3 times, to 6.") for each in found.evidence)
    assert any(each.text.endswith("comes back: at steps 31, 56, 81") for each in found.evidence)


def test_what_comes_once_in_an_epoch_is_a_row_and_no_spike():
    levels = np.full(100, 2.0)
    for at in (30, 55, 80):
        levels[at : at + 2] *= 3
    assert unstable(levels, epochs=4.0) is None


def test_small_windows_get_more_rows():
    settings = {"training.per_device_train_batch_size": 1, "training.gradient_accumulation_steps": 1}
    levels = np.concatenate([np.linspace(2.5, 1.0, 40), np.full(40, 5.0)])
    found = unstable(levels, settings=settings)
    assert "a step sees 1 row only" in found.cause
    assert changes(found)["training.gradient_accumulation_steps"] == 8


def test_roughness_alone_is_found_only_where_nothing_falls():
    settings = {"training.per_device_train_batch_size": 1, "training.gradient_accumulation_steps": 1}
    rough = run(noisy(random(), np.full(400, 2.0), 0.9), settings=settings)
    found = loss_unstable.examine(rough)
    assert "no fall shows" in found.evidence[0].text
    assert "a step sees 1 row only" in found.cause
    learned = run(noisy(random(), falling(400, start=4, end=0.8, speed=3), 0.9), settings=settings)
    assert loss_unstable.examine(learned) is None


def test_a_rate_far_above_the_usual_one_and_a_loss_that_stays_high():
    levels = np.concatenate([[6.5, 6.0], np.full(58, 5.8)])
    found = unstable(levels, rates=schedule(60, peak=6e-2))
    text = found.evidence[0].text
    assert text.startswith("at a learning rate of 0.06, where 0.0002 is usual for lora, the loss stays at 5.")
    assert unstable(levels) is None
    good = unstable(np.linspace(6.5, 3.5, 60), rates=schedule(60, peak=6e-2))
    assert good is None


def test_a_loss_that_falls_only_with_the_rate_was_held_up_by_it():
    levels = np.concatenate([[5.0, 4.5], np.full(28, 4.2), np.linspace(4.2, 2.5, 30)])
    validation = ([0, 15, 30, 45, 60], [5.0, 4.2, 4.2, 3.2, 2.5])
    assert unstable(levels, rates=schedule(60, peak=2e-2), validation=validation)
    better = ([0, 15, 30, 45, 60], [5.0, 4.2, 3.6, 3.2, 2.5])
    assert unstable(levels, rates=schedule(60, peak=2e-2), validation=better) is None


def test_a_validation_loss_that_swings():
    levels = falling(60, start=2.5, end=1.0, speed=4)
    found = unstable(levels, validation=([0, 15, 30, 45, 60], [2.5, 1.5, 1.8, 1.4, 1.3]))
    assert found.evidence[0].curve == "eval_loss"
    assert found.evidence[0].text == (
        "validation loss rises from 1.500 at step 15 to 1.800 at step 30, and falls to 1.300 later"
    )


@pytest.mark.parametrize("method", ["full", "lora", "prefix", "adapter"])
def test_a_rate_far_too_high_comes_down_to_twice_the_usual_one(method):
    usual = LEARNING_RATES.get(method, RATE)
    levels = np.concatenate([np.linspace(2.5, 1.0, 40), np.full(40, 5.0)])
    found = unstable(levels, rates=schedule(80, kind="constant", peak=300 * usual), method=method)
    assert changes(found)["training.learning_rate"] == pytest.approx(2 * usual)


def test_what_is_no_number_is_left_to_its_own_rule():
    losses = [*np.linspace(2, 1, 20), *np.linspace(5, 9, 10), np.nan]
    assert set(findings(foreign(run(losses)))) == {"non_finite"}


def test_a_run_that_ended_for_want_of_numbers_is_not_called_unstable_too():
    losses = [2.0, 2.1, 3.0, 5.0, 8.0, 9.0, 9.5, 9.0, 9.2, 9.1]
    signs = run(losses, rates=schedule(10, kind="constant"))
    assert loss_unstable.examine(signs)
    ended = replace(signs, status="failed", why="step 11 was not taken: grad_norm is inf; its rows: a:1")
    assert loss_unstable.examine(ended) is None


# Overfitting.


def overfit(**others):
    levels = falling(100, start=2.5, end=0.05, speed=6)
    validation = ([0, 20, 40, 60, 80, 100], [2.5, 1.3, 1.2, 1.35, 1.5, 1.7])
    return run(noisy(random(), levels, 0.1), validation=validation, **({"epochs": 20.0} | others))


def test_the_best_step_and_epoch_are_named():
    found = overfitting.examine(overfit(data={"rows": {"train": 40}}))
    assert found.evidence[0].text == (
        "validation loss is lowest at step 40 (epoch 8.00), 1.200 nats, and 1.700 at step 100"
    )
    assert (found.evidence[0].first_step, found.evidence[0].last_step) == (40, 100)
    assert found.cause == "little data (40 training rows) and too many passes over it (20.0)"
    assert "gather more than 40 rows" in found.remedy
    assert changes(found) == {
        "training.num_train_epochs": 8.0,
        "method.dropout": 0.1,
        "training.early_stopping_patience": 2,
        "training.eval_steps": 10,
    }


def test_dropout_only_for_methods_that_have_it():
    assert "method.dropout" not in changes(overfitting.examine(overfit(method="full")))


def test_a_run_measured_in_steps_is_shortened_in_steps():
    found = changes(overfitting.examine(overfit(settings={"training.max_steps": 100})))
    assert found["training.max_steps"] == 40
    assert "training.num_train_epochs" not in found
    assert changes(overfitting.examine(overfit(steps_per_epoch=None)))["training.max_steps"] == 40


def test_early_stopping_did_its_work_or_will():
    assert overfitting.examine(overfit(facts={"training": {"is_early_stop": True}})) is None
    patient = overfit(settings={"training.early_stopping_patience": 3}, status="running")
    assert overfitting.examine(patient) is None
    assert overfitting.examine(overfit(status="running"))


def test_a_training_loss_that_rises_too_is_no_overfitting():
    levels = np.concatenate([np.linspace(2.5, 1.0, 40), np.full(60, 4.0)])
    validation = ([0, 20, 40, 60, 80, 100], [2.5, 1.3, 1.2, 3.0, 4.0, 4.0])
    signs = run(noisy(random(), levels, 0.05), validation=validation)
    assert overfitting.examine(signs) is None


def test_validation_that_never_got_better_asks_for_a_lower_rate():
    levels = falling(60, start=2.5, end=0.1, speed=5)
    signs = run(noisy(random(), levels, 0.1), validation=([0, 15, 30, 45, 60], [2.0, 2.2, 2.6, 2.9, 3.0]))
    found = overfitting.examine(signs)
    assert "no step made validation better" in found.cause
    assert changes(found)["training.learning_rate"] == pytest.approx(RATE / 4, rel=0.05)
    assert changes(found)["training.num_train_epochs"] == 1.0


# Non-finite.


@pytest.mark.parametrize(
    ("why", "says"),
    [
        ("step 7 was not taken: loss is nan; its rows: rows.jsonl:3", "loss is nan"),
        ("step 7 was not taken: grad_norm is inf; its rows: rows.jsonl:3", "grad_norm is inf"),
        ("validation after step 8 failed: eval_loss is nan; its rows: v.jsonl:1", "eval_loss is nan"),
    ],
)
def test_what_the_loops_guard_says_is_understood(why, says):
    signs = run(np.linspace(2, 1, 6), rates=schedule(6, peak=4e-2), status="failed", why=why)
    found = non_finite.examine(signs)
    assert found.evidence[0].text == f"the run ended at step 6: {says}"
    assert "the learning rate 0.037" in found.cause or "the learning rate 0.04" in found.cause
    assert changes(found) == {"training.learning_rate": 2 * RATE, "training.warmup_ratio": 0.1}


def test_no_rate_is_to_blame_for_what_was_broken_before_the_first_step():
    why = "step 1 was not taken: loss is nan; its rows: rows.jsonl:3"
    failed = replace(run([2.0], status="failed", why=why), curves={})
    lost = run([np.nan, np.nan, np.nan])
    base = run(np.linspace(2, 1, 6), validation=([0, 6], [np.nan, np.nan]))
    for signs in (failed, lost, base):
        found = non_finite.examine(signs)
        assert "before any weight had moved" in found.cause
        assert found.changes == ()
    later = run(np.linspace(2, 1, 6), validation=([0, 6], [2.0, np.nan]))
    assert changes(non_finite.examine(later))


def test_a_run_of_few_steps_need_not_show_a_fall():
    few, validation = run([2.0, 2.0, 2.0]), ([0, 3], [2.1, 2.1])
    assert loss_not_decreasing.examine(run([2.0] * 3, validation=validation)) is None
    assert loss_not_decreasing.examine(run([2.0] * 30, validation=([0, 30], [2.1, 2.1])))
    assert loss_not_decreasing.examine(few) is None


def test_other_ends_are_none_of_its_business():
    for why in ("disk is full", "step 3: 1 rows do not fit into memory", "information about loss of power"):
        assert non_finite.examine(run(np.linspace(2, 1, 6), status="failed", why=why)) is None


@pytest.mark.parametrize("name", ["loss", "eval_loss"])
def test_a_loss_that_is_no_number_is_found_with_its_step(name):
    signs = run(np.linspace(2, 1, 20))
    bad = curve([2.0, 1.5, np.inf, np.nan], steps=[5, 10, 15, 20])
    found = non_finite.examine(replace(signs, curves={**signs.curves, name: bad}))
    assert "loss is inf at step 15 and at 2 of 4 logged points" in found.evidence[0].text
    assert changes(found)["training.learning_rate"] == pytest.approx(RATE / 10, rel=0.05)


def test_gradients_that_overflow_at_first_are_float16_finding_its_scale():
    signs = run(np.linspace(2, 1, 20))
    norms = np.ones(20)
    norms[:3] = np.inf
    assert non_finite.examine(replace(signs, curves={**signs.curves, "grad_norm": curve(norms)})) is None
    norms[12:] = np.nan
    found = non_finite.examine(replace(signs, curves={**signs.curves, "grad_norm": curve(norms)}))
    assert "no number from step 13 to the last, 20" in found.evidence[0].text


def test_a_loss_that_drops_to_exactly_zero_is_a_nan_left_out():
    found = non_finite.examine(run([*np.linspace(2, 1.5, 12), 0, 0, 0]))
    assert "the loss is 1.500 at step 12 and exactly 0 from step 13 on" in found.evidence[0].text
    assert non_finite.examine(run([*np.geomspace(2, 1e-4, 12), 0, 0, 0])) is None


# Schedule.


def test_a_dead_end_is_told_with_its_share():
    rates = np.concatenate([schedule(60, kind="linear"), np.zeros(40)])
    found = schedule_ends_early.examine(run(np.linspace(2, 1, 100), rates=rates))
    assert (
        "after step 60 the learning rate is at most 1% of its peak 0.0002, for 40% of the run's 100 steps"
        in (found.evidence[0].text)
    )
    assert changes(found) == {"training.max_steps": 100, "training.lr_scheduler_type": "cosine"}


def test_a_schedule_that_ends_with_the_run_is_none():
    for kind in ("linear", "cosine", "constant"):
        for count in (15, 100, 1000):
            assert schedule_ends_early.examine(run(np.ones(count), rates=schedule(count, kind=kind))) is None


def test_a_run_that_goes_on_knows_how_much_is_to_come():
    rates = np.concatenate([schedule(20, kind="linear"), np.zeros(3)])
    signs = run(np.ones(23), rates=rates, total_steps=100, status="running")
    assert "for 80% of the run's 100 steps" in schedule_ends_early.examine(signs).evidence[0].text


def test_a_cosine_beyond_its_length_climbs_again():
    rates = RATE * 0.5 * (1 + np.cos(np.pi * np.arange(100) / 65))
    found = schedule_ends_early.examine(run(np.ones(100), rates=rates))
    assert "climbs to" in found.evidence[0].text
    restarts = np.tile(schedule(25, warmup=0), 4)
    assert schedule_ends_early.examine(run(np.ones(100), rates=restarts)) is None


def test_a_schedule_cut_off_by_the_end_of_the_run():
    rates = schedule(200, kind="linear")[:100]
    settings = {"training.lr_scheduler_type": "linear"}
    found = schedule_ends_early.examine(run(np.ones(100), rates=rates, settings=settings))
    assert found.title == "the run ends before its learning rate"
    assert "is still 53% of its peak" in found.evidence[0].text
    unfinished = run(np.ones(100), rates=rates, settings=settings, total_steps=200)
    assert schedule_ends_early.examine(unfinished) is None


# Slow input.


@pytest.mark.parametrize(("share", "is_found"), [(0.02, False), (0.15, False), (0.3, True), (0.8, True)])
def test_the_share_of_waiting_decides(share, is_found):
    signs = run(np.linspace(2, 1, 20))
    curves = {**signs.curves, "input_share": curve([1.0, 1.0] + [share] * 18)}
    found = slow_input.examine(replace(signs, curves=curves))
    assert (found is not None) == is_found
    if found:
        assert f"waits {share:.0%} of its time for input" in found.evidence[0].text
        assert f"{1 / (1 - share):.1f} times as fast" in found.remedy


def test_the_speed_stands_beside_it():
    signs = run(np.linspace(2, 1, 20))
    curves = {
        **signs.curves,
        "input_share": curve([0.5] * 20),
        "tokens_per_second": curve(np.linspace(900, 300, 20)),
    }
    found = slow_input.examine(replace(signs, curves=curves))
    assert found.evidence[1].text == "868 tokens a second at first, 332 in the end"
