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
# A loop inside a word, `55555` or `uuuuu`, shows in characters: of 2,000 generated references none has above
# 0.07 of them twice.
ORDER_OF_CHARACTERS = 12
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
FEW_STEPS, MANY_STEPS = 50, 200
SLOW_PARTS = 5  # a rate so many times below the usual one needs more than epochs
# A model that loops and has then learned a new form of answers has lost about two fifths of its loss; one
# that has lost less than a tenth has learned next to nothing.
LEARNED_SHARE, MOVED_SHARE = 0.4, 0.1
# The first steps bring most: 25 times the steps brought 8 times the fall (a small Llama, a new kind of text).
SLOWING = 0.65
MOST_TIMES = 10  # a learning rate is raised by no more than this
MORE, GENTLER_PARTS = 3, 4
STEPS = "training.max_steps"
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
    """Share of a text's groups of tokens that stood in it before, 0 to 1, or of characters if that is more.

    0 for a text of fewer than five tokens and thirteen characters.
    """
    lower = text.lower()
    return max(_again(_TOKEN.findall(lower), ORDER), _again(lower, ORDER_OF_CHARACTERS))


def _again(parts: Sequence[str], order: int) -> float:
    grams = list(zip(*(parts[at:] for at in range(order)), strict=False))
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
    """The loss ended far above where it was before, or above the base model's."""
    evidence = [*_risen(signs), *_above_base(signs)]
    if not evidence:
        return None
    return Cause(
        "the learning rate was too high: training broke the model instead of tuning it",
        tuple(evidence),
        "Lower the learning rate and warm up longer.",
        gentler(signs, parts=GENTLER_PARTS),
        COLLAPSED,
    )


def _risen(signs: Signs) -> Iterator[Evidence]:
    """Training loss: its last tenth against its lowest tenth and its first step."""
    loss = signs.loss.finite
    if len(loss) < FEWEST_POINTS:
        return
    part = max(2, len(loss) // 10)
    means = np.convolve(loss.values, np.ones(part) / part, mode="valid")
    at, last = int(means.argmin()), float(means[-1])
    # A model may break within the first tenth; one step alone is noisier, so more is asked of it.
    lowest, first = float(means[at]), float(loss.values[0])
    if first < lowest and last - first >= 2 * COLLAPSE_NATS:
        at, lowest = 0, first
    if last - lowest >= COLLAPSE_NATS:
        yield Evidence(
            f"training loss was down to {lowest:.2f} and ended at {last:.2f} nats a token",
            curve="loss",
            first_step=float(loss.steps[at]),
            last_step=float(loss.steps[-1]),
        )


def _above_base(signs: Signs) -> Iterator[Evidence]:
    """Held-out loss of the tuned model against the base model's."""
    changes = signs.evaluation.get("comparisons", ())
    change = next((each for each in changes if each.get("metric") == "loss"), None)
    if change and change.get("low") is not None and change["low"] >= COLLAPSE_NATS:
        yield Evidence(f"held-out loss is above the base model's by {change['difference']:.2f} nats a token")


def _undertrained(signs: Signs) -> Cause | None:
    """Few steps, a loss that still falls at the end, or one that hardly moved."""
    evidence = [*_few_steps(signs), *_still_falling(signs), *_hardly_moved(signs)]
    if not evidence:
        return None
    return Cause(
        "training ended before the model had learned how these answers go and where they end",
        tuple(evidence),
        "Train longer, and at a higher rate where the loss hardly moved.",
        (*_more_training(signs), *_higher_rate(signs)),
        UNDERTRAINED,
    )


def _few_steps(signs: Signs) -> Iterator[Evidence]:
    steps = signs.last_step
    if 0 < steps < FEW_STEPS:
        epochs = signs.epoch_of(steps)
        passes = f" ({epochs:.2g} epochs)" if epochs else ""
        yield Evidence(f"training took {steps:g} steps{passes}", first_step=0, last_step=steps)


def _still_falling(signs: Signs) -> Iterator[Evidence]:
    loss = signs.loss.finite
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


def _hardly_moved(signs: Signs) -> Iterator[Evidence]:
    fall = _fall(signs)
    if fall is not None and fall < MOVED_SHARE:
        yield Evidence(
            f"validation loss fell by {fall:.1%} in all",
            curve="eval_loss",
            first_step=0,
            last_step=float(signs.validation.finite.steps[-1]),
        )


def _fall(signs: Signs) -> float | None:
    """Share by which the validation loss of the untrained model fell until the end."""
    validation = signs.validation.finite
    if len(validation) < 2 or validation.steps[0] > 0 or validation.values[0] <= 0:
        return None
    return float(1 - validation.values[-1] / validation.values[0])


def _more_training(signs: Signs) -> Iterator[Change]:
    """Three times as much, and at least some tens of steps; three epochs where they are not many."""
    epoch = signs.steps_per_epoch or 0.0
    most = signs.setting(STEPS)
    if most:
        yield Change(STEPS, _enough(int(most), epoch), f"{most} were too few to learn it")
        return
    epochs = float(signs.setting("training.num_train_epochs", 1.0))
    more = max(MORE * epochs, FEW_STEPS / epoch if epoch else 0.0)
    yield Change("training.num_train_epochs", float(np.ceil(more)), f"{epochs:g} were too few to learn it")


def _enough(steps: int, steps_per_epoch: float) -> int:
    return max(MORE * steps, FEW_STEPS, min(MANY_STEPS, round(MORE * steps_per_epoch)))


def _higher_rate(signs: Signs) -> Iterator[Change]:
    """The usual rate where it was far lower; a higher one where more steps alone would not do."""
    peak, usual, fall = peak_rate(signs), usual_rate(signs), _fall(signs)
    if not peak:
        return
    if usual and peak * SLOW_PARTS <= usual:
        yield Change("training.learning_rate", rounded(usual), f"{peak:.2g} is low for this method")
    elif fall is not None and signs.last_step:
        longer = _enough(int(signs.last_step), signs.steps_per_epoch or 0.0) / signs.last_step
        missing = LEARNED_SHARE / max(fall * longer**SLOWING, LEARNED_SHARE / MOST_TIMES)
        if missing > 1.5:
            reason = f"at {peak:.2g} the loss fell by {fall:.1%} in {signs.last_step:g} steps"
            yield Change("training.learning_rate", rounded(peak * missing), reason)


def _decoding() -> Cause:
    return Cause(
        "the model has learned the rows, and choosing the likeliest token each time leads it into loops",
        (),
        "Let tokens be drawn (a temperature of about 0.7), and look for loops in the training answers.",
        (),
        DECODING,
    )
