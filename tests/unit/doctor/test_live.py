"""The watch beside a run: hears every line, tells each ailment once, and neither fails nor slows a run."""

import sys
from collections import Counter
from itertools import pairwise
from types import SimpleNamespace

import pytest

from tunesmith.doctor import diagnose as diagnosing
from tunesmith.doctor.finding import Evidence, Finding
from tunesmith.doctor.live import EVERY_LINE_UP_TO, Bedside, Watch, at_bedside, examined
from tunesmith.doctor.rules import RULES
from tunesmith.errors import Interrupted, RunFailed
from tunesmith.resolve import resolve
from tunesmith.run_lock import locked
from tunesmith.runs import create_run


def found(ailment="toy", *, text="loss is 9 at step 3."):
    return Finding(ailment, f"{ailment} title", "cause", (Evidence(text, "loss", 3, 3),), "Do it.", 0.9)


def toy(examine, *, is_live=True):
    return SimpleNamespace(TITLE="toy", IS_LIVE=is_live, examine=examine)


@pytest.fixture
def rules(monkeypatch):
    """Only these rules are asked."""

    def put(**chosen):
        monkeypatch.setattr(diagnosing, "RULES", chosen)

    return put


@pytest.fixture
def run(tmp_path):
    """A run that has just begun and is held by this process."""
    folder = create_run(tmp_path / "run")
    folder.write_text("config.yaml", resolve(None, {"data": "rows.jsonl"}).as_yaml())
    folder.update_manifest(status="running", data={"rows": {"train": 80}})
    with locked(folder.path):
        yield folder


def watch(**changes):
    return Watch(
        **{"settings": {}, "facts": {"data": {}}, "total_steps": 100, "steps_per_epoch": 10} | changes
    )


def line(step, loss=1.0, **more):
    return {"step": step, "epoch": step / 10, "loss": loss} | more


def test_an_ailment_is_told_when_it_shows_and_only_once(rules):
    rules(toy=toy(lambda signs: found() if signs.loss.values[-1] > 5 else None))
    looking = watch()
    assert [len(looking.look(line(step, 9.0 if step >= 3 else 1.0))) for step in (1, 2, 3, 4)] == [0, 0, 1, 0]


def test_the_watch_knows_settings_data_plan_and_halvings(rules):
    seen = []
    rules(toy=toy(lambda signs: seen.append(signs)))
    looking = watch(settings={"training.learning_rate": 1.0}, facts={"data": {"rows": 3}, "method": "lora"})
    looking.look({"step": 1, "epoch": 0.1, "micro_batch_rows": 2})
    looking.look(line(1, input_seconds=1, step_seconds=4))
    signs = seen[-1]
    assert (signs.status, signs.total_steps, signs.steps_per_epoch) == ("running", 100, 10)
    assert (signs.data, signs.facts, signs.halvings) == ({"rows": 3}, {"method": "lora"}, ((1, 2),))
    assert signs.setting("training.learning_rate") == 1.0
    assert signs.curve("input_share").values.tolist() == [0.25]


def test_rules_that_wait_for_the_end_are_not_asked(rules):
    rules(toy=toy(lambda signs: found(), is_live=False))
    assert watch().look(line(1)) == ()


def test_every_line_is_looked_at_first_and_every_hundredth_part_later(rules):
    looks = []
    rules(toy=toy(lambda signs: looks.append(len(signs.loss))))
    looking = watch()
    for step in range(1, 10_001):
        looking.look(line(step))
    assert looks[:EVERY_LINE_UP_TO] == list(range(1, EVERY_LINE_UP_TO + 1))
    gaps = [after - before for before, after in pairwise(looks)]
    assert all(gap <= max(2, 0.01 * after + 1) for gap, after in zip(gaps, looks[1:], strict=True))
    assert len(looks) < 700


def test_lines_before_a_stop_are_recalled_and_the_record_is_kept(rules, run):
    seen = []
    rules(toy=toy(lambda signs: seen.append(signs.loss.steps.tolist())))
    for step in (1, 2):
        run.add_metrics(**line(step))
    record = Bedside(run, lambda text: None).watching(watch(), run.add_metrics)
    record(**line(3))
    record(**line(4))
    assert seen == [[1, 2, 3], [1, 2, 3, 4]]
    assert [each["step"] for each in run.metrics] == [1, 2, 3, 4]


