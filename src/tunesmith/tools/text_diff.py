"""Difference of two texts by words and lines: prose, code, scripts that put no spaces between words.

A token is a word, a run of white space, or one other character. Han, kana and the South-East Asian
scripts are compared character by character; a combining mark never leaves its letter.
Knows nothing of HTML or terminals: who shows the spans decides how.
"""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache
from itertools import groupby, takewhile
from typing import Literal

Kind = Literal["equal", "insert", "delete"]

_JOINER = "\u200d"
_UNSPACED_SCRIPTS = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
# Above this many token pairs difflib may ignore tokens that fill more than 1 % of the text as anchors:
# without that, 5,000 frequent tokens against 5,000 take seconds.
_EXACT_PAIRS = 1_000_000
# Above this many character pairs even that takes minutes where a script has no spaces.
_BEARABLE_PAIRS = 1_000_000_000
# From so many line breaks on, lines are matched before words.
LONG_LINES = 20
# Lines that share less are out and in as a whole: marks on nearly every word would tell nothing.
_LEAST_SHARED = 0.25


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of text that both have (`equal`), only the new has (`insert`), or only the old (`delete`)."""

    kind: Kind
    text: str


def word_diff(old: str, new: str) -> list[Span]:
    """Spans that lead from `old` to `new`, in reading order; neighbours differ in kind.

    The `equal` and `delete` spans joined are `old`; the `equal` and `insert` spans joined are `new`.
    Words are matched first, white space after them, so replaced phrases stay in one piece.

    Args:
        old: the text to start from, such as the reference.
        new: the text to end at, such as a model's answer.

    Returns:
        No span for two empty texts; no span is empty. A replacement is a `delete`, then an `insert`.

    Source: Ratcliff and Obershelp's matching as in `difflib`; not always the shortest difference.
    """
    old_words, new_words = _spaced_words(old), _spaced_words(new)
    exact = len(old_words) * len(new_words) <= _EXACT_PAIRS
    matcher = SequenceMatcher(
        None, [word for _, word in old_words], [word for _, word in new_words], autojunk=not exact
    )
    pieces: list[Span] = []
    for tag, old_start, old_end, new_start, new_end in matcher.get_opcodes():
        old_part, new_part = old_words[old_start:old_end], new_words[new_start:new_end]
        if tag == "equal":
            for (old_space, word), (new_space, _) in zip(old_part, new_part, strict=True):
                pieces += [*_replaced(old_space, new_space), Span("equal", word)]
        else:
            pieces += _replaced(_joined(old_part), _joined(new_part))
    return _merged(piece for piece in pieces if piece.text)


def line_diff(old: str, new: str) -> list[Span]:
    """As `word_diff`, but whole lines are matched first, and words only inside lines that changed.

    For long texts of many lines: code, lists, letters. A line keeps its line break.
    """
    old_lines, new_lines = old.splitlines(keepends=True), new.splitlines(keepends=True)
    exact = len(old_lines) * len(new_lines) <= _EXACT_PAIRS
    matcher = SequenceMatcher(None, old_lines, new_lines, autojunk=not exact)
    pieces: list[Span] = []
    for tag, old_start, old_end, new_start, new_end in matcher.get_opcodes():
        old_part, new_part = "".join(old_lines[old_start:old_end]), "".join(new_lines[new_start:new_end])
        pieces += [Span("equal", old_part)] if tag == "equal" else _changed_lines(old_part, new_part)
    return _merged(piece for piece in pieces if piece.text)


def text_diff(old: str, new: str) -> list[Span]:
    """Lines first where a text has many (`line_diff`), else words (`word_diff`); bearable for any length.

    Two texts of tens of thousands of characters without line breaks keep the words with which both begin
    and end; what is between them is out and in as a whole.
    """
    if max(old.count("\n"), new.count("\n")) >= LONG_LINES:
        return line_diff(old, new)
    return _bearable_diff(old, new)


def equal_share(spans: Iterable[Span]) -> float:
    """Characters both texts have in the same order, as a fraction of the longer text; 1 for two empty texts.

    White space does not count on either side.
    """
    sizes: dict[Kind, int] = {"equal": 0, "insert": 0, "delete": 0}
    for span in spans:
        sizes[span.kind] += sum(not character.isspace() for character in span.text)
    longer = sizes["equal"] + max(sizes["insert"], sizes["delete"])
    return sizes["equal"] / longer if longer else 1.0


def split_tokens(text: str) -> list[str]:
    """The tokens of `text`; joined they are `text` again."""
    return list(_tokens(text))


def _changed_lines(old: str, new: str) -> list[Span]:
    spans = _bearable_diff(old, new)
    if old and new and equal_share(spans) < _LEAST_SHARED:
        return [Span("delete", old), Span("insert", new)]
    return spans


def _bearable_diff(old: str, new: str) -> list[Span]:
    """`word_diff`; for very long texts only of what is between their equal ends, or not even of that."""
    if len(old) * len(new) <= _BEARABLE_PAIRS:
        return word_diff(old, new)
    old_tokens, new_tokens = split_tokens(old), split_tokens(new)
    start = _shared_start(old_tokens, new_tokens)
    old_tokens, new_tokens = old_tokens[start:], new_tokens[start:]
    head = old[: len(old) - sum(map(len, old_tokens))]
    end = _shared_start(old_tokens[::-1], new_tokens[::-1])
    tail = "".join(old_tokens[len(old_tokens) - end :])
    old_rest, new_rest = old[len(head) : len(old) - len(tail)], new[len(head) : len(new) - len(tail)]
    is_bearable = len(old_rest) * len(new_rest) <= _BEARABLE_PAIRS
    middle = (
        word_diff(old_rest, new_rest) if is_bearable else [Span("delete", old_rest), Span("insert", new_rest)]
    )
    pieces = [Span("equal", head), *middle, Span("equal", tail)]
    return _merged(piece for piece in pieces if piece.text)


def _shared_start(old: Sequence[str], new: Sequence[str]) -> int:
    """How many tokens both begin with."""
    pairs = zip(old, new, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _tokens(text: str) -> Iterator[str]:
    token, token_sort = "", ""
    for character in text:
        sort = _sort(character)
        attached = sort == "mark" or token.endswith(_JOINER)
        grows = attached or (sort == token_sort and sort in ("word", "space"))
        if token and not grows:
            yield token
            token = ""
        token_sort = token_sort if token and attached else sort
        token += character
    if token:
        yield token


@lru_cache(maxsize=16384)
def _sort(character: str) -> str:
    """`space`, `mark` (belongs to the character before), `word` (grows), or `single`."""
    if character.isspace():
        return "space"
    category = unicodedata.category(character)
    if category.startswith("M") or character == _JOINER:
        return "mark"
    if unicodedata.name(character, "").startswith(_UNSPACED_SCRIPTS):
        return "single"
    return "word" if category[0] in "LN" or character == "_" else "single"


def _spaced_words(text: str) -> list[tuple[str, str]]:
    """Each word with the white space before it; the last word is empty and carries what trails."""
    pairs, space = [], ""
    for token in _tokens(text):
        if _sort(token[0]) == "space":
            space = token
        else:
            pairs.append((space, token))
            space = ""
    return [*pairs, (space, "")]


def _joined(pairs: Iterable[tuple[str, str]]) -> str:
    return "".join(space + word for space, word in pairs)


def _replaced(old: str, new: str) -> list[Span]:
    """`old` out, `new` in; white space with which both begin stays."""
    if old == new:
        return [Span("equal", old)]
    pairs = takewhile(lambda pair: pair[0] == pair[1] and pair[0].isspace(), zip(old, new, strict=False))
    shared = "".join(character for character, _ in pairs)
    return [
        Span("equal", shared),
        Span("delete", old[len(shared) :]),
        Span("insert", new[len(shared) :]),
    ]


def _merged(pieces: Iterable[Span]) -> list[Span]:
    """Neighbours of one kind joined."""
    groups = groupby(pieces, key=lambda piece: piece.kind)
    return [Span(kind, "".join(piece.text for piece in group)) for kind, group in groups]
