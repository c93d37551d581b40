"""A preview shows the rendered text, all of it and nothing else, and marks what training counts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, normalizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from tiny import tiny_tokenizer
from tunesmith.data.conversation import Message, Row
from tunesmith.data.preview import Token, tokens_of, view_row, visible, visible_parts, whole_characters
from tunesmith.data.render import Renderer, choose_template
from tunesmith.models.find import find_model
from tunesmith.models.tokenizer import load_tokenizer

LETTERS = st.characters(exclude_categories=("Cs", "Co"))
HARD = st.sampled_from(
    ["<|im_end|>", "<|endoftext|>", "\n", "\t", " ", "\ufffd", "你好", "👨‍👩‍👧", "é", "\u200b"]
)
TEXTS = st.lists(st.one_of(st.text(LETTERS, max_size=8), HARD), max_size=5).map("".join)
ANSWERS = TEXTS.filter(lambda text: bool(text.strip()))


def row(*turns: str) -> Row:
    """User and assistant in turn."""
    roles = ("user", "assistant")
    messages = [Message(roles[number % 2], text) for number, text in enumerate(turns)]
    return Row(tuple(messages), "rows.jsonl", 7, "messages")


def renderer(template: str = "auto") -> Renderer:
    """For the tiny tokenizer, in which each byte is a token."""
    tokenizer = tiny_tokenizer()
    return Renderer(tokenizer, choose_template(tokenizer, template))


def byte_fallback_tokenizer() -> PreTrainedTokenizerFast:
    """As Llama 2 has it: `▁` is a blank, unknown characters are bytes, the first blank is dropped."""
    words = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "▁a"]
    model = BPE(
        vocab={word: number for number, word in enumerate(words)},
        merges=[("▁", "a")],
        unk_token="<unk>",
        byte_fallback=True,
    )
    backend = Tokenizer(model)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


CHAT, LAYOUT = renderer(), renderer("instruction")
FALLBACK = byte_fallback_tokenizer()
BOTH = pytest.mark.parametrize("by", [CHAT, LAYOUT], ids=["chat", "layout"])


def templated(by: Renderer, shown: Row) -> str:
    """What the template makes of the row, before any token."""
    turns = [{"role": message.role, "content": message.text} for message in shown.messages]
    text = by.tokenizer.apply_chat_template(turns, chat_template=by.template.text, tokenize=False)
    return str(text)


def joined(tokens: tuple[Token, ...], *, scored_only: bool = False) -> str:
    return "".join(token.text for token in tokens if token.is_scored or not scored_only)


@BOTH
@given(first=TEXTS, answer=ANSWERS, second=TEXTS, last=ANSWERS)
def test_the_texts_joined_are_the_rendered_text(by, first, answer, second, last) -> None:
    shown = row(first, answer, second, last)
    tokens = tokens_of(by.render(shown), tokenizer=by.tokenizer)
    assert joined(tokens) == templated(by, shown)
    assert all(token.text for token in tokens)


@BOTH
@given(first=TEXTS, answer=ANSWERS, second=TEXTS, last=ANSWERS)
def test_scored_characters_are_the_answers_and_their_ends(by, first, answer, second, last) -> None:
    shown = row(first, answer, second, last)
    tokens = tokens_of(by.render(shown), tokenizer=by.tokenizer)
    assert joined(tokens, scored_only=True) == f"{answer}<|im_end|>{last}<|im_end|>"


@given(first=TEXTS, answer=ANSWERS)
def test_every_id_is_in_one_token_in_order(first: str, answer: str) -> None:
    rendered = CHAT.render(row(first, answer))
    tokens = tokens_of(rendered, tokenizer=CHAT.tokenizer)
    assert tuple(token_id for token in tokens for token_id in token.ids) == rendered.ids
    assert max(len(token.ids) for token in tokens) <= 4


@given(first=TEXTS, answer=ANSWERS)
def test_only_the_templates_own_controls_are_controls(first: str, answer: str) -> None:
    tokens = tokens_of(CHAT.render(row(first, answer)), tokenizer=CHAT.tokenizer)
    starts_and_ends = ["<|im_start|>", "<|im_end|>"] * 2
    assert [token.text for token in tokens if token.is_control] == starts_and_ends


@given(text=st.lists(st.one_of(st.text(LETTERS, max_size=6), HARD, st.just("a b")), max_size=6).map("".join))
def test_bytes_and_blanks_of_a_sentencepiece_tokenizer_join_to_its_own_text(text: str) -> None:
    ids = FALLBACK(text, add_special_tokens=False).input_ids
    stretches = whole_characters(ids, tokenizer=FALLBACK)
    assert "".join(shown for shown, _, _ in stretches) == FALLBACK.decode(ids)
    assert [start for _, start, _ in stretches[1:]] == [end for _, _, end in stretches[:-1]]


@pytest.mark.parametrize(
    ("text", "shown"),
    [("ab 你", ["a", "b", " ", "你"]), ("你好a", ["你", "好", "a"]), ("\ufffda", ["\ufffd", "a"])],
)
def test_bytes_of_one_character_are_one_token(text: str, shown: list[str]) -> None:
    ids = CHAT.tokenizer(text, add_special_tokens=False).input_ids
    assert [piece for piece, _, _ in whole_characters(ids, tokenizer=CHAT.tokenizer)] == shown


def test_ids_that_end_inside_a_character_keep_its_replacement_sign() -> None:
    ids = CHAT.tokenizer("a你", add_special_tokens=False).input_ids[:-1]
    assert [piece for piece, _, _ in whole_characters(ids, tokenizer=CHAT.tokenizer)] == ["a", "\ufffd"]
    assert whole_characters([], tokenizer=CHAT.tokenizer) == []


def test_an_added_token_that_is_no_control_is_none() -> None:
    tokenizer = tiny_tokenizer(extra=(AddedToken("<think>", normalized=False, special=False),))
    by = Renderer(tokenizer, choose_template(tokenizer))
    tokens = tokens_of(by.render(row("q", "<think>a")), tokenizer=tokenizer)
    (think,) = [token for token in tokens if token.text == "<think>"]
    assert think.is_scored
    assert not think.is_control


@given(max_length=st.integers(min_value=1, max_value=60))
def test_what_lies_beyond_the_longest_row_is_marked(max_length: int) -> None:
    rendered = CHAT.render(row("你好", "a👨b"))
    view = view_row(rendered, number=3, tokenizer=CHAT.tokenizer, max_length=max_length)
    kept = sum(len(token.ids) for token in view.tokens if not token.is_cut)
    cut = [token.is_cut for token in view.tokens]
    assert kept <= max_length < kept + 4 or not any(cut)
    assert cut == sorted(cut)
    assert view.is_too_long == any(cut) == (len(rendered.ids) > max_length)


def test_a_view_counts_as_training_does() -> None:
    rendered = CHAT.render(row("q", "abc"))
    view = view_row(rendered, number=3, tokenizer=CHAT.tokenizer, max_length=1024)
    assert (view.number, view.place) == (3, "rows.jsonl:7")
    assert view.scored_tokens == rendered.scored_tokens == 4
    assert view.token_count == len(rendered.ids)
    assert view.scored_share == 4 / len(rendered.ids)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a b", [("text", "a b")]),
        ("a\n\nb", [("text", "a"), ("newline", "⏎⏎"), ("text", "b")]),
        ("\ta", [("tab", "⇥"), ("text", "a")]),
        ("a\u200bb", [("text", "a"), ("hidden", r"\u200b"), ("text", "b")]),
        ("\x1b[31m", [("hidden", r"\u001b"), ("text", "[31m")]),
        ("\r\u00a0\u3000", [("hidden", r"\u000d\u00a0\u3000")]),
        ("❤\ufe0f", [("text", "❤"), ("hidden", r"\ufe0f")]),
        ("\U000e0041", [("hidden", r"\U000e0041")]),
        ("é你👨", [("text", "é你👨")]),
    ],
)
def test_what_cannot_be_seen_is_spelled_out(text: str, parts: list[tuple[str, str]]) -> None:
    assert visible_parts(text) == parts


@given(text=st.text())
def test_nothing_that_a_terminal_obeys_survives(text: str) -> None:
    assert all(character.isprintable() or character == "\n" for character in visible(text))


@pytest.mark.real_model
def test_the_real_tokenizer_shows_typed_controls_as_text() -> None:
    tokenizer = load_tokenizer(find_model("smollm2-135m"))
    by = Renderer(tokenizer, choose_template(tokenizer))
    shown = row("Grüße, 你好 👨‍👩‍👧", "yes <|endoftext|> 再见")
    tokens = tokens_of(by.render(shown), tokenizer=tokenizer)
    assert joined(tokens) == templated(by, shown)
    assert joined(tokens, scored_only=True) == "yes <|endoftext|> 再见<|im_end|>"
    controls = {token.text for token in tokens if token.is_control}
    assert controls == {"<|im_start|>", "<|im_end|>"}
