"""The rules of thumb behind `tunesmith advise`: a table of facts, and one of what each speaks for or against.

A weight is a number of points, its reason a sentence; nothing else decides. `advise.py` adds them up.
"""

from collections.abc import Mapping
from dataclasses import dataclass

PROMPT, FEW_SHOT, RAG, TUNED, BOTH = "prompt", "few-shot", "rag", "fine-tuning", "fine-tuning + rag"
# The cheapest to build and to leave again first; this order also decides between equal scores.
APPROACHES = (PROMPT, FEW_SHOT, RAG, TUNED, BOTH)
TITLES = {
    PROMPT: "a prompt",
    FEW_SHOT: "few-shot examples",
    RAG: "RAG",
    TUNED: "fine-tuning",
    BOTH: "fine-tuning + RAG",
}
HEADINGS = {PROMPT: "prompt", FEW_SHOT: "few-shot", RAG: "RAG", TUNED: "fine-tuning", BOTH: "both"}

Value = bool | int | str


@dataclass(frozen=True, slots=True)
class Choice:
    """One kind of answer to a question.

    Attributes:
        name: how rules call it.
        value: the answer, or for a number an example of this kind.
        condition: the answer as a condition: "the knowledge changed daily".
    """

    name: str
    value: Value
    condition: str


@dataclass(frozen=True, slots=True)
class Fact:
    """One question.

    Attributes:
        name: the field of `Facts`, and the flag.
        question: as it is asked.
        answers: what may be answered, as it is shown.
        choices: all kinds of answers; those of a number ascend.
        least: the smallest number of each kind, for a number.
    """

    name: str
    question: str
    answers: str
    choices: tuple[Choice, ...]
    least: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """What one answer means: points for approaches, and why."""

    fact: str
    choice: str
    weights: Mapping[str, int]
    reason: str


FACTS = (
    Fact(
        "goal",
        "What should the model gain: a style, an output format, knowledge, or skill at one task?",
        "style/format/knowledge/task",
        (
            Choice("style", "style", "the goal were a style"),
            Choice("format", "format", "the goal were an output format"),
            Choice("knowledge", "knowledge", "the goal were knowledge"),
            Choice("task", "task", "the goal were skill at one task"),
        ),
    ),
    Fact(
        "rows",
        "How many rows of a prompt with the wanted answer are there?",
        "a number",
        (
            Choice("none", 0, "there were no rows"),
            Choice("few", 50, "there were 50 rows"),
            Choice("hundreds", 500, "there were 500 rows"),
            Choice("thousands", 10_000, "there were 10,000 rows"),
        ),
        # For a style 100 to 500 good rows do, for a difficult field 5,000 and more.
        (0, 1, 100, 5_000),
    ),
    Fact(
        "updates",
        "How often does the knowledge change that answers rest on?",
        "never/monthly/daily",
        (
            Choice("never", "never", "the knowledge never changed"),
            Choice("monthly", "monthly", "the knowledge changed monthly"),
            Choice("daily", "daily", "the knowledge changed daily"),
        ),
    ),
    Fact(
        "citations",
        "Must answers name their sources?",
        "yes/no",
        (
            Choice("yes", True, "answers had to name their sources"),
            Choice("no", False, "answers needed no sources"),
        ),
    ),
    Fact(
        "private",
        "Is there data that must not leave your machines?",
        "yes/no",
        (
            Choice("yes", True, "the data had to stay on your machines"),
            Choice("no", False, "the data were free to leave your machines"),
        ),
    ),
    Fact(
        "budget",
        "How much work and computing may it take to build?",
        "low/medium/high",
        (
            Choice("low", "low", "the budget were low"),
            Choice("medium", "medium", "the budget were medium"),
            Choice("high", "high", "the budget were high"),
        ),
    ),
    Fact(
        "requests_per_day",
        "How many requests a day will it answer?",
        "a number",
        (
            Choice("few", 10, "there were 10 requests a day"),
            Choice("some", 1_000, "there were 1,000 requests a day"),
            Choice("many", 50_000, "there were 50,000 requests a day"),
        ),
        (0, 100, 10_000),
    ),
)

# What holds before anything is known.
START = (
    Rule("start", "", {PROMPT: 3}, "there is nothing to build"),
    Rule("start", "", {FEW_SHOT: 2}, "it takes a handful of examples and no building"),
    Rule("start", "", {RAG: 1}, "an index is quickly built, but it must be kept up"),
    Rule("start", "", {TUNED: -1}, "it takes rows, a training run and a test of the result"),
    Rule("start", "", {BOTH: -2}, "a training run and an index must both be built and kept up"),
)

