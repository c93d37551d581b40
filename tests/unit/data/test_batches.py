"""Windows, micro-batches and the length policy."""

from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.data.batches import (
    LEAST_SHARED_TOKENS,
    PASS_TOKENS,
    collate,
    cut_rows,
    dealt,
    fit_length,
    micro_batches,
    packed,
    packed_tokens,
    shared_beginning,
    windows,
)
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


def padded_tokens(groups: list[list[Rendered]]) -> int:
    return sum(len(group) * max(len(row.ids) for row in group) for group in groups)


def test_micro_batches_hold_every_row_once_longest_first() -> None:
    batches = list(micro_batches(ROWS, micro_batch_rows=4, pad_id=0))
    assert sorted(r.row.line for b in batches for r in b.rows) == [row.row.line for row in ROWS]
    lengths = [len(r.ids) for b in batches for r in b.rows]
    assert lengths == sorted(lengths, reverse=True)
    assert max(b.input_ids_BT.numel() for b in batches) <= 4 * 9


some_lengths = st.lists(st.integers(1, 40), min_size=1, max_size=30)


@given(lengths=some_lengths, micro_batch_rows=st.integers(1, 5), is_packed=st.booleans())
def test_no_batch_takes_more_than_that_many_of_the_longest_rows(
    lengths: list[int], micro_batch_rows: int, is_packed: bool
) -> None:
    rows = [rendered(length, line=line) for line, length in enumerate(lengths)]
    batches = list(micro_batches(rows, micro_batch_rows=micro_batch_rows, pad_id=0, is_packed=is_packed))
    assert max(b.input_ids_BT.numel() for b in batches) <= micro_batch_rows * max(lengths)
    assert max(len(row.ids) for row in batches[0].rows) == max(lengths)
    assert sorted(r.row.line for b in batches for r in b.rows) == list(range(len(lengths)))


@given(lengths=some_lengths, micro_batch_rows=st.integers(1, 5))
def test_the_cut_is_never_dearer_than_one_by_number_of_rows(
    lengths: list[int], micro_batch_rows: int
) -> None:
    rows = [rendered(length) for length in lengths]
    ahead = sorted(rows, key=lambda row: -len(row.ids))
    by_rows = [ahead[at : at + micro_batch_rows] for at in range(0, len(ahead), micro_batch_rows)]
    groups = cut_rows(rows, micro_batch_rows=micro_batch_rows)

    def cost(cut: list[list[Rendered]]) -> int:
        return padded_tokens(cut) + PASS_TOKENS * len(cut)

    assert cost(groups) <= cost(by_rows)


@given(lengths=st.lists(st.integers(1, 900), min_size=1, max_size=9), micro_batch_rows=st.integers(1, 4))
def test_the_cut_is_the_cheapest_of_all_cuts_of_the_sorted_rows(
    lengths: list[int], micro_batch_rows: int
) -> None:
    ahead = sorted(lengths, reverse=True)
    budget = micro_batch_rows * ahead[0]
    costs = []
    for ends in product((False, True), repeat=len(ahead) - 1):
        groups = [[ahead[0]]]
        for is_new, length in zip(ends, ahead[1:], strict=True):
            if is_new:
                groups.append([])
            groups[-1].append(length)
        takes = [len(group) * group[0] for group in groups]
        if max(takes) <= budget:
            costs.append(sum(takes) + PASS_TOKENS * len(groups))
    chosen = cut_rows([rendered(length) for length in lengths], micro_batch_rows=micro_batch_rows)
    assert padded_tokens(chosen) + PASS_TOKENS * len(chosen) == min(costs)


def test_short_rows_go_together_and_an_odd_long_one_pads_nobody() -> None:
    rows = [rendered(1000), *(rendered(90 + line % 5) for line in range(15))]
    sizes = [len(group) for group in cut_rows(rows, micro_batch_rows=4)]
    assert sizes == [1, 15]


def test_packed_rows_lie_one_after_another_without_padding() -> None:
    batch = packed([rendered(5), rendered(3), rendered(4, prompt=0)])
    assert batch.input_ids_BT.tolist() == [[1, 2, 3, 4, 5, 1, 2, 3, 1, 2, 3, 4]]
    assert batch.row_lengths == (5, 3, 4)
    assert batch.predicts_BT.int().tolist() == [[0, 1, 1, 1, 0, 0, 1, 0, 1, 1, 1, 0]]
    assert batch.input_ids_BT[:, 1:][batch.predicts_BT[:, :-1]].tolist() == [3, 4, 5, 3, 2, 3, 4]
    assert batch.scored_tokens == 7 == int(batch.predicts_BT.sum())
    assert batch.predicts_BT.dtype == torch.bool
    assert collate([rendered(5)], pad_id=0).row_lengths is None


def begun(shared: int, own: list[int], *, answer: int = 1) -> list[Rendered]:
    """Rows that begin with the same tokens, go on with others, and end with scored ones."""
    row = Row((Message("user", "q"), Message("assistant", "a")), "rows.jsonl", 1, "messages")
    return [
        Rendered(
            (*range(1, shared + 1), *range(1000 * line, 1000 * line + length)),
            (False,) * (shared + length - answer) + (True,) * answer,
            row,
        )
        for line, length in enumerate(own, start=1)
    ]


