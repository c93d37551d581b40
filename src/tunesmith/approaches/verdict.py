"""What a comparison's numbers allow to say, in plain words: best, cheapest, whether training was worth it.

A difference counts where its interval leaves out 0 and at least `ENOUGH_ROWS` inputs were asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, log10

from tunesmith.approaches.costs import TRAINED_PER_READ, BreakEven
from tunesmith.approaches.results import Findings
from tunesmith.approaches.settings import APPROACHES, FEW_SHOT, FINE_TUNED, RAG, TUNED, ZERO_SHOT, Prices
from tunesmith.evaluation.marks import (
    ENOUGH_ROWS,
    format_difference,
    format_interval,
    format_value,
    listed,
    metric_name,
)
from tunesmith.evaluation.scores import Comparison

# Of one request most prices are too small to read.
REQUESTS_PRICED = 1000
PROMPTED = tuple(name for name in APPROACHES if name not in FINE_TUNED)
SIMPLE_TO_MAKE = {
    ZERO_SHOT: "low: a prompt",
    FEW_SHOT: "low: a prompt and a few good rows",
    RAG: "medium: an index that has to be kept",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is said, and the approaches it names.

    Attributes:
        best: highest task score.
        cheapest: cheapest among those not clearly worse than the best.
        is_tuning_worth_it: whether fine-tuning is clearly better than the best prompt; None where it was not
            asked beside one, or too few inputs were.
        sentences: for people, the most important one first.
    """

    best: str
    cheapest: str
    is_tuning_worth_it: bool | None
    sentences: tuple[str, ...]


def verdict_of(findings: Findings, prices: Prices) -> Verdict:
    """The verdict on all that was measured."""
    best = findings.best_of(findings.names)
    assert best is not None  # noqa: S101 (there is always one result)
    is_enough = findings.inputs >= ENOUGH_ROWS
    equal = [best, *(name for name in findings.names if name != best and not _is_clear(findings, best, name))]
    cheapest = min(equal, key=lambda name: (findings.result(name).cost, findings.names.index(name)))
    worth, tuning = _tuning(findings, is_enough=is_enough)
    sentences = [*_best(findings, best, equal), _cheapest(findings, cheapest, equal, prices), *tuning]
    sentences += [_break_even(each, prices) for each in _shown_break_evens(findings)]
    sentences += [f"{name} was not possible: {reason}." for name, reason in findings.impossible.items()]
    if not is_enough:
        sentences.insert(
            0,
            f"Too few held-out inputs for a verdict: {findings.inputs} where at least {ENOUGH_ROWS} are "
            "needed. Read what follows as a hint.",
        )
    return Verdict(best, cheapest, worth if is_enough else None, tuple(sentences))


def is_clearly_better(comparison: Comparison) -> bool:
    """Whether the interval of a difference lies above 0."""
    return comparison.low is not None and comparison.low > 0


def _is_clear(findings: Findings, better: str, other: str) -> bool:
    return is_clearly_better(findings.difference(better, other))


def _best(findings: Findings, best: str, equal: Sequence[str]) -> list[str]:
    score = findings.result(best).score(findings.task_score)
    value = format_value(score.value, unit=score.unit)
    interval = format_interval(score.low, score.high, unit=score.unit)
    said = (
        f"Best on {metric_name(findings.task_score)}: {best} with {value} {interval} {score.unit}".rstrip()
        + f" on {findings.inputs} inputs"
    )
    if best != ZERO_SHOT and ZERO_SHOT in findings.names:
        said += f", {_difference(findings, best, ZERO_SHOT)} against zero-shot"
    others = [name for name in equal if name != best]
    if others:
        return [f"{said}. {listed(others)} {'is' if len(others) == 1 else 'are'} not clearly worse."]
    return [f"{said}." + (" All others are clearly worse." if len(findings.names) > 1 else "")]


def _difference(findings: Findings, better: str, other: str) -> str:
    """A difference of the task's score with its interval."""
    unit = findings.result(better).score(findings.task_score).unit
    found = findings.difference(better, other)
    interval = format_interval(found.low, found.high, unit=unit, signed=True)
    return f"{format_difference(found.difference, unit=unit)} {interval}"


def _cheapest(findings: Findings, cheapest: str, equal: Sequence[str], prices: Prices) -> str:
    result = findings.result(cheapest)
    where = "Cheapest of those" if len(equal) > 1 else "Its cost"
    amount = (
        f"{result.costs.tokens_per_request:,.0f} tokens a request"
        if result.price is None
        else f"{format_money(result.price * REQUESTS_PRICED, prices)} for {REQUESTS_PRICED:,} requests"
    )
    return f"{where}: {cheapest}, {amount}." if len(equal) > 1 else f"{where}: {amount}."


