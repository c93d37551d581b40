"""From rendered rows to tensors: length policy, order, windows and micro-batches.

A window is what one optimizer step sees. Its rows are a function of (seed, epoch, position) alone, so
the split into micro-batches never changes what is learned and a run can be continued anywhere.
Shapes: B rows, T tokens.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from tunesmith.data.render import Rendered
from tunesmith.errors import DataError

NAMED_ROWS = 5


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one forward pass, padded on the right.

    Attributes:
        input_ids_BT: token ids.
        predicts_BT: True at position t where token t + 1 of the row is scored.
        rows: the rendered rows, in the tensors' order.
    """

    input_ids_BT: Tensor
    predicts_BT: Tensor
    rows: tuple[Rendered, ...]

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


def windows(rows: Sequence[Rendered], *, window_rows: int, seed: int, epoch: int) -> list[list[Rendered]]:
    """The steps of one epoch: every row once, in an order decided by (seed, epoch); the last may be short."""
    order = np.random.default_rng([seed, epoch]).permutation(len(rows))
    return [[rows[i] for i in order[at : at + window_rows]] for at in range(0, len(rows), window_rows)]


def micro_batches(
    rows: Sequence[Rendered], *, micro_batch_rows: int, pad_id: int, most_tokens: int | None = None
) -> Iterator[Batch]:
    """Batches of rows of similar length, longest first, so that little is padded and memory peaks at once.

    Args:
        rows: rows in any order.
        micro_batch_rows: rows in one batch, at most.
        pad_id: fills short rows.
        most_tokens: padded tokens in one batch, at most; a longer row is a batch of its own.
    """
    ahead = sorted(rows, key=lambda row: -len(row.ids))
    while ahead:
        fitting = micro_batch_rows if most_tokens is None else most_tokens // len(ahead[0].ids)
        count = max(1, min(micro_batch_rows, fitting))
        yield collate(ahead[:count], pad_id=pad_id)
        ahead = ahead[count:]


def dealt(batches: Iterable[Batch], *, rank: int, count: int, pad_id: int) -> Iterator[Batch]:
    """The batches of process `rank` among `count`, dealt in turn so that their lengths are alike.

    Every process gets the same number; one that would run short gets a batch that scores nothing, since
    all of them must pass through the model together.
    """
    nothing = Batch(torch.full((1, 1), pad_id), torch.zeros((1, 1), dtype=torch.bool), ())
    ahead = iter(batches)
    while turn := list(islice(ahead, count)):
        yield turn[rank] if rank < len(turn) else nothing
