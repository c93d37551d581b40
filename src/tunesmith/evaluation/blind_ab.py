"""Which of two systems people prefer: win rate, exact sign test, and a stop rule to look at after every vote.

Knows nothing of raters, pages or files: outcomes go in, numbers with their recipe come out. An outcome
is told from one system's side: it wins, loses, or ties. Read next: `people/votes.py`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tunesmith.errors import DataError

Outcome = Literal["win", "tie", "loss"]
Word = Literal["go on", "winner", "about equal"]

ERROR_RATE = 0.05
"""Of the stop rule: how often, at most, it names a winner where there is none, however often one looks."""

ABOUT_EQUAL = (0.4, 0.6)
"""A share of wins surely inside these is no difference that most would pay for."""

_BISECTIONS = 60


@dataclass(frozen=True, slots=True)
class WinRate:
    """How often a system is preferred to another.

    Attributes:
        value: (wins + half the ties) over n, from 0 to 1.
        low: lower end of the interval.
        high: upper end of it.
        wins: outcomes for the system.
        ties: outcomes for neither.
        losses: outcomes against it.
        n: all of them.
        p_value: of the exact two-sided sign test; 1 where all are ties.
        signature: how to get the same numbers again.
    """

    value: float
    low: float
    high: float
    wins: int
    ties: int
    losses: int
    n: int
    p_value: float
    signature: str


@dataclass(frozen=True, slots=True)
class StopRule:
    """What may be said so far, however often it was asked before.

    Attributes:
        word: "winner" as soon as one is found, for good; "about equal" where the interval lies inside
            `ABOUT_EQUAL`; else "go on".
        is_ahead: whether the winner is the system that wins and losses are told of; None without a winner.
        p_value: always-valid p-value: the inverse of the largest evidence so far, at most 1.
        low: lower end of the always-valid interval of the share of wins among decided outcomes.
        high: upper end of it.
        n: decided outcomes.
        stopped_at: after how many of them the winner was found, or None.
        signature: the rule and its error rate.
    """

    word: Word
    is_ahead: bool | None
    p_value: float
    low: float
    high: float
    n: int
    stopped_at: int | None
    signature: str


def win_rate(outcomes: Sequence[Outcome], *, confidence: float = 0.95) -> WinRate:
    """Share of wins with its Wilson interval, and the sign test.

    Ties count half in the rate and in the interval, which is a little wide for it; the test drops them.
    The outcomes must be independent of each other: one for each item, not one for each rater.

    Args:
        outcomes: at least one.
        confidence: of the interval, between 0 and 1.

    Raises:
        DataError: if there are no outcomes.
    """
    if not outcomes:
        raise DataError("there are 0 outcomes to take a win rate of", hint="vote on at least one item first")
    wins, ties, losses = (outcomes.count(each) for each in ("win", "tie", "loss"))
    successes = wins + ties / 2
    low, high = wilson_interval(successes, len(outcomes), confidence=confidence)
    return WinRate(
        value=successes / len(outcomes),
        low=low,
        high=high,
        wins=wins,
        ties=ties,
        losses=losses,
        n=len(outcomes),
        p_value=sign_test(wins, losses),
        signature=f"ties:half|wilson|confidence:{confidence:g}|test:sign-exact-two-sided-no-ties",
    )


def wilson_interval(successes: float, n: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of a share, inside 0 to 1 also where all or none succeed.

    Args:
        successes: from 0 to n; halves are allowed.
        n: trials, at least 1.
        confidence: between 0 and 1.

    Source: Wilson 1927, without continuity correction.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, spread = successes / n, z * z / n
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(spread * (share * (1 - share) + spread / 4)) / (1 + spread)
    # Where all or none succeed the end is exact, which rounding would miss.
    low = 0.0 if successes == 0 else max(0.0, middle - half)
    high = 1.0 if successes == n else min(1.0, middle + half)
    return low, high


def sign_test(wins: int, losses: int) -> float:
    """Exact two-sided p-value of "a win is as likely as a loss"; 1 where there are neither.

    Source: Conover 1999, section 3.4; the counts are whole numbers until the last division.
    """
    n, fewer = wins + losses, min(wins, losses)
    term = total = 1
    for k in range(1, fewer + 1):
        term = term * (n - k + 1) // k
        total += term
    return min(1.0, 2 * total / (1 << n))


def watch(decided: Sequence[bool], *, error_rate: float = ERROR_RATE) -> StopRule:
    """The stop rule's word after these outcomes.

    Evidence against "a win is as likely as a loss" is the likelihood of what was seen under an unknown
    win probability, all being as likely beforehand, over its likelihood under one half. Without a
    difference this ratio is a martingale that starts at 1, so with probability 1 - error_rate it never
    reaches 1 / error_rate, at whatever moments one looks.

    Args:
        decided: True for a win, False for a loss, in the order they came; ties are left out.
        error_rate: between 0 and 1.

    Source: Ville 1939 (the bound); Robbins 1970 (the mixture); Howard, Ramdas, McAuliffe and Sekhon 2021
    (the interval as a confidence sequence).
    """
    n = len(decided)
    wins = np.cumsum(np.asarray(decided, dtype=np.int64))
    evidence = log_evidence(wins, np.arange(1, n + 1) - wins)
    largest = float(evidence.max(initial=0.0))
    (crossed,) = np.nonzero(evidence >= -math.log(error_rate))
    won = int(wins[-1]) if n else 0
    low, high = confidence_sequence(won, n - won, error_rate=error_rate)
    is_ahead, stopped_at, word = None, None, _word_without_winner(low, high)
    if crossed.size:
        at = int(crossed[0])
        is_ahead, stopped_at, word = bool(wins[at] > (at + 1) / 2), at + 1, "winner"
    return StopRule(
        word=word,
        is_ahead=is_ahead,
        p_value=min(1.0, math.exp(-largest)),
        low=low,
        high=high,
        n=n,
        stopped_at=stopped_at,
        signature=f"beta-binomial-mixture:1,1|ties:dropped|error-rate:{error_rate:g}",
    )


def _word_without_winner(low: float, high: float) -> Word:
    return "about equal" if low > ABOUT_EQUAL[0] and high < ABOUT_EQUAL[1] else "go on"


def log_evidence(wins: NDArray[np.integer[Any]], losses: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """Natural logarithm of the evidence for a difference: 2^n / ((n + 1) C(n, wins)); 0 for no outcome.

    Args:
        wins: whole counts of any shape.
        losses: counts of the same shape.
    """
    n = wins + losses
    logs = np.log(np.arange(1, int(n.max(initial=0)) + 2))
    log_factorials = np.concatenate([[0.0], np.cumsum(logs)])
    mixture = log_factorials[wins] + log_factorials[losses] - log_factorials[n + 1]
    result: NDArray[np.float64] = mixture + n * math.log(2.0)
    return result


def confidence_sequence(wins: int, losses: int, *, error_rate: float = ERROR_RATE) -> tuple[float, float]:
    """Interval of the share of wins that may be looked at after every outcome.

    It holds the true share at all moments together with probability 1 - error_rate, so at any one moment
    it is wider than Wilson's.
    """
    n = wins + losses
    if n == 0:
        return 0.0, 1.0
    mixture = math.lgamma(wins + 1) + math.lgamma(losses + 1) - math.lgamma(n + 2)
    least = mixture + math.log(error_rate)
    mode = wins / n

    def is_inside(share: float) -> bool:
        likelihood = (wins * math.log(share) if wins else 0.0) + (
            losses * math.log1p(-share) if losses else 0.0
        )
        return likelihood > least

    low = 0.0 if wins == 0 else _edge(0.0, mode, is_inside)
    high = 1.0 if losses == 0 else _edge(1.0, mode, is_inside)
    return low, high


def _edge(outside: float, inside: float, is_inside: Any) -> float:
    """Where `is_inside` changes between two shares, by bisection."""
    for _ in range(_BISECTIONS):
        middle = (outside + inside) / 2
        if is_inside(middle):
            inside = middle
        else:
            outside = middle
    return outside


def majority(outcomes: Sequence[Outcome]) -> Outcome:
    """What several raters say of one item: the side with more votes, a tie where neither has more."""
    lead = outcomes.count("win") - outcomes.count("loss")
    return "win" if lead > 0 else "loss" if lead < 0 else "tie"


def adjusted(p_values: Sequence[float]) -> list[float]:
    """The p-values for being looked at together, so that the chance of any false finding stays what it was.

    Source: Holm 1979.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    result, largest = [1.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        result[index] = largest
    return result
