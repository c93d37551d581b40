"""The largest micro-batch that a run will meet, from its rows alone."""

from collections.abc import Iterator, Sequence
from math import ceil

from tunesmith.config import TrainingConfig
from tunesmith.data.batches import cut_rows, packed_tokens, windows
from tunesmith.data.render import Rendered


def largest_batch(
    rows: Sequence[Rendered],
    *,
    settings: TrainingConfig,
    most_tokens: int | None = None,
    is_packed: bool = False,
) -> tuple[int, int, int]:
    """Rows and length of the micro-batch with the most tokens, and the most tokens scored in any.

    Every epoch deals the rows anew, so all windows of the run are looked at, cut as the loop cuts them.
    Packed rows are given their mean length, rounded up.

    Args:
        rows: training rows, at least one.
        settings: size of micro-batch and window, seed, epochs or steps.
        most_tokens: tokens in one batch at most, padding counted; a longer row is one of its own.
        is_packed: whether the rows of a batch lie one after another, without padding.
    """
    found = [
        _size(group, is_packed=is_packed)
        for window in _windows(rows, settings)
        for group in cut_rows(
            window,
            micro_batch_rows=settings.per_device_train_batch_size,
            most_tokens=most_tokens,
            is_packed=is_packed,
        )
    ]
    count, length, _ = max(found, key=lambda size: (size[0] * size[1], size))
    return count, length, max(scored for _, _, scored in found)


def _windows(rows: Sequence[Rendered], settings: TrainingConfig) -> Iterator[list[Rendered]]:
    window_rows = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
    steps_per_epoch = ceil(len(rows) / window_rows)
    steps = settings.max_steps or ceil(settings.num_train_epochs * steps_per_epoch)
    for epoch in range(ceil(steps / steps_per_epoch)):
        dealt = windows(rows, window_rows=window_rows, seed=settings.seed, epoch=epoch)
        yield from dealt[: steps - epoch * steps_per_epoch]


def _size(group: list[Rendered], *, is_packed: bool) -> tuple[int, int, int]:
    length = ceil(packed_tokens(group) / len(group)) if is_packed else max(len(row.ids) for row in group)
    return len(group), length, sum(row.scored_tokens for row in group)
