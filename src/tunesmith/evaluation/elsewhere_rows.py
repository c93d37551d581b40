"""Where else to look than at the held-out rows: general requests, and the held-out rows asked otherwise.

Knows texts alone, no tokens and no model. Read next: `elsewhere.py`.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.resources import files
from random import Random

import numpy as np
import orjson

from tunesmith.data.conversation import Message, Row
from tunesmith.data.generate.perturb_texts import Texts, case, typos
from tunesmith.data.generate.perturb_turn import Turn
from tunesmith.evaluation.scripts import dominant_script

GENERAL = "general.jsonl"
WITHOUT_SYSTEM = "without the system message"

_FRAMES = ("Hello! Could you please help me with this?\n\n{text}", "{text}\n\nThank you very much!")
_HAN_FRAMES = ("你好！请帮我看一下：\n\n{text}", "{text}\n\n非常感谢！")
# White space carries meaning in code, tables and indented text.
_LAID_OUT = re.compile(r"```|\t|^ +\S| {2}|\|", re.MULTILINE)
_BETWEEN_WORDS = re.compile(r"(?<=\w) (?=\w)")
_WORDS_PER_BLANK = 6


def general_bytes() -> bytes:
    """The shipped general set as it stands in the file, JSON lines with `kind`, `prompt` and `completion`."""
    return files(__package__).joinpath(GENERAL).read_bytes()


def general_sha256() -> str:
    """Which general set it is, as 64 hex digits: a loss belongs to the rows it was measured on."""
    return hashlib.sha256(general_bytes()).hexdigest()


def general_rows() -> list[Row]:
    """The shipped general set: everyday requests with short right answers, without system message."""
    records = (orjson.loads(line) for line in general_bytes().splitlines())
    return [
        Row(
            (Message("user", record["prompt"]), Message("assistant", record["completion"])),
            GENERAL,
            number,
            "prompt_completion",
        )
        for number, record in enumerate(records, start=1)
    ]


def neighbours(rows: Sequence[Row], *, most: int, seed: int) -> list[tuple[str, Row]]:
    """At most `most` of the rows, each asked in one other way, with the way's name.

    The ways take turns, so that each gets its share; a row that a way cannot change goes to the next way, and
    one that none can change is left out. Rows with one prompt count once.

    Args:
        rows: held-out rows.
        most: rows to draw, at least 0.
        seed: decides the rows and every change.
    """
    first: dict[tuple[Message, ...], Row] = {}
    for row in rows:
        first.setdefault(row.prompt, row)
    distinct = list(first.values())
    if len(distinct) > most:
        chosen = np.random.default_rng(seed).choice(len(distinct), size=most, replace=False)
        distinct = [distinct[index] for index in sorted(chosen)]
    found = []
    for number, row in enumerate(distinct):
        turned = [WAYS[(number + offset) % len(WAYS)] for offset in range(len(WAYS))]
        asked = ((way, ask_otherwise(row, way, seed=seed)) for way in turned)
        found += [(way, other) for way, other in asked if other is not None][:1]
    return found


def ask_otherwise(row: Row, way: str, *, seed: int) -> Row | None:
    """The row asked in another way that leaves its answer right, or None where this way cannot change it.

    Words that the answer takes from the request keep their spelling and case.

    Args:
        row: any row; only its last user turn or its system message changes.
        way: of `WAYS`.
        seed: decides, with the way and the request, where the change is made.
    """
    if not row.prompt:
        return None
    *before, asked = row.prompt
    if way == WITHOUT_SYSTEM:
        has_own = bool(before) and before[0].role == "system"
        return replace(row, messages=row.messages[1:]) if has_own else None
    if asked.role != "user":
        return None
    texts = (asked.content, asked.input) if asked.input else (asked.content,)
    random = Random(f"{seed} {way} {row.asked}")  # noqa: S311
    turn = Turn(texts, row.reference, "\n".join(message.text for message in before), random)
    changed = _CHANGES[way](turn)
    if changed is None or changed == texts:
        return None
    other = replace(asked, content=changed[0], input=changed[1] if len(changed) > 1 else "")
    return replace(row, messages=(*before, other, row.messages[-1]))


def _extra_blanks(turn: Turn) -> Texts | None:
    """Some blanks between words doubled, about one in six; not where white space may carry meaning."""
    if any(_LAID_OUT.search(text) for text in turn.texts):
        return None
    return tuple(_with_blanks(turn, text) for text in turn.texts)


def _with_blanks(turn: Turn, text: str) -> str:
    places = [match.start() for match in _BETWEEN_WORDS.finditer(text)]
    count = min(len(places), 1 + len(places) // _WORDS_PER_BLANK)
    for place in sorted(turn.random.sample(places, count), reverse=True):
        text = f"{text[:place]} {text[place:]}"
    return text


def _polite(turn: Turn) -> Texts:
    """A greeting before the request, or thanks behind it."""
    first, *rest = turn.texts
    frames = _HAN_FRAMES if dominant_script(turn.texts) == "han" else _FRAMES
    # Thanks between an instruction and its input would stand in the middle of the request.
    frame = frames[0] if rest else turn.random.choice(frames)
    return (frame.replace("{text}", first), *rest)


_CHANGES: dict[str, Callable[[Turn], Texts | None]] = {
    "typos": typos,
    "other case": case,
    "extra blanks": _extra_blanks,
    "polite frame": _polite,
}
WAYS = (*_CHANGES, WITHOUT_SYSTEM)
