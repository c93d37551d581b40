"""Near duplicates: texts that share most of their word sequences, found without comparing each with each.

MinHash signatures (Broder 1997) by datasketch; rows that agree in a band of the signature are candidates, and
every candidate pair is compared exactly. Bands are matched by sorting arrays: an index of dictionaries needs
about thirty times the memory for a million rows.
"""

import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from datasketch import MinHash
from numpy.typing import NDArray

SHINGLE_WORDS = 3
THRESHOLD = 0.8
# 16 bands of 4 values: a pair at Jaccard 0.8 is missed once in 5,000, one at 0.5 is looked at 2 times in 3.
PERMUTATIONS, BANDS = 64, 16
_BAND_VALUES = PERMUTATIONS // BANDS
# Scripts without blanks count by the character.
_WORD = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")
_MODEL = MinHash(num_perm=PERMUTATIONS, seed=1, hashfunc=int)

Signature = NDArray[np.uint32]  # (PERMUTATIONS,), or (N, PERMUTATIONS) for N texts


def shingles(text: str) -> set[int]:
    """Hashes of each three words in a row, without case; of the whole text if it is shorter."""
    words = _WORD.findall(text.lower())
    if len(words) < SHINGLE_WORDS:
        return {zlib.crc32(" ".join(words).encode())} if words else set()
    triples = zip(words, words[1:], words[2:], strict=False)
    return {zlib.crc32(f"{one} {two} {three}".encode()) for one, two, three in triples}


def signature(text: str) -> Signature:
    """The text's MinHash values, shape (PERMUTATIONS,)."""
    sketch = _MODEL.copy()
    sketch.update_batch(shingles(text))
    values: Signature = sketch.hashvalues.astype(np.uint32, copy=False)
    return values


def jaccard(one: set[int], other: set[int]) -> float:
    """Shared shingles as a fraction of all; 0 for two empty texts."""
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared) if shared else 0.0


def candidate_pairs(signatures: Signature) -> set[tuple[int, int]]:
    """Pairs of positions, the smaller first, that agree in a whole band.

    Of many rows in one bucket each is paired with the first and with the one before it, which is enough to
    join them and keeps the number of pairs linear.

    Args:
        signatures: shape (N, PERMUTATIONS).
    """
    pairs: set[tuple[int, int]] = set()
    for band in range(BANDS):
        part = np.ascontiguousarray(signatures[:, band * _BAND_VALUES : (band + 1) * _BAND_VALUES])
        keys = part.view([("", part.dtype)] * _BAND_VALUES).ravel()
        order = np.argsort(keys, kind="stable")
        is_same = keys[order[1:]] == keys[order[:-1]]
        pairs.update(_linked(order, is_same))
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
    pairs = candidate_pairs(np.stack([signature(text) for text in texts]))
    return joined(confirmed(pairs, {at: texts[at] for pair in pairs for at in pair}, threshold=threshold))


def confirmed(
    pairs: Iterable[tuple[int, int]], texts: Mapping[int, str], *, threshold: float = THRESHOLD
) -> Iterator[tuple[int, int]]:
    """The pairs whose texts are similar enough, compared exactly."""
    known: dict[int, set[int]] = {}
    for one, other in sorted(pairs):
        for at in (one, other):
            if at not in known:
                known[at] = shingles(texts[at])
        if jaccard(known[one], known[other]) >= threshold:
            yield one, other


def joined(pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Groups that the pairs connect, each ascending, in the order of their first members."""
    leader: dict[int, int] = {}

    def find(at: int) -> int:
        while leader.setdefault(at, at) != at:
            leader[at] = at = leader[leader[at]]
        return at

    for one, other in pairs:
        first, second = sorted((find(one), find(other)))
        leader[second] = first
    groups: dict[int, list[int]] = {}
    for at in sorted(leader):
        groups.setdefault(find(at), []).append(at)
    return [group for group in groups.values() if len(group) > 1]


def _linked(order: NDArray[np.intp], is_same: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Pairs from rows sorted by key: each with the one before it, and with the first of its bucket."""
    first = -1
    before = -2
    for at in np.flatnonzero(is_same).tolist():
        one, other = int(order[at]), int(order[at + 1])
        first = first if at == before + 1 else one
        before = at
        yield one, other
        if first != one:
            yield first, other
