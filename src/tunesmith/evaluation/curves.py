"""Training curves as SVG text: loss, learning rate and gradient norm over optimizer steps.

Drawn with matplotlib's object interface alone, so no global state changes and the same metrics give the
same bytes. Each curve exists in a light and a dark version.
"""

import math
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import cycle
from typing import Any, Literal

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tunesmith.evaluation.findings import Mark

Points = list[tuple[float, float]]

MOST_POINTS = 400
SETTINGS: Any = {"svg.fonttype": "none", "svg.hashsalt": "tunesmith", "font.size": 9.5}
_SETTINGS: Any = SETTINGS | {"axes.formatter.limits": (-3, 4)}
# Told apart by people with any colour vision, on light and dark paper (Okabe and Ito 2008).
_RUN_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00")
_FONT_LIST = re.compile(r"(font-family: )[^;\"]+")


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours of one version of the curves."""

    ink: str
    grid: str
    training: str
    validation: str
    paper: str
    mark: str


LIGHT = Palette(
    ink="#5d6470",
    grid="#e4e6ea",
    training="#9aa3b2",
    validation="#2f55c8",
    paper="#ffffff",
    mark="#a8321f",
)
DARK = Palette(
    ink="#9ba3b0",
    grid="#2c313a",
    training="#78818f",
    validation="#8fb0ff",
    paper="#181b20",
    mark="#ff9f8a",
)


@dataclass(frozen=True, slots=True)
class Curve:
    """One picture in both versions as `data:` addresses, with the words that replace it."""

    title: str
    light: str
    dark: str
    caption: str


def series(metrics: Sequence[Mapping[str, Any]], *, key: str) -> Points:
    """(step, value) of every line that holds a finite `key`."""
    return [
        (float(line["step"]), float(line[key]))
        for line in metrics
        if _is_finite(line.get("step")) and _is_finite(line.get(key))
    ]


def thin(points: Points, *, most: int = MOST_POINTS) -> Points:
    """At most `most` points, each the mean of its neighbours; the same points where they are few."""
    size = math.ceil(len(points) / most)
    if size <= 1:
        return points
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(_mean([step for step, _ in group]), _mean([value for _, value in group])) for group in groups]


def best_point(points: Points) -> tuple[float, float] | None:
    """Step and value of the lowest validation loss, the earliest of equals."""
    return min(points, key=lambda point: (point[1], point[0]), default=None)


def draw_curves(metrics: Sequence[Mapping[str, Any]], marks: Sequence[Mark] = ()) -> list[Curve]:
    """The pictures these metrics allow: the loss first, then learning rate and gradient norm.

    Args:
        metrics: lines with `step` and figures.
        marks: stretches to shade and number, each on the picture of its curve.
    """
    training, validation = series(metrics, key="loss"), series(metrics, key="eval_loss")
    curves = []
    if training or validation:
        marked = [mark for mark in marks if mark.curve in ("loss", "eval_loss")]
        versions = [_loss_svg(training, validation, marked, palette=palette) for palette in (LIGHT, DARK)]
        caption = _loss_caption(training, validation) + _marks_text(marked)
        curves.append(picture("Loss", versions, caption=caption))
    for key, title in (("learning_rate", "Learning rate"), ("grad_norm", "Gradient norm")):
        points = series(metrics, key=key)
        if points:
            marked = [mark for mark in marks if mark.curve == key]
            versions = [_small_svg(points, marked, palette=palette) for palette in (LIGHT, DARK)]
            curves.append(picture(title, versions, caption=_small_caption(points) + _marks_text(marked)))
    return curves


def draw_validations(points: Mapping[str, Points]) -> Curve:
    """The validation losses of several runs in one picture, each line named at its end."""
    versions = [_validations_svg(points, palette=palette) for palette in (LIGHT, DARK)]
    lowest = ", ".join(f"{name} {best[1]:.3f}" for name, line in points.items() if (best := best_point(line)))
    return picture(
        "Validation loss", versions, caption=f"Validation loss in nats/token over steps. Lowest: {lowest}."
    )


def _validations_svg(points: Mapping[str, Points], *, palette: Palette) -> str:
    with rc_context(_SETTINGS):
        figure = Figure(figsize=(9.2, 3.8), layout="constrained")
        axes = figure.add_subplot()
        _style(axes, palette=palette)
        for colour, (name, line) in zip(cycle(_RUN_COLOURS), points.items(), strict=False):
            _line(axes, line, colour=colour, label=name, width=2.0, marker="o")
        axes.set_ylabel("validation loss, nats/token", color=palette.ink)
        axes.set_xlabel("step", color=palette.ink)
        axes.legend(frameon=False, labelcolor=palette.ink, loc="upper right")
        return svg_text(figure)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def picture(title: str, versions: Sequence[str], *, caption: str) -> Curve:
    """A light and a dark SVG as one picture."""
    light, dark = (f"data:image/svg+xml;base64,{b64encode(svg.encode()).decode()}" for svg in versions)
    return Curve(title, light, dark, caption)


def _loss_caption(training: Points, validation: Points) -> str:
    thinned = _thinned_text(training)
    best = best_point(validation)
    if best is None:
        return f"Training loss in nats/token over steps. No validation loss was recorded.{thinned}"
    return (
        f"Training and validation loss in nats/token over steps. Lowest validation loss: {best[1]:.3f} "
        f"at step {best[0]:.0f}, one measurement on the validation rows, so without an interval.{thinned}"
    )


def _small_caption(points: Points) -> str:
    values = [value for _, value in points]
    if len(points) == 1:
        return f"{values[0]:.3g} at the one logged step."
    return f"{min(values):.3g} to {max(values):.3g} over {len(points):,} logged steps.{_thinned_text(points)}"


def _thinned_text(points: Points) -> str:
    size = math.ceil(len(points) / MOST_POINTS)
    return f" Each point of the line is the mean of {size} logged steps." if size > 1 else ""


def _marks_text(marks: Sequence[Mark]) -> str:
    return " Shaded and numbered: what the findings are about." if marks else ""


def _loss_svg(training: Points, validation: Points, marks: Sequence[Mark], *, palette: Palette) -> str:
    with rc_context(_SETTINGS):
        figure = Figure(figsize=(9.2, 3.5), layout="constrained")
        axes = figure.add_subplot()
        _style(axes, palette=palette)
        _line(axes, training, colour=palette.training, label="training", width=1.3)
        _line(axes, validation, colour=palette.validation, label="validation", width=2.0, marker="o")
        _mark_best(axes, best_point(validation), palette=palette)
        _shade(axes, marks, palette=palette)
        axes.set_ylabel("loss, nats/token", color=palette.ink)
        axes.set_xlabel("step", color=palette.ink)
        axes.legend(frameon=False, labelcolor=palette.ink, loc="best")
        return svg_text(figure)


def _small_svg(points: Points, marks: Sequence[Mark], *, palette: Palette) -> str:
    with rc_context(_SETTINGS):
        figure = Figure(figsize=(4.5, 1.9), layout="constrained")
        axes = figure.add_subplot()
        _style(axes, palette=palette)
        _line(axes, points, colour=palette.training, label="", width=1.3)
        _shade(axes, marks, palette=palette)
        axes.set_xlabel("step", color=palette.ink)
        axes.set_ylim(bottom=0)
        return svg_text(figure)


def _line(axes: Axes, points: Points, *, colour: str, label: str, width: float, marker: str = "") -> None:
    if not points:
        return
    steps, values = zip(*thin(points), strict=True)
    marker = marker or ("o" if len(points) == 1 else "")
    axes.plot(steps, values, color=colour, label=label, linewidth=width, marker=marker, markersize=4)


def _mark_best(axes: Axes, best: tuple[float, float] | None, *, palette: Palette) -> None:
    if best is None:
        return
    ring = axes.plot(*best, "o", markersize=10, markerfacecolor="none", markeredgewidth=1.5)
    ring[0].set_markeredgecolor(palette.validation)
    axes.annotate(
        f"best, step {best[0]:.0f}",
        best,
        xytext=(0, 11),
        textcoords="offset points",
        ha="center",
        color=palette.validation,
        fontweight="bold",
    )


def _shade(axes: Axes, marks: Sequence[Mark], *, palette: Palette) -> None:
    """Shade each mark's stretch, its number above it; one of a single step is a thin line."""
    low, high = axes.get_xlim()
    levels: list[float] = []
    for mark in marks:
        axes.axvspan(
            mark.first_step, mark.last_step, facecolor=palette.mark, alpha=0.13, edgecolor="none", zorder=0
        )
        if mark.last_step - mark.first_step < _THIN * (high - low):
            axes.axvline(mark.first_step, color=palette.mark, alpha=0.5, linewidth=1.0, zorder=0)
        middle = (mark.first_step + mark.last_step) / 2
        # Numbers that would stand on each other stand one above the other.
        level = sum(abs(middle - other) < _NUMBER_ROOM * (high - low) for other in levels)
        levels.append(middle)
        axes.annotate(
            str(mark.number),
            (middle, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3 + 11 * level),
            textcoords="offset points",
            ha="center",
            color=palette.mark,
            fontweight="bold",
        )


# Shares of the picture's width.
_THIN, _NUMBER_ROOM = 0.004, 0.03


def style_axes(axes: Axes, *, palette: Palette, grid: Literal["both", "x", "y"]) -> None:
    """Axes of a picture on any paper: a faint grid, a line below, and nothing else."""
    axes.patch.set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(axis=grid, color=palette.grid, linewidth=0.8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(palette.grid)
    axes.tick_params(colors=palette.ink, length=0)


def _style(axes: Axes, *, palette: Palette) -> None:
    style_axes(axes, palette=palette, grid="y")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    for axis in (axes.xaxis, axes.yaxis):
        axis.get_offset_text().set_color(palette.ink)


def svg_text(figure: Figure) -> str:
    """The figure as SVG without date or version, its text in the reader's own sans-serif."""
    figure.patch.set_visible(False)
    text = StringIO()
    FigureCanvasSVG(figure)
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return _FONT_LIST.sub(r"\1system-ui, sans-serif", text.getvalue())