RULES = (
    Rule(
        "goal",
        "style",
        {TUNED: 3, BOTH: 3},
        "a style is learned from examples better than from a description",
    ),
    Rule("goal", "style", {FEW_SHOT: 1}, "examples show a style"),
    Rule("goal", "style", {RAG: -2}, "looking facts up does not change how the model writes"),
    Rule("goal", "format", {TUNED: 3, BOTH: 3}, "a trained model keeps to a format nearly always"),
    Rule("goal", "format", {FEW_SHOT: 1}, "examples show the format"),
    Rule("goal", "format", {RAG: -2}, "passages say nothing about the form of the answer"),
    Rule("goal", "knowledge", {RAG: 3, BOTH: 2}, "what is looked up need not be remembered"),
    Rule("goal", "knowledge", {TUNED: -1}, "training teaches behaviour surely, and single facts unsurely"),
    Rule("goal", "knowledge", {PROMPT: -1, FEW_SHOT: -1}, "the model knows only what it learned before"),
    Rule("goal", "task", {TUNED: 2, BOTH: 1}, "training goes deepest into one task"),
    Rule("goal", "task", {FEW_SHOT: 1}, "examples make the task plain"),
    Rule("rows", "none", {TUNED: -6, BOTH: -6}, "there is nothing to train on"),
    Rule("rows", "none", {FEW_SHOT: -2}, "the examples would have to be written first"),
    Rule("rows", "few", {FEW_SHOT: 3}, "the rows at hand are what a prompt can show"),
    Rule("rows", "few", {TUNED: -2, BOTH: -2}, "so few rows are learned by heart"),
    Rule("rows", "hundreds", {TUNED: 3, BOTH: 2}, "hundreds of good rows are enough for a style or format"),
    Rule("rows", "thousands", {TUNED: 4, BOTH: 3}, "thousands of rows are enough for a difficult field"),
    Rule("rows", "thousands", {FEW_SHOT: -1}, "a prompt can show only a handful of the rows"),
    Rule("updates", "never", {TUNED: 1}, "what is learned once stays true"),
    Rule("updates", "never", {RAG: -1, BOTH: -1}, "what never changes need not be looked up again"),
    Rule("updates", "monthly", {RAG: 2, BOTH: 1}, "the index takes a changed text at once"),
    Rule("updates", "monthly", {TUNED: -1}, "it would have to be trained again every month"),
    Rule("updates", "daily", {RAG: 3, BOTH: 2}, "the index takes a changed text at once"),
    Rule("updates", "daily", {TUNED: -3}, "what was learned is old the next day"),
    Rule("citations", "yes", {RAG: 4, BOTH: 3}, "it can name the passage that an answer rests on"),
    Rule("citations", "yes", {PROMPT: -2, FEW_SHOT: -2, TUNED: -3}, "it has no source to name"),
    Rule("citations", "no", {RAG: -1, BOTH: -1}, "nobody asks for the sources it finds"),
    Rule("private", "yes", {PROMPT: -1, FEW_SHOT: -1}, "a prompt to a hosted model carries the data out"),
    Rule("private", "yes", {RAG: 1}, "the index stays on your machines, with a model of your own"),
    Rule("private", "yes", {TUNED: 1, BOTH: 1}, "data and model stay on your machines"),
    Rule("private", "no", {PROMPT: 1}, "any hosted model may be asked"),
    Rule("budget", "low", {PROMPT: 2, FEW_SHOT: 1}, "it costs nearly nothing to try"),
    Rule("budget", "low", {TUNED: -2, BOTH: -3}, "preparing rows, training and testing take days"),
    Rule("budget", "medium", {RAG: 1}, "an index is affordable"),
    Rule("budget", "medium", {BOTH: -1}, "two systems are twice the work"),
    Rule("budget", "high", {TUNED: 1, BOTH: 2}, "the work of building it is affordable"),
    Rule("requests_per_day", "few", {PROMPT: 1}, "long prompts cost little on so few requests"),
    Rule("requests_per_day", "few", {TUNED: -1, BOTH: -1}, "so few requests hardly pay the training back"),
    Rule("requests_per_day", "some", {FEW_SHOT: -1}, "every request pays for the examples again"),
    Rule("requests_per_day", "many", {TUNED: 2, BOTH: 1}, "short prompts pay the training back"),
    Rule("requests_per_day", "many", {PROMPT: -1}, "every request pays for the instructions again"),
    Rule("requests_per_day", "many", {FEW_SHOT: -2}, "every request pays for the examples again"),
    Rule("requests_per_day", "many", {RAG: -1}, "every request pays for its passages"),
)

DIMENSIONS = ("implementation cost", "knowledge updates", "private data", "inference cost", "customization")
AT_RISK_NOTE = "at risk: where the model is hosted by others; a model on your own machine sends nothing out"
# In the order of `DIMENSIONS`.
PROFILES = {
    PROMPT: ("low", "at once", "at risk", "high", "shallow"),
    FEW_SHOT: ("low", "at once", "at risk", "highest", "shallow"),
    RAG: ("medium", "at once", "safe", "medium", "medium"),
    TUNED: ("high", "by training", "safe", "low", "deep"),
    BOTH: ("highest", "at once", "safe", "medium", "deep"),
}
