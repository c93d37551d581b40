"""Two systems' answers written down in a test, and compared."""

from tunesmith.evaluation.outputs import Item
from tunesmith.evaluation.side_by_side import compare_items

SYSTEMS = ("old", "new")


def items_of(*rows):
    """Items from (first answer, second answer, references)."""
    return [
        Item(
            f"{number:016x}",
            f"t.jsonl:{number}",
            f"Ask {number}",
            references,
            dict(zip(SYSTEMS, pair, strict=True)),
            {},
        )
        for number, (*pair, references) in enumerate(rows, start=1)
    ]


def compared(*rows, **options):
    return compare_items(items_of(*rows), SYSTEMS, seed=17, resamples=200, **options)