def test_a_watch_that_fails_says_so_once_and_the_run_goes_on(rules, run):
    said = []
    rules(toy=toy(lambda signs: 1 / 0))
    record = Bedside(run, said.append).watching(watch(), run.add_metrics)
    for step in (1, 2, 3):
        record(**line(step))
    assert said == ["doctor: stopped watching: ZeroDivisionError: division by zero"]
    assert len(run.metrics) == 3


def test_what_was_told_is_one_line_with_evidence_and_remedy(rules, run):
    said = []
    rules(toy=toy(lambda signs: found()))
    record = Bedside(run, said.append).watching(watch(), run.add_metrics)
    record(**line(1))
    assert said == ["doctor: toy title: loss is 9 at step 3; Do it."]


def test_a_run_that_fails_has_its_findings_on_record_and_said_before_the_error(rules, run):
    said = []
    rules(toy=toy(lambda signs: found(text=signs.why), is_live=False))
    with pytest.raises(RunFailed), at_bedside(run, said.append):
        run.update_manifest(status="failed", why="RunFailed: loss is nan")
        raise RunFailed("loss is nan", hint="lower it")
    assert run.manifest["findings"][0]["evidence"][0]["text"] == "RunFailed: loss is nan"
    assert said[0] == "doctor: toy title: RunFailed: loss is nan; Do it."
    assert said[1].startswith(f"doctor: `tunesmith doctor {run.path}`")


def test_a_run_that_ends_well_says_what_was_not_said_yet(rules, run):
    said = []
    rules(early=toy(lambda s: found("early")), late=toy(lambda s: found("late"), is_live=False))
    with at_bedside(run, said.append) as bedside:
        bedside.watching(watch(), run.add_metrics)(**line(1))
        run.update_manifest(status="succeeded", **examined(run, {"status": "succeeded"}))
    assert [text.split(" title")[0] for text in said[:-1]] == ["doctor: early", "doctor: late"]
    assert [each["ailment"] for each in run.manifest["findings"]] == ["early", "late"]


def test_a_healthy_run_says_nothing(rules, run):
    said = []
    rules(toy=toy(lambda signs: None))
    with at_bedside(run, said.append):
        run.update_manifest(status="succeeded", **examined(run, {"status": "succeeded"}))
    assert said == []
    assert run.manifest["findings"] == []


def test_an_interrupted_run_is_left_as_it_is(rules, run):
    rules(toy=toy(lambda signs: found()))
    with pytest.raises(Interrupted), at_bedside(run, lambda text: None):
        raise Interrupted("stopped", hint="go on")
    assert "findings" not in run.manifest


def test_a_diagnosis_that_fails_at_the_end_is_on_record_and_costs_no_run(rules, run):
    said = []
    rules(toy=toy(lambda signs: 1 / 0))
    with at_bedside(run, said.append):
        run.update_manifest(status="succeeded", **examined(run, {"status": "succeeded"}))
    assert run.manifest["findings"] is None
    assert run.manifest["findings_trouble"] == "ZeroDivisionError: division by zero"
    assert said == ["doctor: could not look at this run: ZeroDivisionError: division by zero"]


@pytest.mark.skipif(not RULES, reason="there is no rule yet")
def test_watching_a_thousand_steps_costs_two_thousand_calls_each():
    looking = watch(total_steps=1000, steps_per_epoch=100)
    lines = [
        line(s, 1 + 1 / s, learning_rate=1e-4, grad_norm=1.0, tokens_per_second=9.0) for s in range(1, 1001)
    ]
    calls = Counter()
    before = sys.getprofile()
    sys.setprofile(lambda _, event, __: calls.update([event]))
    try:
        for each in lines:
            looking.look(each)
    finally:
        sys.setprofile(before)
    # Counted, not timed, so that a busy machine changes nothing: 1,200 took 0.3 ms.
    assert calls["call"] + calls["c_call"] < 2000 * len(lines)
