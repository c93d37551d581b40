"""Near duplicates: texts that share most of their word sequences, found without comparing each with each.

MinHash signatures (Broder 1997) by datasketch; rows that agree in a band of the signature are candidates, and
every candidate pair is compared exactly. Bands are matched by sorting arrays: an index of dictionaries needs
about thirty times the memory for a million rows.
"""

import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from datasketch import MinHash

SHINGLE_WORDS = 3
THRESHOLD = 0.8
# 16 bands of 4 values: a pair at Jaccard 0.8 is missed once in 5,000, one at 0.5 is looked at 2 times in 3.
PERMUTATIONS, BANDS = 64, 16
_BAND_VALUES = PERMUTATIONS // BANDS
# Scripts without blanks count by the character.
_WORD = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")

# Rows of a large bucket are compared with so many before them.
_FEW, _MANY = 8, 64
# The estimate from a signature has a standard error of 0.05 at 0.8; three of them are looked at exactly.
_TOLERANCE = 0.15

Signature = NDArray[np.uint32]  # (PERMUTATIONS,), or (N, PERMUTATIONS) for N texts
Positions = NDArray[np.intp]


def shingles(text: str) -> set[int]:
    """Hashes of each three words in a row, without case; of the whole text if it is shorter."""
    words = _WORD.findall(text.lower())
    if len(words) < SHINGLE_WORDS:
        return {zlib.crc32(" ".join(words).encode())} if words else set()
    triples = zip(words, words[1:], words[2:], strict=False)
    return {zlib.crc32(f"{one} {two} {three}".encode()) for one, two, three in triples}


def signature(text: str) -> Signature:
    """The text's MinHash values, shape (PERMUTATIONS,)."""
    sketch = _empty_sketch().copy()
    sketch.update_batch(shingles(text))
    values: Signature = sketch.hashvalues.astype(np.uint32, copy=False)
    return values


@cache
def _empty_sketch() -> "MinHash":
    # Loaded here because it brings scipy along, which most commands need not wait for.
    from datasketch import MinHash

    return MinHash(num_perm=PERMUTATIONS, seed=1, hashfunc=int)


def jaccard(one: set[int], other: set[int]) -> float:
    """Shared shingles as a fraction of all; 0 for two empty texts."""
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared) if shared else 0.0


def candidate_pairs(signatures: Signature, *, threshold: float = THRESHOLD) -> set[tuple[int, int]]:
    """Pairs of positions, the smaller first, that may be near: they share a band and agree in general.

    Of many rows in one bucket each is paired with the first few before it only, so the number of pairs stays
    linear; whoever folds rows away and asks again gets the others.

    Args:
        signatures: shape (N, PERMUTATIONS).
        threshold: smallest Jaccard similarity that counts as near.
    """
    pairs: set[tuple[int, int]] = set()
    for one, other in _neighbours(signatures, _FEW, threshold, np.arange(len(signatures))):
        pairs.update(zip(one.tolist(), other.tolist(), strict=True))
    return pairs


def near_groups(texts: Sequence[str], *, threshold: float = THRESHOLD) -> list[list[int]]:
    """Positions of texts that are near duplicates of each other, joined where they chain.

    Args:
        texts: any number of texts; equal ones are near duplicates too.
        threshold: smallest Jaccard similarity of word 3-shingles (0 to 1).

    Returns:
        Groups of two or more, each ascending, in the order of their first members.
    """
    if not texts:
        return []
    signatures = np.stack([signature(text) for text in texts])
    return groups_of(signatures, lambda wanted: {at: texts[at] for at in wanted}, threshold=threshold)


def near_leaks(train: Sequence[str], held_out: Sequence[str]) -> dict[int, int]:
    """Positions in `held_out` of texts that are nearly one of `train`, each with the position of that one."""
    leaks: dict[int, int] = {}
    for group in near_groups([*train, *held_out]):
        if group[0] < len(train):
            leaks.update({at - len(train): group[0] for at in group if at >= len(train)})
    return leaks


def groups_of(
    signatures: Signature,
    texts_at: Callable[[set[int]], Mapping[int, str]],
    *,
    threshold: float = THRESHOLD,
) -> list[list[int]]:
    """As `near_groups`, for texts that are not held: only those of likely pairs are asked for, once.

    Args:
        signatures: of each text, shape (N, PERMUTATIONS).
        texts_at: gives the texts at some positions.
        threshold: as in `near_groups`.
    """
    leader = np.arange(len(signatures))
    wanted: set[int] = set()
    for likely in _neighbours(signatures, _MANY, threshold, leader):
        wanted.update(np.unique(np.concatenate(likely)).tolist())
    if not wanted:
        return []
    known = {at: shingles(text) for at, text in texts_at(wanted).items()}
    refused: set[tuple[int, int]] = set()
    for ones, others in _neighbours(signatures, _MANY, threshold, leader):
        for pair in zip(ones.tolist(), others.tolist(), strict=True):
            first, second = sorted((_root(leader, pair[0]), _root(leader, pair[1])))
            if first == second or pair in refused:
                continue
            if jaccard(known[pair[0]], known[pair[1]]) >= threshold:
                leader[second] = first
            else:
                refused.add(pair)
    return _groups(leader)


def _neighbours(
    signatures: Signature, most: int, threshold: float, leader: Positions
) -> Iterator[tuple[Positions, Positions]]:
    """Pairs that share a band, nearest in the bucket first, of which the signatures agree enough.

    Args:
        signatures: shape (N, PERMUTATIONS).
        most: how many rows before it in its bucket a row is paired with.
        threshold: smallest similarity that counts.
        leader: one row of the group of each row, (N,); rows known to be of one group are not paired. May be
            changed between two pairs of arrays.
    """
    least = threshold - _TOLERANCE
    for band in range(BANDS):
        part = np.ascontiguousarray(signatures[:, band * _BAND_VALUES : (band + 1) * _BAND_VALUES])
        keys = part.view([("", part.dtype)] * _BAND_VALUES).ravel()
        order = np.argsort(keys, kind="stable")
        bucket = np.concatenate([[0], np.cumsum(keys[order[1:]] != keys[order[:-1]])])
        for distance in range(1, most + 1):
            together = np.flatnonzero(bucket[distance:] == bucket[:-distance])
            if not len(together):
                break
            one, other = order[together], order[together + distance]
            is_apart = leader[one] != leader[other]
            one, other = one[is_apart], other[is_apart]
            agreement = (signatures[one] == signatures[other]).mean(axis=1)
            is_likely = agreement >= least
            yield one[is_likely], other[is_likely]


def _root(leader: Positions, at: int) -> int:
    while leader[at] != at:
        leader[at] = leader[leader[at]]
        at = int(leader[at])
    return at


def _groups(leader: Positions) -> list[list[int]]:
    groups: dict[int, list[int]] = {}
    for at in range(len(leader)):
        groups.setdefault(_root(leader, at), []).append(at)
    return [group for group in groups.values() if len(group) > 1]
