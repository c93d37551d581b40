"""How a measured number is written and judged: digits, intervals, better or worse, the one-line verdict.

Report and model card both show what this says, so they cannot disagree.
Knows nothing of HTML or Markdown.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from tunesmith.evaluation.scores import Comparison, Evaluation, Score, SliceScores

Mark = Literal["better", "worse", "no clear difference", "no direction", "not compared"]

ENOUGH_ROWS = 30
"""Fewer rows allow no verdict: a percentile bootstrap of so few values covers less than it claims."""

_NAMES = {
    "loss": "Loss",
    "perplexity": "Perplexity",
    "bleu": "BLEU",
    "chrf": "chrF",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "rougeLsum": "ROUGE-Lsum",
    "ter": "TER",
    "token_f1": "Token F1",
    "exact_match": "Exact match",
    "numeric": "Right number",
    "choice": "One of the list",
    "valid_json": "Valid JSON",
    "json_schema": "JSON Schema",
    "pattern": "Pattern",
    "distinct1": "Distinct words",
    "distinct2": "Distinct pairs",
    "repetition": "Repetition",
    "length_ratio": "Length ratio",
    "field_accuracy": "Field accuracy",
}
# What a slice is judged by: the first of these that was measured on it.
_SLICE_SCORES = ("field_accuracy", "numeric", "json_schema", "chrf")
_ARROWS = {True: "↑", False: "↓", None: "↔"}
_DIRECTIONS = {True: "higher is better", False: "lower is better", None: "neither is better"}
_DECIMALS = {"nats/token": 3, "fraction": 3, "percent": 1, "tokens": 1}


@dataclass(frozen=True, slots=True)
class ResultRow:
    """One line of the before/after table, every cell ready to print.

    `note` says why a cell has no interval or why the mark is weak; it is empty otherwise.
    `whisker` is None, also where no direction is better, or (low, middle, high) from -1 to 1, right of 0
    meaning better, for a small picture.
    """

    name: str
    unit: str
    arrow: str
    direction: str
    base: str
    base_interval: str
    tuned: str
    tuned_interval: str
    difference: str
    difference_interval: str
    p: str
    n: str
    mark: Mark
    note: str
    whisker: tuple[float, float, float] | None
    signatures: tuple[tuple[str, str], ...]


def metric_name(metric: str) -> str:
    """The name people know a metric by."""
    return _NAMES.get(metric, metric.replace("_", " "))


def format_value(value: float, *, unit: str) -> str:
    """A score with the digits its unit deserves: loss 3 decimals, percent 1, anything else 2."""
    if not math.isfinite(value):
        return "not finite"
    decimals = _DECIMALS.get(unit, 2)
    return f"{round(value, decimals) + 0.0:,.{decimals}f}".replace("-", "−")


def format_difference(value: float, *, unit: str) -> str:
    """A difference with its sign always shown, as in +1.5, −0.250 or 0.0."""
    text = format_value(value, unit=unit)
    return f"+{text}" if text.strip("0.,") and value > 0 and math.isfinite(value) else text


def format_interval(low: float | None, high: float | None, *, unit: str, signed: bool = False) -> str:
    """An interval in brackets, or `no interval`."""
    if low is None or high is None:
        return "no interval"
    write = format_difference if signed else format_value
    return f"[{write(low, unit=unit)}, {write(high, unit=unit)}]"


def format_p(p_value: float | None) -> str:
    """A p-value with 3 decimals, never rounded to 0; `not tested` for None."""
    if p_value is None:
        return "not tested"
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


class PairCells(TypedDict):
    """Base, tuned and their difference, each with its interval, ready to print."""

    base: str
    base_interval: str
    tuned: str
    tuned_interval: str
    difference: str
    difference_interval: str


def pair_cells(base: Score, tuned: Score | None, change: Comparison | None) -> PairCells:
    """The cells that every table of two models has; empty where nothing was tuned."""
    unit = base.unit
    return PairCells(
        base=format_value(base.value, unit=unit),
        base_interval=format_interval(base.low, base.high, unit=unit),
        tuned=format_value(tuned.value, unit=unit) if tuned else "",
        tuned_interval=format_interval(tuned.low, tuned.high, unit=unit) if tuned else "",
        difference=format_difference(change.difference, unit=unit) if change else "",
        difference_interval=(
            format_interval(change.low, change.high, unit=unit, signed=True) if change else ""
        ),
    )


@dataclass(frozen=True, slots=True)
class SliceRow:
    """One line of the table by slices, every cell ready to print; those of a tuned model may be empty."""

    kind: str
    name: str
    metric: str
    base: str
    base_interval: str
    tuned: str
    tuned_interval: str
    difference: str
    difference_interval: str
    n: str
    note: str


def slice_rows(evaluation: Evaluation) -> list[SliceRow]:
    """The table by slices: one telling score for each slice, in the evaluation's own order."""
    return [_slice_row(part) for part in evaluation.slices]


def _slice_row(part: SliceScores) -> SliceRow:
    names = [score.metric for score in part.base]
    chosen = next((name for name in _slice_scores(names) if name in names), names[0])
    place = names.index(chosen)
    tuned = part.tuned[place] if part.tuned else None
    change = part.comparisons[place] if part.comparisons else None
    return SliceRow(
        kind=part.kind,
        name=part.name,
        metric=metric_name(chosen),
        **pair_cells(part.base[place], tuned, change),
        n=f"{part.n:,}",
        note=f"few rows: {part.n}, below {ENOUGH_ROWS}" if part.n < ENOUGH_ROWS else "",
    )


def _slice_scores(measured: Sequence[str]) -> Sequence[str]:
    """Labels are right or wrong; anything else that is no number and no object is judged by its likeness."""
    return ("exact_match",) if "choice" in measured else _SLICE_SCORES


