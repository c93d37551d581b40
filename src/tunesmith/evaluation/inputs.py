"""Which held-out prompts are asked: each once, with all its references, and at most so many.

Needs no torch.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np

from tunesmith.data.conversation import Row

Input = TypeVar("Input")
Turns = tuple[tuple[str, str], ...]
"""Role and text of each turn of a prompt."""


def turns_of(row: Row) -> Turns:
    """What makes two prompts the same: the same turns and roles, letter by letter.

    Anything else is another question to the model.
    """
    return tuple((message.role, message.text) for message in row.prompt)


def prompt_text(row: Row) -> str:
    """The turns before the last answer as one text for people."""
    return "\n\n".join(message.text for message in row.prompt)


def grouped(rows: Iterable[Input], row_of: Callable[[Input], Row]) -> list[tuple[Input, tuple[str, ...]]]:
    """The first of the rows with each prompt, and the references of all of them, in order of appearance.

    An answer that several rows give is one reference.
    """
    groups: dict[Turns, list[Input]] = {}
    for each in rows:
        groups.setdefault(turns_of(row_of(each)), []).append(each)
    return [
        (group[0], tuple(dict.fromkeys(row_of(each).reference for each in group)))
        for group in groups.values()
    ]


def rows_to_ask(rows: Sequence[Input], *, most: int, seed: int) -> list[Input]:
    """At most `most` rows drawn without replacement by `seed`, in the rows' order."""
    if len(rows) <= most:
        return list(rows)
    chosen = np.random.default_rng(seed).choice(len(rows), size=most, replace=False)
    return [rows[index] for index in sorted(chosen)]
