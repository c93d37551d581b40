"""From rendered rows to tensors: length policy, order, windows and micro-batches.

A window is what one optimizer step sees. Its rows are a function of (seed, epoch, position) alone, so
the split into micro-batches never changes what is learned and a run can be continued anywhere.
Shapes: B rows, T tokens; packed, B is 1 and T the tokens of all rows.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from itertools import accumulate, islice, takewhile

import numpy as np
import torch
from torch import Tensor

from tunesmith.data.render import Rendered
from tunesmith.errors import DataError

NAMED_ROWS = 5
# What one more pass costs, in tokens. Measured on a CPU: 36. A GPU waits longer for its kernels to start;
# with this number either is within a tenth of its best cut.
PASS_TOKENS = 128
# A CPU gains little from larger micro-batches, and their memory is new to it. Measured on two threads with 16
# rows of 64 to 412 tokens, cut evenly: three micro-batches of 1,030 tokens are 2 to 5 % faster than four of
# 770, two of 1,550 another 3 %, with a peak of 4.2 GB for 3.6 (SmolLM2-135M, LoRA).
CPU_TOKENS = 1700
# Shared tokens cost each layer one more call of attention, so a few save nothing. Estimated, not measured.
LEAST_SHARED_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one forward pass, padded on the right or laid one after another.

    Attributes:
        input_ids_BT: token ids.
        predicts_BT: True at position t where token t + 1 of the row is scored.
        rows: the rendered rows, in the tensors' order.
        row_lengths: tokens of each row where they are packed; None where they are padded.
        shared_tokens: tokens all packed rows begin with; they lie in the first row and count there only.
    """

    input_ids_BT: Tensor
    predicts_BT: Tensor
    rows: tuple[Rendered, ...]
    row_lengths: tuple[int, ...] | None = None
    shared_tokens: int = 0

    @property
    def scored_tokens(self) -> int:
        """Tokens the loss counts; the first token of a row is never predicted."""
        return sum(row.scored_tokens for row in self.rows)


@dataclass(frozen=True, slots=True)
class Fitted:
    """Rows that fit, and what became of those that did not."""

    rows: tuple[Rendered, ...]
    dropped: tuple[Rendered, ...]
    truncated: int


def fit_length(rows: Sequence[Rendered], *, max_length: int, overlong: str) -> Fitted:
    """Apply the policy for rows longer than `max_length` tokens.

    Args:
        rows: rendered rows of one split.
        max_length: longest allowed row in tokens.
        overlong: `refuse`, `drop` or `truncate`: cut at the end, and dropped if no scored token is left.

    Raises:
        DataError: under `refuse`, if any row is too long; names the rows and the length that holds them all.
    """
    long = [row for row in rows if len(row.ids) > max_length]
    if long and overlong == "refuse":
        raise DataError(_overlong_message(long, len(rows), max_length), hint=_overlong_hint(long))
    kept: list[Rendered] = []
    dropped: list[Rendered] = []
    for row in rows:
        short = row if len(row.ids) <= max_length else _cut(row, max_length)
        is_lost = short.is_cut and (overlong == "drop" or not short.scored_tokens)
        (dropped if is_lost else kept).append(row if is_lost else short)
    return Fitted(tuple(kept), tuple(dropped), sum(row.is_cut for row in kept))


def _cut(row: Rendered, max_length: int) -> Rendered:
    return replace(row, ids=row.ids[:max_length], scored=row.scored[:max_length], is_cut=True)


def _overlong_message(long: Sequence[Rendered], total: int, max_length: int) -> str:
    named = "\n".join(f"  {row.row.place}: {len(row.ids)} tokens" for row in long[:NAMED_ROWS])
    more = f"\n  and {len(long) - NAMED_ROWS} more" if len(long) > NAMED_ROWS else ""
    return f"{len(long)} of {total} rows are longer than `max_length`, {max_length} tokens:\n{named}{more}"


def _overlong_hint(long: Sequence[Rendered]) -> str:
    longest = max(len(row.ids) for row in long)
    return f"`--max-length {longest}` holds them all; or choose `--overlong drop` or `--overlong truncate`"


