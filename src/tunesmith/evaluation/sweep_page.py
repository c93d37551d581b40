"""What a sweep found, as a table for people and as a page: losses over each field, curves over steps.

Drawn with matplotlib's object interface alone, in a light and a dark version; the same trials give the same
bytes. Read next: `templates/sweep.html.j2`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

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
from tunesmith.evaluation.marks import format_value
from tunesmith.evaluation.report import page_template

TrialWord = Literal["finished", "pruned", "failed", "unfinished"]
_ORDER: tuple[TrialWord, ...] = ("finished", "pruned", "failed", "unfinished")
LOSS_UNIT = "nats/token"


@dataclass(frozen=True, slots=True)
class SweptTrial:
    """One trial.

    Attributes:
        number: from 0 up; 0 is the configuration as given.
        values: of the fields that are varied, by key.
        state: how it ended.
        loss: best validation loss in nats a token; None where there was no validation.
        step: where that was.
        seconds: wall time.
        why: what there is to say of a trial that did not finish.
        validations: (step, loss) of each validation.
        run: its folder.
    """

    number: int
    values: Mapping[str, Any]
    state: TrialWord
    loss: float | None
    step: int | None
    seconds: float
    why: str
    validations: tuple[tuple[int, float], ...]
    run: str

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class SweptField:
    """One field that was varied.

    Attributes:
        key: dotted YAML path.
        spec: its values as they were given, such as `1e-05:0.001:log`.
        is_range: whether it takes any number between two, rather than one of a list.
        is_log: whether equal ratios count alike.
    """

    key: str
    spec: str
    is_range: bool
    is_log: bool


def ranked(trials: Sequence[SweptTrial]) -> list[SweptTrial]:
    """The best first: finished ones by loss, then pruned ones by loss, then those that failed."""
    return sorted(
        trials,
        key=lambda trial: (
            _ORDER.index(trial.state),
            trial.loss if trial.loss is not None else float("inf"),
            trial.number,
        ),
    )


def short_name(key: str) -> str:
    """A field as a heading: its name without the section."""
    return "method" if key == "method.name" else key.rpartition(".")[2]


def columns(fields: Sequence[SweptField]) -> list[str]:
    """Headings of `cells`."""
    return [
        "trial",
        *(short_name(field.key) for field in fields),
        "validation loss",
        "at step",
        "seconds",
        "state",
    ]


def cells(trial: SweptTrial, fields: Sequence[SweptField]) -> list[str]:
    """The trial for people, in the order of `columns`."""
    return [
        str(trial.number),
        *(shown_value(trial.values[field.key]) for field in fields),
        "" if trial.loss is None else loss_text(trial.loss),
        "" if trial.step is None else str(trial.step),
        f"{trial.seconds:.0f}",
        trial.state,
    ]


def shown_value(value: Any) -> str:
    """A value of the configuration, short."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def loss_text(loss: float) -> str:
    """A loss with the digits it deserves."""
    return format_value(loss, unit=LOSS_UNIT)


def render_sweep(
    trials: Sequence[SweptTrial],
    fields: Sequence[SweptField],
    *,
    title: str,
    sentences: Sequence[str],
    facts: Sequence[tuple[str, str]],
) -> str:
    """A self-contained page, equal for equal trials.

    Args:
        trials: in any order.
        fields: what was varied.
        title: name of the sweep.
        sentences: what came out, the most important one first.
        facts: name and value of what was the same in all trials.
    """
    order = ranked(trials)
    return page_template("sweep.html.j2").render(
        title=title,
        sentences=sentences,
        facts=facts,
        columns=columns(fields),
        rows=[cells(trial, fields) for trial in order],
        whys=[(trial.number, trial.why) for trial in order if trial.why],
        fields=fields,
        pictures=[
            draw_field(order, field) for field in fields if any(_has_place(each, field) for each in order)
        ],
        curves=draw_validations_of(order) if any(trial.validations for trial in order) else None,
    )


def draw_field(trials: Sequence[SweptTrial], field: SweptField) -> Curve:
    """Best validation loss of each trial over one field, with the words that replace the picture.

    Args:
        trials: the best first; at least one has a place in the picture.
        field: what the horizontal axis shows.
    """
    shown = [trial for trial in trials if _has_place(trial, field)]
    versions = [_field_svg(shown, field, palette=palette) for palette in (LIGHT, DARK)]
    best = shown[0]
    caption = (
        f"Best validation loss of each trial over {field.key}; the ring is the lowest shown, trial "
        f"{best.number} at {shown_value(best.values[field.key])}. Hollow points are unfinished trials."
    )
    return picture(short_name(field.key), versions, caption=caption)


