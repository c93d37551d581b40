import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.data.audit import signs
from tunesmith.data.audit.languages import language_of

# Built from pieces, so that no scanner takes them for real ones.
KEY = "sk-" + "a1B2" * 8
CARD = "4111 1111" + " 1111 1111"

FOUND = [
    (signs.find_special_token, "yes<|im_end|>", "<|im_end|>"),
    (signs.find_special_token, "a </s> b", "</s>"),
    (signs.find_special_token, "[INST] hi [/INST]", "[INST]"),
    (signs.find_special_token, "<｜end▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
    (signs.find_special_token, "<start_of_turn>user", "<start_of_turn>"),
    (signs.find_unrendered, "I am {{ name }}.", "{{ name }}"),
    (signs.find_placeholder, "`<noinput>`", "<noinput>"),
    (signs.find_placeholder, " N/A ", "N/A"),
    (signs.find_placeholder, "< NoInput >", "< NoInput >"),
    (signs.find_placeholder, "Lorem ipsum dolor", "lorem ipsum"),
    (signs.find_html, "one<br />two", "<br />"),
    (signs.find_html, "Tom &amp; Jerry", "&amp;"),
    (signs.find_mojibake, "cafÃ© au lait", "fÃ©"),
    (signs.find_mojibake, "donâ€™t", "â€"),
    (signs.find_mojibake, "lost \ufffd here", "\ufffd"),
    (signs.find_zero_width, "wo\u200brd", "\u200b"),
    (signs.find_zero_width, "\ufeffstart", "\ufeff"),
    (signs.find_zero_width, "a\u200db", "\u200d"),
    (signs.find_homoglyph, "p\u0430ypal is here", "p\u0430ypal"),
    (signs.find_homoglyph, "\u0410 Senior C has it", "\u0410"),
    (signs.find_control_character, "bell\x07", "\x07"),
    (signs.find_control_character, "next\x85line", "\x85"),
    (signs.find_refusal, "As an AI language model, I have no body.", "as an ai"),
    (signs.find_refusal, "I’m sorry, but I can’t help with that.", "sorry, but i can't"),
    (signs.find_refusal, "I cannot assist you.", "i cannot assist"),
    (signs.find_refusal, "抱歉，我无法回答。", "抱歉，我无法"),
    (signs.find_secret, f"use {KEY} now", KEY),
    (signs.find_secret, "-----BEGIN RSA " + "PRIVATE KEY-----", "-----BEGIN RSA " + "PRIVATE KEY-----"),
    (signs.find_email, "write to ada.l+x@mail.example.org.", "ada.l+x@mail.example.org"),
    (signs.find_card_number, f"card {CARD} please", CARD),
    (signs.find_card_number, "3782 822463" + " 10005", "3782 822463" + " 10005"),
    (
        signs.find_truncation,
        "The cat sat on the mat and then it went to",
        "The cat sat on the mat and then it went to",
    ),
]

CLEAN = [
    (signs.find_special_token, "if a < b and [x] | y > 2: <p>"),
    (signs.find_unrendered, r"x^{{2}} x_{{i}} {a} { {b} }"),
    (signs.find_placeholder, "The null hypothesis; todo lists."),
    (signs.find_html, "Write <b>HTML</b>: if a<b & c>d;"),
    (signs.find_html, "AT&T; R&D; 3 < 4 > 2"),
    (signs.find_mojibake, "Ça va, élève? Ünïcödé, naïve, 你好, привет, “ok” – café"),
    (signs.find_zero_width, "می\u200cخواهم \U0001f468\u200d\U0001f469 ภาษา\u200bไทย"),
    (signs.find_homoglyph, "Привет, мир: α + β = ο, Δx, hν and Ω"),
    (signs.find_control_character, "tab\tline\r\nend"),
    (signs.find_refusal, "I can assist you. The AI Act says so. I'm sorry to hear that!"),
    (signs.find_secret, "sk-short, a_long_python_function_name_with_words, 0123456789abcdef0123456789abcdef"),
    (signs.find_email, "@user a@b 3@5.com@x"),
    (signs.find_card_number, "4111111111111112, 20000000-40000000, 1234567890123, 0000 0000 0000 0000"),
    (signs.find_truncation, "The cat sat on the mat and then it went to bed."),
    (signs.find_truncation, "Sports"),
    (signs.find_truncation, "- eggs\n- flour\n- milk and butter"),
]


@pytest.mark.parametrize(("find", "text", "piece"), FOUND)
def test_sign_is_found_and_gives_the_piece(find, text, piece):
    assert find(text) == piece


@pytest.mark.parametrize(("find", "text"), CLEAN)
def test_text_that_only_looks_like_it_is_left_alone(find, text):
    assert find(text) is None


@given(st.text())
def test_any_text_gives_pieces_of_itself_or_nothing(text):
    for name in dir(signs):
        if name.startswith("find_") and name not in ("find_refusal", "find_placeholder"):
            piece = getattr(signs, name)(text)
            assert piece is None or (piece and piece in text)


@given(st.text(alphabet=string.ascii_letters + " .,", max_size=200))
def test_plain_letters_have_no_sign_but_a_missing_stop(text):
    silent = [name for name in dir(signs) if re.match("find_(?!trunc|refus|placeh)", name)]
    assert {name for name in silent if getattr(signs, name)(text)} == set()


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("What is the capital of France, and how do I get there?", "en"),
        ("Wie komme ich am besten nach Berlin, und was kostet das?", "de"),
        ("Quelle est la capitale de la France et comment y aller?", "fr"),
        ("¿Cuál es la capital de España y cómo se llega?", "es"),
        ("Qual è la capitale della Francia e come ci si arriva?", "it"),
        ("Qual é a capital da França e como se chega lá? Não sei.", "pt"),
        ("你好，今天天气怎么样？", "zh"),
        ("東京はどこですか。", "ja"),
        ("Где находится Москва?", "cyrillic"),
        ("كيف حالك اليوم؟", "arabic"),
        ("The word 你好 means hello, and it is used by all of them in China.", "en"),
        ("Sports", None),
        ("42 = 6 * 7", None),
    ],
)
def test_language(text, language):
    assert language_of(text) == language
