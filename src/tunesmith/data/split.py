"""Training, validation and test rows, split by prompt so that no answer leaks to the other side.

Order comes from a seeded hash of each prompt, not from a shuffle: the order of the file changes nothing, and
rows added to the file leave the others in their place (only rows at the edge of a split may move, and never
between validation and test).
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

from tunesmith.data.conversation import Row
from tunesmith.errors import DataError

# Validation loss is read many times in a run; 64 rows place it well enough to choose a checkpoint.
MAX_VALIDATION_ROWS = 64
# With 200 rows the 95 % interval of an accuracy is about 7 points to each side; more costs generation time.
MAX_TEST_ROWS = 200

Group = tuple[int, ...]  # positions of the rows that share one prompt


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
    _check_sizes(len(rows), {"validation_size": validation_size, "test_size": test_size})
    groups = _ordered_groups(rows, seed)
    target = _target(test_size, rows=len(rows), cap=MAX_TEST_ROWS)
    test = _take(groups, target, is_exact=test_size >= 1)
    # Validation comes from the other end, so that added rows never push a row from test to validation.
    rest = [group for group in reversed(groups) if group not in test]
    target = _target(validation_size, rows=len(rows), cap=MAX_VALIDATION_ROWS)
    validation = _take(rest, target, is_exact=validation_size >= 1)
    where = {at: part for part, taken in ((1, validation), (2, test)) for group in taken for at in group}
    _check_reached(where, sizes={1: validation_size, 2: test_size}, rows=len(rows), groups=len(groups))
    parts = (tuple(row for at, row in enumerate(rows) if where.get(at, 0) == part) for part in range(3))
    return Split(*parts)


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


def _ordered_groups(rows: Sequence[Row], seed: int) -> list[Group]:
    members: dict[str, list[int]] = {}
    for at, row in enumerate(rows):
        members.setdefault(prompt_key(row), []).append(at)
    return [tuple(members[key]) for key in sorted(members, key=lambda key: _rank(key, seed))]


def _rank(key: str, seed: int) -> bytes:
    return blake2b(f"{seed}:{key}".encode(errors="surrogatepass"), digest_size=16).digest()


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


def _check_reached(where: dict[int, int], *, sizes: dict[int, float], rows: int, groups: int) -> None:
    for part, name in ((1, "validation_size"), (2, "test_size")):
        reached = sum(found == part for found in where.values())
        if sizes[part] >= 1 and reached < sizes[part]:
            raise DataError(
                f"`{name}` {sizes[part]:g} cannot be reached: {rows} rows have only {groups} different "
                "prompts, and rows with the same prompt stay together",
                hint=f"make `{name}` smaller, or give a file of its own",
            )
