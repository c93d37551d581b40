"""What each approach asks the model for a held-out row: its own prompt, or examples in front of it.

An asker turns a row into messages. It never shows the row's own answer: an example that asks the same
question is left out. Knows nothing of models and tokens; whether a prompt is too long is passed in.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from tunesmith.data.conversation import Message, Row
from tunesmith.data.split import prompt_key, rank

Asker = Callable[[Row], list[Message]]
Fits = Callable[[list[Message]], bool]
Part = TypeVar("Part")

# Examples are taken from the shorter rows: every request pays for their tokens again.
SHORT_FRACTION = 0.75


def zero_shot() -> Asker:
    """Asks with the row's own prompt alone."""
    return lambda row: list(row.prompt)


def few_shot(examples: Sequence[Row], *, fits: Fits | None = None) -> Asker:
    """Asks with the same examples as earlier turns for every row, so that all prompts begin alike.

    The asked row's system message stays the first and only one. An example that asks what the row asks is
    left out for this row.

    Args:
        examples: training rows, each with all its turns; shown in this order.
        fits: whether a prompt is short enough; the last examples are left out until it is.
    """

    def ask(row: Row) -> list[Message]:
        shown = [example for example in examples if not is_same_question(example, row)]
        return as_many_as_fit(shown, lambda kept: with_examples(row, kept), fits)[0]

    return ask


def choose_examples(train: Sequence[Row], *, count: int, seed: int) -> tuple[Row, ...]:
    """Rows to show as examples: spread over the answers, short ones first, none with the prompt of another.

    Each distinct answer comes once before any comes twice, the commonest first; so every label of a
    classification is shown where `count` allows. The order of `train` changes nothing.

    Args:
        train: training rows only; a held-out row among them would be a leak.
        count: most examples to return.
        seed: decides between rows that are equally good.
    """
    lengths = sorted(_length(row) for row in train)
    longest_short = lengths[int(SHORT_FRACTION * (len(lengths) - 1))] if lengths else 0

    def place(row: Row) -> tuple[bool, bytes]:
        return _length(row) > longest_short, rank(f"{prompt_key(row)}\x1e{row.reference}", seed=seed)

    by_answer: dict[str, list[Row]] = {}
    for row in sorted(train, key=place):
        by_answer.setdefault(" ".join(row.reference.split()), []).append(row)
    commonest = sorted(by_answer.values(), key=lambda rows: (place(rows[0])[0], -len(rows), place(rows[0])))
    chosen: dict[str, Row] = {}
    for turn in range(max(map(len, commonest), default=0)):
        for rows in commonest:
            if turn < len(rows) and len(chosen) < count:
                chosen.setdefault(question_key(rows[turn]), rows[turn])
    return tuple(chosen.values())


def with_examples(row: Row, examples: Sequence[Row]) -> list[Message]:
    """The row's system message if it has one, the turns of the examples, then the row's own prompt."""
    system = [message for message in row.prompt if message.role == "system"]
    shown = [message for example in examples for message in turns(example.messages)]
    return [*system, *shown, *turns(row.prompt)]


def turns(messages: Sequence[Message]) -> list[Message]:
    """The messages of user and assistant."""
    return [message for message in messages if message.role != "system"]


def question_key(row: Row) -> str:
    """What two rows that ask the same have in common, whatever their system messages, case and blanks."""
    return prompt_key(replace(row, messages=(*turns(row.prompt), row.messages[-1])))


def is_same_question(one: Row, other: Row) -> bool:
    """Whether showing the one would give the answer to the other away."""
    return question_key(one) == question_key(other)


def as_many_as_fit(
    parts: Sequence[Part], build: Callable[[Sequence[Part]], list[Message]], fits: Fits | None
) -> tuple[list[Message], list[Part]]:
    """The prompt built from as many of the first `parts` as fit, and those parts.

    A prompt without any part is given even where it does not fit: it is the row's own.
    """
    kept = list(parts)
    while kept and fits is not None and not fits(build(kept)):
        kept.pop()
    return build(kept), kept


def _length(row: Row) -> int:
    """Characters of all turns."""
    return sum(len(message.text) for message in row.messages)
