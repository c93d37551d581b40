from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.data.conversation import Message, Row
from tunesmith.data.split import (
    MAX_TEST_ROWS,
    MAX_VALIDATION_ROWS,
    overlap,
    prompt_key,
    split_rows,
    with_given,
)
from tunesmith.errors import DataError

PARTS = ("train", "validation", "test")
SIZES = st.sampled_from([0, 0.01, 0.1, 0.3, 0.49])


def row(prompt, *, line=1, answer="yes", second="", path="rows.jsonl"):
    return Row(
        (Message("user", prompt, input=second), Message("assistant", answer)), path, line, "instruction"
    )


def rows_of(group_sizes):
    return [
        row(f"prompt {at}", line=copy, answer=str(copy))
        for at, n in enumerate(group_sizes)
        for copy in range(n)
    ]


def counts(split):
    return tuple(len(getattr(split, part)) for part in PARTS)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=40), SIZES, SIZES, st.integers(0, 3))
def test_parts_are_disjoint_complete_grouped_and_leave_training_rows(
    groups, validation_size, test_size, seed
):
    rows = rows_of(groups)
    split = split_rows(rows, validation_size=validation_size, test_size=test_size, seed=seed)
    assert Counter(split.train + split.validation + split.test) == Counter(rows)
    assert split.train
    assert overlap(split.train, split.validation) == 0
    assert overlap(split.train, split.test) == 0
    assert overlap(split.validation, split.test) == 0
    assert bool(split.test) == (test_size > 0 and len(groups) > 1)
    left = len(groups) - len({prompt_key(each) for each in split.test})
    assert bool(split.validation) == (validation_size > 0 and left > 1)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=30), st.randoms())
def test_order_of_the_file_changes_no_part(groups, shuffler):
    rows = rows_of(groups)
    moved = shuffler.sample(rows, len(rows))
    split = split_rows(rows, validation_size=0.2, test_size=0.2, seed=3)
    other = split_rows(moved, validation_size=0.2, test_size=0.2, seed=3)
    for part in PARTS:
        assert Counter(getattr(split, part)) == Counter(getattr(other, part))


def test_each_part_keeps_the_order_of_the_file():
    rows = rows_of([1] * 100)
    split = split_rows(rows, validation_size=0.2, test_size=0.2, seed=0)
    for part in PARTS:
        assert list(getattr(split, part)) == [each for each in rows if each in getattr(split, part)]


def test_added_rows_move_few_others_and_none_between_validation_and_test():
    rows = rows_of([1] * 1000)
    before = split_rows(rows[:950], validation_size=40, test_size=100, seed=1)
    after = split_rows(rows, validation_size=40, test_size=100, seed=1)
    assert not set(before.test) & set(after.validation)
    assert not set(before.validation) & set(after.test)
    # A new row takes a test place with the chance 100/1000: five are expected of fifty.
    assert len(set(before.test) - set(after.test)) <= 15


