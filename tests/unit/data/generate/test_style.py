"""The polite message keeps the facts of the note, drops its tone, and no phrase is used on both sides."""

import re

import pytest

from tunesmith.data.generate import style
from tunesmith.data.generate.style import (
    BLUNT_OPENINGS,
    EXTRAS,
    PLACES,
    REASONS,
    REQUESTS,
    THINGS,
    TIMES,
    rows,
)

ROWS = list(rows(8, 5_000))
MOVES = REQUESTS + REASONS + EXTRAS


def named(pool: tuple[str, ...], text: str) -> set[str]:
    return {word for word in pool if re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE)}


def test_name_thing_place_and_time_are_the_same_on_both_sides() -> None:
    for row in ROWS:
        assert named(THINGS, row["prompt"]) == named(THINGS, row["completion"]) != set()
        assert named(PLACES, row["prompt"]) == named(PLACES, row["completion"])
        assert named(TIMES, row["prompt"]) == named(TIMES, row["completion"])
        (name,) = named(style.NAMES, row["prompt"])
        assert name in row["completion"].split("\n")[0]


@pytest.mark.parametrize("move", MOVES, ids=lambda move: move.blunt[0])
def test_all_phrases_of_a_move_have_the_same_slots(move) -> None:
    slots = [sorted(set(re.findall(r"\{\w+\}", phrase))) for phrase in move.blunt + move.polite]
    assert all(found == slots[0] for found in slots)
    assert len(move.blunt) >= 2 and len(move.polite) >= 2


def test_no_phrase_serves_twice() -> None:
    phrases = [phrase for move in MOVES for phrase in move.blunt + move.polite]
    assert len(set(phrases)) == len(phrases)


def test_sentences_are_whole() -> None:
    for row in ROWS:
        for text in (row["prompt"], row["completion"]):
            assert not re.search(r"[{}]|  |\.\.|[.?!] [a-z]", text), text
        assert row["prompt"][-1] in ".?!"
        assert row["completion"].count("\n") == 2


def test_the_polite_side_never_commands() -> None:
    polite = [phrase for move in MOVES for phrase in move.polite]
    assert not [
        phrase for phrase in polite if phrase.endswith("!") or phrase.startswith(("Send", "Get", "Do"))
    ]
    assert not [opening for opening in BLUNT_OPENINGS if opening in style.POLITE_OPENINGS]
