"""Perturbations of the last user turn that leave the answer as it is: spelling, case, order, context."""

import re
from collections.abc import Callable, Iterable

from tunesmith.data.generate.perturb_turn import Turn, free_words, json_object, phrases, words_of

Texts = tuple[str, ...]

_WORDS_PER_TYPO = 12
_FEWEST_LETTERS = 4
_CODE = re.compile(r"```|^(?: {4}|\t)\S|[{;]\s*$|^\s*(?:def|class|import|SELECT|#include)\b", re.MULTILINE)
_SENTENCE_END = re.compile(r"(?<=[.!?])[ \t]+(?=[\"“'(]?[A-Z0-9])")
_ABBREVIATION = re.compile(r"\b(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|St|No|vs|e\.g|i\.e|etc|approx)\.$")
_LIST = re.compile(r"(?<=: )[^,.:;?!\n()\"]{1,40}(?:, [^,.:;?!\n()\"]{1,40}){2,}(?=[.;\n]|$)")
_ORDER = re.compile(
    r"\b(?:in|following|alphabetical|ascending|descending|right|reverse) order\b|\border of\b", re.I
)
_OPENING_WORDS = 2


def typos(turn: Turn) -> Texts | None:
    """Slips of the keyboard in about one word of twelve; no digit, and no word of the answer, changes."""
    return _if_changed(turn, (_with_typos(turn, text) for text in turn.texts))


def _with_typos(turn: Turn, text: str) -> str:
    words = [word for word in free_words(turn, text) if len(word.group()) >= _FEWEST_LETTERS]
    if not words or _CODE.search(text):
        return text
    count = max(1, round(len(text.split()) / _WORDS_PER_TYPO))
    for word in _backwards(turn.random.sample(words, min(count, len(words)))):
        text = text[: word.start()] + _slip(turn, word.group()) + text[word.end() :]
    return text


def _slip(turn: Turn, word: str) -> str:
    """The word with one slip behind its first letter; always another word."""
    at = turn.random.randint(1, len(word) - 2)
    letter, following = word[at], word[at + 1]
    near: str = turn.random.choice(phrases()["keyboard"][letter.lower()])
    near = near.upper() if letter.isupper() else near
    slips = [word[:at] + near + word[at + 1 :], word[: at + 1] + word[at:]]
    slips.append(word[:at] + word[at + 1 :])
    if letter != following:
        slips.append(word[:at] + following + letter + word[at + 2 :])
    return turn.random.choice(slips)


def case(turn: Turn) -> Texts | None:
    """All in capitals, none, or one at each word's start, or some sentences without.

    Words that the answer takes from the text keep their case.
    """
    if any(_CODE.search(text) for text in turn.texts):
        return None
    styles: list[Callable[[str], str]] = [str.upper, str.lower, str.capitalize]
    changed = [tuple(_cased(turn, text, style) for text in turn.texts) for style in styles]
    changed.append(tuple(_some_sentences_lower(turn, text) for text in turn.texts))
    different = [texts for texts in changed if texts != turn.texts]
    return turn.random.choice(different) if different else None


def _cased(turn: Turn, text: str, style: Callable[[str], str]) -> str:
    for word in _backwards(free_words(turn, text)):
        text = text[: word.start()] + style(word.group()) + text[word.end() :]
    return text


def _some_sentences_lower(turn: Turn, text: str) -> str:
    pieces = re.split(r"((?<=[.!?])\s+|\n+)", text)
    lowered = (_cased(turn, piece, str.lower) if turn.random.random() < 0.5 else piece for piece in pieces)
    return "".join(lowered)


def reordering(turn: Turn) -> Texts | None:
    """Sentences of a line, or a list's items, in another order.

    Done only where no word speaks of an order, no sentence leans on the one before, and the answer does not
    take more than one of the parts up, unless it is a JSON object without lists. Questions stay in place.
    """
    everything = " ".join((*turn.texts, turn.context))
    speaks_of_order = _ORDER.search(everything) or _words(everything) & words_of("order_words")
    if speaks_of_order or _CODE.search(everything):
        return None
    reordered = (
        "".join(_reordered_line(turn, line) for line in re.split(r"(\n)", text)) for text in turn.texts
    )
    return _if_changed(turn, reordered)


