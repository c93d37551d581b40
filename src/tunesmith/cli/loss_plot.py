"""A loss curve in a terminal: braille dots, validations as rings, and bars below the steps of evidence."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tunesmith.doctor.signs import Curve, Signs
    from tunesmith.evaluation.findings import Mark

HEIGHT = 9
WIDEST = 100
NARROWEST = 24
_LABEL = 9  # figures of the axis, and a blank
# Bits of a braille cell by row and column of its 2 x 4 dots (Unicode block 2800).
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_RING, _ODD = "o", "x"
# Losses above this share of the rest, such as the first of a run, would press the rest flat.
_KEPT_SHARE = 0.98


def loss_plot(signs: "Signs", marks: Sequence["Mark"], *, width: int) -> list[str]:
    """Lines to print; none where no finite loss was logged.

    Args:
        signs: with the curves `loss` and `eval_loss`.
        marks: stretches of evidence, shown below the axis on lines of their own.
        width: of the terminal, in characters.
    """
    training, validation = signs.loss.finite, signs.validation.finite
    if not len(training) and not len(validation):
        return []
    columns = max(NARROWEST, min(WIDEST, width) - _LABEL)
    both = np.concatenate([training.values, validation.values])
    low, high = float(both.min()), float(np.quantile(both, _KEPT_SHARE, method="higher"))
    first = min(float(curve.steps[0]) for curve in (training, validation) if len(curve))
    frame = _Frame(first, max(signs.last_step, first + 1), low, max(high, low + 1e-9), columns)
    cells = frame.dots(training)
    for step, value in zip(validation.steps, validation.values, strict=True):
        cells[frame.row(value) // 4][frame.column(step) // 2] = _RING
    for curve in (signs.loss, signs.validation):
        for step in curve.steps[~np.isfinite(curve.values)]:
            cells[0][frame.column(step) // 2] = _ODD
    return [*_drawn(cells, frame), *_mark_lines(marks, frame), _legend(signs)]


class _Frame:
    """Where steps and losses stand in a picture of `columns` characters.

    Args:
        first: step at the left edge.
        last: step at the right edge.
        low: loss at the bottom.
        high: loss at the top; what is above is drawn there.
        columns: characters across.
    """

    def __init__(self, first: float, last: float, low: float, high: float, columns: int) -> None:
        self.first, self.last, self.low, self.high, self.columns = first, last, low, high, columns

    def column(self, step: float) -> int:
        """Dot column, two to a character."""
        share = (step - self.first) / (self.last - self.first)
        return round(min(1.0, max(0.0, share)) * (2 * self.columns - 1))

    def row(self, value: float) -> int:
        """Dot row from the top, four to a character."""
        share = (value - self.low) / (self.high - self.low)
        return round((1 - min(1.0, max(0.0, share))) * (4 * HEIGHT - 1))

    def dots(self, curve: "Curve") -> list[list[str]]:
        """The curve as braille: in each dot column all of its values, and a line where it has none."""
        bits = [[0] * self.columns for _ in range(HEIGHT)]
        rows: dict[int, list[int]] = {}
        for step, value in zip(curve.steps, curve.values, strict=True):
            rows.setdefault(self.column(step), []).append(self.row(value))
        known = sorted(rows)
        levels = [float(np.mean(rows[column])) for column in known]
        before: int | None = None
        for column in range(known[0], known[-1] + 1) if known else ():
            here = rows.get(column) or [round(float(np.interp(column, known, levels)))]
            top, bottom = min(here), max(here)
            if before is not None:
                top, bottom = min(top, before), max(bottom, before)
            for row in range(top, bottom + 1):
                bits[row // 4][column // 2] |= _DOTS[row % 4][column % 2]
            before = here[-1]
        return [[chr(0x2800 + cell) if cell else " " for cell in line] for line in bits]


def _drawn(cells: Sequence[Sequence[str]], frame: _Frame) -> Iterator[str]:
    for number, line in enumerate(cells):
        middle = (frame.high + frame.low) / 2
        label = {0: frame.high, HEIGHT // 2: middle, HEIGHT - 1: frame.low}.get(number)
        yield f"{'' if label is None else f'{label:.4g}':>{_LABEL - 2}} │{''.join(line)}".rstrip()
    left, right = f"{frame.first:g}", f"{frame.last:g}"
    yield f"{'':>{_LABEL - 2}} └{'─' * frame.columns}"
    yield f"{'step':>{_LABEL - 2}}  {left}{right:>{max(1, frame.columns - len(left))}}"


def _mark_lines(marks: Sequence["Mark"], frame: _Frame) -> Iterator[str]:
    """A line for each mark: a bar below its steps, with its number at the left."""
    for mark in marks:
        start, end = (frame.column(step) // 2 for step in (mark.first_step, mark.last_step))
        bar = "▔" * (end - start + 1)
        yield f"{f'[{mark.number}]':>{_LABEL - 2}}  {' ' * start}{bar}"


def _legend(signs: "Signs") -> str:
    parts = ["loss, nats/token"]
    if len(signs.loss):
        parts.append("⠒ training")
    if len(signs.validation):
        parts.append(f"{_RING} validation")
    if not all(math.isfinite(value) for curve in (signs.loss, signs.validation) for value in curve.values):
        parts.append(f"{_ODD} not finite")
    return f"{'':>{_LABEL}}{'   '.join(parts)}"
