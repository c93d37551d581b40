"""Faults in a row's texts. Each gives the changed row and what was done, or None if the row cannot carry it.

The rows are taken as clean: a fault is put where nothing else in the row can be taken for another kind.
Everything that looks like a key, an address or a card is made up here and belongs to nobody.
"""

import re
import string
from base64 import urlsafe_b64encode
from collections.abc import Callable
from random import Random

from tunesmith.data.generate.dirt_site import (
    Site,
    Spoiled,
    before_sentence,
    between_words,
    is_json_object,
    latin_words,
    phrases,
)

TextFault = Callable[[Site], Spoiled | None]

_LOOK_ALIKES = {
    **{"a": "а", "c": "с", "e": "е", "o": "оο", "p": "р", "x": "х", "y": "у", "i": "і", "s": "ѕ", "v": "ν"},
    **{"A": "АΑ", "B": "ВΒ", "C": "С", "E": "ЕΕ", "H": "НΗ", "K": "КΚ", "M": "МΜ", "O": "ОΟ", "P": "РΡ"},
    **{"T": "ТΤ", "X": "ХΧ"},
}
_NO_WIDTH = ("\u200b", "\ufeff", "\u2060")
_CONTROLS = ("\x00", "\x01", "\x02", "\x07", "\x08", "\x0e", "\x1a", "\x1b", "\x1b[31m", "\x7f", "\x85")
_MARKUP = re.compile(r"[<>&]|```|html|xml|\btag", re.IGNORECASE)
_NOT_PROSE = re.compile(r"```|^\s*(?:[-*#|>•]|\d+[.)])", re.MULTILINE)
_MARKS = ".!?:;,\"'()[]{}…"
_FEWEST_WORDS_KEPT, _FEWEST_PROSE_WORDS = 8, 12
_LONG_PROMPT_WORDS, _LONG_PROMPT_SENTENCES = 3_000, 24
_ALPHANUMERIC = string.ascii_letters + string.digits
_CARD_STARTS = ((16, "4"), (16, "51"), (16, "53"), (16, "55"), (15, "34"), (15, "37"), (16, "6011"))


def empty_prompt(site: Site) -> Spoiled:
    """No prompt, or nothing but white space."""
    return site.changed(prompt=site.random.choice(("", "", " ", "\n\n"))), "the prompt is empty"


def empty_answer(site: Site) -> Spoiled:
    """No answer, or nothing but white space."""
    return site.changed(completion=site.random.choice(("", "", " ", "\n"))), "the answer is empty"


def placeholder(site: Site) -> Spoiled:
    """A text that stands for a missing one."""
    text = site.random.choice(phrases()["placeholders"])
    side = site.random.choice(("prompt", "completion"))
    return site.changed(**{side: text}), f"the {side} is the placeholder {text[:30]!r}"


def unrendered(site: Site) -> Spoiled | None:
    """A field of a template that nobody filled in."""
    field, side = site.random.choice(phrases()["fields"]), site.side
    if "{{" in site.row[side]:
        return None
    return site.changed(**{side: between_words(site.row[side], field, site.random)}), f"{field} in the {side}"


def special_token(site: Site) -> Spoiled:
    """A control token written out; two times in three at the end."""
    side = "prompt" if is_json_object(site.row["completion"]) else "completion"
    at_end = site.random.random() < 2 / 3
    token = site.random.choice(phrases()[f"special_tokens_at_{'end' if at_end else 'start'}"])
    text = site.row[side] + token if at_end else token + site.row[side]
    return site.changed(**{side: text}), f"{token.strip()!r} in the {side}"


def html(site: Site) -> Spoiled | None:
    """Tags of presentation or character entities."""
    side = site.side
    text = site.row[side]
    gaps = [match.start() for match in re.finditer(r"(?<=\w) (?=\w)", text)]
    if _MARKUP.search(f"{site.row['prompt']} {site.row['completion']}") or not gaps:
        return None
    at = site.random.choice(gaps)
    before, after = text[:at], text[at + 1 :]
    word, _, rest = after.partition(" ")
    style = site.random.choice(('class="answer"', 'class="content"', 'style="margin:0"'))
    changed = site.random.choice(
        (
            f"<p>{text}</p>",
            f"<div {style}>{text}</div>",
            f"{before}&nbsp;{after}",
            f"{before}<br/>{after}",
            f"{before} <b>{word}</b> {rest}".rstrip(),
            f"{before} <span {style}>{word}</span> {rest}".rstrip(),
            f"{before} &amp;quot;{word}&amp;quot; {rest}".rstrip(),
            f"{before} &lt;br&gt; {after}",
        )
    )
    return site.changed(**{side: changed}), f"markup in the {side}"


