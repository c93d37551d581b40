"""Is the tuned model worse elsewhere? What was measured beside the task, and what it allows to say.

Tuning on one task can cost abilities that the task's own test set never asks for. So base and tuned are
compared in two other places: on general requests, and on held-out rows asked otherwise. The rows are made in
`elsewhere_rows.py`, the models asked in `measure_elsewhere.py`; here is the verdict. Needs no torch.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tunesmith.evaluation.marks import ENOUGH_ROWS, format_difference, format_interval, pair_cells
from tunesmith.evaluation.metrics import loss_metric
from tunesmith.evaluation.scores import Comparison, Score
from tunesmith.evaluation.significance import compare, score

Array = NDArray[np.float64]
Finding = Literal["no worse", "worse", "not shown", "too few rows"]

MARGIN_NATS = 0.05
"""Nats a token that do not count as worse: a perplexity 5 percent higher, each token 5 percent less likely.

The interval of a difference on a hundred short rows reaches about as far to each side, so a smaller margin
could seldom be shown to be kept.
"""
GENERAL_PLACE = "general requests"
OTHERWISE_PLACE = "held-out rows asked otherwise"

_REMEDIES = {
    GENERAL_PLACE: "This looks like forgetting: lower the learning rate, train fewer epochs, or mix "
    "general rows into the data.",
    OTHERWISE_PLACE: "The model depends on how it is asked: vary the requests in the data, as "
    "`tunesmith data generate DATA OUTPUT --perturb` does.",
}
_COLOURS: dict[Finding, str] = {"no worse": "better", "worse": "worse"}


@dataclass(frozen=True, slots=True)
class Place:
    """The loss of both models in one place.

    Attributes:
        name: what the rows are.
        base: the base's loss in nats a token of the answers, with interval.
        tuned: the tuned model's.
        comparison: tuned minus base on the same rows, paired.
        finding: `no worse` where the interval lies below the margin, `worse` where it does not and lies
            above 0, `not shown` where it holds both; `too few rows` below 30 of them.
    """

    name: str
    base: Score
    tuned: Score
    comparison: Comparison
    finding: Finding


@dataclass(frozen=True, slots=True)
class PlaceRow:
    """One line of the table of places, every cell ready to print; `colour` is better, worse or empty."""

    name: str
    n: str
    base: str
    base_interval: str
    tuned: str
    tuned_interval: str
    difference: str
    difference_interval: str
    finding: str
    colour: str
    signature: str


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Both models beside the task.

    Attributes:
        places: general requests, then held-out rows asked otherwise; one that has no rows is missing.
        ways: the second place again, by the way of asking; for reading, not for judging.
        left_out: rows that the prompt template refuses or that are too long.
        general_sha256: which general set it was.
        margin_nats: nats a token that do not count as worse.
    """

    places: tuple[Place, ...]
    ways: tuple[Place, ...]
    left_out: int
    general_sha256: str
    margin_nats: float = MARGIN_NATS

    @property
    def verdict(self) -> str:
        """What the numbers allow to say, in plain words: findings first, then the numbers, then remedies."""
        findings = {place.finding for place in self.places}
        if not findings:
            return "Not looked elsewhere: no row could be asked in the form of the training rows."
        if "worse" in findings:
            head = "Worse elsewhere"
        elif "not shown" in findings:
            head = "Not shown either way whether it is worse elsewhere"
        elif "no worse" in findings:
            head = "No worse elsewhere"
        else:
            head = "Too few rows to say whether it is worse elsewhere"
        numbers = "; ".join(_in_words(place, is_alone=len(findings) == 1) for place in self.places)
        remedies = [_REMEDIES[place.name] for place in self.places if place.finding == "worse"]
        margin = f"No worse means: surely less than {format_difference(self.margin_nats, unit='nats/token')}."
        return " ".join((f"{head}: loss in nats/token changed by {numbers}.", margin, *remedies))

    def rows(self) -> list[PlaceRow]:
        """The table for people: places, then ways."""
        return [_row(place) for place in (*self.places, *self.ways)]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready form, written to the run folder as `elsewhere.json`."""
        return {"verdict": self.verdict} | asdict(self)


def compare_place(
    name: str, base: Array, tuned: Array, *, seed: int, resamples: int, confidence: float
) -> Place:
    """Both models on the rows of one place.

    Args:
        name: what the rows are.
        base: nats and scored tokens a row, shape (rows, 2); at least one row.
        tuned: the same of the tuned model, same rows in the same order.
        seed: of the resampling.
        resamples: bootstrap samples, and trials of the test.
        confidence: coverage of the intervals, between 0 and 1.

    Raises:
        DataError: if there are no rows, or the two are not the same rows.
        RunFailed: if a loss is not finite.
    """
    metric = loss_metric()
    before = score(metric, base, seed=seed, resamples=resamples, confidence=confidence)
    after = score(metric, tuned, seed=seed, resamples=resamples, confidence=confidence)
    change = compare(metric, base, tuned, seed=seed, resamples=resamples, confidence=confidence)
    return Place(name, before, after, change, finding_of(change))


def finding_of(change: Comparison, *, margin_nats: float = MARGIN_NATS) -> Finding:
    """What the interval of a difference in loss allows to say; higher is worse.

    Source: a test of non-inferiority by confidence interval, as in Piaggio et al. 2012 (CONSORT extension).
    """
    if change.low is None or change.high is None or change.n < ENOUGH_ROWS:
        return "too few rows"
    if change.high < margin_nats:
        return "no worse"
    return "worse" if change.low > 0 else "not shown"


def group_places(names: Sequence[str]) -> dict[str, list[int]]:
    """The indices of each name, names in order of first appearance."""
    groups: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        groups.setdefault(name, []).append(index)
    return groups


def _in_words(place: Place, *, is_alone: bool) -> str:
    change = place.comparison
    interval = format_interval(change.low, change.high, unit=place.base.unit, signed=True)
    finding = "" if is_alone else f" ({place.finding})"
    difference = format_difference(change.difference, unit=place.base.unit)
    return f"{difference} {interval} on {change.n} {place.name}{finding}"


def _row(place: Place) -> PlaceRow:
    change = place.comparison
    return PlaceRow(
        name=place.name,
        n=f"{change.n:,}",
        **pair_cells(place.base, place.tuned, change),
        finding=place.finding,
        colour=_COLOURS.get(place.finding, ""),
        signature=change.signature,
    )