def test_what_all_rows_begin_with_lies_in_the_first_alone() -> None:
    batch = packed(begun(20, [3, 2, 4]))
    assert batch.input_ids_BT[0, 20:].tolist() == [1000, 1001, 1002, 2000, 2001, 3000, 3001, 3002, 3003]
    assert batch.row_lengths == (23, 2, 4)
    assert batch.shared_tokens == 20
    assert batch.predicts_BT[0].nonzero().flatten().tolist() == [21, 23, 27]
    assert batch.scored_tokens == 3


@given(
    shared=st.integers(0, 40),
    own=st.lists(st.integers(3, 40), min_size=2, max_size=9),
    answer=st.integers(1, 2),
)
def test_packed_rows_can_be_read_back(shared: int, own: list[int], answer: int) -> None:
    rows = begun(shared, own, answer=answer)
    batch, ids, predicts = packed(rows), [], []
    assert batch.shared_tokens in (0, shared)
    assert batch.input_ids_BT.numel() == packed_tokens(rows)
    for part, row_predicts in zip(
        batch.input_ids_BT[0].split(batch.row_lengths),
        batch.predicts_BT[0].split(batch.row_lengths),
        strict=True,
    ):
        ids.append(
            tuple(part.tolist()) if not ids else rows[0].ids[: batch.shared_tokens] + tuple(part.tolist())
        )
        predicts.append(int(row_predicts.sum()))
    assert ids == [row.ids for row in rows]
    assert predicts == [row.scored_tokens for row in rows]
    assert not batch.predicts_BT[0, : batch.shared_tokens].any()


def test_only_what_predicts_nothing_scored_is_shared() -> None:
    # The last of them predicts the first own token, which differs.
    assert shared_beginning(begun(20, [1, 4])) == 19
    assert shared_beginning(begun(20, [2, 4])) == 20
    assert shared_beginning([rendered(60, prompt=25), rendered(50, prompt=30)]) == 24
    assert shared_beginning([rendered(60, prompt=0), rendered(50, prompt=30)]) == 0


def test_few_tokens_or_a_single_row_are_not_shared() -> None:
    assert shared_beginning(begun(LEAST_SHARED_TOKENS, [3, 3])) == LEAST_SHARED_TOKENS
    assert shared_beginning(begun(LEAST_SHARED_TOKENS - 1, [3, 3])) == 0
    assert shared_beginning(begun(60, [3])) == 0
    assert shared_beginning([]) == 0


@given(
    shared=st.integers(16, 60),
    own=st.lists(st.integers(2, 50), min_size=1, max_size=30),
    micro_batch_rows=st.integers(1, 5),
    most_tokens=st.none() | st.integers(1, 200),
)
def test_rows_that_share_go_together_in_greater_numbers(
    shared: int, own: list[int], micro_batch_rows: int, most_tokens: int | None
) -> None:
    rows = begun(shared, own)
    cut = {"micro_batch_rows": micro_batch_rows, "most_tokens": most_tokens}
    batches = list(micro_batches(rows, pad_id=0, is_packed=True, **cut))
    longest = shared + max(own)
    for batch in batches:
        most = min(micro_batch_rows * longest, most_tokens or micro_batch_rows * longest)
        assert batch.input_ids_BT.numel() <= most or len(batch.rows) == 1
    assert sorted(row.ids for batch in batches for row in batch.rows) == sorted(row.ids for row in rows)
    assert len(batches) <= len(cut_rows(rows, **cut))


def test_packed_batches_are_even_where_they_can_be() -> None:
    lengths = [412, 401, 345, 320, 312, 269, 240, 145, 139, 129, 124, 64, 61, 58, 54, 24]
    rows = [rendered(length, line=line, prompt=0) for line, length in enumerate(lengths)]
    groups = cut_rows(rows, micro_batch_rows=4, most_tokens=768, is_packed=True)
    tokens = [packed_tokens(group) for group in groups]
    # As few as can be, 3,097 tokens in all, and no small one at the end.
    assert len(groups) == 5
    assert max(tokens) <= 1.05 * sum(tokens) / 5
    # Dealt out evenly, the last of these would not fit: they stay as they were filled.
    odd = [rendered(length, line=line, prompt=0) for line, length in enumerate((5, 5, 4, 3, 3))]
    filled = cut_rows(odd, micro_batch_rows=2, is_packed=True)
    assert [[len(row.ids) for row in group] for group in filled] == [[5, 5], [4, 3, 3]]


@given(lengths=some_lengths, micro_batch_rows=st.integers(1, 5), processes=st.integers(1, 4))
def test_no_process_stands_idle_while_another_has_rows_to_give(
    lengths: list[int], micro_batch_rows: int, processes: int
) -> None:
    rows = [rendered(length, line=line) for line, length in enumerate(lengths)]
    batches = list(micro_batches(rows, micro_batch_rows=micro_batch_rows, pad_id=0, processes=processes))
    assert len(batches) % processes == 0 or all(len(b.rows) == 1 for b in batches)
    assert max(b.input_ids_BT.numel() for b in batches) <= micro_batch_rows * max(lengths)
    turns = [list(dealt(batches, rank=rank, count=processes, pad_id=0)) for rank in range(processes)]
    assert len({len(turn) for turn in turns}) == 1
    seen = sorted(row.row.line for turn in turns for batch in turn for row in batch.rows)
    assert seen == list(range(len(lengths)))


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
