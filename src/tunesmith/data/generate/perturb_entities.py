"""Names, products, places and numbers that occur in prompt and answer, replaced by unseen ones in both.

Done only where the answer takes the entity from the prompt: a value of a JSON answer that the prompt holds
as it is, a person's first name, a long number that nothing is computed from. What the answer knows from
elsewhere, such as a capital of a country, stays.
"""

import re
from collections.abc import Iterator

from tunesmith.data.generate.perturb_turn import Turn, phrases, text_fields, words_of

_NUMBER = re.compile(r"(?<![\d.,:/])\d{4,}(?![\d:/]|[.,]\d)")
_DIGITS = re.compile(r"\d+")
_YEAR = re.compile(r"(?:19|20)\d\d$")
_CAPITALISED = r"[A-Z][a-z]+"
_GENDERED = {
    "female": re.compile(r"\b(?:she|her|hers|mrs|ms)\b", re.IGNORECASE),
    "male": re.compile(r"\b(?:he|him|his|mr)\b", re.IGNORECASE),
}
_PART_OF_A_NAME = r"[A-Z][\w.]* NAME\b|\bNAME(?:['’]s)? (?:[A-Z][a-z]|[A-Z]\.|[IVX]+\b)"
_COMPUTED = re.compile(r"[=×÷*]|\d\s*[+/-]\s*\d")


def entities(turn: Turn) -> tuple[tuple[str, ...], str] | None:
    """The turn's texts and its answer with new entities, or None if there is none that can be replaced."""
    if _prompt_words(turn) & words_of("letter_words"):
        return None
    new: dict[str, str] = {}
    for old, replacement in _replacements(turn):
        known = " ".join((*turn.texts, turn.answer, turn.context, *new.values())).casefold()
        if old not in new and _can_go(turn, old) and replacement.casefold() not in known:
            new[old] = replacement
    # All at once, longest first: a new name is never taken for an old one.
    if not new:
        return None
    pattern = re.compile("|".join(map(_bounded, sorted(new, key=len, reverse=True))))

    def changed(text: str) -> str:
        return pattern.sub(lambda match: new[match.group()], text)

    return tuple(map(changed, turn.texts)), changed(turn.answer)


def _can_go(turn: Turn, old: str) -> bool:
    """Whether both have the entity, no other spelling of it would stay there, and no earlier turn has it."""
    parts = ("\n".join(turn.texts), turn.answer)
    is_in_both = all(re.search(_bounded(old), part) for part in parts)
    rest = " ".join(re.sub(_bounded(old), "", part) for part in parts)
    return is_in_both and old.casefold() not in f"{rest} {turn.context}".casefold()


def _bounded(old: str) -> str:
    return rf"(?<!\w){re.escape(old)}(?!\w)"


def _replacements(turn: Turn) -> Iterator[tuple[str, str]]:
    fields = text_fields(turn.answer)
    for name, value in fields:
        if name in _field_names("person"):
            yield from _person(turn, value)
        elif name in _field_names("place") and re.fullmatch(rf"{_CAPITALISED}(?: {_CAPITALISED})*", value):
            yield value, _drawn(turn, phrases()["unseen"]["place"].split())
        elif name in _field_names("product") and re.fullmatch(r"[a-z]+(?: [a-z]+)*", value):
            yield value, _drawn(turn, _products_like(value))
    if not fields:
        yield from _names_in_prose(turn)
    yield from _numbers(turn)


def _field_names(kind: str) -> set[str]:
    return set(phrases()["fields"][kind].split())


def _person(turn: Turn, value: str) -> Iterator[tuple[str, str]]:
    """New words for a first name and what follows it, each for itself: the prompt may use one alone."""
    if not re.fullmatch(rf"{_CAPITALISED}(?: {_CAPITALISED}){{0,2}}", value):
        return
    first, *others = value.split()
    gender = _gender(turn, first)
    if gender and _goes_as_a_whole(turn, [first, *others]):
        yield first, _drawn(turn, phrases()["unseen"][gender].split())
        lasts = turn.random.sample(phrases()["unseen"]["last"].split(), len(others))
        yield from zip(others, lasts, strict=True)


def _goes_as_a_whole(turn: Turn, words: list[str]) -> bool:
    return len(set(words)) == len(words) and all(_can_go(turn, word) for word in words)


def _gender(turn: Turn, first: str) -> str | None:
    """The gender of the name, or of the pronouns around it; any if neither says; None if they disagree."""
    everything = " ".join((*turn.texts, turn.answer))
    spoken = {gender for gender, pattern in _GENDERED.items() if pattern.search(everything)}
    known = {gender for gender, names in phrases()["first_names"].items() if first in names.split()}
    possible = known or spoken or {turn.random.choice(sorted(_GENDERED))}
    return next(iter(possible)) if len(possible) == 1 else None


def _names_in_prose(turn: Turn) -> Iterator[tuple[str, str]]:
    """First names that stand alone; with a surname they may be somebody the answer knows of."""
    everything = "\n".join((*turn.texts, turn.answer))
    for gender, names in phrases()["first_names"].items():
        known = set(names.split())
        for name in dict.fromkeys(re.findall(rf"\b{_CAPITALISED}\b", everything)):
            alone = not re.search(_PART_OF_A_NAME.replace("NAME", name), everything)
            if name in known and alone:
                yield name, _drawn(turn, phrases()["unseen"][gender].split())


def _numbers(turn: Turn) -> Iterator[tuple[str, str]]:
    """Long numbers that are no years. Outside of a text field, nothing may be computed."""
    fields = " ".join(value for _, value in text_fields(turn.answer))
    everything = " ".join((*turn.texts, turn.answer))
    derived = set(_DIGITS.findall(turn.answer)) - set(_DIGITS.findall("\n".join(turn.texts)))
    asked = _prompt_words(turn) & words_of("arithmetic_words")
    computes = derived or asked or _COMPUTED.search(everything)
    found = _NUMBER.findall(fields if computes else turn.answer)
    for number in dict.fromkeys(found):
        if not _YEAR.match(number) and number in _NUMBER.findall("\n".join(turn.texts)):
            yield number, _another_number(turn, number)


def _prompt_words(turn: Turn) -> set[str]:
    return set(re.findall(r"[a-z]+", " ".join(turn.texts).lower()))


def _another_number(turn: Turn, number: str) -> str:
    digits = turn.random.choice("3456789") + "".join(turn.random.choices("0123456789", k=len(number) - 1))
    return digits if digits != number else number[::-1].replace("0", "7")


def _products_like(value: str) -> list[str]:
    """Products that go with the same article and number."""
    if value.endswith("s") and not value.endswith("ss"):
        pool = "products"
    else:
        pool = "product_after_an" if value.startswith(tuple("aeiou")) else "product"
    products: list[str] = phrases()["unseen"][pool].split("|")
    return products


def _drawn(turn: Turn, pool: list[str]) -> str:
    return turn.random.choice(pool)
