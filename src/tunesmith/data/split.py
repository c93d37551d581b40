"""Training, validation and test parts, split by prompt so that no answer leaks to the other side.

Order comes from a seeded hash of each prompt, not from a shuffle: the order of the file changes nothing, and
rows added to the file leave the others in their place (only rows at the edge of a split may move, and never
between validation and test).
"""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from tunesmith.data.conversation import Row
from tunesmith.data.strata import take_strata
from tunesmith.errors import DataError

# Validation loss is read many times in a run; 64 rows place it well enough to choose a checkpoint.
MAX_VALIDATION_ROWS = 64
# With 200 rows the 95 % interval of an accuracy is about 7 points to each side; more costs generation time.
MAX_TEST_ROWS = 200

TRAIN, VALIDATION, TEST = 0, 1, 2
PARTS = ("train", "validation", "test")

Group = tuple[int, ...]  # positions of the rows that share one prompt
Taken = dict[int, set[Group]]  # groups of the validation and test parts


@dataclass(frozen=True, slots=True)
class Split:
    """Three disjoint parts, each in the order of its file."""

    train: tuple[Row, ...]
    validation: tuple[Row, ...]
    test: tuple[Row, ...]


def split_rows(rows: Sequence[Row], *, validation_size: float, test_size: float, seed: int) -> Split:
    """Split by prompt group: rows with the same `prompt_key` stay together, and at least one row is trained.

    A size below 1 is a fraction of the rows, capped at `MAX_VALIDATION_ROWS` and `MAX_TEST_ROWS`, at least
    one row where there are enough; it is exceeded only where the smallest group alone is larger. A size
    from 1 up is a number of rows, reached at least; it is exceeded only where the groups do not add up to
    it. In a tiny file the test gets its row first.

    Args:
        rows: all rows, in any order.
        validation_size: fraction in [0, 1) or whole number of rows; 0 for none.
        test_size: likewise.
        seed: decides which groups go where, together with their prompts.

    Raises:
        DataError: for a size out of range, or if the sizes leave nothing to train on.
    """
    where = split_ranks(
        [rank(prompt_key(row), seed=seed) for row in rows],
        validation_size=validation_size,
        test_size=test_size,
        caps=(MAX_VALIDATION_ROWS, MAX_TEST_ROWS),
    )
    parts = (tuple(row for row, found in zip(rows, where, strict=True) if found == at) for at in range(3))
    return Split(*parts)


def split_ranks(
    ranks: Sequence[bytes],
    *,
    validation_size: float,
    test_size: float,
    caps: tuple[int, int] | None = None,
    together: Iterable[Sequence[int]] = (),
    strata: Sequence[str] | None = None,
) -> list[int]:
    """The part of each row: `TRAIN`, `VALIDATION` or `TEST`.

    Args:
        ranks: the `rank` of each row's prompt; equal for rows that must stay together.
        validation_size: as in `split_rows`.
        test_size: likewise.
        caps: most rows that a fraction gives to validation and test.
        together: positions of further rows that must stay together, such as near duplicates.
        strata: a value for each row; each part then gets its share of the rows of each value, as near as
            whole groups allow. A group with several values counts as its commonest one.

    Raises:
        DataError: for a size out of range, if the sizes leave nothing to train on, or, without strata, if a
            number of rows cannot be reached.
    """
    sizes = {VALIDATION: validation_size, TEST: test_size}
    _check_sizes(len(ranks), {"validation_size": validation_size, "test_size": test_size})
    limits = dict(zip(sizes, caps or (len(ranks), len(ranks)), strict=True))
    targets = {part: _target(size, rows=len(ranks), cap=limits[part]) for part, size in sizes.items()}
    groups = grouped(ranks, together)
    taken = _taken(groups, targets, sizes) if strata is None else take_strata(groups, strata, targets)
    where = {at: part for part, found in taken.items() for group in found for at in group}
    if strata is None:
        _check_reached(where, sizes=sizes, rows=len(ranks), groups=len(groups))
    return [where.get(at, TRAIN) for at in range(len(ranks))]


def with_given(
    rows: Sequence[Row],
    *,
    validation: Sequence[Row] | None,
    test: Sequence[Row] | None,
    validation_size: float,
    test_size: float,
    seed: int,
) -> Split:
    """Split, where a part that was given as a file is taken whole and only the others are drawn from `rows`.

    Nothing is removed from any part: `overlap` counts what a given file shares with the training rows.

    Args:
        rows: rows of the main data file.
        validation: rows of the validation file, or None to draw them.
        test: rows of the test file, or None to draw them.
        validation_size: as in `split_rows`; has no effect where a file is given.
        test_size: likewise.
        seed: as in `split_rows`.

    Raises:
        DataError: as `split_rows` does.
    """
    drawn = split_rows(
        rows,
        validation_size=0 if validation is not None else validation_size,
        test_size=0 if test is not None else test_size,
        seed=seed,
    )
    return Split(
        train=drawn.train,
        validation=drawn.validation if validation is None else tuple(validation),
        test=drawn.test if test is None else tuple(test),
    )


