"""Each fact moves the approach it speaks of; what is said about other answers is true when asked again."""

import json
from dataclasses import fields, replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.approaches.advise import Facts, advise, choice_of, rank_approaches, read_answer
from tunesmith.approaches.advise_rules import (
    APPROACHES,
    BOTH,
    DIMENSIONS,
    FACTS,
    FEW_SHOT,
    PROFILES,
    PROMPT,
    RAG,
    RULES,
    START,
    TITLES,
    TUNED,
)
from tunesmith.errors import ConfigError

FACT_OF = {fact.name: fact for fact in FACTS}
NUMBERS = st.none() | st.integers(0, 10**7)
SITUATIONS = st.fixed_dictionaries(
    {
        fact.name: NUMBERS if fact.least else st.sampled_from([None, *(c.value for c in fact.choices)])
        for fact in FACTS
    }
).map(lambda values: Facts(**values))


def points(facts: Facts) -> dict[str, int]:
    return {one.approach: one.points for one in rank_approaches(facts)}


def first(facts: Facts) -> str:
    return rank_approaches(facts)[0].approach


def test_the_questions_are_the_facts() -> None:
    assert {fact.name for fact in FACTS} == {field.name for field in fields(Facts)}
    for fact in FACTS:
        assert len(fact.least) in (0, len(fact.choices))
        assert list(fact.least) == sorted(fact.least)
        for choice in fact.choices:
            assert choice_of(fact, choice.value) is choice


def test_every_rule_names_what_exists_and_no_answer_is_without_effect() -> None:
    assert {(rule.fact, rule.choice) for rule in RULES} == {
        (fact.name, choice.name) for fact in FACTS for choice in fact.choices
    }
    for rule in (*START, *RULES):
        assert set(rule.weights) <= set(APPROACHES)
        assert 0 not in rule.weights.values()
        assert rule.reason
    assert set(TITLES) == set(PROFILES) == set(APPROACHES)
    assert {len(profile) for profile in PROFILES.values()} == {len(DIMENSIONS)}


@given(SITUATIONS)
def test_a_ranking_is_total_and_its_points_are_its_reasons(facts: Facts) -> None:
    ranking = advise(facts).ranking
    assert {one.approach for one in ranking} == set(APPROACHES)
    for above, below in pairwise(ranking):
        assert above.points >= below.points
        if above.points == below.points:
            assert APPROACHES.index(above.approach) < APPROACHES.index(below.approach)
    for one in ranking:
        assert one.points == sum(reason.points for reason in one.reasons)
        assert all(
            reason.fact == "start" or getattr(facts, reason.fact) is not None for reason in one.reasons
        )


@settings(max_examples=40)
@given(SITUATIONS)
def test_what_would_change_is_true_and_complete(facts: Facts) -> None:
    advice = advise(facts)
    claimed = {(change.fact, change.value): change for change in advice.changes}
    for fact in FACTS:
        value = getattr(facts, fact.name)
        for choice in fact.choices:
            if value is not None and choice_of(fact, value) is choice:
                assert (fact.name, choice.value) not in claimed
                continue
            now_first = first(replace(facts, **{fact.name: choice.value}))
            change = claimed.get((fact.name, choice.value))
            assert (change is not None) == (now_first != advice.ranking[0].approach)
            if change is not None:
                assert change.first == now_first
                assert change.text == f"If {choice.condition}, {TITLES[now_first]} would come first."


@pytest.mark.parametrize(
    ("fact", "value", "up", "down"),
    [
        ("updates", "daily", [RAG, BOTH], [TUNED]),
        ("updates", "never", [TUNED], [RAG]),
        ("citations", True, [RAG, BOTH], [PROMPT, FEW_SHOT, TUNED]),
        ("citations", False, [], [RAG]),
        ("private", True, [RAG, TUNED, BOTH], [PROMPT, FEW_SHOT]),
        ("private", False, [PROMPT], []),
        ("goal", "style", [TUNED], [RAG]),
        ("goal", "format", [TUNED], [RAG]),
        ("goal", "knowledge", [RAG, BOTH], [TUNED, PROMPT]),
        ("goal", "task", [TUNED], []),
        ("budget", "low", [PROMPT], [TUNED, BOTH]),
        ("budget", "high", [TUNED, BOTH], []),
        ("rows", 0, [], [TUNED, BOTH, FEW_SHOT]),
        ("rows", 20, [FEW_SHOT], [TUNED]),
        ("rows", 600, [TUNED], []),
        ("requests_per_day", 5, [PROMPT], [TUNED]),
        ("requests_per_day", 100_000, [TUNED], [PROMPT, FEW_SHOT, RAG]),
    ],
)
@settings(max_examples=25)
@given(SITUATIONS)
def test_each_fact_moves_the_right_approach(fact, value, up, down, facts) -> None:
    before = points(replace(facts, **{fact: None}))
    after = points(replace(facts, **{fact: value}))
    for approach in APPROACHES:
        moved = after[approach] - before[approach]
        if approach in up:
            assert moved > 0
        if approach in down:
            assert moved < 0


