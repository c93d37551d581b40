"""The rules stay in their ranges and move the right way; what is recommended trains, and flags are kept."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiny import tiny_model_folder
from tiny_run import Told
from tunesmith.approaches import recommend as module
from tunesmith.approaches.recommend import recommend
from tunesmith.approaches.recommend_rules import (
    COMPLEXITIES,
    ENOUGH_STEPS,
    USUAL_ROWS,
    Answers,
    Situation,
    alpha,
    complexity_of,
    data_verdict,
    dropout,
    epochs,
    is_structured,
    learning_rate,
    one_digit,
    rank,
    shown_size,
    step_rows,
    steps_of,
    warmup,
    watching,
)
from tunesmith.config import METHOD_NAMES
from tunesmith.errors import ModelError
from tunesmith.planning.setups import Place
from tunesmith.resolve import resolve

SITUATIONS = st.builds(
    Situation,
    method=st.sampled_from(METHOD_NAMES),
    parameters=st.integers(10**6, 10**12),
    rows=st.integers(1, 10**6),
    has_validation=st.booleans(),
    complexity=st.sampled_from(COMPLEXITIES),
)


def situation(**changes):
    chosen = {"method": "lora", "parameters": 7 * 10**9, "rows": 600, "has_validation": True}
    return Situation(**{**chosen, "complexity": "medium", **changes})


@given(SITUATIONS)
def test_every_value_is_in_the_usual_range_and_has_reason_and_source(one):
    window, why = step_rows(one.rows, epochs(one).value)
    total = steps_of(one.rows, window, epochs(one).value)
    found = [epochs(one), warmup(total), rank(one), dropout(one), learning_rate(one), *watching(one, 7)]
    values = {each.key.rpartition(".")[2]: each.value for each in found}
    assert 2 <= values["num_train_epochs"] <= 5
    assert 0.03 <= values["warmup_ratio"] <= 0.1
    assert values["rank"] in (8, 16, 32, 64)
    assert alpha(values["rank"]).value == 2 * values["rank"]
    assert window in (4, 8, 16)
    if one.method not in ("prefix", "adapter"):
        assert 1e-5 <= values["learning_rate"] <= 5e-4
    assert ("eval_steps" in values) == one.has_validation
    assert why and all(each.reason and each.source for each in found)
    assert "\n" not in "".join(each.reason for each in found)


@given(SITUATIONS, st.integers(10**6, 10**12))
def test_a_larger_model_never_takes_a_higher_rate(one, other):
    small, large = sorted((one.parameters, other))
    rates = [learning_rate(situation(method=one.method, parameters=size)).value for size in (small, large)]
    assert rates[0] >= rates[1]


@pytest.mark.parametrize(
    ("method", "parameters", "rate"),
    [
        ("qlora", 7 * 10**9, 2e-4),
        ("qlora", 65 * 10**9, 1e-4),
        ("lora", 7 * 10**9, 2e-4),
        ("lora", 135 * 10**6, 5e-4),
        ("lora", 65 * 10**9, 1e-4),
        ("full", 7 * 10**9, 2e-5),
        ("full", 135 * 10**6, 5e-5),
        ("full", 10**12, 1e-5),
        ("prefix", 7 * 10**9, 3e-2),
    ],
)
def test_rates_of_known_cases(method, parameters, rate):
    assert learning_rate(situation(method=method, parameters=parameters)).value == pytest.approx(rate)


@given(st.integers(1, 10**5), st.integers(1, 10**5), st.sampled_from([2.0, 3.0, 5.0]))
def test_fewer_rows_never_take_larger_steps_and_larger_steps_leave_enough(one, other, passes):
    few, many = sorted((one, other))
    (small, _), (large, _) = step_rows(few, passes), step_rows(many, passes)
    assert small <= large
    if large > 4:
        assert steps_of(many, large, passes) >= ENOUGH_STEPS


def test_few_steps_take_a_larger_share_of_warmup_and_many_rows_fewer_passes():
    assert [warmup(steps).value for steps in (20, 200, 5_000)] == [0.1, 0.05, 0.03]
    assert "few steps need a larger share" in warmup(20).reason
    assert [epochs(situation(rows=rows)).value for rows in (100, 500, 3_000, 9_000)] == [5, 4, 3, 2]
    blind = epochs(situation(rows=100, has_validation=False))
    assert (blind.value, blind.reason) == (3.0, "100 rows, and no validation rows to stop in time")


def test_ranks_dropout_and_validations():
    assert [rank(situation(complexity=each)).value for each in COMPLEXITIES] == [8, 16, 64]
    assert rank(situation(rows=5_000)).value == 32
    assert (dropout(situation(rows=999)).value, dropout(situation(rows=1_000)).value) == (0.05, 0.0)
    every, patience = watching(situation(), 30)
    assert (every.value, patience.value) == (15, 3)
    assert patience.reason == "stops after 1.5 epochs without gain; the best weights are kept"


@pytest.mark.parametrize(
    ("answers", "complexity", "why"),
    [
        (Answers(100, 20, 200, 0), "simple", "100 answers are only 20 different ones"),
        (Answers(100, 100, 16, 0), "simple", "answers are short: 16 tokens in the middle"),
        (Answers(100, 100, 60, 0.9), "simple", "answers are short JSON: 60 tokens in the middle"),
        (Answers(100, 100, 60, 0.8), "medium", "answers are free text of 60 tokens in the middle"),
        (Answers(100, 100, 129, 1.0), "complex", "answers are long: 129 tokens in the middle"),
    ],
)
def test_complexity_is_told_by_the_answers(answers, complexity, why):
    assert complexity_of(answers) == (complexity, why)


@pytest.mark.parametrize(
    ("text", "is_it"),
    [('{"a": 1}', True), (" [1]", True), ("{a}", False), ("1", False), ("", False), ("[" * 9_000, False)],
)
def test_structure_is_a_json_object_or_list(text, is_it):
    assert is_structured(text) is is_it


def test_the_verdict_on_the_data_names_the_usual_number():
    for complexity, (least, most) in USUAL_ROWS.items():
        assert [data_verdict(rows, complexity)[0] for rows in (least - 1, least, most + 1)] == [
            False,
            True,
            True,
        ]
    assert data_verdict(40, "simple")[1] == (
        "40 training rows are few: a style, a format or a choice among few answers usually takes 100 to 500 "
        "good rows. `--learning-curve` says what more would give"
    )
    assert "are plenty" in data_verdict(501, "simple")[1]


def test_numbers_for_people():
    assert [one_digit(value) for value in (0.00033, 0.96, 2.4e-5)] == [0.0003, 1.0, 2e-5]
    assert [shown_size(size) for size in (42_000, 134_515_008, 7 * 10**9)] == [
        "42,000",
        "135 million",
        "7 billion",
    ]


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recommend")
    rows = [{"instruction": f"Say {at}", "output": f"I say {at} " + "again " * (at % 9)} for at in range(60)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {"model": str(tiny_model_folder(folder / "model")), "data": str(folder / "rows.jsonl")}


def test_a_recommendation_is_a_configuration_that_reads_back_with_its_reasons(flags, tmp_path):
    told = Told()
    found = recommend(resolve(None, flags), progress=told)
    file = tmp_path / "better.yaml"
    file.write_text(found.resolved.as_yaml(), encoding="utf-8")
    assert resolve(file).config == found.resolved.config
    assert "num_train_epochs: 5.0  # recommend: 48 rows; validation keeps the best pass" in file.read_text()
    keys = [each.key for each in found.settings]
    assert len(keys) == len(set(keys)) == 10
    for each in found.settings:
        section, _, name = each.key.rpartition(".")
        assert getattr(getattr(found.resolved.config, section), name) == each.value
        assert not each.is_kept
    assert (found.facts.rows, found.facts.validation_rows, found.facts.complexity) == (48, 6, "medium")
    assert found.facts.steps == 5 * 12
    assert not found.is_data_enough
    assert any("48 to train" in line for line in told.lines)
    assert json.loads(json.dumps(found.as_dict()))["facts"]["answers"]["distinct"] == 48


def test_a_flag_is_kept_and_the_others_follow_it(flags):
    asked = {"rank": 4, "num-train-epochs": 2, "gradient-accumulation-steps": 2, "validation-size": 0}
    found = recommend(resolve(None, flags | asked), complexity="complex")
    by_key = {each.key.rpartition(".")[2]: each for each in found.settings}
    assert (by_key["rank"].value, by_key["rank"].is_kept) == (4, True)
    assert by_key["rank"].reason == "you gave it; the rule says 64"
    assert by_key["alpha"].value == 8.0
    assert by_key["num_train_epochs"].reason == "you gave it; the rule says 3"
    assert (by_key["per_device_train_batch_size"].value, found.facts.steps) == (2, 2 * 14)
    assert found.resolved.origins["method.rank"] == "--rank"
    assert "eval_steps" not in by_key
    assert found.facts.why_complexity == "as you said"


@pytest.mark.parametrize(
    ("method", "absent"), [("full", {"rank", "alpha", "dropout"}), ("adapter", {"rank"})]
)
def test_a_method_gets_only_what_it_knows(flags, method, absent):
    found = recommend(resolve(None, flags | {"method": method, "max-steps": 7}))
    names = {each.key.rpartition(".")[2] for each in found.settings}
    assert not names & {*absent, "num_train_epochs"}
    assert found.facts.steps == 7


def test_a_measured_rate_replaces_the_rule_and_never_a_flag(flags):
    found = recommend(resolve(None, flags))
    measured = found.with_rate(0.004, "measured", "range test")
    assert measured.resolved.config.training.learning_rate == 0.004
    assert measured.resolved.origins["training.learning_rate"] == "recommend: measured"
    kept = recommend(resolve(None, flags | {"learning-rate": 1e-3})).with_rate(0.004, "measured", "test")
    assert kept.resolved.config.training.learning_rate == 1e-3


def test_short_memory_cuts_the_micro_batch_and_a_device_elsewhere_is_said(flags, monkeypatch):
    roomy = recommend(resolve(None, flags))
    # A machine whose memory is short cannot be had here, so its free bytes are said.
    short = Place("cpu", "float32", True, 0, "short of memory")
    monkeypatch.setattr(module, "choose_place", lambda settings: short)
    tight = recommend(resolve(None, flags))
    training = tight.resolved.config.training
    assert training.per_device_train_batch_size == 1
    assert training.gradient_accumulation_steps == 4
    assert tight.facts.peak_bytes < roomy.facts.peak_bytes
    assert "nothing fits into" in tight.notes[-1] and "tunesmith plan --fit" in tight.notes[-1]
    kept = recommend(resolve(None, flags | {"per-device-train-batch-size": 4}))
    assert kept.resolved.config.training.per_device_train_batch_size == 4
    assert any("your own values are kept, but" in note for note in kept.notes)
    away = Place("cuda", "bfloat16", False, None, "bfloat16 on cuda, which is not here")
    monkeypatch.setattr(module, "choose_place", lambda settings: away)
    assert "cuda is not here, so its memory is not known" in recommend(resolve(None, flags)).notes[-1]


@pytest.mark.real_model
def test_a_model_that_is_away_is_counted_with_the_embedded_tokenizer(flags):
    found = recommend(resolve(None, {"data": flags["data"], "model": "llama-2-7b", "device": "cuda"}))
    assert found.facts.parameters == 6_738_415_616
    assert found.notes[0] == "`llama-2-7b` is not here, so tokens are counted as smollm2-135m has them"


def test_a_model_that_nobody_knows_is_refused(flags, tmp_path):
    with pytest.raises(ModelError, match="no-model"):
        recommend(resolve(None, flags | {"model": str(tmp_path / "no-model")}))
