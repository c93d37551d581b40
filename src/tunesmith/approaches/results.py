"""What a comparison found: every approach's scores, its difference to each other one, and its costs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.approaches.costs import BreakEven, Costs
from tunesmith.approaches.settings import ZERO_SHOT
from tunesmith.config import EvaluationConfig
from tunesmith.evaluation.answer_checks import checks_of
from tunesmith.evaluation.measure import Resampling
from tunesmith.evaluation.metrics import Metric, metrics_for
from tunesmith.evaluation.scores import Comparison, Score
from tunesmith.evaluation.scripts import rouge_tokens
from tunesmith.evaluation.significance import compare, score
from tunesmith.evaluation.slices import scores_by_slice

# The first one that the references allow is the score of the task.
TASK_SCORES = ("field_accuracy", "exact_match", "numeric", "rougeL", "chrf")
# A whole sentence is hardly ever said word for word, so equality tells nothing there.
SHORT_ANSWER_TOKENS = 5

Statistics = Mapping[str, NDArray[np.float64]]  # by approach: the rows' statistics, shape (inputs, k)


@dataclass(frozen=True, slots=True)
class ApproachResult:
    """One approach on all inputs.

    Attributes:
        name: such as `few-shot`.
        scores: in report order.
        differences: to zero-shot, metric by metric; none for zero-shot itself or where it was not asked.
        costs: of all its requests.
        left_out: examples or passages left out so that prompts fit, over all requests.
        price: of a request in the user's currency; None without prices.
    """

    name: str
    scores: tuple[Score, ...]
    differences: tuple[Comparison, ...]
    costs: Costs
    left_out: int
    price: float | None

    def score(self, metric: str) -> Score:
        """Its score by name."""
        return next(each for each in self.scores if each.metric == metric)

    def difference(self, metric: str) -> Comparison | None:
        """Its difference to zero-shot by name."""
        return next((each for each in self.differences if each.metric == metric), None)

    @property
    def cost(self) -> float:
        """Of a request: money where it has a price, else tokens of prompt and answer."""
        return self.costs.tokens_per_request if self.price is None else self.price

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "name": self.name,
            "scores": [asdict(each) for each in self.scores],
            "against_zero_shot": [asdict(each) for each in self.differences],
            "costs": self.costs.as_dict(),
            "left_out": self.left_out,
            "price_per_request": self.price,
        }


@dataclass(frozen=True, slots=True)
class Pair:
    """The task's score of `better` minus that of `other`, on the same inputs."""

    better: str
    other: str
    comparison: Comparison


@dataclass(frozen=True, slots=True)
class Slice:
    """The task's score on a part of the inputs.

    Attributes:
        kind: by what the inputs were divided, such as `length`.
        name: which part this is.
        scores: of each approach, in their order.
    """

    kind: str
    name: str
    scores: tuple[Score, ...]


@dataclass(frozen=True, slots=True)
class Findings:
    """All numbers of a comparison.

    Attributes:
        task_score: name of the metric that decides.
        results: the approaches that answered, in their order.
        pairs: the task's score, each approach against each other, both ways.
        tuned_against: fine-tuned minus the best prompted approach, metric by metric; may be empty.
        best_prompted: the prompted approach with the best task score, or None.
        break_evens: from how many requests on training pays.
        impossible: approaches that could not be asked, and why.
        slices: the task's score on parts of the inputs; may be empty.
    """

    task_score: str
    results: tuple[ApproachResult, ...]
    pairs: tuple[Pair, ...]
    tuned_against: tuple[Comparison, ...]
    best_prompted: str | None
    break_evens: tuple[BreakEven, ...]
    impossible: Mapping[str, str]
    slices: tuple[Slice, ...] = ()

    @property
    def inputs(self) -> int:
        """Held-out inputs that every approach answered."""
        return self.results[0].costs.requests

    @property
    def names(self) -> tuple[str, ...]:
        """The approaches that answered."""
        return tuple(result.name for result in self.results)

    def result(self, name: str) -> ApproachResult:
        """One approach's."""
        return next(result for result in self.results if result.name == name)

    def value(self, name: str) -> float:
        """One approach's task score."""
        return self.result(name).score(self.task_score).value

    def difference(self, better: str, other: str) -> Comparison:
        """Of two approaches that answered, in the task's score."""
        return next(pair.comparison for pair in self.pairs if (pair.better, pair.other) == (better, other))

    def best_of(self, names: Sequence[str]) -> str | None:
        """Highest task score among those that answered; of equal ones the cheaper, then the simpler."""
        there = [name for name in self.names if name in names]
        return max(there, key=lambda name: (self.value(name), -self.result(name).cost), default=None)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "task_score": self.task_score,
            "inputs": self.inputs,
            "approaches": [result.as_dict() for result in self.results],
            "impossible": dict(self.impossible),
            "pairs": [asdict(pair) for pair in self.pairs],
            "best_prompted": self.best_prompted,
            "tuned_against_best_prompted": [asdict(each) for each in self.tuned_against],
            "break_even": [asdict(each) for each in self.break_evens],
            "slices": [asdict(each) for each in self.slices],
        }


