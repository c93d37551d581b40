"""Score against cost of a request, one point an approach, with the frontier that nothing else beats.

Drawn with matplotlib's object interface alone, in a light and a dark version; the same points give the same
bytes.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tunesmith.evaluation.curves import (
    DARK,
    LIGHT,
    SETTINGS,
    Curve,
    Palette,
    picture,
    style_axes,
    svg_text,
)

# About how large the axes and a name are, in points; only for keeping names apart.
_WIDTH, _HEIGHT, _LINE, _CHARACTER_WIDTH, _ASIDE = 590.0, 250.0, 13.0, 6.0, 8.0


@dataclass(frozen=True, slots=True)
class Point:
    """One approach.

    Attributes:
        name: as it is labelled.
        cost: of a request, from 0 up.
        score: the higher the better.
        low: lower end of the score's interval, or None.
        high: upper end, or None.
    """

    name: str
    cost: float
    score: float
    low: float | None
    high: float | None


def frontier(points: Sequence[Point]) -> list[Point]:
    """Points that no other beats: none is as good in both and better in one; by cost, each once."""
    return [
        point
        for point in sorted(points, key=lambda each: (each.cost, each.score))
        if not any(_beats(other, point) for other in points)
    ]


def _beats(other: Point, point: Point) -> bool:
    is_as_good = other.cost <= point.cost and other.score >= point.score
    return is_as_good and (other.cost < point.cost or other.score > point.score)


def draw_pareto(points: Sequence[Point], *, cost: str, score: str) -> Curve:
    """The picture in both versions, with the words that replace it.

    Args:
        points: at least one.
        cost: what the horizontal axis shows, with its unit.
        score: what the vertical axis shows, with its unit.
    """
    versions = [_svg(points, cost=cost, score=score, palette=palette) for palette in (LIGHT, DARK)]
    best = ", ".join(point.name for point in frontier(points))
    caption = (
        f"{score} over {cost}; whiskers are intervals of the score. No other approach is both as good and as "
        f"cheap as those on the line: {best}."
    )
    return picture("Score and cost", versions, caption=caption)


def _svg(points: Sequence[Point], *, cost: str, score: str, palette: Palette) -> str:
    with rc_context(SETTINGS):
        figure = Figure(figsize=(9.2, 4.4), layout="constrained")
        axes = figure.add_subplot()
        style_axes(axes, palette=palette, grid="both")
        best = frontier(points)
        axes.plot(
            [point.cost for point in best],
            [point.score for point in best],
            color=palette.validation,
            linewidth=1.6,
            linestyle=(0, (5, 3)),
            zorder=1,
        )
        for point in points:
            _draw_point(axes, point, colour=palette.validation if point in best else palette.training)
        _fit(axes, points)
        _label(axes, points, palette=palette)
        axes.set_xlabel(cost, color=palette.ink)
        axes.set_ylabel(score, color=palette.ink)
        return svg_text(figure)


def _draw_point(axes: Axes, point: Point, *, colour: str) -> None:
    if point.low is not None and point.high is not None:
        axes.vlines(point.cost, point.low, point.high, color=colour, linewidth=2, zorder=2)
    axes.plot(point.cost, point.score, "o", color=colour, markersize=8, zorder=3)


def _fit(axes: Axes, points: Sequence[Point]) -> None:
    """Cost from 0, with room for labels to the right; scores with a margin."""
    dearest = max(point.cost for point in points)
    axes.set_xlim(0, dearest * 1.25 or 1)
    ends = [
        end
        for point in points
        for end in (point.low, point.score, point.high)
        if end is not None and math.isfinite(end)
    ]
    margin = (max(ends) - min(ends)) * 0.08 or 1
    axes.set_ylim(min(ends) - margin, max(ends) + margin)


def _label(axes: Axes, points: Sequence[Point], *, palette: Palette) -> None:
    """A name beside each point, above or below it where another name already stands."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    taken: list[tuple[float, float, float]] = []  # left end, right end and height of a name, in points
    for point in sorted(points, key=lambda each: (-each.score, each.cost)):
        x = (point.cost - left) / (right - left) * _WIDTH + _ASIDE
        y = (point.score - bottom) / (top - bottom) * _HEIGHT
        end = x + _CHARACTER_WIDTH * len(point.name)
        shift = next(
            shift
            for shift in _shifts()
            if not any(x < to and start < end and abs(y + shift - at) < _LINE for start, to, at in taken)
        )
        taken.append((x, end, y + shift))
        axes.annotate(
            point.name,
            (point.cost, point.score),
            xytext=(_ASIDE, shift),
            textcoords="offset points",
            color=palette.ink,
            fontweight="bold",
            va="center",
        )


def _shifts() -> Iterator[float]:
    """How far a name may stand above its point, nearest first."""
    for step in count():
        yield from (6 - _LINE * step, 6 + _LINE * step)
