"""Held-out loss over the number of training rows, with what more rows would give, as SVG text."""

from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from tunesmith.evaluation.curves import LIGHT, SETTINGS, Palette, style_axes, svg_text

# Rows, middle, low, high; without an interval low and high are None.
Whisker = tuple[float, float, float | None, float | None]
Band = tuple[float, float, float, float]


def draw_learning_curve(
    points: Sequence[Whisker], band: Sequence[Band], ahead: Whisker, *, palette: Palette = LIGHT
) -> str:
    """The measured sizes, the curves through them, and the forecast; equal for equal numbers.

    Args:
        points: measured losses by rows, nats a token.
        band: of the fitted curves, by rows.
        ahead: the forecast.
        palette: colours.
    """
    with rc_context(SETTINGS):
        figure = Figure(figsize=(7.6, 3.6), layout="constrained")
        axes = figure.add_subplot()
        style_axes(axes, palette=palette, grid="y")
        rows, middle, low, high = zip(*band, strict=True)
        axes.fill_between(rows, low, high, color=palette.validation, alpha=0.12, linewidth=0)
        axes.plot(rows, middle, color=palette.validation, linewidth=1.6, label="fitted")
        for each, colour, mark, label in (
            *((point, palette.ink, "o", "measured" if point is points[0] else None) for point in points),
            (ahead, palette.validation, "D", "forecast"),
        ):
            if each[2] is not None and each[3] is not None:
                axes.vlines(each[0], each[2], each[3], color=colour, linewidth=1.6)
            axes.plot(each[0], each[1], mark, color=colour, markersize=6, label=label)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator([*(point[0] for point in points), ahead[0]]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.set_xlabel("training rows", color=palette.ink)
        axes.set_ylabel("held-out loss, nats/token", color=palette.ink)
        axes.legend(frameon=False, labelcolor=palette.ink, loc="lower left")
        return svg_text(figure)
