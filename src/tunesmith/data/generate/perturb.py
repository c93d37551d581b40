"""Generalisation sets: rows of a file with a change that a good model bears, each labelled by its kind.

The changes themselves are in `perturb_texts.py` and `perturb_entities.py`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from random import Random

import orjson

from tunesmith.data.conversation import Row
from tunesmith.data.formats import to_row
from tunesmith.data.generate.perturb_entities import entities
from tunesmith.data.generate.perturb_texts import case, longer_context, reordering, typos
from tunesmith.data.generate.perturb_turn import (
    Path,
    Turn,
    answer_paths,
    user_paths,
    value_at,
    with_values,
)
from tunesmith.data.records import Record, listed, nearest
from tunesmith.errors import DataError

_TEXTS: dict[str, Callable[[Turn], tuple[str, ...] | None]] = {
    "typos": typos,
    "case": case,
    "reordering": reordering,
    "longer_context": longer_context,
}
KINDS = ("typos", "case", "reordering", "entities", "longer_context")


def perturb(
    records: Iterable[Mapping[str, object] | Record], *, kinds: Sequence[str] | None = None, seed: int
) -> Iterator[dict[str, object]]:
    """Each record changed in each of the ways it can be, as deep copies labelled with `perturbation`.

    Only the last user turn changes; the answer stays, but for `entities`, which replaces names and numbers in
    both. A record that a kind cannot change gives nothing for it. What a record becomes depends on the seed,
    the record and the kind alone, so a part of a file gives a part of the output. Streams.

    Args:
        records: rows of any of the four shapes. A `Record` has its place put down as `original_line`.
        kinds: of `KINDS`; None is all.
        seed: decides everything random.

    Raises:
        DataError: for an unknown kind, at once; for a record that cannot be trained on, when it comes.
    """
    for kind in kinds or ():
        if kind not in KINDS:
            close = nearest(kind, KINDS)
            hint = f"did you mean `{close}`?" if close else f"the kinds are {listed(KINDS)}"
            raise DataError(f"`{kind}` is no kind of perturbation", hint=hint)
    chosen = KINDS if kinds is None else tuple(kind for kind in KINDS if kind in kinds)
    return _perturbed(records, chosen, seed)


def _perturbed(
    records: Iterable[Mapping[str, object] | Record], kinds: Sequence[str], seed: int
) -> Iterator[dict[str, object]]:
    for number, given in enumerate(records, start=1):
        record = given if isinstance(given, Record) else Record(number, dict(given))
        place: dict[str, object] = {"original_line": given.line} if isinstance(given, Record) else {}
        row = to_row(record, path="records")
        identity = orjson.dumps(record.value, default=str, option=orjson.OPT_SORT_KEYS).decode()
        for kind in kinds:
            values = _changed(record.value, row, kind, Random(f"{seed} {kind} {identity}"))  # noqa: S311
            if values:
                yield with_values(record.value, values) | {"perturbation": kind} | place


def _changed(record: Mapping[str, object], row: Row, kind: str, random: Random) -> dict[Path, str] | None:
    """The new texts by their places, or None if this kind does not fit the record."""
    users, answers = user_paths(record, row), answer_paths(record, row)
    context = "\n".join(message.text for message in row.prompt[:-1])
    texts = tuple(value_at(record, path) for path in users)
    turn = Turn(texts, row.reference, context, random)
    if kind != "entities":
        new = _TEXTS[kind](turn)
        return dict(zip(users, new, strict=True)) if new else None
    both = entities(turn) if len(answers) == 1 else None
    if both is None:
        return None
    return dict(zip((*users, *answers), (*both[0], both[1]), strict=True))
