"""Findings of a diagnosis ready to show: words for confidence, numbers for what can be seen on a curve.

They come as plain dicts (`title`, `cause`, `evidence`, `remedy`, `confidence`, `changes`, `commands`), as
manifest.json holds them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Lowest confidence of each word.
_WORDS = ((0.85, "sure"), (0.6, "likely"), (0.0, "possible"))
PICTURED = ("loss", "eval_loss", "learning_rate", "grad_norm")


@dataclass(frozen=True, slots=True)
class Mark:
    """A stretch of a curve that a piece of evidence is about, with the number it goes by.

    Attributes:
        number: from 1 on, over all findings.
        curve: name in the metrics, such as `eval_loss`.
        first_step: where it begins.
        last_step: where it ends; the same for a single step.
    """

    number: int
    curve: str
    first_step: float
    last_step: float


@dataclass(frozen=True, slots=True)
class FindingView:
    """One finding as people read it.

    Attributes:
        title: the ailment.
        sureness: `sure`, `likely` or `possible`.
        cause: sentence.
        evidence: number of the mark, or None where nothing is marked, and the sentence.
        remedy: sentence.
        changes: key, old value, new value, reason.
        commands: to run first.
    """

    title: str
    sureness: str
    cause: str
    evidence: tuple[tuple[int | None, str], ...]
    remedy: str
    changes: tuple[tuple[str, str, str, str], ...]
    commands: tuple[str, ...]


def sureness(confidence: float) -> str:
    """A word for how often such evidence means the ailment: 0 to 1."""
    return next(word for least, word in _WORDS if confidence >= least)


def verdict_line(findings: Sequence[Mapping[str, Any]], *, checks: int) -> str:
    """What was found, in one line.

    Args:
        findings: the surest first.
        checks: number of ailments that were looked for.
    """
    if not findings:
        return f"Nothing found in {checks} checks."
    named = "; ".join(f"{found['title']} ({sureness(found['confidence'])})" for found in findings)
    count = "1 finding" if len(findings) == 1 else f"{len(findings)} findings"
    return f"{count} in {checks} checks: {named}."


def view_findings(
    findings: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]
) -> tuple[FindingView, ...]:
    """The findings in their order.

    Args:
        findings: as dicts.
        settings: values before the changes, by configuration key; one that is missing is not known.
    """
    numbers = iter(range(1, 1 + len(marks_of(findings))))
    return tuple(
        FindingView(
            title=_begun(found["title"]),
            sureness=sureness(found["confidence"]),
            cause=_sentence(found["cause"]),
            evidence=tuple(
                (next(numbers) if _is_pictured(each) else None, _sentence(each["text"]))
                for each in found["evidence"]
            ),
            remedy=_sentence(found["remedy"]),
            changes=tuple(
                (
                    change["key"],
                    shown(settings.get(change["key"]), change["key"] in settings),
                    shown(change["value"]),
                    change["reason"],
                )
                for change in found["changes"]
            ),
            commands=tuple(found["commands"]),
        )
        for found in findings
    )


def marks_of(findings: Iterable[Mapping[str, Any]]) -> list[Mark]:
    """A mark for each piece of evidence that is about a stretch of a curve that is drawn."""
    pieces = [each for found in findings for each in found["evidence"] if _is_pictured(each)]
    return [
        Mark(number, each["curve"], each["first_step"], each["last_step"] or each["first_step"])
        for number, each in enumerate(pieces, start=1)
    ]


def shown(value: object, is_known: bool = True) -> str:
    """A setting's value as it is written; `not known` where a log does not tell."""
    if not is_known:
        return "not known"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _sentence(text: str) -> str:
    """The text with a capital and a full stop."""
    begun = _begun(text)
    return begun if not begun or begun[-1] in ".!?" else f"{begun}."


def _begun(text: str) -> str:
    """The text with a capital, unless it begins with a name as programs write them."""
    first = text.partition(" ")[0]
    return text if set("_`./<{") & set(first) else text[:1].upper() + text[1:]


def _is_pictured(evidence: Mapping[str, Any]) -> bool:
    return evidence["curve"] in PICTURED and evidence["first_step"] is not None
