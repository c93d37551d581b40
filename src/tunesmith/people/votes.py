"""What the acts of a survey add up to: win rates and the stop rule, or means and agreement.

People and each judge model are told apart, never added together. An item is one observation: several
raters' votes on it are merged by majority, their ratings by mean.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tunesmith.evaluation.blind_ab import (
    Outcome,
    StopRule,
    WinRate,
    adjusted,
    majority,
    watch,
    win_rate,
)
from tunesmith.evaluation.ratings import Rating, agreement, mean_rating, rating_difference
from tunesmith.evaluation.scores import Comparison, Score
from tunesmith.people.scales import SCALES
from tunesmith.people.sessions import Act, Survey, is_judge, standing

PEOPLE = "people"


@dataclass(frozen=True, slots=True)
class SliceRate:
    """The win rate on the items of one slice.

    Attributes:
        slice: what the items are grouped by, such as `language`.
        value: the group, such as `han`.
        rate: as for all items.
        adjusted_p_value: the sign test's p-value for looking at all groups of the slice together (Holm).
    """

    slice: str
    value: str
    rate: WinRate
    adjusted_p_value: float


@dataclass(frozen=True, slots=True)
class AbGroup:
    """What people, or one judge model, said.

    Attributes:
        who: `people` or the judge's name.
        raters: their names.
        votes: answers that stand, skips not among them.
        skipped: skips that stand.
        rate: win rate of the second system over items; None without votes.
        stop: the stop rule, on each item's first decided vote.
        slices: by slice.
        agreement: nominal alpha over the raters, or None where it cannot be said.
    """

    who: str
    raters: tuple[str, ...]
    votes: int
    skipped: int
    rate: WinRate | None
    stop: StopRule
    slices: tuple[SliceRate, ...]
    agreement: Score | None


@dataclass(frozen=True, slots=True)
class AbResults:
    """Results of a blind A/B; rates are those of `system` over `against`."""

    system: str
    against: str
    items: int
    groups: tuple[AbGroup, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {"kind": "ab", **asdict(self)}


@dataclass(frozen=True, slots=True)
class ScaleResults:
    """One scale.

    Attributes:
        scale: its name.
        means: by system; one without ratings is left out.
        differences: by system, its mean minus the first system's on the items where both were rated.
        agreement: ordinal alpha over the raters, or None where it cannot be said.
    """

    scale: str
    means: Mapping[str, Score]
    differences: Mapping[str, Comparison]
    agreement: Score | None


@dataclass(frozen=True, slots=True)
class RateResults:
    """Results of a rating.

    Attributes:
        systems: in the order given.
        items: prompts in the survey.
        raters: who rated.
        rated: ratings that stand, skips not among them.
        skipped: skips that stand.
        scales: in the page's order.
    """

    systems: tuple[str, ...]
    items: int
    raters: tuple[str, ...]
    rated: int
    skipped: int
    scales: tuple[ScaleResults, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {"kind": "rate", **asdict(self)}


def ab_results(survey: Survey, acts: Iterable[Act]) -> AbResults:
    """The results so far; the second system's over the first."""
    kept = list(standing(acts).values())
    groups = {PEOPLE: [act for act in kept if not is_judge(act.rater)]}
    for act in kept:
        if is_judge(act.rater):
            groups.setdefault(act.rater, []).append(act)
    against, system = survey.systems
    return AbResults(
        system=system,
        against=against,
        items=len(survey.items),
        groups=tuple(_ab_group(survey, who, votes) for who, votes in groups.items()),
    )


