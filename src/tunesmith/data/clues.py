"""Three things about rows that a failed training is often explained by: template, copied answers, copies.

They are for whoever looks for the cause later, so they are small, JSON-ready, and judge nothing. All of them
work on rows in memory and add a few percent to preparing them.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from tunesmith.data.audit.signs import SPECIAL_TOKENS
from tunesmith.data.batches import NAMED_ROWS
from tunesmith.data.conversation import Message, Row
from tunesmith.data.render import Rendered, Renderer, Template
from tunesmith.data.split import prompt_key
from tunesmith.errors import TemplateError

MOST_ROWS = 20_000  # of a larger set as many, evenly spaced: a habit of the data shows in them
_LEAD_IN_CHARACTERS = 24
_TAIL_TOKENS = 8  # a line break or two may follow the end of turn
# The last word before a text with the marks between them, and these marks alone: `Label: `, ` (`.
_LAST_WORD = re.compile(r"[^\W_]+[\W_]*\Z")
_LAST_MARKS = re.compile(r"\s?[^\w\s]\s*\Z|\n\s*\Z")
# A lead-in counts where it foretells the answer; behind a list of choices the answer stands by chance.
_FORETOLD_SHARE = 0.9
_FEWEST_COPIED_ROWS = 5
# One and the same text behind the lead-in in all rows tells nothing, however often it is the answer.
_OTHER_ANSWERS_SHARE = 0.05
_TRIED_LEAD_INS = 12
_MOST_PLACES = 8  # a one-letter answer stands in a long prompt hundreds of times
_STOPS = " .!?\n"
START, END = "the start of the prompt", "the end of the prompt"


def template_clues(renderer: Renderer, rows: Sequence[Rendered]) -> dict[str, Any]:
    """How the rows are rendered beside how the model's own chat template would do it.

    Args:
        renderer: what rendered the rows.
        rows: training rows as the model sees them; at least one.

    Returns:
        `name`; `is_own`: whether it is the model's chat template; `has_own`: whether the tokenizer has one;
        `markers`: control-like markers of the template that the vocabulary does not hold as one token;
        `missing`: markers of the model's own template that the rows do without; `ends_turn`: whether at
        least half of the rows end in a scored token that generation stops at.
    """
    own = renderer.tokenizer.chat_template
    used = _markers(renderer, rows[0].row)
    is_own = own == renderer.template.text
    is_foreign = isinstance(own, str) and not is_own
    of_own = _own_markers(renderer, own, rows[0].row) if is_foreign else ()
    known = renderer.tokenizer.backend_tokenizer
    stops = set(renderer.end_of_turn_ids)
    ending = sum(_has_end(row, stops) for row in rows)
    return {
        "name": renderer.template.name,
        "is_own": is_own,
        "has_own": isinstance(own, str),
        "markers": [marker for marker in used if known.token_to_id(marker) is None],
        "missing": [marker for marker in of_own if marker not in used],
        "ends_turn": 2 * ending >= len(rows),
    }


def _markers(renderer: Renderer, like: Row) -> tuple[str, ...]:
    """Control-like markers around turns with the roles of `like`; none where the template refuses them."""
    turns = tuple(Message(message.role, "a") for message in like.messages)
    try:
        ids = renderer.render(Row(turns, "the probe", 1, "messages")).ids
    except TemplateError:
        return ()
    text = renderer.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)
    return tuple(dict.fromkeys(match.group() for match in SPECIAL_TOKENS.finditer(str(text))))


def _own_markers(renderer: Renderer, own: str, like: Row) -> tuple[str, ...]:
    try:
        return _markers(Renderer(renderer.tokenizer, Template("the model's chat template", own)), like)
    except TemplateError:
        return ()


def _has_end(row: Rendered, stops: set[int]) -> bool:
    tail = zip(row.ids[-_TAIL_TOKENS:], row.scored[-_TAIL_TOKENS:], strict=True)
    return not row.is_cut and any(is_scored and token in stops for token, is_scored in tail)


def copied_answers(rows: Sequence[Row]) -> dict[str, Any]:
    """Rows whose answer stands in the prompt, always behind the same words: it can be copied unread.

    Answers found in a text here and there, and choices that every prompt lists, do not count: nothing in
    front of them tells which one it is.

    Returns:
        `rows` and their `share` of those looked at (at most `MOST_ROWS`); where there are any, also the
        `lead_in` (or `START`, `END`), how many different `answers` it gives away, and the first `places`.
    """
    looked_at = evenly(rows, MOST_ROWS)
    texts = [(_asked(row), row.reference.strip().casefold()) for row in looked_at]
    found: Counter[str] = Counter()
    for prompt, answer in texts:
        found.update(set(_lead_ins(prompt, answer)))
    best: tuple[str, list[int]] = ("", [])
    for lead_in, count in sorted(found.items(), key=_telling)[:_TRIED_LEAD_INS]:
        if count >= _FEWEST_COPIED_ROWS and count > len(best[1]):
            at = _foretold(lead_in, texts)
            best = (lead_in, at) if len(at) > len(best[1]) else best
    lead_in, copied = best
    if not copied:
        return {"rows": 0, "share": 0.0}
    return {
        "rows": len(copied),
        "share": round(len(copied) / len(texts), 4),
        "lead_in": _widened(lead_in, [texts[at] for at in copied]),
        "answers": len({texts[at][1] for at in copied}),
        "places": [looked_at[at].place for at in copied[:NAMED_ROWS]],
    }


def _telling(found: tuple[str, int]) -> tuple[int, int, str]:
    """The commonest lead-in first; of equally common ones words before marks, and marks before a place."""
    lead_in, count = found
    is_place = lead_in in (START, END)
    has_no_word = not any(character.isalnum() for character in lead_in)
    return -count, 2 * is_place + has_no_word, lead_in


def _asked(row: Row) -> str:
    return "\n".join(message.text for message in row.prompt if message.role != "assistant").strip().casefold()


def _lead_ins(prompt: str, answer: str) -> Iterator[str]:
    """What stands before each place where the answer stands as a whole word."""
    for at in _places_of(answer, prompt):
        if _is_whole(prompt, at, at + len(answer)):
            before = prompt[max(0, at - _LEAD_IN_CHARACTERS) : at]
            yield from (match.group() for p in (_LAST_WORD, _LAST_MARKS) if (match := p.search(before)))
            if at == 0:
                yield START
            if not prompt[at + len(answer) :].strip(_STOPS):
                yield END


def _places_of(answer: str, prompt: str) -> Iterator[int]:
    """Where the answer stands: the first few places, and the last."""
    at = prompt.find(answer) if answer else -1
    for _ in range(_MOST_PLACES):
        if at < 0:
            return
        yield at
        at = prompt.find(answer, at + 1)
    if at >= 0:
        yield prompt.rfind(answer)


def _is_whole(text: str, start: int, end: int) -> bool:
    before, after = text[start - 1 : start], text[end : end + 1]
    return not ((before.isalnum() and text[start].isalnum()) or (after.isalnum() and text[end - 1].isalnum()))


def _foretold(lead_in: str, texts: Sequence[tuple[str, str]]) -> list[int]:
    """Rows whose answer this lead-in gives away, if it does so nearly wherever it stands; else none."""
    having = [at for at, (prompt, _) in enumerate(texts) if lead_in in (START, END) or lead_in in prompt]
    for is_first in (True, False):
        copied = [at for at in having if _stands_behind(lead_in, *texts[at], is_first=is_first)]
        if len(copied) < max(_FEWEST_COPIED_ROWS, _FORETOLD_SHARE * len(having)):
            continue
        commonest = Counter(texts[at][1] for at in copied).most_common(1)[0][1]
        if len(copied) - commonest >= max(2, _OTHER_ANSWERS_SHARE * len(copied)):
            return copied
    return []


def _stands_behind(lead_in: str, prompt: str, answer: str, *, is_first: bool) -> bool:
    """Whether the answer follows the first, or the last, occurrence of the lead-in."""
    if not answer:
        return False
    if lead_in == END:
        at = len(prompt.rstrip(_STOPS)) - len(answer.rstrip(_STOPS))
    elif lead_in == START:
        at = 0
    else:
        at = (prompt.find(lead_in) if is_first else prompt.rfind(lead_in)) + len(lead_in)
    return at >= 0 and prompt.startswith(answer, at) and _is_whole(prompt, at, at + len(answer))


def _widened(lead_in: str, texts: Sequence[tuple[str, str]]) -> str:
    """The lead-in with all that stands before it in each of these rows: `expected answer: `."""
    if lead_in in (START, END):
        return lead_in
    shared = ""
    for number, (prompt, answer) in enumerate(texts):
        end = prompt.find(lead_in + answer) + len(lead_in)
        before = prompt[max(0, end - _LEAD_IN_CHARACTERS) : end]
        shared = before if number == 0 else _shared_end(shared, before)
    # Its first word may be half a word.
    return max(re.sub(r"\A\w*\W*", "", shared), lead_in, key=len)


def _shared_end(one: str, other: str) -> str:
    at = 0
    while at < min(len(one), len(other)) and one[-1 - at] == other[-1 - at]:
        at += 1
    return one[len(one) - at :]


def copied_rows(rows: Sequence[Row]) -> dict[str, Any]:
    """Rows that repeat an earlier row: the same prompt and answer, case and white space aside.

    Returns:
        `rows`: copies beyond the first of each; their `share` of all; `largest`: how often the commonest row
        stands there; where there are copies, also the first `places`.
    """
    counts: Counter[int] = Counter()
    places: list[str] = []
    for row in rows:
        said = hash((prompt_key(row), " ".join(row.reference.casefold().split())))
        counts[said] += 1
        if counts[said] > 1 and len(places) < NAMED_ROWS:
            places.append(row.place)
    again = len(rows) - len(counts)
    account = {
        "rows": again,
        "share": round(again / len(rows), 4) if rows else 0.0,
        "largest": max(counts.values(), default=0),
    }
    return account | ({"places": places} if places else {})


def evenly(rows: Sequence[Row], most: int) -> Sequence[Row]:
    """All rows, or `most` of them, evenly spaced."""
    return rows if len(rows) <= most else [rows[at * len(rows) // most] for at in range(most)]
