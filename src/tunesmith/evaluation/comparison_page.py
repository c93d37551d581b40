"""The page of a comparison: verdict, table, picture, costs and a few answers, in one file without scripts.

Whatever models and data say is shown as text. Read next: `templates/compare.html.j2`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith.evaluation.curves import Curve
from tunesmith.evaluation.report import cut_text, page_template

SHOWN_SAMPLES = 5


@dataclass(frozen=True, slots=True)
class Grid:
    """A table for people, every cell ready to print; a line break in a cell begins its small print.

    Attributes:
        columns: headings.
        rows: cells, as many as headings.
        lead: one or two sentences above it.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lead: str = ""


@dataclass(frozen=True, slots=True)
class ComparedSample:
    """One input with every approach's answer, in the approaches' order."""

    place: str
    prompt: str
    references: tuple[str, ...]
    answers: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class ComparisonPage:
    """All that the page shows.

    Attributes:
        title: name of the comparison.
        facts: name and value of what was compared: base model, method, rows.
        verdict: sentences, the most important one first.
        overview: the table of all approaches.
        picture: score against cost.
        scores: every metric of every approach.
        slices: the task's score on parts of the inputs; may have no rows.
        differences: of the task's score, approach by approach.
        break_evens: from how many requests on training pays; may have no rows.
        dimensions: what else tells the approaches apart.
        samples: a few inputs.
        signatures: metric and how to get its numbers again.
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    verdict: tuple[str, ...]
    overview: Grid
    picture: Curve
    scores: Grid
    slices: Grid
    differences: Grid
    break_evens: Grid
    dimensions: Grid
    samples: tuple[ComparedSample, ...]
    signatures: tuple[tuple[str, str], ...]


def render_comparison(page: ComparisonPage) -> str:
    """The page as HTML text; equal for equal facts."""
    return page_template("compare.html.j2").render(page=page, samples=[_cut(each) for each in page.samples])


def sample_places(count: int) -> Sequence[int]:
    """Which of `count` inputs are shown: at most `SHOWN_SAMPLES`, evenly spread."""
    shown = min(count, SHOWN_SAMPLES)
    return [place * count // shown for place in range(shown)]


def _cut(sample: ComparedSample) -> ComparedSample:
    return ComparedSample(
        sample.place,
        cut_text(sample.prompt),
        tuple(cut_text(reference) for reference in sample.references),
        tuple((name, cut_text(answer)) for name, answer in sample.answers),
    )