@given(SITUATIONS, st.integers(0, 20_000), st.integers(0, 20_000))
def test_more_rows_never_speak_against_fine_tuning(facts: Facts, one: int, other: int) -> None:
    few, many = sorted((one, other))
    assert points(replace(facts, rows=few))[TUNED] <= points(replace(facts, rows=many))[TUNED]
    assert points(replace(facts, rows=few))[BOTH] <= points(replace(facts, rows=many))[BOTH]


@given(SITUATIONS)
def test_the_oftener_knowledge_changes_the_more_speaks_for_looking_it_up(facts: Facts) -> None:
    gaps = []
    for updates in ("never", "monthly", "daily"):
        found = points(replace(facts, updates=updates))
        gaps.append(found[RAG] - found[TUNED])
    assert gaps == sorted(set(gaps))


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (Facts(), PROMPT),
        (Facts(goal="format", rows=600, updates="never"), TUNED),
        (Facts(goal="style", rows=300, private=True), TUNED),
        (Facts(goal="knowledge", updates="daily", citations=True), RAG),
        (Facts(goal="knowledge", rows=0, private=True), RAG),
        (Facts(goal="format", rows=10_000, updates="daily"), BOTH),
        (Facts(goal="task", rows=30, budget="low"), FEW_SHOT),
        (Facts(budget="low", requests_per_day=10), PROMPT),
        (Facts(goal="task", rows=8_000, requests_per_day=100_000), TUNED),
    ],
)
def test_plain_situations(facts: Facts, expected: str) -> None:
    assert first(facts) == expected


def test_nothing_known_is_said_so() -> None:
    advice = advise(Facts())
    assert advice.known == 0
    assert advice.summary.startswith("Nothing is known yet, so start with a prompt")
    assert "tunesmith compare" in advice.summary


def test_a_close_second_is_named_and_a_clear_first_is_not_hedged() -> None:
    close = advise(Facts(goal="style"))
    assert close.summary == (
        "Start with a prompt. Few-shot examples and fine-tuning are so close that only "
        "`tunesmith compare` can tell."
    )
    one = advise(Facts(budget="medium"))
    assert one.summary.startswith("Start with a prompt. Few-shot examples and RAG are so close")
    clear = advise(Facts(goal="knowledge", updates="daily", citations=True))
    assert clear.summary.startswith("Start with RAG. `tunesmith compare` shows")


@given(SITUATIONS)
def test_advice_is_json_ready(facts: Facts) -> None:
    told = json.loads(json.dumps(advise(facts).as_dict()))
    assert [one["rank"] for one in told["ranking"]] == [1, 2, 3, 4, 5]
    assert told["facts"] == {field.name: getattr(facts, field.name) for field in fields(Facts)}
    assert set(told["ranking"][0]["profile"]) == set(DIMENSIONS)


@pytest.mark.parametrize(
    ("fact", "text", "value"),
    [
        ("updates", "Daily\n", "daily"),
        ("updates", "n", "never"),
        ("updates", " \n", None),
        ("citations", "y", True),
        ("citations", "no", False),
        ("rows", "1,000\n", 1000),
        ("rows", "0", 0),
        ("rows", "", None),
    ],
)
def test_an_answer_is_read(fact: str, text: str, value: object) -> None:
    assert read_answer(FACT_OF[fact], text) == value


@pytest.mark.parametrize(
    ("fact", "text", "says", "hint"),
    [
        ("updates", "dayly", "`dayly` is no answer to this", "the nearest is `daily`"),
        ("private", "maybe", "`maybe` is no answer to this", "type one of `yes`, `no`"),
        ("rows", "many", "`many` is no number from 0", "type digits"),
        ("rows", "-1", "`-1` is no number from 0", "type digits"),
        ("rows", "²", "`²` is no number from 0", "type digits"),
    ],
)
def test_what_is_no_answer_is_said_so(fact: str, text: str, says: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        read_answer(FACT_OF[fact], text)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        (Facts(updates="hourly"), "`updates` cannot be `hourly`"),
        (Facts(requests_per_day=-1), "`requests-per-day` cannot be `-1`"),
    ],
)
def test_a_value_that_is_none_is_refused(facts: Facts, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        advise(facts)
    assert caught.value.hint.startswith("give ")
