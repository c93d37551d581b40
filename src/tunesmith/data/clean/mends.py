"""Mends of one text: each takes away what a finder of `audit/signs.py` points at, and changes nothing else.

Knows nothing of records and files. Read next: `steps.py`.
"""

import html
import re
from collections.abc import Callable

import ftfy
from ftfy.fixes import fix_c1_controls

from tunesmith.data.audit import signs

_C1 = re.compile("[\x80-\x9f]")
_COLOURS = re.compile("\x1b\\[[0-9;]*m")  # what a terminal's colours leave behind
_LINE_BREAKS = re.compile("[\x0b\x0c]")  # vertical tab and form feed part lines too
_ENDS_OF_TURN = (
    *("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|eot|>", "<|end_of_text|>", "<|end|>"),
    *("<|endofturn|>", "<|END_OF_TURN_TOKEN|>", "<|return|>", "<｜end▁of▁sentence｜>"),
    *("</s>", "<eos>", "<end_of_turn>", "[EOS]"),
)
_NO_INPUT = re.compile(
    r"[\W_]*(?:no[\s_-]?input(?:\s+(?:required|needed|necessary|provided|given))?|n/a|none|null|nan|无输入|无)[\W_]*",
    re.IGNORECASE,
)
_KEY_BLOCK = re.compile(
    r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----"
    r"(?:.{0,20000}?-----END [A-Z ]{0,20}PRIVATE KEY-----|[A-Za-z0-9+/=\s]*)",
    re.DOTALL,
)
_LINE_TAG = re.compile(r"<(?:br|hr|/p|/div|/li|/tr|/h[1-6]|/blockquote)\b", re.IGNORECASE)


def decoded(text: str) -> str:
    """Text that was read in a wrong encoding, read again in the right one; lost characters stay lost.

    Source: ftfy (Speer 2019), and for C1 controls the table of the HTML standard.
    """
    if text.isascii():
        return text
    if signs.find_mojibake(text):
        text = ftfy.fix_encoding(text)
    return fix_c1_controls(text) if _C1.search(text) else text


def visible(text: str) -> str:
    """Without control characters and without characters of no width that their script has no use for."""
    if signs.find_control_character(text):
        text = signs.CONTROL.sub("", _LINE_BREAKS.sub("\n", _COLOURS.sub("", text)))
    return signs.ZERO_WIDTH.sub("", text) if signs.find_zero_width(text) else text


def latin(text: str) -> str:
    """With Latin letters in Latin words where Cyrillic or Greek ones look like them."""
    return _each(text, signs.find_homoglyph, lambda word: "".join(signs.LATIN_OF.get(c, c) for c in word))


def without_end_token(answer: str) -> str:
    """Without the end tokens at its end and the white space around them; empty if all is control tokens."""
    if signs.find_special_token(answer) and not signs.SPECIAL_TOKENS.sub("", answer).strip():
        return ""
    rest = answer.rstrip()
    if not rest.endswith(_ENDS_OF_TURN):
        return answer
    while token := next((token for token in _ENDS_OF_TURN if rest.endswith(token)), None):
        rest = rest.removesuffix(token).rstrip()
    return rest


def escaped(text: str) -> str:
    """With a blank after the first character of each control token, which makes it plain text."""
    if not signs.find_special_token(text):
        return text
    return signs.SPECIAL_TOKENS.sub(lambda match: f"{match.group()[0]} {match.group()[1:]}", text)


def filled_input(text: str) -> str:
    """Empty where the text only says that there is no input."""
    return "" if text and _NO_INPUT.fullmatch(text) else text


def plain(text: str) -> str:
    """Without tags of presentation, entities written as their characters."""
    return _each(text, signs.find_html, _plain_piece)


def without_secrets(text: str) -> str:
    """With `[SECRET]` for keys and tokens."""
    if "PRIVATE KEY" in text:
        text = _KEY_BLOCK.sub("[SECRET]", text)
    return _each(text, signs.find_secret, lambda _: "[SECRET]")


def without_emails(text: str) -> str:
    """With `[EMAIL]` for e-mail addresses."""
    return _each(text, signs.find_email, lambda _: "[EMAIL]")


def without_cards(text: str) -> str:
    """With `[CARD]` for numbers of payment cards."""
    return _each(text, signs.find_card_number, lambda _: "[CARD]")


def _plain_piece(piece: str) -> str:
    if piece.startswith("&"):
        return html.unescape(piece)
    return "\n" if _LINE_TAG.match(piece) else ""


def _each(text: str, find: Callable[[str], str | None], new: Callable[[str], str]) -> str:
    """The text with every piece that `find` gives replaced, until it gives none."""
    while (piece := find(text)) and (replacement := new(piece)) != piece:
        text = text.replace(piece, replacement)
    return text
