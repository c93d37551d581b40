import random
from difflib import SequenceMatcher
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.tools import text_diff as module
from tunesmith.tools.text_diff import Span, equal_share, line_diff, split_tokens, text_diff, word_diff

TEXTS = st.text() | st.text(alphabet="ab c\n的是é\u0301", max_size=60)

LINES = st.lists(st.sampled_from(["", "a b", "a c", "的是", "x\r", "return 1"]), max_size=40).map("\n".join)
WAYS = pytest.mark.parametrize("diff", [word_diff, line_diff, text_diff])


def side(spans, kind):
    return "".join(span.text for span in spans if span.kind in ("equal", kind))


@WAYS
@given(old=TEXTS | LINES, new=TEXTS | LINES)
def test_spans_rebuild_both_texts(diff, old, new):
    spans = diff(old, new)
    assert side(spans, "delete") == old
    assert side(spans, "insert") == new
    assert all(span.text for span in spans)
    assert all(left.kind != right.kind for left, right in pairwise(spans))


@WAYS
@given(text=TEXTS | LINES)
def test_a_text_equals_itself(diff, text):
    spans = diff(text, text)
    assert spans == ([Span("equal", text)] if text else [])
    assert equal_share(spans) == 1.0


@given(TEXTS)
def test_tokens_rebuild_the_text(text):
    assert "".join(split_tokens(text)) == text


@given(TEXTS, TEXTS)
def test_equal_share_is_a_fraction(old, new):
    assert 0.0 <= equal_share(word_diff(old, new)) <= 1.0


def test_one_changed_word():
    assert word_diff("the cat sat", "the dog sat") == [
        Span("equal", "the "),
        Span("delete", "cat"),
        Span("insert", "dog"),
        Span("equal", " sat"),
    ]


def test_a_replaced_phrase_stays_in_one_piece():
    assert word_diff("keep one two three", "keep four five six") == [
        Span("equal", "keep "),
        Span("delete", "one two three"),
        Span("insert", "four five six"),
    ]


def test_chinese_is_compared_by_characters():
    assert word_diff("我喜欢红茶", "我喜欢绿茶") == [
        Span("equal", "我喜欢"),
        Span("delete", "红"),
        Span("insert", "绿"),
        Span("equal", "茶"),
    ]


def test_code_is_compared_by_names_and_signs():
    assert split_tokens("row_count += 1") == ["row_count", " ", "+", "=", " ", "1"]
    assert [span.kind for span in word_diff("f(x, y)", "f(x, z)")] == ["equal", "delete", "insert", "equal"]


def test_marks_stay_with_their_letter():
    assert split_tokens("हिन्दी भाषा") == ["हिन्दी", " ", "भाषा"]
    assert split_tokens("ที่") == ["ที่"]
    family = "\N{MAN}\u200d\N{WOMAN}\u200d\N{GIRL}"
    assert split_tokens(f"a{family}b") == ["a", family, "b"]


def test_unrelated_texts_share_little():
    assert equal_share(word_diff("alpha beta gamma", "one two three")) == 0.0
    assert equal_share(word_diff("", "one two")) == 0.0


@pytest.mark.parametrize("vocabulary_size", [3, 101, 2_000])
def test_of_five_thousand_words_against_as_many_a_hundredth_of_the_pairs_is_looked_at(
    monkeypatch, vocabulary_size
):
    pairs = []

    class Counting(SequenceMatcher):
        def get_opcodes(self):
            pairs.append(sum(len(self.b2j.get(word, ())) for word in self.a))
            return super().get_opcodes()

    monkeypatch.setattr(module, "SequenceMatcher", Counting)
    random_words = random.Random(7)  # noqa: S311
    words = [f"w{number}" for number in range(vocabulary_size)]
    old = " ".join(random_words.choices(words, k=5_000))
    new = " ".join(random_words.choices(words, k=5_000))
    assert side(word_diff(old, new), "delete") == old
    # A word counts as frequent above a hundredth of the text and one more.
    assert len(pairs) == 1 and pairs[0] <= 5_001 * (5_001 // 100 + 1)


def test_words_are_compared_inside_a_changed_line_and_other_lines_stay_whole():
    old, new = "keep\nthe red cat sat\nkeep too", "keep\nthe red dog sat\nkeep too"
    assert line_diff(old, new) == [
        Span("equal", "keep\nthe red "),
        Span("delete", "cat"),
        Span("insert", "dog"),
        Span("equal", " sat\nkeep too"),
    ]


def test_lines_that_share_little_are_out_and_in_as_a_whole():
    assert line_diff("start\nalpha beta a gamma\n", "start\none a two three\n") == [
        Span("equal", "start\n"),
        Span("delete", "alpha beta a gamma\n"),
        Span("insert", "one a two three\n"),
    ]


def test_many_lines_are_matched_as_lines():
    old = [f"value_{number} = {number}" for number in range(40)]
    new = [*old[20:], *old[:20]]
    moved = text_diff("\n".join(old) + "\n", "\n".join(new) + "\n")
    assert [span.kind for span in moved] == ["insert", "equal", "delete"]
    assert moved[1].text.splitlines() == old[:20]


@given(TEXTS, TEXTS, TEXTS, TEXTS)
def test_texts_too_long_for_words_keep_their_equal_ends(head, tail, old, new):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BEARABLE_PAIRS", 0)
        spans = text_diff(head + old + tail, head + new + tail)
    assert side(spans, "delete") == head + old + tail
    assert side(spans, "insert") == head + new + tail
    assert all(left.kind != right.kind for left, right in pairwise(spans))


def test_a_hundred_thousand_chinese_characters_differ_in_the_middle():
    random = np.random.default_rng(7)
    old, new = ("".join(map(chr, random.integers(0x4E00, 0x5800, 50_000))) for _ in range(2))
    spans = text_diff(f"{old}一{old}", f"{old}二{new}")
    assert side(spans, "insert") == f"{old}二{new}"
    assert spans[0] == Span("equal", old)
    assert len(spans) == 3
