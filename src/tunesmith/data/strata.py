"""Groups of rows for held-out parts, so that each part has its share of the rows of each value.

Knows nothing of rows and prompts: groups are positions. Used by `split.py`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

Group = tuple[int, ...]


def take_strata(
    groups: Sequence[Group], strata: Sequence[str], targets: Mapping[int, int]
) -> dict[int, set[Group]]:
    """Groups for each part, stratum by stratum, as near to the part's share as whole groups come.

    One group of a stratum always stays for training where it has two; where it has one, the group goes out
    only if that is nearer to the share than nothing, and if another one is left to train on.

    Args:
        groups: in the order in which they are taken; the last part takes from the front.
        strata: the value of each position.
        targets: rows for each part.
    """
    by_value: dict[str, list[Group]] = {}
    for group in groups:
        by_value.setdefault(stratum_of(group, strata), []).append(group)
    rows = {value: sum(map(len, found)) for value, found in by_value.items()}
    shares = {part: apportioned(target, rows) for part, target in targets.items()}
    taken: dict[int, set[Group]] = {part: set() for part in targets}
    left = len(groups)
    *others, last = targets
    for value, found in by_value.items():
        remaining = list(found)
        for part in (last, *reversed(others)):
            spare = min(left - 1, max(len(remaining) - 1, len(found) == 1 and len(remaining)))
            chosen = _nearest(remaining, shares[part][value], most=spare)
            left -= len(chosen)
            taken[part] |= chosen
            # The other parts take from the other end: see `split.py`.
            remaining = [group for group in reversed(remaining) if group not in chosen]
    return taken


def stratum_of(group: Group, strata: Sequence[str]) -> str:
    """The commonest value in the group; of several, the first in order."""
    counts = Counter(strata[at] for at in group)
    return min(counts, key=lambda value: (-counts[value], value))


def apportioned(total: int, rows: Mapping[str, int]) -> dict[str, int]:
    """`total` shared out in proportion to the rows of each value, by largest remainders (Hamilton).

    Returns:
        whole numbers that add up to `total` (or to all rows), each within one of the exact share.
    """
    everything = sum(rows.values())
    total = min(total, everything)
    whole = {value: total * count // everything for value, count in rows.items()}
    # Of equal remainders the larger value is served first: it can spare a row.
    order = sorted(rows, key=lambda value: (-(total * rows[value] % everything), -rows[value], value))
    for value in order[: total - sum(whole.values())]:
        whole[value] += 1
    return whole


def _nearest(groups: Sequence[Group], target: int, *, most: int) -> set[Group]:
    """At most `most` groups in order that come near to `target` rows."""
    chosen: set[Group] = set()
    count = 0
    for group in groups:
        if len(chosen) < most and count + len(group) <= target:
            chosen.add(group)
            count += len(group)
    left = [group for group in groups if group not in chosen]
    if left and len(chosen) < most:
        smallest = min(left, key=len)
        if count + len(smallest) - target < target - count:
            chosen.add(smallest)
    return chosen
