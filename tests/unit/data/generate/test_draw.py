"""Distinct prompts, one sequence for a seed, and an honest end of variety."""

from random import Random

import pytest

from tunesmith.data.generate.draw import distinct
from tunesmith.errors import DataError


def letter(random: Random) -> dict[str, str]:
    return {"prompt": random.choice("abcABC"), "completion": "x"}


def number(random: Random) -> dict[str, str]:
    return {"prompt": str(random.randrange(1_000)), "completion": "x"}


def test_prompts_differ_beyond_case() -> None:
    made = [row["prompt"].casefold() for row in distinct(letter, task="letters", seed=1, count=3)]
    assert sorted(made) == ["a", "b", "c"]


@pytest.mark.parametrize("seed", range(5))
def test_more_rows_continue_the_sequence(seed: int) -> None:
    long = list(distinct(number, task="numbers", seed=seed, count=900))
    for count in (0, 1, 17, 899):
        assert list(distinct(number, task="numbers", seed=seed, count=count)) == long[:count]


def test_used_up_variety_says_how_much_there_is() -> None:
    with pytest.raises(DataError) as raised:
        list(distinct(number, task="numbers", seed=1, count=2_000))
    assert str(raised.value) == (
        "task `numbers` can make 1,000 different prompts with this seed, and 2,000 rows are asked for"
    )
    assert raised.value.hint == ("ask for `--rows 1000`, or give the task more fields, choices or templates")
