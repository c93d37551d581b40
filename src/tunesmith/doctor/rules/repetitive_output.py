"""Repetitive output: answers that loop, or that never end, where the references do neither.

Judged on the answers to held-out rows, each beside its own references: a list or a poem may repeat itself.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunesmith.doctor.finding import Change, Evidence, Finding
from tunesmith.doctor.rates import gentler, peak_rate, rounded, usual_rate
from tunesmith.doctor.signs import Signs

TITLE = "Answers that repeat themselves or do not end"
IS_LIVE = False

FEWEST_SAMPLES = 4
# Share of the 4-grams of an answer that stood in it before (Welleck et al. 2020, seq-rep-4): human text has
# 0 to 0.1, greedy loops 0.5 and more.
ORDER = 4
LOOP_SHARE, ABOVE_REFERENCES = 0.4, 0.25
MOST_LOOPING = 0.2
# Answers are cut off a quarter above the longest reference; of a model that stops, few pass the longest one.
MOST_ENDLESS = 0.4
# Words, or characters of scripts without blanks; a word of 12 letters and more may be a loop of its own.
_TOKEN = re.compile(
    "[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]{1,12}|[^\\w\\s]"
)
# The last tenth of the training loss against its lowest tenth, in nats a token.
COLLAPSE_NATS = 0.5
FEWEST_POINTS = 8  # a quarter of fewer is one point
# Losses of the last two quarters of a run that differ by more still fall.
FALLING_SHARE = 0.05
FEW_STEPS = 50
SLOW_PARTS = 5  # a rate so many times below the usual one needs more than epochs
MORE_EPOCHS, GENTLER_PARTS = 3, 4
NO_END, COLLAPSED, UNDERTRAINED, DECODING = 0.85, 0.75, 0.75, 0.5


@dataclass(frozen=True, slots=True)
class Cause:
    """Why answers repeat: the sentence, what speaks for it, what to do, and how sure that is."""

    text: str
    evidence: tuple[Evidence, ...]
    remedy: str
    changes: tuple[Change, ...]
    confidence: float


def examine(signs: Signs) -> Finding | None:
    """Many tuned answers loop, or run on past every reference."""
    samples = [sample for sample in signs.samples if sample.get("tuned") is not None]
    if len(samples) < FEWEST_SAMPLES:
        return None
    looping = [each for each in samples if _loops(str(each["tuned"]), _references(each))]
    endless = _endless(samples)
    evidence = [
        *_evidence_of_loops(looping, samples),
        *_evidence_of_no_end(endless, samples, signs.facts.get("answers") or {}),
    ]
    if not evidence:
        return None
    cause = _no_end(signs) or _collapse(signs) or _undertrained(signs) or _decoding()
    return Finding(
        ailment="repetitive_output",
        title=TITLE,
        cause=cause.text,
        evidence=(*evidence, *cause.evidence),
        remedy=cause.remedy,
        confidence=cause.confidence,
        changes=cause.changes,
    )


def repeated_share(text: str) -> float:
    """Share of a text's 4-grams that stood in it before, 0 to 1; 0 for a text of fewer than five tokens."""
    tokens = _TOKEN.findall(text.lower())
    grams = list(zip(*(tokens[at:] for at in range(ORDER)), strict=False))
    return 1 - len(set(grams)) / len(grams) if len(grams) > 1 else 0.0


def _references(sample: Mapping[str, Any]) -> Sequence[str]:
    return [str(each) for each in sample.get("references") or [sample.get("reference") or ""]]


def _loops(answer: str, references: Sequence[str]) -> bool:
    share = repeated_share(answer)
    return share >= LOOP_SHARE and share - max(map(repeated_share, references)) >= ABOVE_REFERENCES


