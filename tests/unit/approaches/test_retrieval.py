"""Search finds what shares rare words, in any script, in one order only."""

import sys
from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.approaches.passages import Passage
from tunesmith.approaches.retrieval import EmbeddingIndex, Index, sentence_encoder
from tunesmith.errors import UserError
from tunesmith.evaluation.scripts import rouge_tokens

TEXTS = [
    "Goods may come back within 30 days with the receipt.",
    "Parcels abroad take a week.",
    "The shop is open from nine to five.",
    "退货须在三十天内，并附上收据。",
    "国际包裹需要一周。",
    "商店九点开门，五点关门。",
    "",
    "!!!",
]
SMALL = st.lists(st.text("abc 早上好.", max_size=12), max_size=8)


def passages(texts: list[str]) -> list[Passage]:
    return [Passage(text, f"text:{at}") for at, text in enumerate(texts)]


def letters(texts):
    """Counts of each letter: a real, if simple, embedding."""
    return np.array([[text.lower().count(chr(97 + at)) for at in range(26)] for text in texts], np.float32)


def bm25(texts: list[str], query: str) -> list[float]:
    """The formula itself (Lucene's form): k1 1.5, b 0.75."""
    documents = [rouge_tokens(text) for text in texts]
    average = sum(map(len, documents)) / len(documents)
    scores = []
    for words in documents:
        score = 0.0
        for word in rouge_tokens(query):
            holding = sum(word in other for other in documents)
            rarity = log(1 + (len(documents) - holding + 0.5) / (holding + 0.5))
            often = words.count(word)
            score += rarity * often / (often + 1.5 * (0.25 + 0.75 * len(words) / average)) if often else 0
        scores.append(score)
    return scores


@pytest.mark.parametrize(
    ("query", "best"),
    [
        ("How many days do I have to send goods back?", 0),
        ("How long does a parcel abroad take?", 1),
        ("Is the SHOP open at five", 2),
        ("收据要附上吗？", 3),
        ("包裹多久到？", 4),
        ("几点关门？", 5),
    ],
)
def test_the_fitting_text_comes_first(query: str, best: int) -> None:
    index = Index(passages(TEXTS))
    found = index.search(query, 3)
    assert found[0].passage == index.passages[best]
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)


@given(SMALL.filter(lambda texts: any(map(rouge_tokens, texts))), st.text("abc 早上好.", max_size=12))
def test_scores_are_those_of_the_formula(texts: list[str], query: str) -> None:
    found = {one.passage.source: one.score for one in Index(passages(texts)).search(query, len(texts))}
    expected = {f"text:{at}": score for at, score in enumerate(bm25(texts, query)) if score > 0}
    assert found.keys() == expected.keys()
    for source, score in expected.items():
        assert found[source] == pytest.approx(score, rel=1e-5)


@pytest.mark.parametrize(
    "make", [Index, lambda found: EmbeddingIndex(found, letters)], ids=["words", "letters"]
)
@given(texts=SMALL, query=st.text("abc 早上好.", max_size=12), count=st.integers(0, 9))
def test_a_search_is_short_ordered_repeatable_and_a_beginning_of_a_longer_one(
    make, texts, query, count
) -> None:
    index = make(passages(texts))
    found = index.search(query, count)
    assert len(found) <= count
    assert found == make(passages(texts)).search(query, count)
    assert found == index.search(query, len(texts))[:count]
    places = [(-one.score, index.passages.index(one.passage)) for one in found]
    assert places == sorted(places)
    assert all(one.score > 0 for one in found)


def test_equal_texts_come_in_their_order() -> None:
    index = Index(passages(["red apple", "green pear", "red apple", "red apple"]))
    assert [one.passage.source for one in index.search("apple", 3)] == ["text:0", "text:2", "text:3"]
    assert [one.passage.source for one in index.search("apple", 2)] == ["text:0", "text:2"]


@pytest.mark.parametrize("texts", [TEXTS, [], ["", "…"]])
@pytest.mark.parametrize("query", ["zebra", "", "?!", "斑马"])
def test_a_query_that_matches_nothing_finds_nothing(texts: list[str], query: str) -> None:
    assert Index(passages(texts)).search(query, 5) == []


def test_embeddings_find_by_likeness() -> None:
    index = EmbeddingIndex(passages(["bbb", "aab", "", "aab"]), letters)
    found = index.search("aaaa b", 9)
    assert [one.passage.source for one in found] == ["text:1", "text:3", "text:0"]
    assert found[0].score == pytest.approx((2 * 4 + 1) / (5**0.5 * 17**0.5), abs=1e-5)
    assert index.search("zzz", 9) == []
    assert EmbeddingIndex([], letters).search("a", 3) == []


def test_without_the_library_embeddings_say_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    for start in (sentence_encoder, lambda: EmbeddingIndex(passages(["a"]))):
        with pytest.raises(UserError, match="needs the library sentence-transformers") as caught:
            start()
        assert "pip install 'tunesmith[embeddings]'" in caught.value.hint