def _tuning(findings: Findings, *, is_enough: bool) -> tuple[bool | None, list[str]]:
    """Whether fine-tuning is clearly better than the best prompted approach, and how that is said."""
    tuned, prompted = findings.best_of(FINE_TUNED), findings.best_prompted
    if tuned is None or prompted is None:
        return None, []
    difference = _difference(findings, tuned, prompted)
    best_prompt = f"the best approach without training, {prompted}"
    if _is_clear(findings, tuned, prompted):
        if is_enough:
            return True, [
                f"Fine-tuning is worth it for quality: {tuned} is {difference} against {best_prompt}."
            ]
        return True, [f"Fine-tuning looks better: {tuned} is {difference} against {best_prompt}."]
    if _is_clear(findings, prompted, tuned):
        return False, [f"Fine-tuning is not worth it here: {tuned} is {difference} against {best_prompt}."]
    return False, [
        f"Fine-tuning is not shown to be better: {tuned} is {difference} against {best_prompt}. "
        "It is worth it only where it is cheaper."
    ]


def _shown_break_evens(findings: Findings) -> list[BreakEven]:
    """Fine-tuned against the best prompted approach: in money where it is known, else in tokens."""
    tuned = TUNED if TUNED in findings.names else findings.best_of(FINE_TUNED)
    those = [
        each
        for each in findings.break_evens
        if each.approach == tuned and each.against == findings.best_prompted
    ]
    return [each for each in those if each.is_money] or those


def _break_even(each: BreakEven, prices: Prices) -> str:
    """From how many requests on training pays, by cost alone."""
    paid = format_money(each.training, prices) if each.is_money else f"{each.training:,.0f} prompt tokens"
    if each.requests is None:
        cost = "as much as" if each.saving == 0 else "more than"
        return (
            f"By cost alone training never pays against {each.against}: a request to {each.approach} costs "
            f"{cost} one to {each.against}."
        )
    saves = f"each request saves {each.saving:,.0f} prompt tokens"
    if each.is_money:
        saves = f"{REQUESTS_PRICED:,} requests save {format_money(each.saving * REQUESTS_PRICED, prices)}"
    how = "" if each.is_money else f" (a trained token counted as {TRAINED_PER_READ} that are read)"
    return (
        f"By cost alone training pays against {each.against} from {each.requests:,} requests on: it cost "
        f"{paid}{how}, and {saves}."
    )


def format_money(value: float, prices: Prices) -> str:
    """An amount with three digits that say something, and the currency where it has a name."""
    small = 2 if abs(value) >= 1 or value == 0 else 2 - floor(log10(abs(value)))
    shown = f"{value:,.{small}f}".replace("-", "−")
    return f"{shown} {prices.currency}".rstrip()


def dimensions(findings: Findings) -> list[tuple[str, tuple[str, ...]]]:
    """What else tells the approaches apart, one line a dimension, one cell an approach that answered."""
    names = findings.names
    return [
        ("Implementation cost", tuple(_implementation(findings, name) for name in names)),
        ("Knowledge updates", tuple(_updates(name) for name in names)),
        ("Private data", tuple(_privacy(name) for name in names)),
        ("Inference cost", tuple(_inference(findings, name) for name in names)),
        ("Customization depth", tuple(_depth(name) for name in names)),
    ]


def _implementation(findings: Findings, name: str) -> str:
    if name in SIMPLE_TO_MAKE:
        return SIMPLE_TO_MAKE[name]
    training = findings.result(name).costs.training
    took = f": trained {training.seconds / 60:,.1f} min on good rows" if training else ""
    return f"high{took}" + ("" if name == TUNED else ", and an index")


def _updates(name: str) -> str:
    if name == TUNED:
        return "by training again"
    if name in FINE_TUNED:
        return "facts at once in the index, manner by training again"
    return "at once in the index" if name == RAG else "at once in the prompt"


def _privacy(name: str) -> str:
    if name == ZERO_SHOT:
        return "each request goes to whoever runs the model"
    if name == FEW_SHOT:
        return "rows go along with each request"
    if name == RAG:
        return "stays in the index; what is found goes along with a request"
    return "stays on the machine that trains; the model may repeat rows" + (
        "" if name == TUNED else "; what is found goes along with a request"
    )


def _inference(findings: Findings, name: str) -> str:
    costs = findings.result(name).costs
    return (
        f"measured: {costs.prompt_tokens_per_request:,.0f} prompt and "
        f"{costs.answer_tokens_per_request:,.0f} answer tokens, {costs.seconds_per_request:,.2f} s a request"
    )


def _depth(name: str) -> str:
    if name in FINE_TUNED:
        return "deep: form, style and task"
    return "medium: what is known" if name == RAG else "shallow: what the model can already"