def _has_place(trial: SweptTrial, field: SweptField) -> bool:
    """Whether the trial can be drawn: trial 0 may have a value that a range has no place for."""
    value = trial.values[field.key]
    if trial.loss is None:
        return False
    return not field.is_range or (isinstance(value, int | float) and (value > 0 or not field.is_log))


def _field_svg(trials: Sequence[SweptTrial], field: SweptField, *, palette: Palette) -> str:
    with rc_context(SETTINGS):
        figure = Figure(figsize=(4.5, 2.7), layout="constrained")
        axes = figure.add_subplot()
        style_axes(axes, palette=palette, grid="y")
        values = [trial.values[field.key] for trial in trials]
        places = values if field.is_range else _placed(axes, values)
        if field.is_log:
            axes.set_xscale("log")
            axes.tick_params(which="minor", length=0)
        for place, trial in zip(places, trials, strict=True):
            _mark(axes, place, trial, palette=palette)
        ring = axes.plot(places[0], _height(trials[0]), "o", markersize=13, markerfacecolor="none")
        ring[0].set_markeredgecolor(palette.validation)
        axes.margins(0.1)
        axes.set_xlabel(field.key, color=palette.ink)
        axes.set_ylabel(f"loss, {LOSS_UNIT}", color=palette.ink)
        return svg_text(figure)


def _height(trial: SweptTrial) -> float:
    return math.nan if trial.loss is None else trial.loss


def _placed(axes: Axes, values: Sequence[Any]) -> list[int]:
    """Places of the values of a list: numbers by size, then words by name, all equally far apart."""
    texts = {shown_value(value): value for value in values}
    numbers = sorted((t for t, v in texts.items() if isinstance(v, int | float)), key=lambda t: texts[t])
    known = [*numbers, *sorted(texts.keys() - set(numbers))]
    axes.set_xticks(range(len(known)), known)
    return [known.index(shown_value(value)) for value in values]


def _mark(axes: Axes, place: float, trial: SweptTrial, *, palette: Palette) -> None:
    is_full = trial.state == "finished"
    line = axes.plot(place, _height(trial), "o", markersize=6.5, color=palette.validation, zorder=3)[0]
    if not is_full:
        line.set_markerfacecolor("none")
        line.set_markeredgecolor(palette.training)


def draw_validations_of(trials: Sequence[SweptTrial]) -> Curve:
    """Validation loss of every trial over steps: the best one strong, the pruned ones broken.

    Args:
        trials: the best first.
    """
    shown = [trial for trial in trials if trial.validations]
    versions = [_curves_svg(shown, palette=palette) for palette in (LIGHT, DARK)]
    caption = (
        f"Validation loss in nats/token over steps, a line a trial; the strong line is trial "
        f"{shown[0].number}, broken lines are trials that did not finish."
    )
    return picture("Validation loss", versions, caption=caption)


def _curves_svg(trials: Sequence[SweptTrial], *, palette: Palette) -> str:
    with rc_context(SETTINGS):
        figure = Figure(figsize=(9.2, 3.8), layout="constrained")
        axes = figure.add_subplot()
        style_axes(axes, palette=palette, grid="y")
        # The best one last, so that it lies on top of the others.
        for place, trial in reversed(list(enumerate(trials))):
            steps, losses = zip(*trial.validations, strict=True)
            axes.plot(
                steps,
                losses,
                color=palette.training if place else palette.validation,
                linewidth=1.2 if place else 2.4,
                linestyle="solid" if trial.state == "finished" else (0, (4, 3)),
                marker="o",
                markersize=3.5 if place else 5,
            )
        axes.margins(y=0.14)
        _name_best(axes, trials, palette=palette)
        axes.set_xlabel("step", color=palette.ink)
        axes.set_ylabel(f"validation loss, {LOSS_UNIT}", color=palette.ink)
        return svg_text(figure)


def _name_best(axes: Axes, trials: Sequence[SweptTrial], *, palette: Palette) -> None:
    """The best trial's number below the end of its line, where no other line is."""
    best = trials[0]
    axes.annotate(
        f"trial {best.number}",
        best.validations[-1],
        xytext=(0, -15),
        textcoords="offset points",
        ha="right",
        color=palette.validation,
        fontweight="bold",
    )
