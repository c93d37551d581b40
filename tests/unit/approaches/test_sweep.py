"""What a sweep varies, what it tries next, and what it may say: without a run."""

import json
import math
import sqlite3

import optuna
import pytest
from optuna.trial import TrialState

from tunesmith.approaches.sweep import sweep
from tunesmith.approaches.sweep_child import Validation, environments, is_last, validations_of
from tunesmith.approaches.sweep_result import best_config, field_of, sentences_of, trials_of, write_results
from tunesmith.approaches.sweep_space import (
    Axis,
    is_within,
    point_count,
    read_axes,
    rounded,
    trial_config,
    values_of,
)
from tunesmith.approaches.sweep_study import (
    FULL_TRIALS,
    STUDY_FILE,
    _draw,
    is_lagging,
    keep,
    next_trial,
    opened_study,
    unfinished,
)
from tunesmith.config import TrainingConfig
from tunesmith.errors import ConfigError, RunFolderError
from tunesmith.evaluation.sweep_page import SweptTrial, cells, columns, ranked, render_sweep
from tunesmith.resolve import resolve
from tunesmith.runs import create_run

RATE, RANK = "training.learning_rate=1e-5:1e-3:log", "method.rank=8,16,32"


def base_of(**flags):
    return resolve(None, {"data": "rows.jsonl"} | {name.replace("_", "-"): v for name, v in flags.items()})


# What is varied


def test_ranges_and_lists_become_what_the_configuration_holds():
    rate, rank, epochs = read_axes([RATE, RANK, "training.num_train_epochs=1:4"], base_of())
    assert (rate.low, rate.high, rate.is_log, rate.is_whole) == (1e-5, 1e-3, True, False)
    assert rank.choices == (8, 16, 32)
    assert (epochs.low, epochs.is_whole) == (1.0, False)
    batch = read_axes(["training.per_device_train_batch_size=1:8"], base_of())[0]
    assert (batch.is_whole, batch.size) == (True, 8)
    assert point_count([rank, batch]) == 24
    assert [read_axes([f"{axis.key}={axis.spec}"], base_of())[0] for axis in (rate, rank)] == [rate, rank]


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ("training.learing_rate=1:2", "unknown field; nearest: training.learning_rate"),
        ("learning-rate=1:2", "unknown field; nearest: training.learning_rate"),
        ("rank=8,16", "unknown field; nearest: method.rank"),
        ("zzz=1,2", "zzz=1,2: unknown field"),
        ("method.rank", "no values"),
        ("method.rank=", "no values"),
        ("method.rank=8", "one value leaves nothing to compare; set it with `--rank 8`"),
        ("method.rank=8,,16", "an empty value in the list"),
        ("method.rank=8,16,08", "8 more than once"),
        ("method.rank=8,0", "'0' should be greater than or equal to 1"),
        ("method.rank=4:12.5", "'12.5' is not a whole number"),
        ("training.learning_rate=a,b", "'a' is not a number"),
        ("training.learning_rate=1e-3:1e-5", "an empty range: 0.001 is not below 1e-05"),
        ("training.learning_rate=1e-3:1e-3", "an empty range"),
        ("training.learning_rate=1e-5:1e-3:lin", "a range is LOW:HIGH or LOW:HIGH:log"),
        ("training.weight_decay=0:0.1:log", "begins at 0.0 has no logarithm"),
        ("training.warmup_ratio=0:1", "should be less than 1"),
        ("training.lr_scheduler_type=cosine,linar", "'linar' is none of .*nearest: linear"),
        ("method.variant=plain:dora", "a range needs a field of numbers; .* `plain,rslora`"),
        ("training.seed=1,2", "not to be varied: it decides which rows validate"),
        ("training.eval_steps=1,2", "not to be varied: it decides how often"),
        ("data.max_length=64,128", "not to be varied: it changes the rows or tokens"),
        ("model.name=a,b", "not to be varied: losses of two models"),
        ("output_dir=a,b", "not to be varied: it moves no loss"),
    ],
)
def test_what_cannot_be_varied_is_refused_with_its_reason(over, message):
    with pytest.raises(ConfigError, match=message) as refused:
        read_axes([over], base_of())
    assert "LOW:HIGH:log" in refused.value.hint