def _ab_group(survey: Survey, who: str, acts: Sequence[Act]) -> AbGroup:
    voted = [act for act in acts if not act.is_skip]
    by_item = _outcomes_by_item(survey, voted)
    merged = {item: majority(outcomes) for item, outcomes in by_item.items()}
    ranks = {"loss": 0.0, "tie": 1.0, "win": 2.0}
    return AbGroup(
        who=who,
        raters=tuple(dict.fromkeys(act.rater for act in acts)),
        votes=len(voted),
        skipped=len(acts) - len(voted),
        rate=win_rate(list(merged.values())) if merged else None,
        stop=watch(_first_decided(survey, voted)),
        slices=tuple(_by_slice(survey, merged)),
        agreement=agreement(
            [[ranks[outcome] for outcome in outcomes] for outcomes in by_item.values()],
            level="nominal",
            seed=survey.seed,
        ),
    )


def outcome_of(survey: Survey, act: Act) -> Outcome:
    """A vote told from the second system's side."""
    choice = act.answer["choice"]
    if choice == "tie":
        return "tie"
    return "win" if act.answer[choice] == survey.systems[1] else "loss"


def _outcomes_by_item(survey: Survey, votes: Iterable[Act]) -> dict[str, list[Outcome]]:
    by_item: dict[str, list[Outcome]] = {}
    for act in votes:
        by_item.setdefault(act.item, []).append(outcome_of(survey, act))
    return by_item


def _first_decided(survey: Survey, votes: Iterable[Act]) -> list[bool]:
    """Each item's first vote that is no tie, in the order they came.

    Later votes on an item are no fair coin even where the systems are equal: raters agree about items.
    """
    first: dict[str, bool] = {}
    for act in votes:
        outcome = outcome_of(survey, act)
        if outcome != "tie":
            first.setdefault(act.item, outcome == "win")
    return list(first.values())


def _by_slice(survey: Survey, merged: Mapping[str, Outcome]) -> Iterable[SliceRate]:
    groups: dict[str, dict[str, list[Outcome]]] = {}
    for item, outcome in merged.items():
        for name, value in survey.items[item].slices.items():
            groups.setdefault(name, {}).setdefault(value, []).append(outcome)
    for name, by_value in groups.items():
        rates = [win_rate(outcomes) for outcomes in by_value.values()]
        together = adjusted([rate.p_value for rate in rates])
        for value, rate, p_value in zip(by_value, rates, together, strict=True):
            yield SliceRate(name, value, rate, p_value)


def stop_message(survey: Survey, acts: Iterable[Act]) -> str | None:
    """What raters may be told of the stop rule: that it has spoken, never for whom."""
    if survey.kind != "ab":
        return None
    votes = [act for act in standing(acts).values() if not act.is_skip and not is_judge(act.rater)]
    word = watch(_first_decided(survey, votes)).word
    if word == "go on":
        return None
    return "There are enough votes for a result. You may stop here; more votes make it more exact."


def rate_results(survey: Survey, acts: Iterable[Act]) -> RateResults:
    """The results so far."""
    kept = list(standing(acts).values())
    rated = [act for act in kept if not act.is_skip]
    return RateResults(
        systems=survey.systems,
        items=len(survey.items),
        raters=tuple(dict.fromkeys(act.rater for act in kept)),
        rated=len(rated),
        skipped=len(kept) - len(rated),
        scales=tuple(_scale_results(survey, scale.name, rated) for scale in SCALES),
    )


def _scale_results(survey: Survey, scale: str, rated: Sequence[Act]) -> ScaleResults:
    ratings = [Rating(act.item, act.system, act.rater, act.answer["scores"][scale]) for act in rated]
    means = {
        system: mean
        for system in survey.systems
        if (mean := mean_rating(ratings, scale=scale, system=system, seed=survey.seed))
    }
    first, *others = survey.systems
    differences = {
        system: difference
        for system in others
        if (difference := rating_difference(ratings, scale=scale, systems=(first, system), seed=survey.seed))
    }
    units: dict[tuple[str, str], list[float]] = {}
    for rating in ratings:
        units.setdefault((rating.item, rating.system), []).append(rating.value)
    return ScaleResults(
        scale=scale,
        means=means,
        differences=differences,
        agreement=agreement(units.values(), level="ordinal", seed=survey.seed),
    )