def task_score(names: Sequence[str], references: Sequence[Sequence[str]]) -> str:
    """The metric that decides: the first of `TASK_SCORES` that was measured and fits the references.

    Exact match fits only where the references are labels (`choice` was measured), or half of them are short.

    Args:
        names: metrics that were measured.
        references: good answers of each input.
    """
    lengths = [len(rouge_tokens(reference)) for those in references for reference in those]
    is_exact = "choice" in names or median(lengths) <= SHORT_ANSWER_TOKENS
    fitting = [name for name in TASK_SCORES if name in names and (name != "exact_match" or is_exact)]
    return fitting[0] if fitting else names[0]


@dataclass(frozen=True, slots=True)
class Measured:
    """Scores of every approach and all differences, before costs are looked at.

    Attributes:
        task_score: the metric that decides.
        scores: by approach.
        differences: by approach, to zero-shot.
        pairs: as in `Findings`.
        metrics: with the rows' statistics of each approach.
        recipe: how intervals are made.
    """

    task_score: str
    scores: Mapping[str, tuple[Score, ...]]
    differences: Mapping[str, tuple[Comparison, ...]]
    pairs: tuple[Pair, ...]
    metrics: tuple[tuple[Metric, Statistics], ...]
    recipe: Resampling

    def against(self, name: str, other: str) -> tuple[Comparison, ...]:
        """`name` minus `other`, metric by metric."""
        return tuple(compare(metric, rows[other], rows[name], **self.recipe) for metric, rows in self.metrics)

    def by_slice(self, labels: Sequence[Mapping[str, str]]) -> tuple[Slice, ...]:
        """The task's score on each slice of the inputs.

        Args:
            labels: slices of each input, as `evaluation.slices.slices_of` gives them.
        """
        metric, rows = next(each for each in self.metrics if each[0].name == self.task_score)
        columns = [
            scores_by_slice(labels, [(metric, rows[name], None)], **self.recipe) for name in self.scores
        ]
        return tuple(
            Slice(line[0].kind, line[0].name, tuple(each.base[0] for each in line))
            for line in zip(*columns, strict=True)
        )


def measure(
    answers: Mapping[str, Sequence[str]],
    references: Sequence[Sequence[str]],
    *,
    settings: EvaluationConfig,
    seed: int,
) -> Measured:
    """Score the answers of every approach to the same inputs.

    Args:
        answers: by approach, one text for each input.
        references: good answers of each input, at least one.
        settings: checks of answers, resamples and confidence.
        seed: of the resamples.
    """
    recipe = Resampling(seed=seed, resamples=settings.bootstrap_resamples, confidence=settings.confidence)
    metrics = tuple(
        (metric, {name: metric.statistics(texts, references) for name, texts in answers.items()})
        for metric in metrics_for(references, checks_of(settings))
    )
    scores = {
        name: tuple(score(metric, rows[name], **recipe) for metric, rows in metrics) for name in answers
    }
    deciding = task_score([metric.name for metric, _ in metrics], references)
    metric, rows = next(each for each in metrics if each[0].name == deciding)
    measured = Measured(deciding, scores, {}, tuple(_pairs(metric, rows, recipe)), metrics, recipe)
    has_base = ZERO_SHOT in answers
    differences = {
        name: measured.against(name, ZERO_SHOT) if has_base and name != ZERO_SHOT else () for name in answers
    }
    return replace(measured, differences=differences)


def _pairs(metric: Metric, rows: Statistics, recipe: Resampling) -> list[Pair]:
    return [
        Pair(better, other, compare(metric, rows[other], rows[better], **recipe))
        for better in rows
        for other in rows
        if better != other
    ]
