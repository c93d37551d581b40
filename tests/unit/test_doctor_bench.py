"""The clinic's arithmetic: what its page says must follow from what the runs did."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from tunesmith.doctor.rules import RULES
from tunesmith.resolve import options


@pytest.fixture
def clinic(bench):
    return bench("clinic")


def treated(clinic, ailment, found, *, start=2.0, end=1.0, **more):
    """One case as it came out."""
    outcome = clinic.Outcome("run", start, end, "succeeded", 1.0)
    case = clinic.Case(f"{ailment}-{'-'.join(found)}", ailment)
    return clinic.Diagnosed(case, outcome, tuple(found), **more)


def test_each_ailment_is_dealt_evenly_and_whatever_the_order(clinic):
    cases = [clinic.Case(f"{name}-{n}", name) for name in clinic.AILMENTS for n in range(7)]
    half_of = clinic.halves(cases)
    assert half_of == clinic.halves(cases[::-1])
    for name in clinic.AILMENTS:
        counts = Counter(half_of[f"{name}-{n}"] for n in range(7))
        assert set(counts.values()) == {3, 4}


def test_recall_counts_a_finding_wherever_it_stands(clinic):
    cases = [
        treated(clinic, "overfitting", ["loss_unstable", "overfitting"]),
        treated(clinic, "overfitting", ["loss_unstable"]),
        treated(clinic, "slow_input", []),
        treated(clinic, "healthy", ["overfitting"]),
    ]
    assert str(clinic.recall(cases)) == "1 of 3 (33%)"
    assert str(clinic.recall(cases, "overfitting")) == "1 of 2 (50%)"
    assert str(clinic.recall(cases, "label_leak")) == "0 of 0"
    table = clinic.confusion(cases)
    assert table["overfitting"] == {"loss_unstable": 2}
    assert table["slow_input"] == {"nothing": 1}
    assert table["healthy"] == {"overfitting": 1}


def test_a_healthy_run_that_got_worse_counts_as_neither(clinic):
    cases = [
        treated(clinic, "healthy", [], end=1.0),
        treated(clinic, "healthy", ["overfitting"], end=2.5),
        treated(clinic, "healthy", ["overfitting"], end=None),
        treated(clinic, "healthy", ["slow_input"], end=1.5),
    ]
    assert (clinic.false_alarms(cases).hits, clinic.false_alarms(cases).of) == (1, 2)
    assert len(clinic.not_so_healthy(cases)) == 2


def test_cured_means_gone_and_no_worse(clinic):
    sick = treated(clinic, "overfitting", ["overfitting"], has_remedy=True)

    def after(end, found=(), status="succeeded"):
        outcome = clinic.Outcome("run", 2.0, end, status, 1.0)
        return replace(sick, cure=outcome, found_after=tuple(found))

    assert after(1.0).is_cured
    assert after(1.019).is_cured  # within the noise of 2 %
    assert not after(1.03).is_cured
    assert not after(0.5, ["overfitting"]).is_cured
    assert after(0.5, ["loss_unstable"]).is_cured
    assert not after(0.5, status="failed").is_cured
    assert not after(None).is_cured
    assert not sick.is_cured
    assert str(clinic.cured([after(1.0), after(1.5), sick])) == "1 of 3 (33%)"


def test_where_the_rows_change_the_corrected_run_must_beat_its_own_base(clinic):
    sick = treated(clinic, "label_leak", ["label_leak"], end=0.01, has_remedy=True)
    honest = clinic.Outcome("run", 2.0, 1.2, "succeeded", 1.0)
    assert replace(sick, cure=honest).is_cured
    assert not replace(sick, cure=replace(honest, end_loss=2.2)).is_cured


def test_what_no_setting_helps_is_counted_apart(clinic):
    cases = [
        treated(clinic, "slow_input", ["slow_input"]),
        treated(clinic, "slow_input", []),
        treated(clinic, "healthy", ["slow_input"]),
    ]
    assert clinic.without_remedy(cases) == 1
    assert clinic.cured(cases).of == 0


def test_missed_targets_are_told_with_their_figures(clinic):
    good = [treated(clinic, "slow_input", ["slow_input"])] * 9 + [treated(clinic, "healthy", [])] * 19
    assert clinic.misses([*good, treated(clinic, "slow_input", [])]) == []
    bad = [
        *good,
        *[treated(clinic, "slow_input", [])] * 2,
        *[treated(clinic, "healthy", ["overfitting"])] * 2,
    ]
    assert clinic.misses(bad) == [
        "recall 9 of 11 (82%) is below 90%",
        "false alarms 2 of 21 (10%) are above 5%",
    ]


def test_interval_is_wilsons(clinic):
    low, high = clinic.Share(9, 10).interval
    # From the formula by hand: 0.5958 to 0.9821.
    assert (low, high) == (pytest.approx(0.5958, abs=1e-4), pytest.approx(0.9821, abs=1e-4))
    assert clinic.Share(0, 0).interval == (0.0, 1.0)
    assert clinic.Share(0, 20).interval[0] == 0.0


def test_the_clinic_has_enough_of_everything(bench, clinic):
    cases = bench("clinic_cases").all_cases()
    assert len({case.name for case in cases}) == len(cases)
    counts = Counter(case.ailment for case in cases)
    assert counts.pop(clinic.HEALTHY) >= 40
    assert set(counts) == set(clinic.AILMENTS) and min(counts.values()) >= 6
    real = [case for case in cases if case.model == "smollm2-135m"]
    assert sum(case.ailment != clinic.HEALTHY for case in real) >= 12
    assert sum(case.ailment == clinic.HEALTHY for case in real) >= 6


def test_the_clinic_knows_the_doctors_ailments(clinic):
    assert set(clinic.AILMENTS) == set(RULES)


def test_settings_of_our_own_cases_are_options(bench):
    known = {option.key for option in options()}
    cases = bench("clinic_cases").all_cases()
    asked = {key for case in cases if case.program == "ours" for key in case.settings}
    assert asked - known == set()


@pytest.mark.parametrize(
    "fault", ["", "copies:0.5/4", "leak:Label:", "test_is_train:0.5", "shuffled", "reversed"]
)
def test_data_faults_do_what_they_say_and_the_same_each_time(bench, clinic, fault):
    rows = bench("clinic_rows")
    case = clinic.Case("a", "label_leak", rows=40, data_fault=fault)
    plain = rows.parts_of(replace(case, data_fault=""))
    parts = rows.parts_of(case)
    assert parts == rows.parts_of(case)
    assert (len(parts.train), len(parts.test)) == (40, rows.TEST_ROWS)
    kept = sum(a == b for a, b in zip(parts.train, plain.train, strict=True))
    prompts = Counter(row["prompt"] for row in parts.train)
    if not fault:
        assert kept == 40 and max(prompts.values()) == 1
    elif fault.startswith("copies"):
        assert len(prompts) == 20 and sorted(prompts.values())[-4:] == [6, 6, 6, 6]
    elif fault.startswith("leak"):
        assert all(row["prompt"].endswith(f"\nLabel: {row['completion']}") for row in parts.train)
    elif fault.startswith("test_is_train"):
        assert sum(row in parts.train for row in parts.test) == rows.TEST_ROWS // 2
    elif fault == "shuffled":
        answers = (sorted(row["completion"] for row in each.train) for each in (parts, plain))
        assert kept < 10 and next(answers) == next(answers)
    else:
        assert all(
            a["completion"] == b["completion"][::-1] for a, b in zip(parts.train, plain.train, strict=True)
        )


def test_page_says_what_was_found_and_what_was_not(bench, clinic):
    cases = [
        treated(clinic, "overfitting", ["overfitting"], has_remedy=True),
        treated(clinic, "slow_input", []),
        treated(clinic, "healthy", []),
        treated(clinic, "healthy", ["slow_input"], end=2.5),
    ]
    half_of = {each.case.name: clinic.REPORTED for each in cases}
    pair = ("overfitting", cases[0], cases[1])
    text = bench("clinic_page").page(
        cases, half_of, pairs=[pair], problems=[("gone", "OSError: no")], minutes=3.4, machine="one core"
    )
    assert "| induced ailments that were found | at least 90% | 1 of 2 (50%), 9% to 91% | 0 of 0 |" in text
    assert "| overfitting | 1 of 1 (100%) | 0 of 1 (0%) |  |" in text
    assert "| overfitting | overfitting | nothing | no |" in text
    assert "so counted as neither: healthy-slow_input." in text
    assert "Could not be run: gone: OSError: no." in text


def test_a_name_that_is_no_case_is_refused(bench):
    doctor = bench("doctor")
    cases = bench("clinic_cases").all_cases()
    with pytest.raises(SystemExit, match="no case and no ailment is called nonsense"):
        doctor.chosen(cases, ["nonsense"], None)
    few = doctor.chosen(cases, ["overfitting", "fine-loop"], None)
    assert {case.ailment for case in few} == {"overfitting", "healthy"}
    halves = [doctor.chosen(cases, None, half) for half in ("tuning", "reported")]
    assert sum(map(len, halves)) == len(cases)


def test_a_changed_case_is_begun_anew_and_the_same_one_is_kept(bench, clinic, tmp_path):
    ward, folder = bench("clinic_ward"), tmp_path / "a"
    case = clinic.Case("a", "healthy", settings={"training.learning_rate": 1e-3})
    ward._begin(case, folder)
    (folder / "ran.json").write_text(json.dumps({"seconds": 1}))
    ward._begin(case, folder)
    assert (folder / "ran.json").is_file()
    ward._begin(replace(case, rows=8), folder)
    assert not (folder / "ran.json").exists()