def test_all_problems_are_told_at_once():
    with pytest.raises(ConfigError) as refused:
        read_axes([RANK, RANK, "method.rnk=1,2", "training.learning_rate=2:1"], base_of())
    text = str(refused.value)
    assert text.startswith("the sweep has 3 problems:")
    assert "given twice" in text and "nearest: method.rank" in text and "an empty range" in text
    with pytest.raises(ConfigError, match="no field is varied"):
        read_axes([], base_of())


def test_values_that_do_not_go_together_are_refused_before_anything_runs():
    with pytest.raises(
        ConfigError, match=r"method.name=prefix.*`method.rank`.*no effect with method `prefix`"
    ):
        read_axes(["method.name=lora,prefix", "method.rank=8,32"], base_of())
    with pytest.raises(ConfigError, match=r"`method.rank`.*: no effect with method `full`"):
        read_axes(["method.rank=8,32"], base_of(method="full"))


def test_alpha_follows_the_rank_unless_given_or_varied():
    found = trial_config(base_of(), {"method.rank": 8}, origin="sweep")
    assert found.config.method.alpha == 16.0
    assert found.origins["method.alpha"] == "sweep, twice the rank"
    assert trial_config(base_of(alpha="10"), {"method.rank": 8}, origin="sweep").config.method.alpha == 10.0
    both = {"method.rank": 8, "method.alpha": 64.0}
    assert trial_config(base_of(), both, origin="sweep").config.method.alpha == 64.0


def test_the_learning_rate_follows_the_method_unless_given():
    prefix = {"method.name": "prefix"}
    assert trial_config(base_of(), prefix, origin="").config.training.learning_rate == 3e-2
    assert (
        trial_config(base_of(learning_rate="1e-4"), prefix, origin="").config.training.learning_rate == 1e-4
    )


