"""What a measured number is here: a value that cannot be separated from its recipe.

A `Score` carries interval, number of rows and signature; a `Comparison` carries the same for
"tuned minus base", measured on the same rows. Reports refuse anything barer than these.
"""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Score:
    """One metric of one system.

    Attributes:
        metric: its name, such as `chrf` or `exact_match`.
        value: the value on all rows, in the metric's own unit (`unit`).
        low: lower end of the bootstrap interval, or None where one row allows none.
        high: upper end of it, or None.
        n: rows scored.
        signature: how to get the same number again (tokenizer, smoothing, version, seed, interval).
        higher_is_better: False for loss and perplexity; None where neither direction is better, as for the
            length of answers.
        unit: "nats/token", "percent" (0 to 100), "fraction" (0 to 1), "tokens" or "".
    """

    metric: str
    value: float
    low: float | None
    high: float | None
    n: int
    signature: str
    higher_is_better: bool | None = True
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Tuned minus base for one metric, on the same rows.

    Attributes:
        metric: the metric's name.
        difference: tuned value minus base value.
        low: lower end of the paired bootstrap interval of the difference, or None where n is 1.
        high: upper end of it, or None.
        p_value: two-sided and paired, or None where n is 1: McNemar's exact test where each row is a hit or a
            miss, approximate randomization (Riezler and Maxwell 2005) elsewhere.
        n: rows scored by both.
        signature: test, resamples and seed.
    """

    metric: str
    difference: float
    low: float | None
    high: float | None
    p_value: float | None
    n: int
    signature: str


@dataclass(frozen=True, slots=True)
class SliceScores:
    """The scores on a part of the answered rows; only those that need no model.

    Attributes:
        kind: by what the rows were divided, such as `length` (`slices.KINDS`).
        name: which part this is.
        n: rows in it.
        base: as in an Evaluation.
        tuned: as in an Evaluation.
        comparisons: as in an Evaluation.
    """

    kind: str
    name: str
    n: int
    base: tuple[Score, ...]
    tuned: tuple[Score, ...]
    comparisons: tuple[Comparison, ...]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Base and tuned on the same held-out rows, metric by metric in one order, and the same by slices."""

    base: tuple[Score, ...]
    tuned: tuple[Score, ...]
    comparisons: tuple[Comparison, ...]
    slices: tuple[SliceScores, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready form, written to the run folder as `evaluation.json`."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Sample:
    """One held-out prompt with both answers, as `samples.jsonl` holds it.

    `reference` is the first of `references`, all different ones that rows with this prompt give.
    """

    place: str
    prompt: str
    reference: str
    base: str
    tuned: str
    references: tuple[str, ...] = ()