def collate(rows: Sequence[Rendered], *, pad_id: int) -> Batch:
    """Right-padded tensors of `rows`."""
    longest = max(len(row.ids) for row in rows)
    input_ids_BT = torch.full((len(rows), longest), pad_id, dtype=torch.long)
    predicts_BT = torch.zeros((len(rows), longest), dtype=torch.bool)
    for index, row in enumerate(rows):
        length = len(row.ids)
        input_ids_BT[index, :length] = torch.tensor(row.ids)
        predicts_BT[index, : length - 1] = torch.tensor(row.scored[1:])
    return Batch(input_ids_BT, predicts_BT, tuple(rows))


def packed(rows: Sequence[Rendered]) -> Batch:
    """`rows` one after another, shape (1, T); the last token of a row predicts nothing.

    What all of them begin with, `shared_beginning`, lies in the first row alone.
    """
    shared = shared_beginning(rows)
    begins = [0] + [shared] * (len(rows) - 1)
    parts = [(row.ids[at:], (*row.scored[at + 1 :], False)) for row, at in zip(rows, begins, strict=True)]
    return Batch(
        torch.tensor([[token_id for ids, _ in parts for token_id in ids]]),
        torch.tensor([[is_scored for _, predicts in parts for is_scored in predicts]]),
        tuple(rows),
        tuple(len(ids) for ids, _ in parts),
        shared,
    )


def packed_tokens(rows: Sequence[Rendered]) -> int:
    """Tokens of `packed`."""
    return sum(len(row.ids) for row in rows) - shared_beginning(rows) * (len(rows) - 1)


def shared_beginning(rows: Sequence[Rendered]) -> int:
    """Tokens that all rows begin with and that predict nothing scored; 0 where they are not worth it.

    Under causal attention their states are the same in every row, so they are computed once in a batch.
    """
    if len(rows) < 2:
        return 0
    ids = [row.ids for row in rows]
    # What the first and the last in order share, all share.
    pairs = zip(min(ids), max(ids), strict=False)
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    shared = min(same, *(_first_scored(row) - 1 for row in rows))
    return shared if shared >= LEAST_SHARED_TOKENS else 0


def _first_scored(row: Rendered) -> int:
    """Place of the first token that the loss counts, or of the last one."""
    return row.scored.index(True, 1) if any(row.scored[1:]) else len(row.ids) - 1


def most_tokens_on(device: str) -> int | None:
    """Tokens that one micro-batch should hold at most while training; None where more are faster."""
    return CPU_TOKENS if device == "cpu" else None


def windows(rows: Sequence[Rendered], *, window_rows: int, seed: int, epoch: int) -> list[list[Rendered]]:
    """The steps of one epoch: every row once, in an order decided by (seed, epoch); the last may be short."""
    order = np.random.default_rng([seed, epoch]).permutation(len(rows))
    return [[rows[i] for i in order[at : at + window_rows]] for at in range(0, len(rows), window_rows)]


def micro_batches(
    rows: Sequence[Rendered],
    *,
    micro_batch_rows: int,
    pad_id: int,
    most_tokens: int | None = None,
    is_packed: bool = False,
    processes: int = 1,
) -> Iterator[Batch]:
    """Batches of rows, the longest rows first, so that memory peaks at once.

    See `cut_rows` for the arguments and for how the rows are cut.

    Args:
        rows: rows in any order.
        micro_batch_rows: rows as long as the longest that one batch holds.
        pad_id: fills short rows.
        most_tokens: tokens in one batch, at most.
        is_packed: lay rows one after another; for a model that takes packed rows.
        processes: among which the batches are dealt.
    """
    groups = cut_rows(
        rows,
        micro_batch_rows=micro_batch_rows,
        most_tokens=most_tokens,
        is_packed=is_packed,
        processes=processes,
    )
    return (packed(group) if is_packed else collate(group, pad_id=pad_id) for group in groups)


