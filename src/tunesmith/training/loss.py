"""Token-exact loss: every scored token of a window counts the same, however the window is cut.

Averages of averages weigh a short answer's token more than a long one's, and change with the
micro-batch size. Here the sum of token losses is divided once by the tokens of the whole window.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tunesmith.data.batches import Batch, dealt, micro_batches
from tunesmith.data.render import Rendered
from tunesmith.models.forward import loss_sum, token_losses
from tunesmith.models.load import LoadedModel
from tunesmith.models.packing import is_packing
from tunesmith.training.ranks import ALONE, Ranks

# Without gradients more tokens at once are not faster, and take more memory.
LOSS_BATCH_TOKENS = 2048


def batch_loss_sum(model: nn.Module, batch: Batch, device: torch.device) -> Tensor:
    """Sum in nats over the scored tokens of one micro-batch, a scalar with gradient."""
    return loss_sum(
        model,
        batch.input_ids_BT.to(device),
        batch.predicts_BT.to(device),
        row_lengths=batch.row_lengths,
        shared_tokens=batch.shared_tokens,
    )


def row_losses(
    model: nn.Module,
    rows: Sequence[Rendered],
    *,
    batch_rows: int,
    pad_id: int,
    device: torch.device,
    on_rows: Callable[[int], None] = lambda rows: None,
    ranks: Ranks = ALONE,
) -> NDArray[np.float64]:
    """Per row the summed loss in nats and the scored tokens: shape (rows, 2), in the rows' order.

    Its column sums give the corpus loss; nothing but these two numbers a row is kept. Given several
    processes, the batches are dealt out to them and each process gets all rows' numbers.
    """
    place = {id(row): index for index, row in enumerate(rows)}
    statistics = np.zeros((len(rows), 2))
    batches = micro_batches(
        rows,
        micro_batch_rows=batch_rows,
        pad_id=pad_id,
        most_tokens=LOSS_BATCH_TOKENS,
        is_packed=is_packing(model),
    )
    model.eval()
    with torch.no_grad():
        for batch in dealt(batches, rank=ranks.rank, count=ranks.count, pad_id=pad_id):
            sums_B = _row_sums(model, batch, device)
            for row, nats in zip(batch.rows, sums_B.tolist(), strict=True):
                statistics[place[id(row)]] = nats, row.scored_tokens
            on_rows(len(batch.rows))
    return ranks.sum(statistics)


def _row_sums(model: nn.Module, batch: Batch, device: torch.device) -> Tensor:
    """Nats of each row of a batch, shape (B,), float64."""
    predicts_BT = batch.predicts_BT.to(device)
    losses_N = token_losses(
        model,
        batch.input_ids_BT.to(device),
        predicts_BT,
        row_lengths=batch.row_lengths,
        shared_tokens=batch.shared_tokens,
    ).double()
    row_of_N, place_of_N = predicts_BT.nonzero().unbind(1)
    if batch.row_lengths is not None:
        ends_B = torch.tensor(batch.row_lengths, device=device).cumsum(0)
        row_of_N = torch.searchsorted(ends_B, place_of_N, right=True)
    return torch.zeros(len(batch.rows), dtype=torch.float64, device=device).index_add_(0, row_of_N, losses_N)


def mean_loss(statistics: NDArray[np.float64]) -> float:
    """Nats per scored token over all rows of `row_losses`."""
    nats, tokens = statistics.sum(axis=0)
    return float(nats / tokens)


def held_out_losses(
    loaded: LoadedModel, rows: Sequence[Rendered], batch_rows: int, on_rows: Callable[[int], None]
) -> NDArray[np.float64]:
    """`row_losses` of a loaded model, where it stands."""
    return row_losses(
        loaded.model,
        rows,
        batch_rows=batch_rows,
        pad_id=loaded.pad_id,
        device=loaded.model.device,
        on_rows=on_rows,
    )
