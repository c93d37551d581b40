"""The largest micro-batch that a run will meet, from its rows alone."""

from collections.abc import Iterator, Sequence
from math import ceil

from tunesmith.config import TrainingConfig
from tunesmith.data.batches import windows
from tunesmith.data.render import Rendered


def largest_batch(rows: Sequence[Rendered], *, settings: TrainingConfig) -> tuple[int, int, int]:
    """Rows, padded length and scored tokens of the micro-batch with the most padded tokens.

    Among equals the one with the most scored tokens counts. Every epoch deals the rows anew, so all
    windows of the run are looked at; how rows are then cut into micro-batches is the loop's way.

    Args:
        rows: training rows, at least one.
        settings: size of micro-batch and window, seed, epochs or steps.
    """
    found = (_size(batch) for window in _windows(rows, settings) for batch in _batches(window, settings))
    return max(found, key=lambda size: (size[0] * size[1], size[2], size))


def _windows(rows: Sequence[Rendered], settings: TrainingConfig) -> Iterator[list[Rendered]]:
    window_rows = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
    steps_per_epoch = ceil(len(rows) / window_rows)
    steps = settings.max_steps or ceil(settings.num_train_epochs * steps_per_epoch)
    for epoch in range(ceil(steps / steps_per_epoch)):
        dealt = windows(rows, window_rows=window_rows, seed=settings.seed, epoch=epoch)
        yield from dealt[: steps - epoch * steps_per_epoch]


def _batches(window: list[Rendered], settings: TrainingConfig) -> Iterator[list[Rendered]]:
    """As `micro_batches` cuts a window, without making tensors of it."""
    longest_first = sorted(window, key=lambda row: -len(row.ids))
    size = settings.per_device_train_batch_size
    return (longest_first[at : at + size] for at in range(0, len(longest_first), size))


def _size(batch: list[Rendered]) -> tuple[int, int, int]:
    return len(batch), len(batch[0].ids), sum(row.scored_tokens for row in batch)