def cut_rows(
    rows: Sequence[Rendered],
    *,
    micro_batch_rows: int,
    most_tokens: int | None = None,
    is_packed: bool = False,
    processes: int = 1,
) -> list[list[Rendered]]:
    """The rows of each micro-batch, longest first.

    A batch holds as many tokens as `micro_batch_rows` rows of the longest length would, so short rows go
    together in greater numbers and none takes more memory than the longest rows do. Among all cuts of the
    sorted rows into padded batches it is the one that takes the fewest tokens, padding counted and a pass
    as `PASS_TOKENS` more.

    Args:
        rows: rows in any order.
        micro_batch_rows: rows as long as the longest that one batch holds.
        most_tokens: tokens in one batch, padding counted, at most; a longer row is a batch of its own.
        is_packed: whether batches have no padding, and what all rows begin with counts once in each.
        processes: padded batches are as many as fill whole turns among so many, as far as the rows allow it.
    """
    ahead = sorted(rows, key=lambda row: -len(row.ids))
    lengths = [len(row.ids) for row in ahead]
    budget = micro_batch_rows * max(lengths, default=0)
    budget = budget if most_tokens is None else min(budget, most_tokens)
    if is_packed:
        shared = shared_beginning(ahead)
        groups = _filled(ahead, budget, shared)
        return _levelled(ahead, budget, shared, count=len(groups)) or groups
    sizes = _in_whole_turns(_least_padded(lengths, budget), processes)
    starts = accumulate(sizes, initial=0)
    return [ahead[start : start + size] for start, size in zip(starts, sizes, strict=False)]


def _filled(ahead: Sequence[Rendered], budget: int, shared: int) -> list[list[Rendered]]:
    """Batches without padding, so rows of any lengths go together: each where it leaves the least room."""
    groups: list[list[Rendered]] = []
    # Room in each batch and its place in `groups`, least room first.
    rooms: list[tuple[int, int]] = []
    for row in ahead:
        own = len(row.ids) - shared
        tightest = bisect_left(rooms, (own, 0))
        if tightest == len(rooms):
            insort(rooms, (budget - len(row.ids), len(groups)))
            groups.append([row])
        else:
            room, at = rooms.pop(tightest)
            insort(rooms, (room - own, at))
            groups[at].append(row)
    return groups


def _levelled(
    ahead: Sequence[Rendered], budget: int, shared: int, *, count: int
) -> list[list[Rendered]] | None:
    """So many batches of about equal tokens; None if one of them would be too full.

    What a batch costs beside its tokens it costs for few of them too, and the fullest needs the most memory.
    """
    level: list[list[Rendered]] = [[] for _ in range(count)]
    filled = [(0, at) for at in range(count)]
    for row in ahead:
        tokens, at = heappop(filled)
        heappush(filled, (tokens + len(row.ids) - (shared if tokens else 0), at))
        level[at].append(row)
    return level if max(filled, default=(0, 0))[0] <= budget else None


def _least_padded(lengths: Sequence[int], budget: int) -> list[int]:
    """Rows in each padded batch of the cheapest cut.

    From the shortest row up: the best cut of the rows from each one on follows from those behind it.
    """
    # For the rows from `start` on: the cost in tokens, and the rows in the first batch.
    best = [(0, 0)] * (len(lengths) + 1)
    for start in reversed(range(len(lengths))):
        most = min(max(1, budget // lengths[start]), len(lengths) - start)
        best[start] = min(
            (best[start + size][0] + size * lengths[start] + PASS_TOKENS, size) for size in range(1, most + 1)
        )
    sizes: list[int] = []
    start = 0
    while start < len(lengths):
        sizes.append(best[start][1])
        start += sizes[-1]
    return sizes


def _in_whole_turns(sizes: list[int], processes: int) -> list[int]:
    """Halve the batch with the most rows until no process would stand idle."""
    while len(sizes) % processes and (most := max(sizes)) > 1:
        at = sizes.index(most)
        sizes = [*sizes[:at], most - most // 2, most // 2, *sizes[at + 1 :]]
    return sizes


def dealt(batches: Iterable[Batch], *, rank: int, count: int, pad_id: int) -> Iterator[Batch]:
    """The batches of process `rank` among `count`, dealt in turn so that their lengths are alike.

    Every process gets the same number; one that would run short gets a batch that scores nothing, since
    all of them must pass through the model together.
    """
    nothing = Batch(torch.full((1, 1), pad_id), torch.zeros((1, 1), dtype=torch.bool), ())
    ahead = iter(batches)
    while turn := list(islice(ahead, count)):
        yield turn[rank] if rank < len(turn) else nothing