def _endless(samples: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Samples whose tuned answer is longer than the longest reference of all."""
    longest = max(_length(reference) for each in samples for reference in _references(each))
    return [each for each in samples if _length(str(each["tuned"])) > longest]


def _length(text: str) -> int:
    return len(_TOKEN.findall(text))


def _evidence_of_loops(
    looping: Sequence[Mapping[str, Any]], samples: Sequence[Mapping[str, Any]]
) -> Iterator[Evidence]:
    if len(looping) < max(2, MOST_LOOPING * len(samples)):
        return
    tuned = float(np.mean([repeated_share(str(each["tuned"])) for each in samples]))
    given = float(np.mean([max(map(repeated_share, _references(each))) for each in samples]))
    base = [repeated_share(str(each["base"])) for each in samples if each.get("base") is not None]
    of_base = f", of the base model's {float(np.mean(base)):.0%}" if base else ""
    yield Evidence(
        f"{len(looping)} of {len(samples)} answers loop: {tuned:.0%} of all groups of {ORDER} words stood in "
        f"the same answer before, of the references' {given:.0%}{of_base}; the first is {_place(looping[0])}"
    )


def _evidence_of_no_end(
    endless: Sequence[Mapping[str, Any]], samples: Sequence[Mapping[str, Any]], answers: Mapping[str, Any]
) -> Iterator[Evidence]:
    if len(endless) < max(2, MOST_ENDLESS * len(samples)):
        return
    limit = answers.get("max_new_tokens")
    cut = f" (they are cut off at {limit} tokens)" if limit else ""
    yield Evidence(
        f"{len(endless)} of {len(samples)} answers run on past the longest reference{cut}; the first is "
        f"{_place(endless[0])}"
    )


def _place(sample: Mapping[str, Any]) -> str:
    return str(sample.get("place") or "in samples.jsonl")


def _no_end(signs: Signs) -> Cause | None:
    """The rows do not end in what generation stops at, so stopping was never learned."""
    template = signs.data.get("template") or {}
    if template.get("ends_turn", True):
        return None
    cut = (signs.data.get("truncated") or {}).get("train", 0)
    changes = [Change("data.overlong", "drop", "a row that is cut has no end of turn")] if cut else []
    if template.get("has_own") and not template.get("is_own"):
        changes.append(Change("data.template", "auto", "the model's own template ends its turns"))
    told = f"; {cut} training rows were cut to fit `max_length`" if cut else ""
    return Cause(
        "the end of a turn was hardly ever trained, so the model does not know when to stop",
        (Evidence(f"most training rows do not end in a token that generation stops at{told}"),),
        "Train on whole rows, each with its end of turn: with a larger `--max-length`, or without long rows.",
        tuple(changes),
        NO_END,
    )


def _collapse(signs: Signs) -> Cause | None:
    """The training loss rose again by much, and stayed there; or never came below its start."""
    loss = signs.loss.finite
    part = max(2, len(loss) // 10)
    if len(loss) < FEWEST_POINTS:
        return None
    means = np.convolve(loss.values, np.ones(part) / part, mode="valid")
    lowest, last = float(means.min()), float(means[-1])
    if last - lowest < COLLAPSE_NATS:
        return None
    rise = Evidence(
        f"training loss was down to {lowest:.2f} and ended at {last:.2f} nats a token",
        curve="loss",
        first_step=float(loss.steps[int(means.argmin())]),
        last_step=float(loss.steps[-1]),
    )
    return Cause(
        "the learning rate was too high: training broke the model instead of tuning it",
        (rise,),
        "Lower the learning rate and warm up longer.",
        gentler(signs, parts=GENTLER_PARTS),
        COLLAPSED,
    )


def _undertrained(signs: Signs) -> Cause | None:
    """Few steps, or a loss that still falls at the end."""
    evidence = list(_signs_of_undertraining(signs))
    if not evidence:
        return None
    changes = list(_more_training(signs))
    peak, usual = peak_rate(signs), usual_rate(signs)
    if peak and usual and peak * SLOW_PARTS <= usual:
        changes.append(Change("training.learning_rate", rounded(usual), f"{peak:.2g} is low for this method"))
    return Cause(
        "training ended before the model had learned how these answers go and where they end",
        tuple(evidence),
        "Train longer.",
        tuple(changes),
        UNDERTRAINED,
    )


def _signs_of_undertraining(signs: Signs) -> Iterator[Evidence]:
    loss, steps = signs.loss.finite, signs.last_step
    if 0 < steps < FEW_STEPS:
        epochs = signs.epoch_of(steps)
        passes = f" ({epochs:.2g} epochs)" if epochs else ""
        yield Evidence(f"training took {steps:g} steps{passes}", first_step=0, last_step=steps)
    if len(loss) < FEWEST_POINTS:
        return
    third, last = (float(np.median(part)) for part in np.array_split(loss.values, 4)[2:])
    if third - last > FALLING_SHARE * third:
        yield Evidence(
            f"training loss was still falling: {third:.2f} in the third quarter, {last:.2f} in the last",
            curve="loss",
            first_step=float(loss.steps[len(loss) // 2]),
            last_step=float(loss.steps[-1]),
        )


def _more_training(signs: Signs) -> Iterator[Change]:
    """More epochs, at least so many that there are some tens of steps."""
    most = signs.setting("training.max_steps")
    if most:
        yield Change(
            "training.max_steps", max(MORE_EPOCHS * int(most), FEW_STEPS), "the loss was still falling"
        )
        return
    epochs = float(signs.setting("training.num_train_epochs", 1.0))
    enough = FEW_STEPS / signs.steps_per_epoch if signs.steps_per_epoch else 0.0
    more = float(np.ceil(max(MORE_EPOCHS * epochs, enough)))
    yield Change("training.num_train_epochs", more, f"{epochs:g} were too few to learn it")


def _decoding() -> Cause:
    return Cause(
        "the model has learned the rows, and choosing the likeliest token each time leads it into loops",
        (),
        "Let tokens be drawn (a temperature of about 0.7), and look for loops in the training answers.",
        (),
        DECODING,
    )
