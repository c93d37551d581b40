"""Strings and words that are nearly JSON, turned into JSON, with what was changed.

Works on one token; knows nothing of lines and files.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from tunesmith.tools.json_problems import Kind

_PIECE = re.compile(
    r"""\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})   # an escape that JSON has
    | (?P<hex>\\x[0-9a-fA-F]{2})
    | (?P<apostrophe>\\')
    | (?P<escape>\\)
    | (?P<newline>\r?\n)
    | (?P<control>[\x00-\x1f])
    | (?P<quote>")""",
    re.VERBOSE,
)
_SURROGATE = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\\\|(\\u[dD][89a-fA-F])"
)
_BAD_BYTE = re.compile("[\udc80-\udcff]")
_SHORT = {"\n": r"\n", "\r\n": r"\r\n", "\t": r"\t", "\r": r"\r", "\b": r"\b", "\f": r"\f"}
_LITERALS = {"True": "true", "False": "false", "None": "null"}
_NOT_A_NUMBER = re.compile(r"[+-]?(?:nan|inf(?:inity)?)", re.IGNORECASE)
_BARE_POINT = re.compile(r"\+?(-?)([0-9]*)(?:\.([0-9]*))?((?:[eE][+-]?[0-9]+)?)", re.ASCII)
_STRICT_INTEGER = re.compile(r"0|[1-9][0-9]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Change:
    """`length` characters of the token from `offset` on stand for `text`; why is in `kind`."""

    kind: Kind
    offset: int
    length: int
    text: str


@dataclass(frozen=True, slots=True)
class MendedWord:
    """A word in place of a value: the JSON text for it, or None where only a person can say."""

    text: str | None
    kind: Kind
    message: str
    words: str


def mend_string(raw: str) -> tuple[str, list[Change]]:
    """The string as JSON, and the changes that lead there.

    Args:
        raw: the token with its quotes, single or double ones; the quotes end it nowhere inside.
    """
    changes = list(_changes(raw))
    text, at = "", 0
    for change in changes:
        text += raw[at : change.offset] + change.text
        at = change.offset + change.length
    return text + raw[at:], changes


def _changes(raw: str) -> Iterator[Change]:
    is_single = raw[0] == "'"
    if is_single:
        yield Change("single_quotes", 0, 1, '"')
    for match in _PIECE.finditer(raw, 1, len(raw) - 1):
        found, offset, size = match[0], match.start(), match.end() - match.start()
        sort = match.lastgroup
        if sort == "newline":
            yield Change("raw_newline", offset, size, _SHORT[found])
        elif sort == "control":
            yield Change("control_character", offset, size, _SHORT.get(found, f"\\u{ord(found):04x}"))
        elif sort == "quote":
            yield Change("single_quotes", offset, size, '\\"')
        elif sort == "apostrophe":
            yield Change("single_quotes" if is_single else "bad_escape", offset, size, "'")
        elif sort == "hex" and is_single:
            yield Change("single_quotes", offset, size, f"\\u00{found[2:]}")
        elif sort in ("escape", "hex"):
            yield Change("bad_escape", offset, 1, "\\\\")
    if is_single:
        yield Change("single_quotes", len(raw) - 1, 1, '"')


def lone_surrogate(text: str) -> int | None:
    """Where in the JSON string half of a surrogate pair is written; None if nowhere."""
    if "\\u" not in text:
        return None
    return next((match.start(1) for match in _SURROGATE.finditer(text) if match[1]), None)


def bad_byte(text: str) -> tuple[int, int] | None:
    """Offset and value of the first byte that was not UTF-8; None if all were.

    Args:
        text: decoded with `errors="surrogateescape"`.
    """
    if text.isascii():
        return None
    match = _BAD_BYTE.search(text)
    return (match.start(), ord(match[0]) - 0xDC00) if match else None


def decoded(text: str) -> str:
    """The characters of a JSON string."""
    return str(json.loads(text)) if "\\" in text else text[1:-1]


def quoted(word: str) -> str:
    """The word as a JSON string."""
    return json.dumps(word, ensure_ascii=False)


def mend_word(word: str) -> MendedWord:
    """What the word means in place of a value."""
    if word in _LITERALS:
        text = _LITERALS[word]
        return MendedWord(text, "python_literal", f"`{word}` is Python, not JSON", f"write `{text}`")
    if _NOT_A_NUMBER.fullmatch(word):
        return MendedWord("null", "not_a_number", f"`{word}` is no JSON number", "write `null`")
    if word[0] in "+-.0123456789":
        number = _with_digits(word)
        words = f"write `{number}`" if number else "write a decimal number, or put it in double quotes"
        return MendedWord(number, "bad_number", f"`{_short(word)}` is not how JSON writes a number", words)
    message = f"the text `{_short(word)}` has no quotes"
    return MendedWord(None, "unquoted_text", message, "put it in double quotes, or give a value")


def _with_digits(word: str) -> str | None:
    """`+1`, `.5` and `5.` with what JSON asks for; other words have no certain value."""
    match = _BARE_POINT.fullmatch(word)
    if not match:
        return None
    sign, whole, part, exponent = match.groups()
    if not (whole or part) or (whole and not _STRICT_INTEGER.fullmatch(whole)):
        return None
    point = "" if part is None else f".{part or '0'}"
    return f"{sign}{whole or '0'}{point}{exponent}"


def _short(word: str) -> str:
    return word if len(word) <= 40 else word[:39] + "…"
