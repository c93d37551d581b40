"""Lengths as the model's tokenizer counts them: of all rows of a small file, of a sample of a large one."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith.data.audit.facts import Reading
from tunesmith.data.audit.findings import Finding, add_pieces, general, usable_rows
from tunesmith.data.audit.tally import Tally
from tunesmith.data.conversation import Row
from tunesmith.errors import DataError, TemplateError
from tunesmith.progress import Progress

if TYPE_CHECKING:
    from tunesmith.data.render import Renderer

# A row's tokens, the scored ones of them, and the scored ones among the first `max_length`.
Measure = Callable[[Row], tuple[int, int, int]]

BINS = 24
_Z95 = 1.959964


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token lengths of the measured rows.

    Attributes:
        n: rows measured.
        is_sample: whether there are more rows.
        total: tokens of all usable rows; estimated if it is a sample.
        row: figures of whole rows; see `_figures`.
        answer: figures of the scored part.
        over_max_length: share of rows longer than `max_length`, with its 95 % interval (Wilson 1927).
    """

    n: int
    is_sample: bool
    total: int
    row: dict[str, Any]
    answer: dict[str, Any]
    over_max_length: tuple[float, float, float]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        share, low, high = self.over_max_length
        return {
            "n": self.n,
            "is_sample": self.is_sample,
            "total": self.total,
            "row": self.row,
            "answer": self.answer,
            "over_max_length": {"share": share, "low": low, "high": high},
        }


def measure_with(renderer: "Renderer", *, max_length: int) -> Measure:
    """Lengths of a row as it is rendered for training."""

    def measure(row: Row) -> tuple[int, int, int]:
        rendered = renderer.render(row)
        return len(rendered.ids), rendered.scored_tokens, sum(rendered.scored[1:max_length])

    return measure


def measure_tokens(
    counted: Tally,
    name: str,
    reading: Reading,
    measure: Measure | None,
    *,
    max_length: int,
    progress: Progress,
) -> tuple[Tokens | None, list[Finding]]:
    """Lengths, and findings estimated from a sample; of rows all measured, the tally gets exact ones."""
    if measure is None or not counted.sample:
        return None, []
    progress.begin("counting tokens", len(counted.sample))
    measured = list(_measured(counted, reading, measure, progress))
    progress.end()
    if not measured:
        return None, []
    positions, rows, answers, kept = (np.array(column) for column in zip(*measured, strict=True))
    long, lost = rows > max_length, (rows > max_length) & (kept == 0)
    usable = usable_rows(counted)
    is_sample = len(counted.sample) < len(counted.lines)
    tokens = Tokens(
        n=len(rows),
        is_sample=is_sample,
        total=round(float(rows.mean()) * usable),
        row=_figures(rows),
        answer=_figures(answers),
        over_max_length=wilson(int(long.sum()), len(rows)),
    )
    estimates = []
    for kind, which in (("too_long", long), ("answer_lost", lost)):
        if is_sample:
            share, low, high = wilson(int(which.sum()), len(rows))
            note = f"estimated from {len(rows)} rows: {share:.1%}, 95 % interval {low:.1%} to {high:.1%}"
            count = round(share * usable)
            estimates.append(general(kind, count, file=name, max_length=max_length, note=note))
        else:
            pieces = ((int(positions[at]), f"{rows[at]} tokens") for at in np.flatnonzero(which))
            add_pieces(counted, kind, pieces)
    return tokens, estimates


def wilson(hits: int, n: int) -> tuple[float, float, float]:
    """A share with its 95 % interval (Wilson 1927, equation for the score interval)."""
    share = hits / n
    middle = (share + _Z95**2 / (2 * n)) / (1 + _Z95**2 / n)
    half = _Z95 / (1 + _Z95**2 / n) * (share * (1 - share) / n + _Z95**2 / (4 * n * n)) ** 0.5
    return share, max(0.0, middle - half), min(1.0, middle + half)


def _measured(
    counted: Tally, reading: Reading, measure: Measure, progress: Progress
) -> Iterator[tuple[int, int, int, int]]:
    """Position and lengths of each sampled row that can be rendered."""
    for position, record in counted.sample:
        progress.advance()
        try:
            yield position, *measure(reading.row_of(record))
        except (DataError, TemplateError):
            continue


def _figures(lengths: Any) -> dict[str, Any]:
    """Mean, quantiles and a histogram up to the 99.5 % quantile, whose last bin takes the rest."""
    top = float(np.quantile(lengths, 0.995))
    counts, edges = np.histogram(
        np.minimum(lengths, top), bins=min(BINS, max(1, int(top))), range=(0, top or 1)
    )
    quantiles = {f"p{round(q * 100)}": float(np.quantile(lengths, q)) for q in (0.05, 0.5, 0.95, 0.99)}
    return {
        "mean": float(lengths.mean()),
        **quantiles,
        "max": int(lengths.max()),
        "histogram": {"counts": counts.tolist(), "edges": [round(float(edge), 1) for edge in edges]},
    }
