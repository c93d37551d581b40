"""Rows that say nearly what an earlier row says: which they are, and which row says it.

Near means that the whole texts are near by `near.py`, and the answers too. Two long prompts with one word
changed and two different answers are no copies: they teach the difference. Neither are two answers to one
prompt.
"""

from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from tunesmith.data.near import (
    PERMUTATIONS,
    THRESHOLD,
    Signature,
    candidate_pairs,
    jaccard,
    shingles,
    signature,
)

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Said:
    """What is compared of a row; the system message apart, because it would make all rows alike."""

    system: str
    prompt: str
    answer: str

    @property
    def whole(self) -> str:
        """Prompt and answer as one text."""
        return f"{self.prompt}\n{self.answer}"


def near_copies(read: Callable[[], Iterable[Said]]) -> dict[int, int]:
    """For the position of each later near copy, the position of an earlier row that it is near to.

    Holds 256 bytes a row, and the texts of the rows that share a band of their signature with another one.

    Args:
        read: gives the rows, the same ones each time; called twice or more.
    """
    return folded(
        _signatures(read()), lambda wanted: {at: row for at, row in enumerate(read()) if at in wanted}
    )


def folded(signatures: Signature, texts_at: Callable[[set[int]], dict[int, Said]]) -> dict[int, int]:
    """As `near_copies`, for signatures that are known.

    Args:
        signatures: of each row's `whole`, shape (N, PERMUTATIONS).
        texts_at: gives the rows at some positions.
    """
    kept = np.arange(len(signatures))
    texts: dict[int, Said] = {}
    compared: dict[Pair, bool] = {}
    copies: dict[int, int] = {}
    while len(kept):
        # Of a large bucket only some pairs are given, and others once rows are gone: hence again and again.
        places = ((int(kept[one]), int(kept[other])) for one, other in candidate_pairs(signatures[kept]))
        pairs = sorted(places, key=lambda pair: pair[::-1])
        wanted = {at for pair in pairs for at in pair} - texts.keys()
        if wanted:
            texts |= texts_at(wanted)
        new = _folded(pair for pair in pairs if _is_near(pair, texts, compared))
        if not new:
            break
        copies |= new
        kept = np.array([at for at in kept.tolist() if at not in new], dtype=np.intp)
    return copies


def _signatures(rows: Iterable[Said]) -> Signature:
    values = array("B")
    for row in rows:
        values.frombytes(signature(row.whole).tobytes())
    return np.frombuffer(values, dtype=np.uint32).reshape(-1, PERMUTATIONS)


def _folded(pairs: Iterable[Pair]) -> dict[int, int]:
    """Each later row of a pair whose earlier row is itself kept; pairs come by their later row."""
    copies: dict[int, int] = {}
    for one, other in pairs:
        if one not in copies and other not in copies:
            copies[other] = one
    return copies


def _is_near(pair: Pair, texts: dict[int, Said], compared: dict[Pair, bool]) -> bool:
    if pair not in compared:
        compared[pair] = are_near(texts[pair[0]], texts[pair[1]])
    return compared[pair]


def are_near(one: Said, other: Said) -> bool:
    """Whether one of two rows says nothing that the other does not; exact copies are another matter."""
    if one == other or one.system != other.system:
        return False
    has_same_answer = _folded_case(one.answer) == _folded_case(other.answer)
    if not has_same_answer:
        if _folded_case(one.prompt) == _folded_case(other.prompt):
            return False
        if jaccard(shingles(one.answer), shingles(other.answer)) < THRESHOLD:
            return False
    return jaccard(shingles(one.whole), shingles(other.whole)) >= THRESHOLD


def _folded_case(text: str) -> str:
    return " ".join(text.casefold().split())