def mojibake(site: Site) -> Spoiled:
    """UTF-8 read as Windows-1252: of a word with accents, of quotes around a word, or of a dash."""
    side, random = site.side, site.random
    accented = random.choice(phrases()["accented"])
    piece = random.choice((accented, accented, f"‘{accented}’", "—", "–", "it’s", "…"))
    wrong = piece.encode().decode("cp1252")
    text = between_words(site.row[side], wrong, random)
    return site.changed(**{side: text}), f"{piece!r} of the {side} is read as {wrong!r}"


def zero_width(site: Site) -> Spoiled | None:
    """Characters of no width inside one to three words."""
    character = site.random.choice(_NO_WIDTH)
    return _inside_words(site, character, site.random.randint(1, 3), f"U+{ord(character):04X} in")


def control_character(site: Site) -> Spoiled | None:
    """A control character, or a terminal's colour code, inside a word."""
    control = site.random.choice(_CONTROLS)
    return _inside_words(site, control, 1, f"{control!r} in")


def _inside_words(site: Site, piece: str, count: int, what: str) -> Spoiled | None:
    side = site.side
    text, words = site.row[side], latin_words(site.row[side])
    if not words:
        return None
    for word in sorted(site.random.sample(words, min(count, len(words))), key=re.Match.start, reverse=True):
        at = site.random.randint(word.start() + 1, word.end() - 1)
        text = text[:at] + piece + text[at:]
    return site.changed(**{side: text}), f"{what} the {side}"


def homoglyph(site: Site) -> Spoiled | None:
    """One to three Latin letters, in as many words, become Cyrillic or Greek ones that look the same."""
    side = site.side
    text = site.row[side]
    words = [word for word in latin_words(text) if any(letter in _LOOK_ALIKES for letter in word.group())]
    if not words:
        return None
    shown = []
    for word in site.random.sample(words, min(site.random.randint(1, 3), len(words))):
        places = [at for at in range(word.start(), word.end()) if text[at] in _LOOK_ALIKES]
        at = site.random.choice(places)
        text = text[:at] + site.random.choice(_LOOK_ALIKES[text[at]]) + text[at + 1 :]
        shown.append(f"U+{ord(text[at]):04X} in {word.group()!r}")
    return site.changed(**{side: text}), f"{', '.join(shown)} of the {side}"


def refusal(site: Site) -> Spoiled:
    """The answer declines."""
    return site.changed(completion=site.random.choice(phrases()["refusals"])), "the answer is a refusal"


def truncated_answer(site: Site) -> Spoiled | None:
    """The answer breaks off in the middle of a sentence of prose."""
    answer = site.row["completion"].rstrip()
    words = list(re.finditer(r"\S+", answer))
    is_prose = len(words) >= _FEWEST_PROSE_WORDS and not _NOT_PROSE.search(answer)
    if not is_prose or is_json_object(answer) or answer[-1] not in ".!?":
        return None
    cuts = [number for number in range(_FEWEST_WORDS_KEPT, len(words) - 1) if _goes_on(answer, words, number)]
    if not cuts:
        return None
    last = words[site.random.choice(cuts)]
    return site.changed(completion=answer[: last.end()]), f"the answer breaks off after {last.group()!r}"


def _goes_on(answer: str, words: list[re.Match[str]], number: int) -> bool:
    """Whether the sentence goes on after this word, on the same line, and that line is long enough."""
    word, following = words[number], words[number + 1]
    line = answer[answer.rfind("\n", 0, word.start()) + 1 : word.end()]
    return (
        word.group().isalpha()
        and following.group()[0] not in _MARKS
        and following.group()[0].islower()
        and answer[word.end() : following.start()] == " "
        and len(line.split()) >= _FEWEST_WORDS_KEPT
    )


def format_drift(site: Site) -> Spoiled | None:
    """An answer in JSON that does not parse any more: cut, with words in front, or with a stray comma."""
    answer = site.row["completion"].strip()
    if not is_json_object(answer):
        return None
    kind = site.random.choice(("cut", "cut", "preface", "comma"))
    if kind == "preface":
        text = site.random.choice(phrases()["prefaces"]) + answer
        return site.changed(completion=text), "words stand in front of the answer's JSON"
    if kind == "comma":
        return site.changed(completion=f"{answer[:-1]},{answer[-1]}"), "a stray comma in the answer's JSON"
    cut = site.random.randint(1, len(answer) - 1)
    return site.changed(completion=answer[:cut]), f"the answer's JSON breaks off after {cut} characters"


def mixed_language(site: Site) -> Spoiled:
    """Prompt and answer in another language than the file's."""
    pools = {code: pairs for code, pairs in phrases()["foreign"].items() if code != site.language}
    language = site.random.choice(sorted(pools))
    prompt, completion = site.random.choice(pools[language])
    number = str(site.random.randint(1_000, 99_999))
    fields = {"prompt": prompt, "completion": completion}
    filled = {name: text.replace("{number}", number) for name, text in fields.items()}
    return site.changed(**filled), f"the row is in another language ({language})"