def test_what_is_given_stays_with_its_origin(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("data: {path: rows.jsonl}\ntraining: {warmup_ratio: 0.1}\n", encoding="utf-8")
    found = trial_config(
        resolve(file, {"rank": "4"}), {"training.learning_rate": 1e-4}, origin="sweep: trial 3"
    )
    assert (found.config.training.warmup_ratio, found.config.method.rank) == (0.1, 4)
    assert found.origins["training.warmup_ratio"] == str(file)
    assert found.origins["training.learning_rate"] == "sweep: trial 3"
    assert "learning_rate: 0.0001  # sweep: trial 3" in found.as_yaml()


def test_a_base_outside_of_what_is_varied_is_known():
    assert is_within(base_of(), read_axes([RATE, RANK], base_of()))
    assert not is_within(base_of(rank="9"), read_axes([RANK], base_of(rank="9")))
    # Rank 8 of the sweep has alpha 16, and the base has 32.
    assert not is_within(base_of(rank="8"), read_axes([RANK], base_of(rank="8")))


def test_drawn_numbers_can_be_typed_again_and_stay_within():
    axis = Axis("training.learning_rate", low=1.23456e-5, high=1e-3, is_log=True)
    assert rounded(axis, 0.00023456) == 0.000235
    assert rounded(axis, 1.2345e-5) == 1.23456e-5


# What is tried


AXES = (
    Axis("training.learning_rate", low=1e-5, high=1e-1, is_log=True),
    Axis("method.rank", choices=(4, 8, 16)),
)
GIVEN = {"training.learning_rate": 2e-4, "method.rank": 16}


def loss_of(values):
    """A valley at a rate of 3e-3 and rank 8."""
    rate = values.get("training.learning_rate", 3e-3)
    return abs(math.log10(rate / 3e-3)) + abs(values["method.rank"] - 8) / 8


def search(folder, count, *, axes=AXES, given=GIVEN, within=True, per_opening=100):
    """Values of `count` trials; the study is closed and opened again after every `per_opening`."""
    while True:
        with opened_study(folder) as study:
            for _ in range(per_opening):
                if len(study.trials) >= count:
                    return [dict(trial.user_attrs["values"]) for trial in study.trials]
                trial = next_trial(study, axes, seed=3, given=given, is_given_within=within)
                if trial is None:
                    return [dict(trial.user_attrs["values"]) for trial in study.trials]
                loss = loss_of(trial.user_attrs["values"])
                keep(study, trial, TrialState.COMPLETE, loss=loss, step=1, seconds=1.0)


def test_what_is_tried_does_not_depend_on_when_the_sweep_was_interrupted(tmp_path):
    for name in "abc":
        (tmp_path / name).mkdir()
    whole = search(tmp_path / "a", 14)
    assert whole[0] == GIVEN
    assert search(tmp_path / "b", 14, per_opening=1) == whole
    assert len({json.dumps(values) for values in whole}) == 14


def test_the_search_finds_the_valley_better_than_chance(tmp_path):
    losses = [loss_of(values) for values in search(tmp_path, 30)]
    late, early = losses[15:], losses[1:6]
    assert sum(late) / len(late) < 0.6 * sum(early) / len(early)
    assert min(losses) < 0.2


def test_a_few_combinations_are_all_tried_once_and_then_it_ends(tmp_path):
    axes = (
        Axis("method.rank", choices=(4, 8, 16)),
        Axis("training.gradient_accumulation_steps", low=1, high=2),
    )
    given = {"method.rank": 16, "training.gradient_accumulation_steps": 1}
    tried = search(tmp_path, 50, axes=axes, given=given)
    assert len(tried) == 6
    assert len({json.dumps(values, sort_keys=True) for values in tried}) == 6


def test_a_configuration_outside_is_trial_0_and_misleads_nobody(tmp_path):
    axes = (Axis("method.rank", choices=(4, 8)),)
    tried = search(tmp_path, 50, axes=axes, given={"method.rank": 64}, within=False)
    assert [values["method.rank"] for values in tried] in ([64, 4, 8], [64, 8, 4])
    with opened_study(tmp_path) as study:
        assert study.trials[0].params == {}


def test_a_killed_trial_keeps_its_values_and_its_number(tmp_path):
    with opened_study(tmp_path) as study:
        first = next_trial(study, AXES, seed=3, given=GIVEN, is_given_within=True)
        first.report(2.5, 1)
    with opened_study(tmp_path) as study:
        (again,) = unfinished(study, AXES)
        assert (again.number, again.params) == (0, GIVEN)
        keep(study, again, TrialState.COMPLETE, loss=2.0, step=4, seconds=1.0)
        # Killed after it was decided what to try, and before it was tried.
        study.enqueue_trial(
            {"training.learning_rate": 1e-3, "method.rank": 4},
            user_attrs={"values": {"training.learning_rate": 1e-3, "method.rank": 4}, "is_told": True},
        )
    with opened_study(tmp_path) as study:
        assert unfinished(study, AXES) == []
        second = next_trial(study, AXES, seed=3, given=GIVEN, is_given_within=True)
        assert (second.number, second.params["method.rank"]) == (1, 4)


def finished(study, losses):
    for curve in losses:
        trial = next_trial(study, AXES, seed=3, given=GIVEN, is_given_within=True)
        assert is_lagging(trial, curve, is_ended=True) is None
        keep(study, trial, TrialState.COMPLETE, loss=min(curve), step=4, seconds=1.0)


def test_a_trial_above_the_median_is_stopped_but_never_for_its_first_or_last_validation(tmp_path):
    with opened_study(tmp_path) as study:
        finished(study, [[3.0, 2.0, 1.0]] * (FULL_TRIALS - 1))
        early = next_trial(study, AXES, seed=3, given=GIVEN, is_given_within=True)
        assert is_lagging(early, [9.0, 9.0], is_ended=False) is None
        keep(study, early, TrialState.COMPLETE, loss=9.0, step=4, seconds=1.0)
        late = next_trial(study, AXES, seed=3, given=GIVEN, is_given_within=True)
        assert is_lagging(late, [9.0], is_ended=False) is None
        assert is_lagging(late, [9.0, 8.0], is_ended=True) is None
        assert is_lagging(late, [9.0, 8.0], is_ended=False) == 2
        # The same answer where the run had gone further before anybody looked.
        keep(study, late, TrialState.PRUNED, loss=8.0, step=2, seconds=1.0)
        other = next_trial(study, AXES, seed=3, given=GIVEN, is_given_within=True)
        assert is_lagging(other, [9.0, 8.0, 0.5], is_ended=True) == 2


def test_an_answer_that_a_killed_sweep_did_not_hear_is_given_again(tmp_path):
    with opened_study(tmp_path) as study:
        finished(study, [[3.0, 2.0, 1.0]] * FULL_TRIALS)
        trial = next_trial(study, AXES, seed=3, given=GIVEN, is_given_within=True)
        trial.report(9.0, 1)
        trial.report(8.0, 2)
    with opened_study(tmp_path) as study:
        (again,) = unfinished(study, AXES)
        assert is_lagging(again, [9.0, 8.0, 0.5], is_ended=False) == 2


def test_where_trials_failed_the_search_seldom_goes_again():
    """Losses fall towards 1e-2, and above it trials fail: without the failures it would go on upwards."""
    axis = AXES[0]
    distributions = {axis.key: optuna.distributions.FloatDistribution(axis.low, axis.high, log=True)}

    def trial(rate, loss, state):
        return optuna.create_trial(
            params={axis.key: rate}, distributions=distributions, value=loss, state=state
        )

    fine = [trial(10**-power, power, TrialState.COMPLETE) for power in (2.1, 2.4, 2.7, 3, 3.5, 4, 4.5)]
    failed = [trial(10**-power, None, TrialState.FAIL) for power in (1.9, 1.7, 1.4, 1.1)]

    def share_above(told):
        drawn = [_draw(told, [axis], seed=seed)[axis.key] for seed in range(60)]
        return sum(rate > 1e-2 for rate in drawn) / len(drawn)

    assert share_above(fine + failed) < 0.5 * share_above(fine)


def test_the_record_is_plain_sqlite_and_a_damaged_one_is_named(tmp_path):
    odd = tmp_path / "a {b} %20?#c"
    odd.mkdir()
    search(odd, 2)
    with sqlite3.connect(odd / STUDY_FILE) as file:
        rows = file.execute("select value_json from trial_user_attributes").fetchall()
        assert all(json.loads(value) is not None for (value,) in rows)
        types = {
            kind
            for table in ("trial_params", "trial_values")
            for _, _, kind, *_ in file.execute(f"pragma table_info({table})")
        }
        assert not any("BLOB" in kind.upper() for kind in types)
    file.close()
    (odd / STUDY_FILE).write_bytes(b"no database at all " * 100)
    with pytest.raises(RunFolderError, match=f"{STUDY_FILE}` cannot be read as the record of a sweep"):
        search(odd, 3)


# What a run has to say


def test_validations_are_read_from_the_run_without_the_one_before_training(tmp_path):
    assert validations_of(tmp_path / "none") == []
    run = create_run(tmp_path / "run")
    run.write_text("config.yaml", "")
    run.update_manifest(status="running")
    run.add_metrics(step=0, epoch=0.0, eval_loss=5.0)
    run.add_metrics(step=1, epoch=0.5, loss=4.0)
    run.add_metrics(step=2, epoch=1.0, eval_loss=3.0)
    assert validations_of(run.path) == [Validation(2, 1.0, 3.0)]


@pytest.mark.parametrize(
    ("seen", "settings", "is_end"),
    [
        ([(10, 1.0, 2.0)], {"max_steps": 10}, True),
        ([(9, 1.0, 2.0)], {"max_steps": 10}, False),
        ([(10, 2.9999, 2.0)], {}, True),
        ([(10, 2.5, 2.0)], {}, False),
        ([(1, 0.1, 1.0), (2, 0.2, 2.0), (3, 0.3, 2.0)], {"early_stopping_patience": 2}, True),
        ([(1, 0.1, 1.0), (2, 0.2, 2.0), (3, 0.3, 2.0)], {"early_stopping_patience": 3}, False),
        ([(1, 0.1, 1.0), (2, 0.2, 2.0), (3, 0.3, 2.0)], {"early_stopping_patience": 0}, False),
        ([], {}, False),
    ],
)
def test_the_last_validation_of_a_run_is_known(seen, settings, is_end):
    assert is_last([Validation(*each) for each in seen], TrainingConfig(**settings)) is is_end


def test_each_run_has_a_gpu_or_its_share_of_the_threads():
    assert environments(2, ("4", "7", "9")) == [{"CUDA_VISIBLE_DEVICES": "4"}, {"CUDA_VISIBLE_DEVICES": "7"}]
    assert environments(1, ()) == [{}]
    assert environments(3, ()) == [{"OMP_NUM_THREADS": "1"}] * 3


@pytest.mark.parametrize(
    ("flags", "arguments", "message"),
    [
        ({"validation_size": "0"}, {}, "`validation_size` is 0, and trials are told apart"),
        ({}, {"trials": 0}, "--trials is 0, and must be at least 1"),
        ({}, {"jobs": 0}, "--jobs is 0, and must be at least 1"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused_before_anything_is_written(tmp_path, flags, arguments, message):
    with pytest.raises(ConfigError, match=message):
        sweep(base_of(device="cpu", **flags), [RANK], folder=tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


# What came out


def trial(number, loss, state="finished", **values):
    return SweptTrial(
        number=number,
        values={"training.learning_rate": 1e-4, "method.rank": 8} | values,
        state=state,
        loss=loss,
        step=None if loss is None else 4,
        seconds=2.4,
        why="" if state == "finished" else f"<b>{state}</b>",
        validations=() if loss is None else ((2, loss + 1), (4, loss)),
        run=f"trial-{number:03d}",
    )


def test_the_best_come_first_and_what_did_not_finish_last():
    trials = [trial(0, 2.0), trial(1, None, "failed"), trial(2, 1.0), trial(3, 1.5, "pruned"), trial(4, 2.0)]
    assert [each.number for each in ranked(trials)] == [2, 0, 4, 3, 1]


def test_sentences_name_winner_gap_and_what_was_not_measured():
    trials = ranked([trial(0, 2.0), trial(1, 1.5), trial(2, 1.4876), trial(3, None, "failed")])
    text = " ".join(sentences_of(trials, AXES))
    assert text.startswith(
        "Trial 2 has the lowest validation loss: 1.488 nats/token at step 4, with learning_rate"
    )
    assert "The runner-up, trial 1, is 0.0124 nats/token behind." in text
    assert "as given, trial 0, is 0.5124 nats/token behind" in text
    assert "The lowest of 3 looks at the same validation rows flatters the winner" in text
    assert "no trial beat it" in " ".join(sentences_of(ranked([trial(0, 1.0), trial(1, 2.0)]), AXES))
    assert sentences_of([trial(0, None, "failed")], AXES) == ("No trial finished, so there is no best one.",)


def test_the_page_holds_every_trial_without_scripts_and_draws_the_same_twice():
    fields = [field_of(axis) for axis in AXES]
    trials = [
        trial(0, 2.0, **{"method.rank": [1, 2], "training.learning_rate": 0.0}),
        trial(1, 1.5),
        trial(2, 1.7, "pruned"),
        trial(3, None, "failed"),
    ]
    pages = [
        render_sweep(trials, fields, title="<i>mine</i>", sentences=["A < B"], facts=[("Rows", "3")])
        for _ in range(2)
    ]
    assert pages[0] == pages[1]
    page = pages[0]
    assert "&lt;i&gt;mine&lt;/i&gt;" in page and "A &lt; B" in page and "&lt;b&gt;failed" in page
    assert "<script" not in page and "http" not in page.replace("http-equiv", "")
    assert page.count("<tr>") == 1 + len(trials)
    assert page.count("<figure") == len(fields) + 1
    assert cells(trials[3], fields) == ["3", "0.0001", "8", "", "", "2", "failed"]
    assert columns(fields)[1:3] == ["learning_rate", "rank"]


def test_a_page_of_failures_only_has_no_pictures():
    page = render_sweep([trial(0, None, "failed")], [field_of(AXES[0])], title="t", sentences=[], facts=[])
    assert "<figure" not in page


def test_results_are_files_and_the_winner_is_a_configuration(tmp_path):
    base = base_of(generate_rows="7", rank="4")
    with opened_study(tmp_path) as study:
        for loss in (2.0, 1.0):
            trial = next_trial(study, AXES, seed=3, given=values_of(base, AXES), is_given_within=False)
            keep(study, trial, TrialState.COMPLETE, loss=loss, step=4, seconds=1.0)
        swept = write_results(study, AXES, base, tmp_path)
        values = trials_of(study, tmp_path)[0].values
    told = json.loads((tmp_path / "sweep.json").read_text(encoding="utf-8"))
    assert [each["number"] for each in told["trials"]] == [1, 0]
    assert told["best"] == str(swept.best)
    winner = resolve(swept.best)
    assert winner.config.training.learning_rate == values["training.learning_rate"]
    assert winner.config.evaluation.generate_rows == 7
    assert "# sweep: trial 1 of 2" in swept.best.read_text(encoding="utf-8")
    as_given = best_config(base, AXES, sorted(swept.trials, key=lambda each: each.number))
    assert as_given.config == base.config
    assert as_given.origins["method.rank"] == "sweep: trial 0 of 2"


def test_optuna_says_nothing(tmp_path, capfd):
    search(tmp_path, 2)
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == optuna.logging.ERROR
