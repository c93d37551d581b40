"""Each step is recomputed, each number has a source, and the last line is the last step."""

import re
from random import Random

import pytest

from tunesmith.data.generate.arithmetic import STORIES, rows

ROWS = list(rows(3, 20_000))
EQUATION = re.compile(r"(\d+(?: [-+*/] \d+)+) = (\d+)")
# Numbers that a reader supplies: percent, three scores, and what half, a third ... a tenth mean.
KNOWN = {100, 2, 3, 4, 5, 10}


def value_of(expression: str) -> float:
    """Left to right: enough for a chain of one kind, and for a * b / 100."""
    first, *rest = expression.split()
    total = float(first)
    for operator, number in zip(rest[::2], rest[1::2], strict=True):
        total = {
            "+": total + int(number),
            "-": total - int(number),
            "*": total * int(number),
            "/": total / int(number),
        }[operator]
    return total


def test_every_equation_holds_and_the_last_one_is_the_answer() -> None:
    for row in ROWS:
        *steps, final = row["completion"].split("\n")
        results = []
        for step in steps:
            ((expression, result),) = EQUATION.findall(step)
            assert value_of(expression) == int(result), step
            results.append(int(result))
        assert final == f"#### {results[-1]}"


def test_steps_use_only_numbers_that_are_given_or_found_and_all_that_are_given() -> None:
    for row in ROWS:
        given = {int(number) for number in re.findall(r"\d+", row["prompt"])}
        known, used = given | KNOWN, set[int]()
        for expression, result in EQUATION.findall(row["completion"]):
            numbers = {int(number) for number in re.findall(r"\d+", expression)}
            assert numbers <= known, row
            used |= numbers
            known.add(int(result))
        assert given <= used, row


def test_all_numbers_are_more_than_one_so_that_plurals_are_right() -> None:
    for row in ROWS:
        assert min(int(number) for number in re.findall(r"\d+", row["completion"])) > 1, row


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_the_wordings_of_a_story_hold_the_same_numbers(story) -> None:
    for seed in range(50):
        problem = story(Random(seed))  # noqa: S311
        numbers = [sorted(re.findall(r"\d+", wording)) for wording in problem.wordings]
        assert len(numbers) >= 2
        assert all(found == numbers[0] for found in numbers)
        assert len(set(problem.wordings)) == len(problem.wordings)


def test_every_story_asks_a_question_and_all_are_told() -> None:
    assert all(row["prompt"].endswith("?") for row in ROWS)
    assert len({re.sub(r"\d+|[A-Z]\w+", "", row["completion"].split("\n")[0]) for row in ROWS}) >= len(
        STORIES
    )
