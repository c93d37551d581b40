"""Rows as the model will see them: the text of each token, what is scored, what does not fit.

The terminal and the page (`preview_page.py`) show the same views. Knows no files and no colours.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal, Protocol

from tunesmith.data.audit.signs import find_special_token

if TYPE_CHECKING:
    from tunesmith.data.render import Rendered

# A character has at most four bytes, so as many tokens always hold the rest of one that was begun.
_LOOK_AHEAD_TOKENS = 4
# Blank on every screen, though Unicode files them under letters and marks.
_BLANK_LETTERS = frozenset("\u034f\u115f\u1160\u2800\u3164\uffa0")
_INVISIBLE_CATEGORIES = frozenset(("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs"))

Kind = Literal["text", "newline", "tab", "hidden"]


class Decoder(Protocol):
    """What is needed of a tokenizer."""

    @property
    def added_tokens_decoder(self) -> dict[int, Any]:
        """Added tokens by id; each says whether it is `special`."""

    def decode(
        self, ids: list[int], /, *, skip_special_tokens: bool, clean_up_tokenization_spaces: bool
    ) -> Any:
        """The text of the ids."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token as a reader sees it: whole characters.

    Attributes:
        text: what it stands for.
        ids: its id; several where one character is spread over several tokens.
        is_scored: whether the loss counts it.
        is_control: whether it is a control token, not text that looks like one.
        is_cut: whether it lies, in part or whole, beyond the longest allowed row.
    """

    text: str
    ids: tuple[int, ...]
    is_scored: bool
    is_control: bool
    is_cut: bool


@dataclass(frozen=True, slots=True)
class RowView:
    """One row of a preview, or why it cannot be used.

    Attributes:
        number: which row of the file it is; the first is 1.
        place: `file:line`.
        tokens: the row as tokens; empty where it cannot be used.
        token_count: ids in the row.
        scored_tokens: ids that the loss counts.
        is_too_long: whether it has more ids than allowed.
        lookalike: what reads as a control token but is plain text to the model, or the empty text.
        error: why it cannot be used, or the empty text.
        hint: what to do about the error.
    """

    number: int
    place: str
    tokens: tuple[Token, ...] = ()
    token_count: int = 0
    scored_tokens: int = 0
    is_too_long: bool = False
    lookalike: str = ""
    error: str = ""
    hint: str = ""

    @property
    def scored_share(self) -> float:
        """Scored tokens by all tokens, 0 to 1."""
        return self.scored_tokens / self.token_count if self.token_count else 0.0


def view_row(rendered: "Rendered", *, number: int, tokenizer: Decoder, max_length: int) -> RowView:
    """A rendered row, ready to show.

    Args:
        rendered: the whole row, not cut to a length.
        number: which row of the file it is; the first is 1.
        tokenizer: the one that rendered it.
        max_length: longest allowed row in tokens.
    """
    tokens = tokens_of(rendered, tokenizer=tokenizer, max_length=max_length)
    plain = "".join("\n" if token.is_control else token.text for token in tokens)
    return RowView(
        number=number,
        place=rendered.row.place,
        tokens=tokens,
        token_count=len(rendered.ids),
        scored_tokens=rendered.scored_tokens,
        is_too_long=len(rendered.ids) > max_length,
        lookalike=find_special_token(plain) or "",
    )


def tokens_of(
    rendered: "Rendered", *, tokenizer: Decoder, max_length: int | None = None
) -> tuple[Token, ...]:
    """The row's tokens; their texts joined are the rendered text.

    Args:
        rendered: ids and what of them is scored.
        tokenizer: the one that rendered it.
        max_length: longest allowed row in tokens; None allows any.
    """
    control = {token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    tokens = []
    for text, start, end in whole_characters(rendered.ids, tokenizer=tokenizer):
        ids = rendered.ids[start:end]
        tokens.append(
            Token(
                text=text,
                ids=ids,
                is_scored=any(rendered.scored[start:end]),
                is_control=not control.isdisjoint(ids),
                is_cut=max_length is not None and end > max_length,
            )
        )
    return tuple(tokens)


def whole_characters(ids: Sequence[int], *, tokenizer: Decoder) -> list[tuple[str, int, int]]:
    """The shortest stretches of ids that hold whole characters: text, start and end of each.

    A stretch is decoded behind the one before it, since some tokenizers write a word's blank only there.
    Ids that end inside a character keep its replacement sign.
    """
    stretches: list[tuple[str, int, int]] = []
    before = start = 0
    context = ""
    for end in range(1, len(ids) + 1):
        shown = _decoded(ids[before:end], tokenizer)
        if shown.endswith("\ufffd") and not _stays(
            shown, ids[before : end + _LOOK_AHEAD_TOKENS], end - before, tokenizer
        ):
            continue
        text = shown[len(context) :]
        if text or not stretches:
            stretches.append((text, start, end))
            before = start
        else:
            # The last bytes of a replacement sign that the text itself holds.
            earlier, begun, _ = stretches.pop()
            stretches.append((earlier, begun, end))
        start = end
        context = _decoded(ids[before:start], tokenizer)
    return stretches


def _stays(shown: str, ids: Sequence[int], count: int, tokenizer: Decoder) -> bool:
    """Whether `shown`, the text of the first `count` ids, stays as it is however many more follow.

    More than one length is tried: a longer one may itself end inside a character.
    """
    ends = range(count + 1, min(count + _LOOK_AHEAD_TOKENS, len(ids)) + 1)
    return all(_decoded(ids[:end], tokenizer).startswith(shown) for end in ends)


def _decoded(ids: Sequence[int], tokenizer: Decoder) -> str:
    text = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return str(text)


def visible_parts(text: str) -> list[tuple[Kind, str]]:
    """The text cut by how it shows: a line break as `⏎`, a tab as `⇥`, what cannot be seen by its code.

    The space is seen; other blanks, control and format characters are not. No terminal code survives.
    """
    parts: list[tuple[Kind, str]] = []
    for kind, characters in groupby(text, _kind):
        shown = "".join(map(_shown, characters))
        parts.append((kind, shown))
    return parts


def visible(text: str) -> str:
    """The text with all that cannot be seen spelled out, line breaks kept; safe to print."""
    return "".join("\n" if kind == "newline" else shown for kind, shown in visible_parts(text))


@lru_cache(maxsize=4096)
def _kind(character: str) -> Kind:
    if character in "\n\t":
        return "newline" if character == "\n" else "tab"
    is_selector = "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef"
    is_invisible = unicodedata.category(character) in _INVISIBLE_CATEGORIES and character != " "
    return "hidden" if is_invisible or is_selector or character in _BLANK_LETTERS else "text"


def _shown(character: str) -> str:
    kind, code = _kind(character), ord(character)
    if kind == "hidden":
        return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
    return {"newline": "⏎", "tab": "⇥", "text": character}[kind]
