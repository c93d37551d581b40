"""Signs in one text that it should not be trained on as it is. Each finder gives the offending piece.

Made for millions of texts: a finder looks for a cheap hint, such as a character it cannot do without,
before it runs a pattern. Knows nothing of rows, files and tokens. Read next: `languages.py`, `tally.py`.
"""

import html
import re

from ftfy import badness

# Literal control tokens of the known model families; `<|...|>` covers most of them.
SPECIAL_TOKENS = re.compile(
    r"<\|[A-Za-z0-9_\-/ ]{1,40}\|>|<｜[^｜<>]{1,40}｜>|</?s>"
    r"|<(?:pad|eos|bos|unk|mask|start_of_turn|end_of_turn)>"
    r"|\[/?INST\]|<</?SYS>>|\[(?:PAD|CLS|SEP|MASK|UNK|BOS|EOS|gMASK)\]"
)
# In formulas doubled braces are arguments: `x^{{2}}`.
UNRENDERED = re.compile(r"(?<![\^_}])\{\{\s*[A-Za-z_][\w.]{0,60}\s*\}\}")
# Joiners and direction marks are letters' business in many scripts; between Latin letters they are leftovers.
# A zero-width space parts words in Thai, Lao, Khmer and Burmese.
ZERO_WIDTH = re.compile(
    "(?<![\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff])\u200b|[\u00ad\u180e\u2060\ufeff]"
    "|(?<=[A-Za-z0-9])[\u200c-\u200f]+(?=[A-Za-z0-9])"
)
_NO_WIDTH = re.compile("[\u00ad\u180e\u200b-\u200f\u2060\ufeff]")
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202d\u202e]")

# Bytes of UTF-8 read as another code page give at least one of these.
_WRONGLY_DECODED = re.compile("[\x80-\xff\u0100-\u017f\u0402-\u040f\u0452-\u045f]")

# Letters that look like Latin ones, and which. The strict part is taken for a mistake in whole words too.
CYRILLIC = dict(zip("АВЕЅІЈКМНОРСТУХаеорсухіјѕһԁԛԝ", "ABESIJKMHOPCTYXaeopcyxijshdqw", strict=True))
GREEK = dict(zip("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧοανρτυικχγ", "ABEZHIKMNOPTYXoavptuikxy", strict=True))
LATIN_OF = CYRILLIC | GREEK
_MIXED_WORD = re.compile(f"[A-Za-z]*[{''.join(LATIN_OF)}][^\\W\\d_]*")
_LATIN = re.compile("[A-Za-z]")
_FOREIGN_LETTER = re.compile("[\u0370-\u03ff\u0400-\u052f]")
_LATIN_LETTERS_IN_MIXED_WORD = 2

_PLACEHOLDERS = {
    *("noinput", "no input", "n/a", "null", "nan", "undefined", "todo", "tbd", "tba", "fixme", "placeholder"),
    *("xxx", "...", "…", "insert text here", "your text here", "your answer here", "asdf", "无输入", "无"),
}
_AROUND_PLACEHOLDER = " \t\n`'\"<>[](){}-.:_*"
_REFUSAL = re.compile(
    r"\bas an? (?:ai|artificial intelligence|(?:large )?language model)\b"
    r"|\bi(?:'m| am) (?:just |only )?an? (?:ai|language model|artificial intelligence)\b"
    r"|(?:sorry|apologi[sz]e|afraid|unfortunately|regret)\b.{0,40}?\bi(?:'m| am)? ?"
    r"(?:can't|can ?not|won't|unable to|not able to|must decline|have to decline)"
    r"|^\W*i(?:'m| am)? ?(?:can't|can ?not|won't|unable to|not able to|must decline to|have to decline to) "
    r"(?:be able to )?"
    r"(?:assist|help|provide|fulfill?|comply|answer|create|generate|engage|complete|share|support|discuss"
    r"|continue|respond|offer|give|do that|produce|talk|process|go along)"
    r"|\bi (?:must|have to|need to) (?:respectfully )?decline\b"
    r"|(?:goes )?against my (?:guidelines|programming|policy|policies)"
    r"|(?:抱歉|对不起|很遗憾).{0,12}(?:无法|不能)|作为(?:一个|一名)?(?:AI|人工智能|语言模型)",
    re.DOTALL,
)
_REFUSAL_HINTS = (
    *(
        "sorry",
        "apolog",
        "afraid",
        "unfortunately",
        "regret",
        "can't",
        "cannot",
        "can not",
        "won't",
        "unable",
    ),
    *("not able", "decline", "against my", "an ai", "language model", "artificial", "抱歉", "对不起", "遗憾"),
    *("作为",),
)
_REFUSAL_CHARACTERS = 300  # a refusal begins the answer

