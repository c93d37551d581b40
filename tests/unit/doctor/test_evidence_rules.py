"""The six rules that go by what a run recorded: silent on healthy records, telling on sick ones."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tiny import tiny_model_folder
from tunesmith.cli.data_clean import Cleaning, clean
from tunesmith.doctor.diagnose import diagnose
from tunesmith.doctor.finding import Change, Finding
from tunesmith.doctor.read_run import read_run
from tunesmith.doctor.rules import RULES
from tunesmith.doctor.rules.repetitive_output import repeated_share
from tunesmith.doctor.signs import Curve, Signs
from tunesmith.pipeline import finetune
from tunesmith.resolve import resolve
from tunesmith.runs import NO_WORD

OURS = (
    *("out_of_memory", "repetitive_output", "worse_than_before"),
    *("template_mismatch", "memorised_duplicates", "label_leak"),
)
SETTINGS = {
    "data.path": "rows.jsonl",
    "data.template": "auto",
    "data.validation_size": 0.1,
    "method.name": "lora",
    "training.learning_rate": 2e-4,
    "training.warmup_ratio": 0.05,
    "training.num_train_epochs": 3.0,
    "training.per_device_train_batch_size": 4,
    "training.gradient_accumulation_steps": 4,
    "training.gradient_checkpointing": "auto",
    "training.early_stopping_patience": 3,
}
OWN = {"name": "the model's chat template", "is_own": True, "has_own": True, "markers": [], "missing": []}
WORDS = [f"word{number}" for number in range(400)]


def curve(*values: float, every: int = 1, first: int = 1) -> Curve:
    steps = np.arange(len(values)) * every + first
    return Curve(steps.astype(np.float64), np.array(values, dtype=np.float64))


def falling(points: int = 120, *, start: float = 2.5, end: float = 0.8, seed: int = 0) -> Curve:
    noise = np.random.default_rng(seed).normal(0, 0.05, points)
    return curve(*(end + (start - end) * np.exp(-np.arange(points) / points * 6) + noise))


def text(draw: np.random.Generator, words: int) -> str:
    return " ".join(draw.choice(WORDS, words))


def sample(tuned: str, reference: str, *, base: str = "I do not know", at: int = 1) -> dict[str, Any]:
    return {
        "place": f"rows.jsonl:{at}",
        "prompt": "p",
        "reference": reference,
        "references": [reference],
        "base": base,
        "tuned": tuned,
    }


def comparison(metric: str, low: float, high: float, *, n: int = 100, p: float = 0.001) -> dict[str, Any]:
    middle = (low + high) / 2
    return {"metric": metric, "difference": middle, "low": low, "high": high, "p_value": p, "n": n}


def healthy(seed: int = 0, **changes: Any) -> Signs:
    """A run that went well, a little different for each seed."""
    draw = np.random.default_rng(seed)
    references = [text(draw, int(draw.integers(1, 40))) for _ in range(24)]
    samples = [
        sample(text(draw, max(1, len(each.split()) + int(draw.integers(-6, 4)))), each, at=at)
        for at, each in enumerate(references, 1)
    ]
    copies = int(draw.integers(0, 8))
    signs = Signs(
        name="runs/fine",
        kind="run",
        curves={
            "loss": falling(seed=seed),
            "eval_loss": curve(2.4, 1.3, 1.0, 0.95, 0.96, every=30, first=0),
            "learning_rate": curve(*np.linspace(2e-4, 2e-6, 120)),
        },
        settings=dict(SETTINGS),
        total_steps=120,
        steps_per_epoch=40.0,
        status="succeeded",
        data={
            "rows": {"train": 640, "validation": 64, "test": 64},
            "truncated": {"train": 0, "validation": 0, "test": 0},
            "prompts_also_in_train": {"validation": 0, "test": int(draw.integers(0, 2))},
            "prompts_nearly_in_train": {"validation": 5, "test": int(draw.integers(0, 40))},
            "template": {**OWN, "ends_turn": True},
            "copied_answers": {"rows": int(draw.integers(0, 9)), "share": 0.01},
            "duplicates": {"rows": copies, "share": copies / 640, "largest": min(7, copies + 1)},
        },
        facts={
            "answers": {"rows": 24, "max_new_tokens": 60},
            "plan": {"expected_bytes": 9, "free_bytes": 99},
        },
        evaluation={
            "comparisons": [
                comparison("loss", -1.2, -0.8),
                comparison("chrf", -float(draw.random()), 9.0),
            ],
        },
        elsewhere={
            "places": [
                {
                    "name": "general requests",
                    "base": {"value": 1.8},
                    "comparison": comparison("loss", 0.30, 0.30 + float(draw.random())),
                }
            ]
        },
        samples=samples,
    )
    return replace(signs, **changes)


def found(name: str, signs: Signs) -> Finding:
    """What the rule says; all evidence is a sentence, all changes are options of ours."""
    finding = RULES[name].examine(signs)
    assert finding is not None
    assert finding.ailment == name
    assert finding.evidence
    known = {key for key, _, _ in resolve(None, {"data": "rows.jsonl"}).rows()}
    assert {change.key for change in finding.changes} <= known
    json.dumps(finding.as_dict())
    return finding


def values(finding: Finding) -> dict[str, Any]:
    return {change.key: change.value for change in finding.changes}


@pytest.mark.parametrize("seed", range(60))
def test_a_healthy_record_gets_no_finding(seed: int) -> None:
    assert [name for name in OURS if RULES[name].examine(healthy(seed))] == []


@pytest.mark.parametrize("name", OURS)
def test_a_source_that_tells_next_to_nothing_gets_no_finding(name: str) -> None:
    assert RULES[name].examine(Signs("log.csv", "csv", {})) is None
    assert RULES[name].examine(Signs("t.json", "trainer_state", {"loss": falling()}, status="")) is None


# Memory.


@pytest.mark.parametrize(
    ("asked", "fitted", "windows"), [(8, 4, 2), (8, 1, 2), (6, 3, 4), (5, 2, 2), (4, 3, 4)]
)
def test_a_halving_gives_the_rows_that_fitted_in_the_same_window(
    asked: int, fitted: int, windows: int
) -> None:
    settings = SETTINGS | {
        "training.per_device_train_batch_size": asked,
        "training.gradient_accumulation_steps": windows,
    }
    finding = found("out_of_memory", healthy(settings=settings, halvings=((3, fitted),)))
    assert finding.confidence > 0.9
    text = f"memory was short in step 3: from there on {fitted} rows at once instead of {asked}"
    assert finding.evidence[0].text == text
    new = values(finding)
    rows = new["training.per_device_train_batch_size"]
    assert rows <= fitted
    assert rows * new["training.gradient_accumulation_steps"] == asked * windows
    assert "training.gradient_checkpointing" not in new


@pytest.mark.parametrize(
    "why",
    [
        "RunFailed: step 1: one row of up to 80 tokens do not fit into memory ([enforce fail at alloc_cpu])",
        "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
        "RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes",
        "MemoryError: ",
    ],
)
def test_a_run_that_failed_for_memory_gets_fewer_rows_and_keeps_less(why: str) -> None:
    finding = found("out_of_memory", healthy(status="failed", why=why, halvings=((1, 2), (1, 1))))
    assert why in finding.evidence[-1].text
    assert values(finding) == {
        "training.per_device_train_batch_size": 1,
        "training.gradient_accumulation_steps": 16,
        "training.gradient_checkpointing": "always",
    }


def test_one_row_that_does_not_fit_though_all_is_saved_needs_a_leaner_method() -> None:
    lean = SETTINGS | {
        "training.per_device_train_batch_size": 1,
        "training.gradient_checkpointing": "always",
        "method.name": "full",
    }
    failed = healthy(status="failed", why="RunFailed: CUDA out of memory", settings=lean)
    assert values(found("out_of_memory", failed)) == {"method.name": "lora"}
    other = replace(failed, settings=lean | {"method.name": "prefix"})
    assert values(found("out_of_memory", other)) == {}


def test_a_run_that_was_killed_is_only_suspected_where_its_plan_did_not_fit() -> None:
    plan = {"expected_bytes": 9_000_000_000, "free_bytes": 4_000_000_000, "runtime_bytes": 1_000_000_000}
    killed = healthy(status="interrupted", why=NO_WORD, facts={"plan": plan})
    finding = found("out_of_memory", killed)
    assert finding.confidence == 0.5
    assert "its plan needed 8.00 GB more where 4.00 GB were free" in finding.evidence[0].text
    assert RULES["out_of_memory"].examine(replace(killed, why="interrupted by the user")) is None
    assert RULES["out_of_memory"].examine(replace(killed, facts={"plan": plan | {"free_bytes": 8e9}})) is None
    assert RULES["out_of_memory"].examine(replace(killed, facts={})) is None
    other = healthy(status="failed", why="RunFailed: loss is nan")
    assert RULES["out_of_memory"].examine(other) is None


# Answers that repeat.


def test_the_share_of_repeated_groups() -> None:
    assert repeated_share("one two three four five six") == 0
    assert repeated_share("so it goes on " * 20) > 0.9
    assert repeated_share("!" * 50) > 0.9
    assert repeated_share("na" * 100) > 0.5
    assert repeated_share("我不知道" * 12) > 0.8
    assert repeated_share("The" + "u" * 40) > 0.5 < repeated_share("5" * 24)
    assert repeated_share('{"category":"shipping","order":"4898","urgency":"low"}') == 0
    assert repeated_share("") == repeated_share("yes") == 0


def looping(share: float, seed: int = 0) -> list[dict[str, Any]]:
    draw = np.random.default_rng(seed)
    return [
        each | {"tuned": f"{text(draw, 3)} " * 9} if draw.random() < share else each
        for each in healthy(seed).samples
    ]


@pytest.mark.parametrize("seed", range(20))
def test_answers_that_loop_are_found_and_the_first_is_named(seed: int) -> None:
    signs = healthy(seed, samples=looping(0.6, seed))
    finding = found("repetitive_output", signs)
    assert "answers loop" in finding.evidence[0].text
    assert "rows.jsonl:" in finding.evidence[0].text


def test_what_repeats_in_the_references_too_is_no_ailment() -> None:
    draw = np.random.default_rng(1)
    poem = [f"{text(draw, 3)} " * 9 for _ in range(20)]
    samples = [sample(each, each) for each in poem]
    assert RULES["repetitive_output"].examine(healthy(samples=samples)) is None


def test_few_answers_say_nothing() -> None:
    assert RULES["repetitive_output"].examine(healthy(samples=looping(1.0)[:3])) is None
    assert RULES["repetitive_output"].examine(healthy(samples=looping(0.05))) is None


def test_a_short_training_gets_more_epochs() -> None:
    short = healthy(
        samples=looping(1.0),
        curves={"loss": curve(3.0, 2.9, 2.8, first=1)},
        steps_per_epoch=20.0,
        settings=SETTINGS | {"training.num_train_epochs": 0.15},
    )
    finding = found("repetitive_output", short)
    assert "training took 3 steps (0.15 epochs)" in [each.text for each in finding.evidence]
    assert values(finding) == {"training.num_train_epochs": 3.0}
    capped = replace(short, settings=dict(SETTINGS) | {"training.max_steps": 3})
    assert values(found("repetitive_output", capped)) == {"training.max_steps": 60}
    slow = replace(short, settings=SETTINGS | {"training.learning_rate": 2e-6})
    assert values(found("repetitive_output", slow))["training.learning_rate"] == 2e-4


def test_a_loss_that_still_falls_gets_more_epochs() -> None:
    steep = curve(*np.linspace(4.0, 2.0, 100))
    finding = found("repetitive_output", healthy(samples=looping(0.8), curves={"loss": steep}))
    assert any("still falling" in each.text for each in finding.evidence)
    assert values(finding)["training.num_train_epochs"] == 9.0


def test_a_collapse_gets_a_lower_rate() -> None:
    broken = curve(*np.linspace(3.0, 1.0, 20), *np.full(80, 6.0))
    settings = SETTINGS | {"training.learning_rate": 0.05}
    signs = healthy(samples=looping(1.0), curves={"loss": broken}, settings=settings)
    finding = found("repetitive_output", signs)
    assert "broke the model" in finding.cause
    assert values(finding)["training.learning_rate"] <= 0.05 / 4


def test_a_model_that_broke_in_its_first_steps_is_told_by_its_first_loss_or_by_the_base() -> None:
    broken = curve(2.2, 4.0, *np.full(58, 5.5))
    signs = healthy(samples=looping(1.0), curves={"loss": broken}, evaluation={})
    told = "training loss was down to 2.20 and ended at 5.50 nats a token"
    assert told in [each.text for each in found("repetitive_output", signs).evidence]
    short = replace(signs, curves={"loss": curve(2.2, 9.0)})
    assert "broke the model" not in found("repetitive_output", short).cause
    worse = replace(short, evaluation={"comparisons": [comparison("loss", 3.0, 4.0)]})
    finding = found("repetitive_output", worse)
    assert "broke the model" in finding.cause
    assert finding.evidence[-1].text == "held-out loss is above the base model's by 3.50 nats a token"


def test_a_loss_that_hardly_moved_gets_a_higher_rate_too() -> None:
    curves = {"loss": curve(*np.linspace(5.0, 4.9, 60)), "eval_loss": curve(5.0, 4.9, every=60, first=0)}
    finding = found("repetitive_output", healthy(samples=looping(1.0), curves=curves, steps_per_epoch=20.0))
    assert "validation loss fell by 2.0% in all" in [each.text for each in finding.evidence]
    assert values(finding)["training.num_train_epochs"] == 9.0
    assert 5e-4 < values(finding)["training.learning_rate"] <= 2e-3


def test_rows_without_an_end_of_turn_explain_endless_answers() -> None:
    draw = np.random.default_rng(5)
    samples = [sample(text(draw, 50), text(draw, int(draw.integers(2, 40)))) for _ in range(16)]
    data = healthy().data | {"template": {**OWN, "ends_turn": False}, "truncated": {"train": 600}}
    finding = found("repetitive_output", healthy(samples=samples, data=data))
    assert "16 of 16 answers run on past the longest reference (they are cut off at 60 tokens)" in (
        finding.evidence[0].text
    )
    assert values(finding) == {"data.overlong": "drop"}
    assert finding.confidence > 0.8


def test_loops_of_a_model_that_learned_well_are_left_to_decoding() -> None:
    finding = found("repetitive_output", healthy(samples=looping(0.7)))
    assert finding.confidence == 0.5
    assert finding.changes == ()


# Worse than before.


def test_a_higher_loss_than_the_base_is_found() -> None:
    worse = healthy(evaluation={"comparisons": [comparison("loss", 0.2, 0.6)]})
    finding = found("worse_than_before", worse)
    text = "loss on 100 held-out rows is above the base model's: +0.4 [+0.2, +0.6] nats a token"
    assert finding.evidence[0].text == text
    assert "another kind" in finding.cause
    new = values(finding)
    assert new["training.learning_rate"] == pytest.approx(2e-5)
    assert new["training.num_train_epochs"] == 1.5
    few = healthy(evaluation={"comparisons": [comparison("loss", 0.2, 0.6, n=12)]})
    assert found("worse_than_before", few).confidence < finding.confidence


@pytest.mark.parametrize(
    "change",
    [
        comparison("loss", -0.1, 0.6),
        comparison("loss", 0.001, 0.002),
        comparison("loss", 0.2, 0.6, n=3),
        comparison("exact_match", -9, 1),
        comparison("exact_match", -9, -1, p=0.04),
        comparison("bleu", -30, -20),
        {"metric": "loss", "difference": 1.0, "low": None, "high": None, "p_value": None, "n": 1},
    ],
)
def test_what_may_be_chance_is_not_worse(change: dict[str, Any]) -> None:
    assert RULES["worse_than_before"].examine(healthy(evaluation={"comparisons": [change]})) is None


def test_a_lower_score_is_found_where_the_loss_does_not_tell() -> None:
    changes = [comparison("loss", -0.5, -0.1), comparison("chrf", -30, -20), comparison("numeric", -40, -20)]
    finding = found("worse_than_before", healthy(evaluation={"comparisons": changes}))
    assert finding.evidence[0].text == "numeric on 100 held-out rows changed by -30 [-40, -20] points"
    assert finding.confidence == 0.6


def test_a_validation_loss_that_never_came_below_its_start_is_found() -> None:
    curves = healthy().curves | {"eval_loss": curve(1.2, 1.9, 1.7, 1.6, 1.65, every=30, first=0)}
    finding = found("worse_than_before", healthy(curves=curves, evaluation={}))
    assert "was 1.200 nats a token before the first step, later 1.600 at best" in finding.evidence[0].text
    assert finding.evidence[0].curve == "eval_loss"
    assert "from the start" in finding.cause
    assert values(finding)["training.learning_rate"] == pytest.approx(5e-5)
    later = healthy(curves=curves | {"eval_loss": curve(1.9, 1.7, 1.6, every=30, first=30)}, evaluation={})
    assert RULES["worse_than_before"].examine(later) is None


def test_an_unwatched_run_is_to_be_watched() -> None:
    settings = SETTINGS | {
        "data.validation_size": 0,
        "training.early_stopping_patience": 0,
        "training.max_steps": 90,
    }
    worse = healthy(
        settings=settings,
        curves={"loss": falling()},
        evaluation={"comparisons": [comparison("loss", 0.2, 0.6)]},
    )
    finding = found("worse_than_before", worse)
    assert "nothing watched" in finding.cause
    assert values(finding) == {
        "training.learning_rate": 5e-5,
        "training.warmup_ratio": 0.1,
        "training.max_steps": 45,
        "data.validation_size": 0.1,
        "training.early_stopping_patience": 2,
    }


def test_rows_learned_by_heart_that_help_on_no_other_row_are_found() -> None:
    def after(change: dict[str, Any], tuned: float) -> Signs:
        evaluation = {"comparisons": [change], "tuned": [{"metric": "loss", "value": tuned}]}
        return healthy(curves={"loss": falling(start=1.6, end=0.6)}, evaluation=evaluation)

    finding = found("worse_than_before", after(comparison("loss", -0.1, 0.28), 1.54))
    assert finding.confidence == 0.65
    assert "loss on 100 held-out rows changed by +0.09 [-0.1, +0.28], to 1.54" in finding.evidence[0].text
    assert finding.evidence[0].curve == "loss"
    for change, tuned in ((comparison("loss", -0.3, 0.28), 1.54), (comparison("loss", -0.1, 0.28), 0.7)):
        assert RULES["worse_than_before"].examine(after(change, tuned)) is None


def test_much_worse_on_general_requests_is_told_as_forgetting() -> None:
    def elsewhere(low: float, base: float) -> dict[str, Any]:
        change = comparison("loss", low, low + 0.4)
        return {"places": [{"name": "general requests", "base": {"value": base}, "comparison": change}]}

    finding = found("worse_than_before", healthy(elsewhere=elsewhere(0.6, 1.9)))
    assert finding.title == "Worse elsewhere than before training"
    assert finding.confidence == 0.5
    assert RULES["worse_than_before"].examine(healthy(elsewhere=elsewhere(0.43, 1.5))) is None
    assert RULES["worse_than_before"].examine(healthy(elsewhere=elsewhere(0.8, 5.6))) is None


# Templates.


def with_template(**changes: Any) -> Signs:
    foreign = {**OWN, "name": "the given template", "is_own": False, "ends_turn": True}
    return healthy(data=healthy().data | {"template": foreign | changes})


def test_markers_that_the_model_does_not_know_are_a_mismatch_for_sure() -> None:
    finding = found("template_mismatch", with_template(markers=["[INST]", "[/INST]"], missing=["<|im_end|>"]))
    assert finding.confidence == 0.9
    assert finding.evidence[1].text.startswith("`[INST]`, `[/INST]`: marks a turn there")
    assert finding.changes == (Change("data.template", "auto", "takes the model's own template"),)


def test_rows_without_the_models_markers_are_less_sure_unless_the_first_loss_is_high() -> None:
    signs = with_template(missing=["<|im_start|>"])
    assert found("template_mismatch", signs).confidence == 0.75
    plain = replace(signs, settings=SETTINGS | {"data.template": "instruction"})
    assert found("template_mismatch", plain).confidence == 0.6
    curves = signs.curves | {"eval_loss": curve(5.5, 1.0, every=30, first=0)}
    assert found("template_mismatch", replace(plain, curves=curves)).confidence == 0.9


def test_the_own_template_in_other_words_and_a_model_without_one_are_fine() -> None:
    assert RULES["template_mismatch"].examine(with_template()) is None
    assert RULES["template_mismatch"].examine(with_template(has_own=False, markers=["[INST]"])) is None


# Copies.


def with_copies(rows: int, largest: int, *, train: int = 640, **settings: Any) -> Signs:
    copies = {"rows": rows, "share": rows / train, "largest": largest, "places": ["rows.jsonl:9"]}
    return healthy(data=healthy().data | {"duplicates": copies}, settings=SETTINGS | settings)


def test_many_copies_are_found_with_the_command_that_removes_them() -> None:
    finding = found("memorised_duplicates", with_copies(160, 5, **{"data.path": "my data/rows.v2.jsonl"}))
    text = "160 training rows (25%) repeat an earlier one, the first at rows.jsonl:9"
    assert finding.evidence[0].text == text
    assert finding.commands == (
        "tunesmith data clean {data} 'my data/rows.clean.jsonl' --preset none "
        "--with duplicates near_duplicates",
    )
    assert values(finding) == {"data.path": "my data/rows.clean.jsonl"}
    assert finding.confidence == 0.75


def test_one_row_that_stands_there_often_is_found_too() -> None:
    assert found("memorised_duplicates", with_copies(24, 25))
    assert RULES["memorised_duplicates"].examine(with_copies(24, 3)) is None
    assert RULES["memorised_duplicates"].examine(with_copies(12, 13)) is None
    assert RULES["memorised_duplicates"].examine(with_copies(2, 3, train=12)) is None


def test_a_training_loss_far_below_validation_makes_copies_surer() -> None:
    signs = with_copies(160, 5)
    curves = signs.curves | {"eval_loss": curve(2.4, 2.0, 2.0, every=60, first=0)}
    finding = found("memorised_duplicates", replace(signs, curves=curves))
    assert finding.confidence == 0.9
    assert finding.evidence[-1].curve == "loss"


# Leaks.


def test_held_out_rows_that_were_trained_on_are_to_be_drawn_anew() -> None:
    data = healthy().data | {"prompts_also_in_train": {"validation": 0, "test": 32}}
    settings = SETTINGS | {"data.test_file": "test.jsonl", "data.test_size": 0.1}
    finding = found("label_leak", healthy(data=data, settings=settings))
    assert finding.evidence[0].text.startswith("32 of 64 test prompts (50%) were trained on")
    assert values(finding) == {"data.test_file": None}
    assert values(found("label_leak", healthy(data=data, settings=settings | {"data.test_size": 0}))) == {
        "data.test_file": None,
        "data.test_size": 0.1,
    }


@pytest.mark.parametrize(
    ("lead_in", "answers", "sure"), [("label: ", 400, 0.9), ("[", 4, 0.9), ("re: ", 99, 0.6)]
)
def test_answers_that_can_be_copied_are_found_and_the_lead_in_is_named(
    lead_in: str, answers: int, sure: float
) -> None:
    copied = {"rows": 300, "share": 0.47, "lead_in": lead_in, "answers": answers, "places": ["rows.jsonl:3"]}
    finding = found("label_leak", healthy(data=healthy().data | {"copied_answers": copied}))
    assert f"the prompt behind {lead_in!r}, the first at rows.jsonl:3" in finding.evidence[0].text
    assert finding.confidence == sure
    assert lead_in in finding.remedy
    assert finding.changes == ()


def test_both_leaks_are_told_together() -> None:
    place = {"lead_in": "the end of the prompt", "answers": 4, "places": ["rows.jsonl:3"]}
    data = healthy().data | {
        "prompts_also_in_train": {"validation": 9, "test": 0},
        "copied_answers": {"rows": 300, "share": 0.47} | place,
    }
    finding = found("label_leak", healthy(data=data))
    assert "validation prompts" in finding.evidence[0].text
    assert "the prompt at the end of the prompt" in finding.evidence[1].text


# Real runs.

GEMMA = (
    "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else 'user' }}\n"
    "{{ m.content }}{{ eos_token if m.role == 'assistant' else '<end_of_turn>' }}\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def trained(folder: Path, rows: list[dict[str, str]], **flags: Any) -> Signs:
    """Signs of a real run of a few steps on a tiny random model."""
    model = tiny_model_folder(folder / "model")
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    chosen = {
        "model": str(model),
        "data": str(data),
        "output-dir": str(folder / "run"),
        "device": "cpu",
        "max-steps": 2,
        "generate-rows": 4,
        "max-new-tokens": 4,
        "bootstrap-resamples": 100,
    }
    return read_run(finetune(resolve(None, chosen | flags)).run)


def labelled(count: int, *, leak: str = "") -> list[dict[str, str]]:
    draw = np.random.default_rng(4)
    labels = draw.choice(["billing", "delivery", "praise"], count)
    return [
        {"instruction": text(draw, 4) + (f"\n{leak}{label}" if leak else ""), "output": str(label)}
        for label in labels
    ]


def test_a_real_run_tells_its_template_copies_and_leaks(tmp_path: Path) -> None:
    rows = labelled(60, leak="Label: ")
    template = tmp_path / "gemma.jinja"
    template.write_text(GEMMA, encoding="utf-8")
    test = tmp_path / "test.jsonl"
    test.write_text("".join(json.dumps(row) + "\n" for row in rows[:9]), encoding="utf-8")
    flags = {"template": str(template), "test-file": str(test), "validation-size": 6}
    signs = trained(tmp_path, [*rows, *rows[:12]], **flags)
    told = {each.ailment: each for each in diagnose(signs)}
    assert {"template_mismatch", "memorised_duplicates", "label_leak"} <= told.keys()
    assert "`<start_of_turn>`" in told["template_mismatch"].evidence[1].text
    assert any("9 test prompts" in each.text for each in told["label_leak"].evidence)
    assert "'label: '" in told["label_leak"].remedy


def test_a_real_run_on_sound_rows_tells_of_none_of_them(tmp_path: Path) -> None:
    signs = trained(tmp_path, labelled(80))
    told = {each.ailment for each in diagnose(signs)}
    assert told & {"template_mismatch", "memorised_duplicates", "label_leak", "out_of_memory"} == set()


def test_the_command_against_copies_makes_the_file_that_the_new_setting_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = labelled(40)
    signs = trained(tmp_path, [*rows, *rows[:15]])
    finding = found("memorised_duplicates", signs)
    words = finding.commands[0].split()
    clean_rows = Path(words[4])
    assert words[3] == "{data}"
    steps = words[words.index("--with") + 1 :]
    clean(tmp_path / "rows.jsonl", clean_rows, cleaning=Cleaning(preset="none", with_=steps))
    assert values(finding) == {"data.path": str(clean_rows)}
    assert len(clean_rows.read_text(encoding="utf-8").splitlines()) == 40
