"""Laws that hold for every ready task."""

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.data.formats import to_row
from tunesmith.data.generate.tasks import TASKS
from tunesmith.data.records import Record

VARIETY = {"dates": 20_000, "sql": 20_000, "arithmetic": 20_000, "style": 3_000, "tickets": 3_000}


def test_the_tasks() -> None:
    assert set(TASKS) == set(VARIETY)
    assert all(task.name == name and task.what.endswith(".") for name, task in TASKS.items())


@pytest.mark.parametrize("name", TASKS)
def test_variety_without_a_prompt_twice(name: str) -> None:
    rows = list(TASKS[name].rows(17, VARIETY[name]))
    assert len({row["prompt"].casefold() for row in rows}) == len(rows) == VARIETY[name]
    assert all(row["completion"].strip() == row["completion"] != "" for row in rows)
    assert all(set(row) <= {"system", "prompt", "completion"} for row in rows)


@pytest.mark.parametrize("name", TASKS)
@given(seed=st.integers(0, 2**32), count=st.integers(0, 40))
def test_more_rows_continue_the_same_sequence(name: str, seed: int, count: int) -> None:
    rows = TASKS[name].rows
    assert list(rows(seed, 40))[:count] == list(rows(seed, count))


@pytest.mark.parametrize("name", TASKS)
def test_another_seed_gives_other_rows_and_all_can_be_trained_on(name: str) -> None:
    first, second = (list(islice(TASKS[name].rows(seed, 200), 200)) for seed in (1, 2))
    assert {row["prompt"] for row in first} != {row["prompt"] for row in second}
    for line, row in enumerate(first, start=1):
        turns = to_row(Record(line, dict(row)), path="made").messages
        assert turns[-1].content == row["completion"]