def mark_of(comparison: Comparison, *, higher_is_better: bool | None) -> Mark:
    """Better or worse where the interval of the difference leaves out 0; else no clear difference."""
    if comparison.low is None or comparison.high is None:
        return "not compared"
    if higher_is_better is None:
        return "no direction"
    if comparison.low <= 0 <= comparison.high or math.isnan(comparison.low + comparison.high):
        return "no clear difference"
    return "better" if (comparison.low > 0) == higher_is_better else "worse"


def result_rows(evaluation: Evaluation) -> list[ResultRow]:
    """The before/after table, in the evaluation's own order."""
    tuned = {score.metric: score for score in evaluation.tuned}
    comparisons = {comparison.metric: comparison for comparison in evaluation.comparisons}
    return [_row(base, tuned[base.metric], comparisons[base.metric]) for base in evaluation.base]


def _row(base: Score, tuned: Score, comparison: Comparison) -> ResultRow:
    return ResultRow(
        name=metric_name(base.metric),
        unit=base.unit,
        arrow=_ARROWS[base.higher_is_better],
        direction=_DIRECTIONS[base.higher_is_better],
        **pair_cells(base, tuned, comparison),
        p=format_p(comparison.p_value),
        n=_rows_text(base.n, tuned.n, comparison.n),
        mark=mark_of(comparison, higher_is_better=base.higher_is_better),
        note=_note(comparison),
        whisker=_whisker(comparison, higher_is_better=base.higher_is_better),
        signatures=_signatures(base, tuned, comparison),
    )


def _signatures(base: Score, tuned: Score, comparison: Comparison) -> tuple[tuple[str, str], ...]:
    """Who a signature belongs to, and the signature; one line for base and tuned where they agree."""
    if base.signature == tuned.signature:
        return ("base and tuned", base.signature), ("difference", comparison.signature)
    return ("base", base.signature), ("tuned", tuned.signature), ("difference", comparison.signature)


def _rows_text(base: int, tuned: int, both: int) -> str:
    return f"{both:,}" if base == tuned == both else f"{both:,} (base {base:,}, tuned {tuned:,})"


def _note(comparison: Comparison) -> str:
    if comparison.low is None or comparison.high is None:
        return "one row allows no interval" if comparison.n == 1 else "no interval was measured"
    return f"few rows: {comparison.n}, below {ENOUGH_ROWS}" if comparison.n < ENOUGH_ROWS else ""


def _whisker(comparison: Comparison, *, higher_is_better: bool | None) -> tuple[float, float, float] | None:
    if comparison.low is None or comparison.high is None or higher_is_better is None:
        return None
    ends = (comparison.low, comparison.difference, comparison.high)
    reach = max(abs(end) for end in ends)
    if not math.isfinite(reach) or reach == 0:
        return None
    low, middle, high = (end / reach if higher_is_better else -end / reach for end in ends)
    return min(low, high), middle, max(low, high)


def verdict(evaluation: Evaluation | None) -> str:
    """What the numbers allow to say, in plain words.

    Only differences on at least `ENOUGH_ROWS` rows whose interval leaves out 0 count. The quoted number
    is always that of the first metric in the evaluation, never the most flattering one.
    """
    rows = result_rows(evaluation) if evaluation else []
    if evaluation is None or not rows:
        return "Not evaluated: this run has no scores on held-out rows, so it cannot say what tuning changed."
    most = max(comparison.n for comparison in evaluation.comparisons)
    if most < ENOUGH_ROWS:
        return (
            f"Too few held-out rows for a verdict: {most} where at least {ENOUGH_ROWS} are needed. "
            f"Read the numbers as a hint: {_quoted(rows[0])}."
        )
    return f"{_judged(rows)} {_quoted(rows[0])}."


def _judged(rows: Sequence[ResultRow]) -> str:
    better, worse, unclear = (
        listed([row.name for row in rows if not row.note and row.mark == mark])
        for mark in ("better", "worse", "no clear difference")
    )
    few = listed([row.name for row in rows if row.note and row.mark != "no direction"])
    rest = f"; no clear difference on {unclear}" if unclear else ""
    rest += f"; too few rows to judge {few}" if few else ""
    if better and worse:
        return f"Mixed: the tuned model is better than the base model on {better}, worse on {worse}{rest}."
    if better or worse:
        word = "better" if better else "worse"
        return f"The tuned model is {word} than the base model on {better or worse}{rest}."
    return f"The tuned model is not shown to be better than the base model{rest}."


def _quoted(row: ResultRow) -> str:
    unit = f" {row.unit}" if row.unit else ""
    change = f"{row.name} went from {row.base} {row.base_interval} to {row.tuned} {row.tuned_interval}{unit}"
    return f"{change}, a difference of {row.difference} {row.difference_interval} on {row.n} rows"


def listed(names: Sequence[str]) -> str:
    """Names as people say them: `a, b and c`; empty for none."""
    return " and ".join(part for part in (", ".join(names[:-1]), *names[-1:]) if part)


def flatten(tree: Mapping[str, Any], *, prefix: str = "") -> list[tuple[str, str]]:
    """Nested facts as lines: dotted key and printable value, in the order given."""
    lines: list[tuple[str, str]] = []
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            lines += flatten(value, prefix=f"{name}.")
        elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
            lines += flatten({str(place): item for place, item in enumerate(value, 1)}, prefix=f"{name}.")
        else:
            lines.append((name, format_fact(value)))
    return lines


def format_fact(value: object) -> str:
    """A recorded value (not a measurement) as people read it: 1,234,567, true, none, a, b."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(format_fact(item) for item in value) or "none"
    return "none" if value is None or value == {} or value == "" else str(value)