def test_seed_decides():
    rows = rows_of([1] * 100)
    first, again, other = (
        split_rows(rows, validation_size=0, test_size=0.2, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_fractions_are_capped_and_counts_are_not():
    rows = rows_of([1] * 5000)
    split = split_rows(rows, validation_size=0.4, test_size=0.4, seed=0)
    assert counts(split)[1:] == (MAX_VALIDATION_ROWS, MAX_TEST_ROWS) == (64, 200)
    assert counts(split_rows(rows, validation_size=1000, test_size=3000, seed=0)) == (1000, 1000, 3000)


@pytest.mark.parametrize(
    ("number", "expected"),
    [(1, (1, 0, 0)), (2, (1, 0, 1)), (3, (1, 1, 1)), (9, (7, 1, 1)), (10, (8, 1, 1)), (25, (19, 3, 3))],
)
def test_tiny_files_give_the_test_its_row_first_and_keep_one_to_train(number, expected):
    assert counts(split_rows(rows_of([1] * number), validation_size=0.1, test_size=0.1, seed=0)) == expected


@pytest.mark.parametrize("seed", range(5))
def test_count_is_met_exactly_where_groups_add_up_to_it(seed):
    rows = rows_of([3, 1, 1, 1, 1, 3, 1, 1])
    assert counts(split_rows(rows, validation_size=0, test_size=4, seed=seed)) == (8, 0, 4)


def test_count_is_exceeded_by_the_smallest_group_where_groups_do_not_add_up():
    assert counts(split_rows(rows_of([4, 4, 5, 5]), validation_size=0, test_size=3, seed=0)) == (14, 0, 4)


def test_fraction_takes_one_large_group_rather_than_none_but_does_not_overfill():
    assert counts(split_rows(rows_of([50, 50, 50]), validation_size=0, test_size=0.1, seed=0)) == (100, 0, 50)
    assert counts(split_rows(rows_of([50] * 5), validation_size=0, test_size=0.3, seed=0)) == (200, 0, 50)


def test_rows_with_one_prompt_in_other_writing_stay_together():
    writings = ("What is  it?", "WHAT IS IT?", " what\tis\nit? ", "What is it?")
    rows = [*map(row, writings), *rows_of([1] * 6)]
    split = split_rows(rows, validation_size=0, test_size=0.4, seed=0)
    where = {
        part for part in PARTS for each in getattr(split, part) if "what" in each.prompt[0].text.casefold()
    }
    assert len(where) == 1


def test_prompt_key_sees_input_earlier_turns_and_roles():
    turns = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"), Message("assistant", "d"))
    long = Row(turns, "rows.jsonl", 1, "messages")
    keys = [
        prompt_key(row("a")),
        prompt_key(row("a", second="b")),
        prompt_key(long),
        prompt_key(row("a b c")),
        prompt_key(Row((Message("system", "a"), *turns[2:]), "rows.jsonl", 1, "messages")),
    ]
    assert len(set(keys)) == len(keys)
    assert prompt_key(row("a", second="b")) == prompt_key(row("a\n\nb"))


@given(st.text())
def test_prompt_key_ignores_case_of_ascii_and_white_space(text):
    assert prompt_key(row(f"  {text}\n")) == prompt_key(row(text))
    ascii_text = text.encode("ascii", "ignore").decode()
    assert prompt_key(row(ascii_text.upper())) == prompt_key(row(ascii_text.lower()))


def test_overlap_counts_rows_of_the_other_part():
    train = [row("one"), row("two"), row("two", answer="no")]
    other = [row("TWO"), row("two"), row("three")]
    assert overlap(train, other) == 2
    assert overlap(other, train) == 2
    assert overlap(train, train) == len(train)
    assert overlap([], other) == 0


def test_given_files_are_taken_whole_and_the_rest_is_drawn_from_the_main_file():
    rows, given_test = rows_of([1] * 20), [row("prompt 3", path="test.jsonl")]
    split = with_given(rows, validation=None, test=given_test, validation_size=0.1, test_size=0.1, seed=0)
    assert split.test == tuple(given_test)
    assert counts(split) == (18, 2, 1)
    assert set(split.train + split.validation) == set(rows)
    assert overlap(split.train + split.validation, split.test) == 1


def test_with_both_files_given_all_rows_are_trained():
    rows, other = rows_of([1] * 5), [row("else")]
    split = with_given(rows, validation=other, test=other, validation_size=9, test_size=9, seed=0)
    assert split.train == tuple(rows)
    assert split.validation == split.test == tuple(other)


def test_with_no_file_given_it_is_split_rows():
    rows = rows_of([1] * 30)
    drawn = split_rows(rows, validation_size=0.2, test_size=0.1, seed=4)
    assert with_given(rows, validation=None, test=None, validation_size=0.2, test_size=0.1, seed=4) == drawn


@pytest.mark.parametrize("size", [-0.1, 1.5, float("inf"), float("nan")])
def test_size_out_of_range(size):
    with pytest.raises(DataError, match=f"`test_size` is {size}") as caught:
        split_rows(rows_of([1] * 9), validation_size=0, test_size=size, seed=0)
    assert "whole number of rows" in caught.value.hint


@pytest.mark.parametrize(("validation_size", "test_size"), [(0.6, 0.6), (0, 9), (4, 5)])
def test_sizes_that_leave_nothing_to_train(validation_size, test_size):
    with pytest.raises(
        DataError, match=rf"`test_size` {test_size} leave none of 9 rows for training"
    ) as caught:
        split_rows(rows_of([1] * 9), validation_size=validation_size, test_size=test_size, seed=0)
    assert caught.value.hint == "make them smaller"


def test_count_that_whole_groups_cannot_reach():
    with pytest.raises(
        DataError, match="`test_size` 2 cannot be reached: 9 rows have only 1 different prompts"
    ) as caught:
        split_rows(rows_of([9]), validation_size=0, test_size=2, seed=0)
    assert "a file of its own" in caught.value.hint
