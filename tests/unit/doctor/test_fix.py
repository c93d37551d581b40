"""From findings to a configuration: valid, with a reason on each changed line, nothing done in silence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.doctor.finding import Change, Evidence, Finding
from tunesmith.doctor.fix import changed_yaml, corrected, correction, diff_text, known_settings, whole_yaml
from tunesmith.resolve import resolve


def finding(ailment, confidence, **changes):
    """A finding with these changes, keys written with `__` for the dot."""
    return Finding(
        ailment=ailment,
        title=ailment,
        cause="because",
        evidence=(Evidence("seen"),),
        remedy="do it",
        confidence=confidence,
        changes=tuple(Change(key.replace("__", "."), value, "why") for key, value in changes.items()),
    )


def config(**flags):
    return resolve(None, {"data": "rows.jsonl"} | {name.replace("_", "-"): v for name, v in flags.items()})


def test_the_surer_finding_wins_a_key_and_signs_its_line():
    found = [
        finding("loss_unstable", 0.6, training__learning_rate=1e-5, training__warmup_ratio=0.1),
        finding("non_finite", 0.95, training__learning_rate=2e-5),
    ]
    fixed = correction(config(), found)
    assert fixed.resolved.config.training.learning_rate == 2e-5
    assert fixed.resolved.origins["training.learning_rate"] == "doctor: non_finite"
    assert fixed.resolved.origins["training.warmup_ratio"] == "doctor: loss_unstable"
    assert fixed.changes == (
        ("training.learning_rate", 2e-4, 2e-5, "non_finite"),
        ("training.warmup_ratio", 0.05, 0.1, "loss_unstable"),
    )
    assert [why for _, why in fixed.left_out] == ["`non_finite` is surer and sets it too"]


@pytest.mark.parametrize(
    ("flags", "changes", "why"),
    [
        ({"method": "full"}, {"method__dropout": 0.1}, "no effect with method `full`"),
        ({"method": "prefix"}, {"method__rank": 8}, "no effect with method `prefix`"),
        ({}, {"training__speed": 8}, "no such option"),
        ({}, {"training__learning_rate": -1.0}, "greater than 0"),
        ({"validation_size": 0}, {"training__eval_steps": 5}, "has no effect without validation rows"),
    ],
)
def test_what_cannot_be_is_left_out_with_its_reason(flags, changes, why):
    before = config(**flags)
    fixed = correction(before, [finding("a", 0.9, **changes)])
    assert fixed.resolved == before
    assert fixed.changes == ()
    (left_out,) = fixed.left_out
    assert why in left_out[1]


def test_changes_that_are_valid_only_together_are_made_in_either_order():
    for changes in (
        {"training__eval_steps": 5, "data__validation_size": 0.1},
        {"data__validation_size": 0.1, "training__eval_steps": 5},
    ):
        fixed = correction(config(validation_size=0), [finding("overfitting", 0.9, **changes)])
        assert fixed.left_out == ()
        assert fixed.resolved.config.training.eval_steps == 5


def test_a_value_that_stands_already_is_no_change():
    fixed = correction(
        config(), [finding("a", 0.9, training__num_train_epochs=3, training__warmup_ratio=0.05)]
    )
    assert fixed.changes == ()
    assert fixed.resolved == config()


def test_epochs_act_although_a_number_of_steps_was_set():
    fixed = corrected(config(max_steps=500), [finding("overfitting", 0.9, training__num_train_epochs=1)])
    assert fixed.config.training.max_steps is None
    assert fixed.origins["training.max_steps"] == "doctor: overfitting"
    both = finding("overfitting", 0.9, training__num_train_epochs=1, training__max_steps=40)
    assert corrected(config(max_steps=500), [both]).config.training.max_steps == 40


def test_another_method_brings_its_own_learning_rate_unless_one_was_chosen():
    change = [finding("out_of_memory", 0.9, method__name="lora")]
    assert corrected(config(method="full"), change).config.training.learning_rate == 2e-4
    assert corrected(config(method="full", learning_rate=3e-5), change).config.training.learning_rate == 3e-5


def test_options_that_another_method_does_not_know_go_back_to_their_defaults():
    fixed = corrected(config(rank=64, dropout=0.1), [finding("x", 0.9, method__name="adapter")])
    assert (fixed.config.method.rank, fixed.config.method.dropout) == (16, 0.1)


def test_the_file_of_a_run_repeats_it_but_for_the_changes(tmp_path):
    before = config(learning_rate=1e-3, system="never: # say\nthis")
    fixed = corrected(before, [finding("loss_unstable", 0.8, training__learning_rate=2.5e-4)])
    file = tmp_path / "fixed.yaml"
    file.write_text(whole_yaml(fixed, source="runs/odd\nname", file="fixed.yaml"), encoding="utf-8")
    read = resolve(file).config
    assert read == fixed.config
    assert read.training.learning_rate == 2.5e-4
    text = file.read_text(encoding="utf-8")
    assert "learning_rate: 0.00025  # doctor: loss_unstable" in text
    assert "# Start it: tunesmith train fixed.yaml" in text
    assert "runs/odd?name" in text


def test_the_diff_shows_changed_lines_only():
    before = config()
    after = corrected(before, [finding("loss_unstable", 0.8, training__learning_rate=5e-5)])
    lines = diff_text(before, after, old="runs/a", new="b.yaml").splitlines()
    assert lines[:2] == ["--- runs/a", "+++ b.yaml"]
    assert [line for line in lines[2:] if not line.startswith("@@")] == [
        "-  learning_rate: 0.0002  # default",
        "+  learning_rate: 5.0e-05  # doctor: loss_unstable",
    ]
    assert diff_text(before, before) == ""


def test_of_a_foreign_log_the_file_holds_only_what_changes():
    known = known_settings({"training.learning_rate": 1e-3, "training.num_train_epochs": -4, "optim": "lion"})
    found = [
        finding("a", 0.9, training__learning_rate=1e-4, training__warmup_ratio=0.05, data__template="auto")
    ]
    fixed = correction(known, found)
    # The default warmup is a change here, since what was set is not known.
    assert fixed.changes == (
        ("data.template", None, "auto", "a"),
        ("training.learning_rate", 1e-3, 1e-4, "a"),
        ("training.warmup_ratio", None, 0.05, "a"),
    )
    text = changed_yaml(fixed.resolved, source="log.csv")
    assert [line for line in text.splitlines() if not line.startswith("#")] == [
        "",
        "data:",
        "  template: auto  # doctor: a",
        "training:",
        "  learning_rate: 0.0001  # doctor: a",
        "  warmup_ratio: 0.05  # doctor: a",
    ]


POOL = {
    "training.learning_rate": [1e-5, 5e-4, -1.0],
    "training.num_train_epochs": [0.5, 2, 9],
    "training.max_steps": [None, 10],
    "training.eval_steps": [None, 3],
    "training.gradient_accumulation_steps": [1, 8],
    "training.gradient_checkpointing": ["always", "sometimes"],
    "method.name": ["lora", "full"],
    "method.dropout": [0.05],
    "method.rank": [8],
    "data.validation_size": [0, 0.1],
    "data.template": ["auto"],
}


@given(
    st.lists(
        st.tuples(
            st.floats(0, 1),
            st.lists(st.sampled_from([(k, v) for k, values in POOL.items() for v in values]), max_size=5),
        ),
        max_size=4,
    ),
    st.sampled_from(["lora", "full", "prefix", "adapter"]),
    st.sampled_from([0, 0.1]),
)
def test_whatever_the_findings_say_the_result_is_valid_and_every_change_is_accounted_for(found, method, size):
    before = config(method=method, validation_size=size)
    findings = [
        Finding("x", "x", "c", (Evidence("e"),), "r", sure, tuple(Change(k, v, "w") for k, v in changes))
        for sure, changes in found
    ]
    fixed = correction(before, findings)
    assert fixed.resolved.config.model_validate(fixed.resolved.config.model_dump()) == fixed.resolved.config
    after = {key: value for key, value, _ in fixed.resolved.rows()}
    assert {key for key, _, _, _ in fixed.changes} == {
        key for key, value, _ in before.rows() if after[key] != value
    }
    left_out = [change for change, _ in fixed.left_out]
    for change in (change for each in findings for change in each.changes):
        assert after[change.key] == change.value or change in left_out
