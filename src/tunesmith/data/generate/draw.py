"""Rows one after another from a seed, no prompt twice: what every task stands on."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from random import Random

from tunesmith.errors import DataError

Example = dict[str, str]
Draw = Callable[[Random], Example]

# So many draws in a row without a new prompt, and the task counts as used up.
PATIENCE_DRAWS = 5_000


def distinct(draw: Draw, *, task: str, seed: int, count: int) -> Iterator[Example]:
    """The first `count` rows that `draw` makes whose prompts differ, in the order they come.

    The sequence depends on the seed alone, so more rows continue it. Prompts that differ only in case count
    as the same. Memory: about 100 bytes a row, for the digests of the prompts.

    Args:
        draw: makes one row with `prompt` and `completion` from a random source.
        task: its name, for the message.
        seed: decides everything.
        count: number of rows, 0 or more.

    Raises:
        DataError: when the task's variety is used up before `count`; says how many rows it can make.
    """
    random, seen, repeats = Random(seed), set[bytes](), 0  # noqa: S311  nothing secret is drawn
    while len(seen) < count:
        row = draw(random)
        key = blake2b(row["prompt"].casefold().encode(), digest_size=8).digest()
        if key not in seen:
            seen.add(key)
            repeats = 0
            yield row
        elif (repeats := repeats + 1) == PATIENCE_DRAWS:
            raise _used_up(task, asked=count, made=len(seen))


def _used_up(task: str, *, asked: int, made: int) -> DataError:
    return DataError(
        f"task `{task}` can make {made:,} different prompts with this seed, and {asked:,} rows are asked for",
        hint=f"ask for `--rows {made}`, or give the task more fields, choices or templates",
    )


@dataclass(frozen=True, slots=True)
class Task:
    """A task that rows can be made for.

    Attributes:
        name: what the user calls it.
        what: one sentence for a listing.
        rows: (seed, count) to rows, streaming; more rows of a seed continue the same sequence.
    """

    name: str
    what: str
    rows: Callable[[int, int], Iterator[Example]]