def _reordered_line(turn: Turn, line: str) -> str:
    listed = _LIST.search(line)
    if listed:
        return line[: listed.start()] + _reordered_list(turn, listed.group()) + line[listed.end() :]
    sentences = _SENTENCE_END.split(line)
    movable = [number for number, sentence in enumerate(sentences) if _is_movable(sentence)]
    is_whole = line == " ".join(sentences)
    if not is_whole or not all(map(_stands_alone, sentences)) or _order_shows(turn, sentences, movable):
        return line
    for place, number in zip(movable, _other_order(turn, movable), strict=True):
        sentences[place] = _SENTENCE_END.split(line)[number]
    return " ".join(sentences)


def _is_movable(sentence: str) -> bool:
    return sentence.endswith((".", "!")) and ":" not in sentence and len(sentence.split()) >= 3


def _stands_alone(sentence: str) -> bool:
    """Whether nothing in the sentence refers to another one, and it is not half of one."""
    words = re.findall(r"[a-z]+", sentence.lower())
    halved = (
        _ABBREVIATION.search(sentence)
        or sentence.count('"') % 2
        or sentence.count("(") != sentence.count(")")
    )
    leans = set(words) & words_of("leaning_words")
    return not (halved or leans or set(words[:_OPENING_WORDS]) & words_of("leaning_openings"))


def _reordered_list(turn: Turn, listed: str) -> str:
    items = listed.split(", ")
    conjunction = re.match(r"(?:and|or) ", items[-1])
    joint = conjunction.group() if conjunction else ""
    items[-1] = items[-1].removeprefix(joint)
    places = list(range(len(items)))
    if any(re.search(r"\b(?:and|or)\b", item) for item in items) or _order_shows(turn, items, places):
        return listed
    ordered = [items[number] for number in _other_order(turn, places)]
    return ", ".join((*ordered[:-1], joint + ordered[-1]))


def _order_shows(turn: Turn, parts: list[str], places: list[int]) -> bool:
    """Whether the answer could follow the parts' order: it takes up more than one of them, and not by key."""
    if len(places) < 2:
        return True
    if _is_flat_object(turn.answer):
        return False
    answer = _words(turn.answer) - words_of("common_words")
    return sum(bool(_words(parts[place]) & answer) for place in places) > 1


def _is_flat_object(answer: str) -> bool:
    value = json_object(answer)
    return value is not None and not any(isinstance(inner, list | dict) for inner in value.values())


def _other_order(turn: Turn, places: list[int]) -> list[int]:
    """The places in another order: shuffled, and turned by one if that left them as they were."""
    shuffled = turn.random.sample(places, len(places))
    return shuffled if shuffled != places else [*places[1:], *places[:1]]


def longer_context(turn: Turn) -> Texts:
    """Sentences about other things, marked as background, before the text or after it.

    A row with an input has them in front, as they would be taken for a part of the input behind it.
    """
    chosen = turn.random.sample(phrases()["background"], turn.random.randint(3, 6))
    before = len(turn.texts) > 1 or turn.random.random() < 0.5
    frame = turn.random.choice(phrases()[f"background_{'before' if before else 'after'}"])
    background = frame.replace("{background}", " ".join(chosen))
    first, *rest = turn.texts
    return (f"{background}\n\n{first}" if before else f"{first}\n\n{background}", *rest)


def _if_changed(turn: Turn, texts: Iterable[str]) -> Texts | None:
    changed = tuple(texts)
    return changed if changed != turn.texts else None


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))


def _backwards(words: Iterable[re.Match[str]]) -> list[re.Match[str]]:
    """Matches from the last to the first, so that a change leaves the places of the others."""
    return sorted(words, key=re.Match.start, reverse=True)
