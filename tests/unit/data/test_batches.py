"""Windows, micro-batches and the length policy."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.data.batches import collate, fit_length, micro_batches, windows
from tunesmith.data.conversation import Message, Row
from tunesmith.data.render import Rendered
from tunesmith.errors import DataError


def rendered(length: int, *, prompt: int = 2, line: int = 1) -> Rendered:
    """A row of `length` tokens, those after `prompt` scored."""
    row = Row((Message("user", "q"), Message("assistant", "a")), "rows.jsonl", line, "messages")
    scored = tuple(position >= prompt for position in range(length))
    return Rendered(tuple(range(1, length + 1)), scored, row)


ROWS = [rendered(3 + line % 7, line=line) for line in range(1, 24)]


def test_each_epoch_has_every_row_once_and_its_order_follows_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return [r.row.line for w in windows(ROWS, window_rows=5, seed=seed, epoch=epoch) for r in w]

    assert sorted(order(1, 0)) == [row.row.line for row in ROWS]
    assert order(1, 0) == order(1, 0)
    assert len({tuple(order(seed, epoch)) for seed in (1, 2) for epoch in (0, 1)}) == 4
    assert [len(w) for w in windows(ROWS, window_rows=5, seed=1, epoch=0)] == [5, 5, 5, 5, 3]


def test_micro_batches_hold_every_row_once_longest_first() -> None:
    batches = list(micro_batches(ROWS, micro_batch_rows=4, pad_id=0))
    assert sorted(r.row.line for b in batches for r in b.rows) == [row.row.line for row in ROWS]
    lengths = [len(r.ids) for b in batches for r in b.rows]
    assert lengths == sorted(lengths, reverse=True)
    assert max(len(b.rows) for b in batches) == 4


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    window_rows=st.integers(1, 9),
    micro_batch_rows=st.integers(1, 5),
    most_tokens=st.none() | st.integers(1, 100),
)
def test_any_split_into_windows_and_micro_batches_predicts_the_same_tokens(
    lengths: list[int], window_rows: int, micro_batch_rows: int, most_tokens: int | None
) -> None:
    given_rows = [rendered(length, prompt=length // 2, line=line) for line, length in enumerate(lengths)]
    predicted = sorted(
        (row.row.line, position)
        for window in windows(given_rows, window_rows=window_rows, seed=0, epoch=0)
        for batch in micro_batches(
            window, micro_batch_rows=micro_batch_rows, pad_id=0, most_tokens=most_tokens
        )
        for row, predicts_T in zip(batch.rows, batch.predicts_BT, strict=True)
        for position in predicts_T.nonzero().flatten().tolist()
    )
    assert predicted == [
        (row.row.line, position - 1)
        for row in given_rows
        for position in range(1, len(row.ids))
        if row.scored[position]
    ]


def test_a_token_bound_is_kept_and_a_longer_row_goes_alone() -> None:
    batches = list(micro_batches([*ROWS, rendered(50)], micro_batch_rows=8, pad_id=0, most_tokens=20))
    assert batches[0].input_ids_BT.shape == (1, 50)
    assert all(b.input_ids_BT.numel() <= 20 for b in batches[1:])
    assert sum(len(b.rows) for b in batches) == len(ROWS) + 1


def test_padding_is_on_the_right_and_never_predicted() -> None:
    batch = collate([rendered(5), rendered(3)], pad_id=9)
    assert batch.input_ids_BT.tolist() == [[1, 2, 3, 4, 5], [1, 2, 3, 9, 9]]
    assert batch.predicts_BT.tolist() == [
        [False, True, True, True, False],
        [False, True, False, False, False],
    ]
    assert batch.scored_tokens == 4 == int(batch.predicts_BT.sum())
    assert batch.input_ids_BT[:, 1:][batch.predicts_BT[:, :-1]].tolist() == [3, 4, 5, 3]
    assert batch.predicts_BT.dtype == torch.bool


def test_the_first_token_is_never_predicted_even_where_all_are_scored() -> None:
    assert collate([rendered(4, prompt=0)], pad_id=0).scored_tokens == 3


def test_rows_that_are_too_long_are_named_and_refused() -> None:
    rows = [rendered(4), *(rendered(10 + line, line=line) for line in range(1, 8))]
    with pytest.raises(DataError) as refused:
        fit_length(rows, max_length=9, overlong="refuse")
    message = str(refused.value)
    assert "7 of 8 rows are longer than `max_length`, 9 tokens" in message
    assert "rows.jsonl:1: 11 tokens" in message
    assert "and 2 more" in message
    assert "`--max-length 17` holds them all" in refused.value.hint


def test_dropping_and_truncating_are_counted() -> None:
    rows = [rendered(4, line=1), rendered(12, line=2), rendered(12, prompt=10, line=3)]
    dropped = fit_length(rows, max_length=8, overlong="drop")
    assert [row.row.line for row in dropped.rows] == [1]
    assert [row.row.line for row in dropped.dropped] == [2, 3]
    cut = fit_length(rows, max_length=8, overlong="truncate")
    assert [(row.row.line, len(row.ids), row.is_cut) for row in cut.rows] == [(1, 4, False), (2, 8, True)]
    assert [row.row.line for row in cut.dropped] == [3], "a row with nothing left to learn is dropped by name"
    assert cut.truncated == 1


def test_rows_that_fit_stay_as_they_are() -> None:
    assert fit_length(ROWS, max_length=9, overlong="refuse").rows == tuple(ROWS)
