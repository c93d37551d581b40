"""Which approach fits, before anything is run: facts in, a ranking with its reasons out.

The rules are in `advise_rules.py`; here they are added up, and asked again with each fact turned around.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from tunesmith.approaches.advise_rules import (
    APPROACHES,
    DIMENSIONS,
    FACTS,
    PROFILES,
    RULES,
    START,
    TITLES,
    Choice,
    Fact,
    Value,
)
from tunesmith.data.records import listed, nearest
from tunesmith.errors import ConfigError

# A difference that one small fact makes up for.
CLOSE_POINTS = 1


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known; None is not known.

    Attributes:
        goal: `style`, `format`, `knowledge` or `task`.
        rows: rows of a prompt with the wanted answer, from 0.
        updates: how often the knowledge changes: `never`, `monthly` or `daily`.
        citations: whether answers must name their sources.
        private: whether there is data that must not leave.
        budget: for building it: `low`, `medium` or `high`.
        requests_per_day: requests it will answer, from 0.
    """

    goal: str | None = None
    rows: int | None = None
    updates: str | None = None
    citations: bool | None = None
    private: bool | None = None
    budget: str | None = None
    requests_per_day: int | None = None


@dataclass(frozen=True, slots=True)
class Reason:
    """Points that a fact gives an approach, or takes from it, and why."""

    fact: str
    points: int
    text: str


@dataclass(frozen=True, slots=True)
class Ranked:
    """One approach in its place.

    Attributes:
        approach: its name.
        points: the sum of its reasons.
        reasons: the weightiest first.
    """

    approach: str
    points: int
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """One fact turned around that puts another approach first."""

    fact: str
    value: Value
    condition: str
    first: str

    @property
    def text(self) -> str:
        """As a sentence."""
        return f"If {self.condition}, {TITLES[self.first]} would come first."


@dataclass(frozen=True, slots=True)
class Advice:
    """The ranking, best first, and what would change its first place."""

    facts: Facts
    ranking: tuple[Ranked, ...]
    changes: tuple[Change, ...]

    @property
    def known(self) -> int:
        """Number of facts that are known."""
        return sum(value is not None for value in asdict(self.facts).values())

    @property
    def summary(self) -> str:
        """What to do, in a sentence or two."""
        if not self.known:
            return (
                "Nothing is known yet, so start with a prompt: it is tried in minutes. "
                "Then measure the others on your rows with `tunesmith compare`."
            )
        first, *others = self.ranking
        close = [TITLES[one.approach] for one in others if first.points - one.points <= CLOSE_POINTS]
        start = f"Start with {TITLES[first.approach]}."
        if not close:
            return f"{start} `tunesmith compare` shows on your rows whether that was right."
        verb = "are" if len(close) > 1 else "is"
        return f"{start} {_enumerated(close)} {verb} so close that only `tunesmith compare` can tell."

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "summary": self.summary,
            "facts": asdict(self.facts),
            "ranking": [
                {
                    "rank": rank,
                    "approach": one.approach,
                    "points": one.points,
                    "reasons": [asdict(reason) for reason in one.reasons],
                    "profile": dict(zip(DIMENSIONS, PROFILES[one.approach], strict=True)),
                }
                for rank, one in enumerate(self.ranking, start=1)
            ],
            "would_change": [asdict(change) | {"text": change.text} for change in self.changes],
        }


def advise(facts: Facts) -> Advice:
    """The approaches in the order that the facts speak for, and each fact that would put another one first.

    Raises:
        ConfigError: for a value that is none of a fact's.
    """
    ranking = rank_approaches(facts)
    return Advice(facts, ranking, tuple(_changes(facts, ranking[0].approach)))


def rank_approaches(facts: Facts) -> tuple[Ranked, ...]:
    """All approaches, best first; of equal ones the cheaper to build first.

    Raises:
        ConfigError: for a value that is none of a fact's.
    """
    known = {
        fact.name: choice_of(fact, value).name
        for fact in FACTS
        if (value := getattr(facts, fact.name)) is not None
    }
    ranked = [_weighed(approach, known) for approach in APPROACHES]
    return tuple(sorted(ranked, key=lambda one: -one.points))


def read_answer(fact: Fact, text: str) -> Value | None:
    """What a person typed: a number, yes or no, a choice or its beginning; nothing is "I don't know".

    Raises:
        ConfigError: if it is no answer to this question.
    """
    word = text.strip().lower()
    if not word:
        return None
    if fact.least:
        digits = word.replace(",", "").replace("_", "")
        if digits.isascii() and digits.isdecimal():
            return int(digits)
        raise ConfigError(f"`{word}` is no number from 0", hint="type digits, or Enter for I don't know")
    values = {choice.name: choice.value for choice in fact.choices}
    begun = [name for name in values if name.startswith(word)]
    if len(begun) == 1:
        return values[begun[0]]
    close = nearest(word, values)
    hint = (
        f"the nearest is `{close}`" if close else f"type one of {listed(values)}, or Enter for I don't know"
    )
    raise ConfigError(f"`{word}` is no answer to this", hint=hint)


def choice_of(fact: Fact, value: Value) -> Choice:
    """The kind of answer that a value is.

    Raises:
        ConfigError: if it is none.
    """
    if not fact.least:
        for choice in fact.choices:
            if choice.value == value:
                return choice
    elif isinstance(value, int) and value >= 0:
        return next(
            choice
            for choice, least in reversed(list(zip(fact.choices, fact.least, strict=True)))
            if value >= least
        )
    flag = fact.name.replace("_", "-")
    raise ConfigError(f"`{flag}` cannot be `{value}`", hint=f"give {fact.answers}")


def _weighed(approach: str, known: Mapping[str, str]) -> Ranked:
    holding = (*START, *(rule for rule in RULES if known.get(rule.fact) == rule.choice))
    reasons = [
        Reason(rule.fact, rule.weights[approach], rule.reason) for rule in holding if approach in rule.weights
    ]
    points = sum(reason.points for reason in reasons)
    return Ranked(approach, points, tuple(sorted(reasons, key=lambda reason: -abs(reason.points))))


def _changes(facts: Facts, first: str) -> list[Change]:
    changes = []
    for fact in FACTS:
        value = getattr(facts, fact.name)
        now = choice_of(fact, value) if value is not None else None
        for choice in fact.choices:
            if choice is now:
                continue
            turned: dict[str, Any] = {fact.name: choice.value}
            other = rank_approaches(replace(facts, **turned))[0].approach
            if other != first:
                changes.append(Change(fact.name, choice.value, choice.condition, other))
    return changes


def _enumerated(names: list[str]) -> str:
    shown = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
    return shown[0].upper() + shown[1:]