def secret(site: Site) -> Spoiled:
    """A key, token or private key."""
    name, text = _made_up_secret(site.random)
    return _in_sentence(site, "secret", text, f"a made-up {name}")


def email(site: Site) -> Spoiled:
    """An e-mail address."""
    name, domain = (site.random.choice(phrases()[pool]) for pool in ("mail_names", "mail_domains"))
    return _in_sentence(site, "mail", f"{name}@{domain}", "an e-mail address")


def card_number(site: Site) -> Spoiled:
    """The number of a payment card with a right check digit; plain, or in groups."""
    digits = _card_digits(site.random)
    sizes = (4, 6, 5) if len(digits) == 15 else (4, 4, 4, 4)
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    groups = [digits[start : start + size] for start, size in zip(starts, sizes, strict=True)]
    return _in_sentence(site, "card", site.random.choice(("", " ", "-")).join(groups), "a card number")


def _in_sentence(site: Site, name: str, text: str, what: str) -> Spoiled:
    side = site.side
    sentence = site.random.choice(phrases()[f"{name}_sentences"]).replace(f"{{{name}}}", text)
    return site.changed(**{side: before_sentence(site.row[side], sentence, site.random)}), (
        f"{what} in the {side}"
    )


def _card_digits(random: Random) -> str:
    """Digits whose last makes the sum of Luhn (US patent 2950048) a multiple of ten."""
    length, start = random.choice(_CARD_STARTS)
    body = start + "".join(random.choices(string.digits, k=length - len(start) - 1))
    doubled = sum(sum(divmod(2 * int(digit), 10)) for digit in body[-1::-2])
    return body + str(-(doubled + sum(map(int, body[-2::-2]))) % 10)


def _made_up_secret(random: Random) -> tuple[str, str]:
    """Name and text of a key. The starts are in pieces, so that no scanner takes this file for a leak."""

    def some(count: int, characters: str = _ALPHANUMERIC) -> str:
        return "".join(random.choices(characters, k=count))

    def part(text: str) -> str:
        return urlsafe_b64encode(text.encode()).decode().rstrip("=")

    dashes, kind = "-" * 5, random.choice(("RSA ", "EC ", "OPENSSH ", ""))
    body = "\n".join(some(64) for _ in range(4))
    claims = f'{{"sub":"{some(8, string.ascii_lowercase)}","iat":{random.randint(10**9, 2 * 10**9)}}}'
    makers: tuple[tuple[str, Callable[[], str]], ...] = (
        ("OpenAI key", lambda: "s" + "k-" + some(48)),
        ("OpenAI project key", lambda: "s" + "k-pro" + "j-" + some(64)),
        ("AWS key id", lambda: "AK" + "IA" + some(16, string.ascii_uppercase + "234567")),
        ("GitHub token", lambda: random.choice(("gh" + "p_", "gh" + "o_")) + some(36)),
        ("GitHub token", lambda: "github" + "_pat_" + some(22) + "_" + some(59)),
        ("Hugging Face token", lambda: "h" + "f_" + some(34, string.ascii_letters)),
        (
            "Slack token",
            lambda: "xo" + "xb-" + some(11, string.digits) + "-" + some(24, string.ascii_letters),
        ),
        ("private key", lambda: _pem(dashes, kind, body)),
        ("JWT", lambda: ".".join((part('{"alg":"HS256","typ":"JWT"}'), part(claims), some(43)))),
    )
    name, make = random.choice(makers)
    return name, make()


def _pem(dashes: str, kind: str, body: str) -> str:
    label = f"{kind}PRIVATE " + f"KEY{dashes}"
    return f"\n{dashes}BEGIN {label}\n{body}\n{dashes}END {label}\n"


def too_long(site: Site) -> Spoiled:
    """A prompt of 3,000 words or a little more: the row's own, then sentences of other rows over and over."""
    pool: list[str] = []
    for _ in range(_LONG_PROMPT_SENTENCES):
        pool += re.split(r"(?<=[.!?])\s+", site.random.choice(site.rows)["prompt"])
    pieces = [site.row["prompt"]]
    words = len(pieces[0].split())
    while words < _LONG_PROMPT_WORDS:
        pieces.append(site.random.choice(pool))
        words += max(1, len(pieces[-1].split()))
    return site.changed(prompt=" ".join(pieces)), f"the prompt has {words:,} words"


TEXT_FAULTS: dict[str, TextFault] = {
    fault.__name__: fault
    for fault in (
        *(truncated_answer, format_drift, html, homoglyph, zero_width, control_character, unrendered),
        *(empty_prompt, empty_answer, placeholder, special_token, mojibake, refusal, mixed_language),
        *(too_long, secret, email, card_number),
    )
}