_TAG = re.compile(
    r"</?(?:a|b|i|u|p|br|hr|div|span|font|center|strong|em|li|ul|ol|td|tr|table|h[1-6]|img|sup|sub|blockquote)"
    r"(?:\s[^<>]{0,300})?\s?/?>",
    re.IGNORECASE,
)
_ENTITY = re.compile(r"&(?:[a-zA-Z]{2,8}|#\d{1,6}|#x[0-9a-fA-F]{1,5});")
_ABOUT_MARKUP = re.compile(r"```|html|<!doctype|<script|<body|xml|markup|\btags?\b", re.IGNORECASE)

_SECRET = re.compile(
    r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----"
    r"|\b(?:sk|pk|rk)[-_](?:live_|test_|proj-|ant-)?[A-Za-z0-9_-]{20,}"
    r"|\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_[A-Za-z0-9_]{30,}|\bglpat-[A-Za-z0-9_-]{20}"
    r"|\bhf_[A-Za-z0-9]{30,}|\bxox[abprs]-[A-Za-z0-9-]{10,}"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bAIza[0-9A-Za-z_-]{35}"
    r"|\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"
)
_KEY_CHARACTERS = bytes.maketrans(
    b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_-", b"0" * 64
)
_FEWEST_KEY_CHARACTERS = b"0" * 15
_EMAIL = re.compile(
    r"(?<![\w.+-])[A-Za-z0-9][\w.+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![\w@])"
)
# The usual groups and the first digits of the card networks; other long numbers are hardly cards.
_CARD = re.compile(
    r"(?<![\d.,-])(?:4\d{12}(?:\d{3}){0,2}|(?:5[1-5]|2[2-7]|6[05])\d{14}|3[47]\d{13}"
    r"|[2-6]\d{3}([ -])\d{4}\1\d{4}\1\d{1,7}|3[47]\d{2}([ -])\d{6}\2\d{5})(?![\d,-])(?!\.\d)"
)

_ENDS = frozenset(".!?…。！？”’\"'»」』】》)]}>`*_~|:;%€$£=+✅")
_OPEN_ENDS = frozenset(",，、([{“‘«—–-/&")
_FUNCTION_WORDS = {
    *("a", "an", "the", "and", "or", "but", "nor", "of", "to", "in", "on", "at", "by", "for", "with", "from"),
    *("into", "as", "is", "are", "was", "were", "be", "been", "that", "which", "who", "because", "if"),
    *("when", "while", "than", "so", "its", "their", "his", "her", "our", "your", "my", "these", "very"),
}
PROSE_WORDS = 8

_DIGITS_AS_ZERO = bytes.maketrans(b"0123456789", b"0" * 10)
_FEWEST_CARD_DIGITS = b"0" * 13


def find_special_token(text: str) -> str | None:
    """A control token written out, such as `<|im_end|>` or `</s>`."""
    if "<" not in text and "[" not in text:
        return None
    match = SPECIAL_TOKENS.search(text)
    return match.group() if match else None


def find_unrendered(text: str) -> str | None:
    """A template's field that nobody filled in: `{{name}}`."""
    match = UNRENDERED.search(text) if "{{" in text else None
    return match.group() if match else None


def find_placeholder(text: str) -> str | None:
    """A text that stands for a missing one: `<noinput>`, `N/A`, `TODO`, lorem ipsum."""
    if "<noinput>" in text:
        return "<noinput>"
    start = text[:64].strip()
    if len(text) < 64 and (start.casefold() in _PLACEHOLDERS or _bare(start) in _PLACEHOLDERS):
        return start
    return "lorem ipsum" if start[:11].casefold() == "lorem ipsum" else None


def _bare(text: str) -> str:
    return text.strip(_AROUND_PLACEHOLDER).casefold()


def find_html(text: str) -> str | None:
    """A tag of presentation or a character entity in a text that is not about markup."""
    has_tag, has_entity = "<" in text and ">" in text, "&" in text and ";" in text
    if not (has_tag or has_entity):
        return None
    tag = _TAG.search(text) if has_tag else None
    entity = next((m for m in _ENTITY.finditer(text) if html.unescape(m.group()) != m.group()), None)
    found = tag or (entity if has_entity else None)
    return found.group() if found and not _ABOUT_MARKUP.search(text) else None