def overlap(train: Sequence[Row], other: Sequence[Row]) -> int:
    """Rows of `other` whose prompt, normalised by `prompt_key`, also occurs in `train`."""
    known = {prompt_key(row) for row in train}
    return sum(prompt_key(row) in known for row in other)


def prompt_key(row: Row) -> str:
    """The prompt as the split compares it: all turns before the last answer, roles included.

    Text is in Unicode form NFKC, without case, and each run of white space is one space.
    """
    # No text holds the separator: it counts as white space and is gone.
    return "\x1f".join(f"{message.role}:{_normalised(message.text)}" for message in row.prompt)


def _normalised(text: str) -> str:
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.split())


def rank(key: str, *, seed: int) -> bytes:
    """Where a prompt stands in the order of the split, 16 bytes; equal prompts, equal rank."""
    return blake2b(f"{seed}:{key}".encode(errors="surrogatepass"), digest_size=16).digest()


def grouped(ranks: Sequence[bytes], together: Iterable[Sequence[int]] = ()) -> list[Group]:
    """Positions that stay together, in the order of the smallest rank of each group."""
    members: dict[bytes, list[int]] = {}
    for at, key in enumerate(ranks):
        members.setdefault(key, []).append(at)
    for positions in together:
        lists = {id(members[ranks[at]]): members[ranks[at]] for at in positions}
        first, *others = lists.values()
        for other in others:
            first += other
            members.update((ranks[at], first) for at in other)
    distinct = {id(found): found for found in (members[key] for key in sorted(members))}
    return [tuple(sorted(found)) for found in distinct.values()]


def _taken(groups: Sequence[Group], targets: Mapping[int, int], sizes: Mapping[int, float]) -> Taken:
    test = _take(groups, targets[TEST], is_exact=sizes[TEST] >= 1)
    # Validation comes from the other end, so that added rows never push a row from test to validation.
    rest = [group for group in reversed(groups) if group not in test]
    return {VALIDATION: _take(rest, targets[VALIDATION], is_exact=sizes[VALIDATION] >= 1), TEST: test}


def _target(size: float, *, rows: int, cap: int) -> int:
    if size >= 1:
        return int(size)
    return min(cap, max(1, int(size * rows + 0.5))) if size else 0


def _take(groups: Sequence[Group], target: int, *, is_exact: bool) -> set[Group]:
    """Groups in order that add up to `target` rows without exceeding it, always leaving one group.

    Short of the target, the smallest group left is added, once: for a number of rows whenever it is missed,
    for a fraction only if nothing else was taken.
    """
    taken: set[Group] = set()
    count = 0
    for group in groups:
        if count + len(group) <= target and len(taken) + 1 < len(groups):
            taken.add(group)
            count += len(group)
    left = [group for group in groups if group not in taken]
    if count < target and len(left) > 1 and (is_exact or not taken):
        taken.add(min(left, key=len))
    return taken


def _check_sizes(rows: int, sizes: dict[str, float]) -> None:
    for name, size in sizes.items():
        if not 0 <= size < float("inf") or (size >= 1 and size != int(size)):
            hint = "give a fraction below 1, or a whole number of rows; 0 for none"
            raise DataError(f"`{name}` is {size}", hint=hint)
    fractions = sum(size for size in sizes.values() if size < 1)
    counts = sum(int(size) for size in sizes.values() if size >= 1)
    if fractions >= 1 or (counts and counts >= rows):
        given = " and ".join(f"`{name}` {size:g}" for name, size in sizes.items() if size)
        raise DataError(f"{given} leave none of {rows} rows for training", hint="make them smaller")


def _check_reached(where: Mapping[int, int], *, sizes: Mapping[int, float], rows: int, groups: int) -> None:
    for part, name in ((VALIDATION, "validation_size"), (TEST, "test_size")):
        reached = sum(found == part for found in where.values())
        if sizes[part] >= 1 and reached < sizes[part]:
            raise DataError(
                f"`{name}` {sizes[part]:g} cannot be reached: {rows} rows have only {groups} different "
                "prompts, and rows with the same prompt stay together",
                hint=f"make `{name}` smaller, or give a file of its own",
            )
