"""Which script a text is written in, and how to cut it into tokens for ROUGE without losing any of it.

Scripts that put spaces between words are all one here ("spaced"): scoring treats them alike.
Knows nothing of metrics.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from typing import Literal

Script = Literal["han", "japanese", "thai", "lao", "khmer", "myanmar", "hangul", "spaced"]

# Source: Blocks.txt of the Unicode Character Database, version 15. Planes 2 and 3 hold only ideographs.
_BLOCKS: tuple[tuple[int, int, Script], ...] = (
    (0x0E00, 0x0E7F, "thai"),
    (0x0E80, 0x0EFF, "lao"),
    (0x1000, 0x109F, "myanmar"),
    (0x1100, 0x11FF, "hangul"),
    (0x1780, 0x17FF, "khmer"),
    (0x2E80, 0x2FDF, "han"),
    (0x3005, 0x3007, "han"),
    (0x3021, 0x3029, "han"),
    (0x3038, 0x303B, "han"),
    (0x3040, 0x30FF, "japanese"),
    (0x3130, 0x318F, "hangul"),
    (0x31F0, 0x31FF, "japanese"),
    (0x3400, 0x4DBF, "han"),
    (0x4E00, 0x9FFF, "han"),
    (0xA960, 0xA97F, "hangul"),
    (0xA9E0, 0xA9FF, "myanmar"),
    (0xAA60, 0xAA7F, "myanmar"),
    (0xAC00, 0xD7FF, "hangul"),
    (0xF900, 0xFAFF, "han"),
    (0xFF66, 0xFF9F, "japanese"),
    (0x1AFF0, 0x1B16F, "japanese"),
    (0x20000, 0x3FFFF, "han"),
)
_SPACED: frozenset[Script] = frozenset({"spaced", "hangul"})

# Running Japanese is about half kana; Chinese that quotes a Japanese name stays far below this share.
_JAPANESE_KANA_FRACTION = 0.05


def script_of(char: str) -> Script:
    """Script of one character; kana is "japanese", and every script with spaces but Hangul is "spaced"."""
    code = ord(char)
    return next((script for first, last, script in _BLOCKS if first <= code <= last), "spaced")


def dominant_script(texts: Iterable[str]) -> Script:
    """Script that most letters of all `texts` together belong to; "spaced" where there are no letters.

    Han ideographs count as Japanese where at least 5 percent of Han and kana together is kana.
    """
    chars = Counter(char for text in texts for char in text if char.isalpha())
    letters: Counter[Script] = Counter()
    for char, count in chars.items():
        letters[script_of(char)] += count
    kana, han = letters["japanese"], letters["han"]
    if kana and kana >= _JAPANESE_KANA_FRACTION * (kana + han):
        letters["japanese"] += letters.pop("han", 0)
    return max(letters, key=letters.__getitem__, default="spaced")


def rouge_tokens(text: str) -> list[str]:
    """Lower-cased words, and single characters where the script has no spaces between words.

    A word is a run of letters, digits and the marks on them. On ASCII text this is the tokenizer of
    the rouge-score package; on other text that one deletes every character outside a-z and 0-9,
    so two identical Chinese answers score 0.

    Args:
        text: any text, normalised to Unicode NFC first.

    Returns:
        Tokens in order. Empty where the text has no letter and no digit.
    """
    tokens: list[str] = []
    inside_word = False
    for char in unicodedata.normalize("NFC", text).lower():
        role = _token_role(char)
        if inside_word and role in {"letter", "mark"}:
            tokens[-1] += char
        elif role in {"letter", "single"}:
            tokens.append(char)
        inside_word = role == "letter" or (inside_word and role == "mark")
    return tokens


@lru_cache(maxsize=65_536)
def _token_role(char: str) -> Literal["letter", "mark", "single", "gap"]:
    category = unicodedata.category(char)
    # A mark alone is no word: emoji carry one (U+FE0F).
    if category[0] not in "LM" and category not in {"Nd", "Nl"}:
        return "gap"
    if script_of(char) not in _SPACED:
        return "single"
    return "mark" if category[0] == "M" else "letter"