def find_mojibake(text: str) -> str | None:
    """Characters that come from reading UTF-8 as something else, or that were lost: `Ã©`, `â€™`, U+FFFD.

    Source: the heuristic of ftfy (Speer 2019), which looks for sequences that hardly occur on purpose.
    """
    if text.isascii():
        return None
    if "\ufffd" in text:
        return "\ufffd"
    if not _WRONGLY_DECODED.search(text):
        return None
    # Bare C1 codes are control characters, and counted as those.
    pieces = (match.group() for match in badness.BADNESS_RE.finditer(text))
    return next((piece for piece in pieces if CONTROL.sub("", piece)), None)


def find_zero_width(text: str) -> str | None:
    """An invisible character of no width where the script has no use for it."""
    match = None if text.isascii() or not _NO_WIDTH.search(text) else ZERO_WIDTH.search(text)
    return match.group() if match else None


def find_control_character(text: str) -> str | None:
    """A control character other than tab and line break, or a mark that reverses the direction of text."""
    match = CONTROL.search(text)
    return match.group() if match else None


def find_homoglyph(text: str) -> str | None:
    """A word with Cyrillic or Greek letters in place of the Latin ones they look like."""
    if text.isascii() or not _FOREIGN_LETTER.search(text):
        return None
    return next((word for word in _MIXED_WORD.findall(text) if is_homoglyph(word, text)), None)


def is_homoglyph(word: str, text: str) -> bool:
    """Whether a word of `text` that holds look-alikes is meant to be Latin.

    It is if Latin letters surround them; a whole word of Cyrillic look-alikes is, if the text has no other
    Cyrillic. Single Greek letters are variables more often than mistakes.
    """
    foreign = [letter for letter in word if not letter.isascii()]
    if any(letter not in LATIN_OF for letter in foreign):
        return False
    latin = len(word) - len(foreign)
    if latin:
        return latin >= _LATIN_LETTERS_IN_MIXED_WORD
    others = set(_FOREIGN_LETTER.findall(text)) - LATIN_OF.keys()
    return set(foreign) <= CYRILLIC.keys() and not others and len(_LATIN.findall(text)) > len(text) // 3


def find_refusal(answer: str) -> str | None:
    """The words with which an answer declines, or speaks of being an AI."""
    start = answer[:_REFUSAL_CHARACTERS].lower().replace("’", "'")
    match = _REFUSAL.search(start) if any(hint in start for hint in _REFUSAL_HINTS) else None
    return match.group() if match else None


def find_secret(text: str) -> str | None:
    """What looks like a key or token that gives access to something."""
    has_long_word = _FEWEST_KEY_CHARACTERS in text.encode(errors="replace").translate(_KEY_CHARACTERS)
    if not has_long_word and "PRIVATE KEY" not in text:
        return None
    match = _SECRET.search(text)
    return match.group() if match else None


def find_email(text: str) -> str | None:
    """An e-mail address."""
    match = _EMAIL.search(text) if "@" in text else None
    return match.group() if match else None


def find_card_number(text: str) -> str | None:
    """A payment card's number, plain or in groups, whose check digit is right (Luhn, US patent 2950048)."""
    digits_joined = text.encode(errors="replace").translate(_DIGITS_AS_ZERO, b" -")
    if _FEWEST_CARD_DIGITS not in digits_joined:
        return None
    return next((m.group() for m in _CARD.finditer(text) if _is_luhn(m.group())), None)


def _is_luhn(number: str) -> bool:
    digits = [int(character) for character in number if character.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return len(set(digits)) > 1 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def is_prose(answer: str) -> bool:
    """Whether the last line is long enough that one expects a stop at its end."""
    return len(answer[-400:].rsplit("\n", 1)[-1].split()) >= PROSE_WORDS


def find_truncation(answer: str) -> str | None:
    """The last words of an answer that seems to break off: prose without a stop at its end.

    Some files never write stops; whoever counts must compare with the other answers of the file, unless
    `breaks_off` holds.
    """
    tail = answer.rstrip()[-60:]
    if not tail or tail[-1] in _ENDS:
        return None
    # Scripts without case have stops and habits of their own.
    is_open = tail[-1] in _OPEN_ENDS or tail[-1].lower() != tail[-1].upper()
    return tail if is_open and is_prose(answer) else None


def breaks_off(answer: str) -> bool:
    """Whether an answer without a stop ends with a word or mark that nothing ends with."""
    tail = answer.rstrip()[-60:]
    return bool(tail) and (tail[-1] in _OPEN_ENDS or tail.split()[-1].lower() in _FUNCTION_WORDS)
