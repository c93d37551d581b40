"""Second versions of a row, to be put in somewhere after it: the same, almost the same, contradicting it."""

import re
from collections.abc import Callable, Iterator

from tunesmith.data.generate.dirt_site import Site, Spoiled, normalised, phrases

CopyFault = Callable[[Site], Spoiled | None]

_FEWEST_WORDS = 40
_LEAST_SIMILARITY = 0.8
_SHINGLE_WORDS = 3
_ATTEMPTS = 12
# Chinese and Japanese have no blanks: each character counts as a word.
_WORD = re.compile("[\u3040-\u30ff\u3400-\u9fff]|[^\\W\u3040-\u30ff\u3400-\u9fff]+")


def duplicate_row(site: Site) -> Spoiled:
    """The same row once more."""
    return site.changed(), "a copy of the row"


def near_duplicate(site: Site) -> Spoiled | None:
    """A row of at least 40 words with one or two other words, or a few more, in its prompt.

    The Jaccard similarity of word 3-shingles is at least 0.8, of the whole row and, if the prompt has 40
    words too, of the prompt.
    """
    prompt, completion = site.row["prompt"], site.row["completion"]
    if len(f"{prompt} {completion}".split()) < _FEWEST_WORDS:
        return None
    for changed, what in _versions(site):
        similar = similarity(f"{prompt} {completion}", f"{changed} {completion}") >= _LEAST_SIMILARITY
        if len(prompt.split()) >= _FEWEST_WORDS:
            similar = similar and similarity(prompt, changed) >= _LEAST_SIMILARITY
        if similar and normalised(changed) != normalised(prompt):
            return site.changed(prompt=changed), what
    return None


def _versions(site: Site) -> Iterator[tuple[str, str]]:
    prompt, swaps = site.row["prompt"], phrases()["swaps"]
    places = [word for word in re.finditer(r"[A-Za-z]+", prompt) if word.group().lower() in swaps]
    for _ in range(_ATTEMPTS):
        clause = site.random.choice(phrases()["clauses"])
        if places and site.random.random() < 0.7:
            text = prompt
            chosen = site.random.sample(places, min(site.random.randint(1, 2), len(places)))
            for word in sorted(chosen, key=re.Match.start, reverse=True):
                text = text[: word.start()] + swaps[word.group().lower()] + text[word.end() :]
            yield text, f"other words for {', '.join(word.group() for word in chosen)}"
        elif site.random.random() < 0.5:
            yield f"{clause[0].upper()}{clause[1:]}: {prompt}", f"the prompt begins with {clause!r}"
        else:
            yield f"{prompt.rstrip()} ({clause})", f"the prompt ends with {clause!r}"


def conflicting_answers(site: Site) -> Spoiled | None:
    """The same prompt with the answer of another row."""
    other = site.other_answer()
    return None if other is None else (site.changed(completion=other), "the same prompt has two answers")


def similarity(left: str, right: str) -> float:
    """Jaccard similarity of the texts' word 3-shingles, from 0 to 1; case and punctuation do not count.

    Source: Broder 1997, On the resemblance and containment of documents.
    """
    ours, theirs = _shingles(left), _shingles(right)
    return len(ours & theirs) / max(1, len(ours | theirs))


def _shingles(text: str) -> set[tuple[str, ...]]:
    words = _WORD.findall(text.casefold())
    return {tuple(words[at : at + _SHINGLE_WORDS]) for at in range(len(words) - _SHINGLE_WORDS + 1)}


COPY_FAULTS: dict[str, CopyFault] = {
    fault.__name__: fault for fault in (near_duplicate, duplicate_row, conflicting_answers)
}
