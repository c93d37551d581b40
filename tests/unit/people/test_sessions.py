"""What a rater sees next: own order, hidden sides, and undo, as laws over acts."""

import json
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from people_room import SYSTEMS, make_survey, preference, rating, task_for
from tunesmith.errors import UserError
from tunesmith.people.sessions import (
    Act,
    is_judge,
    next_task,
    rater_name,
    standing,
    tasks_of,
    undo_target,
    view,
)

AB, RATE = make_survey("ab"), make_survey("rate")
SCORES = {"accuracy": 5, "relevance": 4, "fluency": 3, "format_compliance": 2}


def undo(rater: str, target: Act, act_id: str) -> Act:
    return Act(act_id, "", rater, "undo", target.item, target.system, {"undoes": target.act_id})


@given(st.text(min_size=1, max_size=10), st.integers(0, 2**31))
def test_every_rater_gets_everything_once_and_always_in_the_same_order(rater: str, seed: int) -> None:
    for survey, each in ((AB, 1), (RATE, 2)):
        seeded = replace(survey, seed=seed)
        tasks = tasks_of(seeded, rater)
        assert list(tasks) == list(tasks_of(seeded, rater))
        assert Counter(task.item.id for task in tasks.values()) == {item: each for item in survey.items}
        assert len({(task.item.id, task.system) for task in tasks.values()}) == len(tasks)


def test_raters_have_orders_and_sides_of_their_own() -> None:
    many = make_survey("ab", 60)
    orders = [[task.item.id for task in tasks_of(many, rater).values()] for rater in ("Ada", "Bo")]
    assert orders[0] != orders[1]
    assert orders[0] != sorted(orders[0])
    lefts = [{item: task_for(many, rater, item).systems[0] for item in many.items} for rater in ("Ada", "Bo")]
    assert lefts[0] != lefts[1]


def test_neither_side_is_a_systems_own_and_order_does_not_tell_it() -> None:
    many = make_survey("ab", 2000)
    sides = [task.systems[0] == SYSTEMS[0] for task in tasks_of(many, "Ada").values()]
    assert 0.45 < sum(sides) / len(sides) < 0.55
    first_half = sides[: len(sides) // 2]
    assert 0.44 < sum(first_half) / len(first_half) < 0.56


def test_ids_on_the_page_tell_neither_item_nor_system() -> None:
    ids = [set(tasks_of(RATE, rater)) for rater in ("Ada", "Bo")]
    assert not ids[0] & ids[1]
    assert all(len(name) == 16 and int(name, 16) >= 0 for name in ids[0])


def test_the_state_walks_through_all_and_ends() -> None:
    acts: list[Act] = []
    seen = []
    for number in range(6):
        state = view(AB, acts, "Ada")
        assert (state["done"], state["total"], state["can_undo"]) == (number, 6, number > 0)
        task = next_task(AB, acts, "Ada")
        assert task is not None
        assert state["item"]["id"] == task.id
        assert set(state["item"]) == {"id", "prompt", "left", "right", "reference"}
        assert state["item"]["left"] == task.item.answers[task.systems[0]]
        seen.append(task.item.id)
        acts.append(preference(AB, "Ada", task.item.id, "tie" if number % 2 else "skip", f"act{number}"))
    assert sorted(seen) == sorted(AB.items)
    assert view(AB, acts, "Ada")["item"] is None
    assert view(AB, acts, "Bo")["done"] == 0


def test_a_rating_shows_each_answer_alone_and_the_scales() -> None:
    state = view(RATE, [], "Ada")
    assert state["total"] == 12
    assert set(state["item"]) == {"id", "prompt", "answer", "reference"}
    assert [scale["name"] for scale in state["scales"]] == list(SCORES)
    assert {(scale["low"], scale["high"]) for scale in state["scales"]} == {(1, 5)}


@pytest.mark.parametrize("survey", [AB, RATE], ids=["ab", "rate"])
def test_no_state_names_a_system(survey) -> None:
    acts: list[Act] = []
    for number in range(12):
        text = json.dumps(view(survey, acts, "Ada"))
        assert not any(system in text for system in SYSTEMS)
        if (task := next_task(survey, acts, "Ada")) is None:
            break
        acts.append(
            rating("Ada", task.item.id, task.system, SCORES, f"act{number}")
            if survey.kind == "rate"
            else preference(survey, "Ada", task.item.id, SYSTEMS[0], f"act{number}")
        )


def test_what_was_taken_back_comes_next_and_undo_after_undo_takes_back_the_one_before() -> None:
    acts: list[Act] = []
    order = list(tasks_of(AB, "Ada").values())
    for number in (2, 0, 1):
        acts.append(preference(AB, "Ada", order[number].item.id, SYSTEMS[0], f"act{number}"))
    # Not the first open one in order, but the one whose answer was taken back.
    for step, number in enumerate((1, 0, 2)):
        target = undo_target(acts, "Ada")
        assert target is not None
        assert target.act_id == f"act{number}"
        acts.append(undo("Ada", target, f"undo{step}"))
        task = next_task(AB, acts, "Ada")
        assert task is not None
        assert task.item.id == order[number].item.id
    assert undo_target(acts, "Ada") is None
    assert standing(acts) == {}


def test_undo_is_each_raters_own() -> None:
    acts = [
        preference(AB, "Ada", "item0000", SYSTEMS[0], "a1"),
        preference(AB, "Bo", "item0001", SYSTEMS[1], "b1"),
    ]
    target = undo_target(acts, "Ada")
    assert target is not None
    assert target.act_id == "a1"
    assert list(standing([*acts, undo("Ada", target, "u1")])) == [("Bo", "item0001", "")]


@pytest.mark.parametrize("text", ["", "  ", "x" * 41, "a\nb", "a\x00", "a\u202eb", "\ud800"])
def test_names_that_cannot_be_told_apart_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="1 to 40 printable characters") as refused:
        rater_name(text)
    assert "short name" in refused.value.hint


def test_names_are_stripped_and_no_person_passes_for_a_judge() -> None:
    assert rater_name("  Ada Lovelace ") == "Ada Lovelace"
    assert rater_name("王芳") == "王芳"
    for text in ("judge: gpt", "Judge:x"):
        with pytest.raises(UserError, match="are for judge models"):
            rater_name(text)
    assert is_judge("judge: some-model")
    assert not is_judge("Ada")
