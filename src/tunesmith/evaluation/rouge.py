"""ROUGE: shared n-grams, the longest common subsequence, and its union over lines; F1 as a fraction.

The counts are those of the rouge-score package, with our `rouge_tokens`: its own tokenizer erases whatever
is not a-z or 0-9. The package fills a table of tokens x tokens for each subsequence, minutes for a few
hundred long answers in Chinese; here a row of that table is one integer.
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial

from tunesmith.evaluation.row_statistics import Array, References, best_rows, ngrams
from tunesmith.evaluation.scripts import rouge_tokens


def rouge_n_rows(order: int, predictions: Sequence[str], references: References) -> Array:
    """F1 of shared n-grams against the best reference, and 1.

    A row with no n-gram on either side scores 0, equal or not: the published counts do the same.
    """
    return best_rows(predictions, references, read=partial(_ngrams_of, order=order), value=_overlap_f1)


def rouge_l_rows(predictions: Sequence[str], references: References) -> Array:
    """F1 of the longest common subsequence of tokens against the best reference, and 1."""
    return best_rows(predictions, references, read=rouge_tokens, value=_sequence_f1)


def rouge_lsum_rows(predictions: Sequence[str], references: References) -> Array:
    """F1 of the union of common subsequences, line by line, against the best reference, and 1.

    Source: Lin 2004, section 3.2; no token is counted twice, as in release 1.5.5 of ROUGE.
    """
    return best_rows(predictions, references, read=_lines, value=_summary_f1)


def _ngrams_of(text: str, *, order: int) -> Counter[tuple[str, ...]]:
    return ngrams(rouge_tokens(text), order)


def _overlap_f1(own: Counter[tuple[str, ...]], given: Counter[tuple[str, ...]]) -> float:
    return 2 * (own & given).total() / max(own.total() + given.total(), 1)


def _sequence_f1(own: Sequence[str], given: Sequence[str]) -> float:
    common = len(own) - _table(given, own)[-1].bit_count()
    return 2 * common / max(len(own) + len(given), 1)


def _lines(text: str) -> list[list[str]]:
    return [rouge_tokens(line) for line in text.split("\n") if line]


def _summary_f1(own: Sequence[Sequence[str]], given: Sequence[Sequence[str]]) -> float:
    left_own = Counter(token for line in own for token in line)
    left_given = Counter(token for line in given for token in line)
    total = left_own.total() + left_given.total()
    hits = 0
    for line in given:
        found: set[int] = set()
        for other in own:
            found |= _common_places(line, other)
        for place in sorted(found):
            token = line[place]
            if left_own[token] and left_given[token]:
                hits += 1
                left_own[token] -= 1
                left_given[token] -= 1
    return 2 * hits / max(total, 1)


def _table(rows: Sequence[str], columns: Sequence[str]) -> list[int]:
    """The table of subsequence lengths, a row as the bits of an integer: 0 where the length grows by one.

    The length after i tokens of `rows` and j of `columns` is j less the set bits among the lowest j.

    Source: Hyyrö 2004, "Bit-parallel LCS-length computation revisited".
    """
    places: Counter[str] = Counter()
    for place, token in enumerate(columns):
        places[token] |= 1 << place
    every_place = (1 << len(columns)) - 1
    table = [every_place]
    for token in rows:
        row = table[-1]
        matched = row & places[token]
        table.append(((row + matched) | (row - matched)) & every_place)
    return table


def _common_places(given: Sequence[str], own: Sequence[str]) -> set[int]:
    """Places in `given` of one longest common subsequence: of several, the one that rouge-score takes."""
    table = _table(given, own)
    i, j, found = len(given), len(own), set()
    while i and j:
        if given[i - 1] == own[j - 1]:
            i, j = i - 1, j - 1
            found.add(i)
            continue
        shorter = (1 << (j - 1)) - 1
        without_own = j - 1 - (table[i] & shorter).bit_count()
        without_given = j - (table[i - 1] & (2 * shorter + 1)).bit_count()
        if without_own > without_given:
            j -= 1
        else:
            i -= 1
    return found
