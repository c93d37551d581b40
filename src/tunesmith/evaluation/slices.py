"""Parts of the answered rows: by script, length of the reference, perturbation and number of references.

A mean over all rows can hide that one part got worse. Which part a row is in is a label; scores of the parts
come from the same rows' statistics as those of the whole.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tunesmith.data.conversation import Row
from tunesmith.data.read import read_records
from tunesmith.errors import DataError
from tunesmith.evaluation.metrics import Metric
from tunesmith.evaluation.scores import SliceScores
from tunesmith.evaluation.scripts import dominant_script, rouge_tokens
from tunesmith.evaluation.significance import evaluate, score

Array = NDArray[np.float64]

KINDS = ("script", "length", "perturbation", "references")
LEAST_ROWS = 5
"""A slice of fewer rows says nothing; such slices become one, called `other`."""
OTHER = "other"
UNCHANGED = "unchanged"
_LENGTHS = ("short", "middle", "long")


def slices_of(
    prompts: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    perturbations: Sequence[str] | None = None,
) -> list[dict[str, str]]:
    """Which slices each row is in: kind to name.

    A kind that puts all rows into one slice says nothing and is left out. Slices below `LEAST_ROWS` become
    `other`, or, where they do not reach that together, their rows are in no slice of the kind.

    Args:
        prompts: what each row asks.
        references: of each row, at least one.
        perturbations: what was done to each row (`perturbations_of`), or None.

    Returns:
        One mapping a row, with kinds of `KINDS` in that order. `script` is that of prompt and references
        together; `length` is a third by the tokens of the first reference.
    """
    labels: dict[str, Sequence[str]] = {
        "script": [
            dominant_script([prompt, *given]) for prompt, given in zip(prompts, references, strict=True)
        ],
        "length": _thirds([len(rouge_tokens(given[0])) for given in references]),
        "perturbation": list(perturbations) if perturbations is not None else [UNCHANGED] * len(prompts),
        "references": [str(len(given)) for given in references],
    }
    found: list[dict[str, str]] = [{} for _ in prompts]
    for kind in KINDS:
        for row, name in zip(found, _folded(labels[kind]), strict=True):
            if name is not None:
                row[kind] = name
    return found


def perturbations_of(rows: Sequence[Row]) -> list[str]:
    """What `data generate` did to each row, by the field `perturbation` of its file; else `unchanged`.

    A file that is gone or can no longer be read labels nothing.
    """
    wanted: dict[str, set[int]] = {}
    for row in rows:
        wanted.setdefault(row.path, set()).add(row.line)
    found: dict[tuple[str, int], str] = {}
    for path, lines in wanted.items():
        try:
            last = max(lines)
            for record in read_records(Path(path), skipped=[]):
                kind = record.value.get("perturbation")
                if record.line in lines and isinstance(kind, str) and kind:
                    found[path, record.line] = kind
                if record.line >= last:
                    break
        except DataError:
            continue
    return [found.get((row.path, row.line), UNCHANGED) for row in rows]


def scores_by_slice(
    slices: Sequence[Mapping[str, str]],
    measured: Sequence[tuple[Metric, Array, Array | None]],
    *,
    seed: int,
    resamples: int = 1000,
    confidence: float = 0.95,
) -> tuple[SliceScores, ...]:
    """The scores on each slice, with intervals and paired tests of their own.

    Args:
        slices: of each row, as `slices_of` gives them.
        measured: metric, the base's statistics and the tuned model's (None without one), of the same rows.
        seed: of the draws, at least 0.
        resamples: as in `significance.score`.
        confidence: as in `significance.score`.

    Returns:
        Slice by slice: kinds in the order of `KINDS`, lengths from short to long, other names in their own
        order, `other` last.
    """
    of_one = partial(score, seed=seed, resamples=resamples, confidence=confidence)
    of_both = partial(evaluate, seed=seed, resamples=resamples, confidence=confidence)
    scored = []
    for (kind, name), places in _grouped(slices).items():
        parts = [
            (metric, base[places], tuned[places] if tuned is not None else None)
            for metric, base, tuned in measured
        ]
        pairs = [(metric, base, tuned) for metric, base, tuned in parts if tuned is not None]
        if pairs:
            result = of_both(pairs)
            scored.append(SliceScores(kind, name, len(places), result.base, result.tuned, result.comparisons))
        else:
            alone = tuple(of_one(metric, base) for metric, base, _ in parts)
            scored.append(SliceScores(kind, name, len(places), alone, (), ()))
    return tuple(scored)


def _thirds(lengths: Sequence[int]) -> list[str]:
    """Short, middle or long for each length in tokens; equal lengths are never parted."""
    if not lengths:
        return []
    low, high = (int(cut) for cut in np.quantile(lengths, [1 / 3, 2 / 3], method="inverted_cdf"))
    names = (f"short (up to {low})", f"middle (up to {high})", f"long (over {high})")
    return [names[(length > low) + (length > high)] for length in lengths]


def _folded(names: Sequence[str]) -> list[str | None]:
    counts = Counter(names)
    rare = {name for name, count in counts.items() if count < LEAST_ROWS}
    others = OTHER if sum(counts[name] for name in rare) >= LEAST_ROWS else None
    folded = [others if name in rare else name for name in names]
    return folded if len({name for name in folded if name is not None}) > 1 else [None] * len(names)


def _grouped(slices: Sequence[Mapping[str, str]]) -> dict[tuple[str, str], list[int]]:
    """The places of the rows of each slice, in report order."""
    places: dict[tuple[str, str], list[int]] = {}
    for place, row in enumerate(slices):
        for slice_ in row.items():
            places.setdefault(slice_, []).append(place)
    return {slice_: places[slice_] for slice_ in sorted(places, key=_order)}


def _order(slice_: tuple[str, str]) -> tuple[int, str, bool, int, int, str]:
    kind, name = slice_
    rank = KINDS.index(kind) if kind in KINDS else len(KINDS)
    first = name.split()[0] if name.split() else ""
    length = _LENGTHS.index(first) if kind == "length" and first in _LENGTHS else 0
    return rank, kind, name == OTHER, length, int(name) if name.isdecimal() else 0, name
