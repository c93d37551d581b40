"""The laws of rendering: asked as trained, text stays text, every answer is scored with its end of turn."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE, WordLevel
from tokenizers.processors import TemplateProcessing
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from tiny import CHATML, tiny_tokenizer
from tunesmith.data.conversation import Message, Row
from tunesmith.data.marks import ASSISTANT, CLOSE, PERSON
from tunesmith.data.render import Renderer, choose_template
from tunesmith.errors import TemplateError

END = 2  # <|im_end|>
THINK = AddedToken("<think>", normalized=False, special=False)
TEXTS = st.text(st.characters(exclude_categories=("Cs", "Co")), max_size=30)
PIECES = st.lists(
    st.one_of(TEXTS, st.sampled_from(["<|im_end|>", "<|im_start|>", "\n", " ", "<|endoftext|>"])), max_size=4
).map("".join)
MARKED = st.text(st.sampled_from([PERSON, ASSISTANT, CLOSE, "a", " "]), max_size=3).flatmap(
    lambda text: st.permutations([*text, "<|im_end|>", CLOSE]).map("".join)
)
ANSWERS = PIECES.filter(lambda text: bool(text.strip()))


def row(*turns: str, system: str | None = None, given_input: str = "") -> Row:
    """User and assistant in turn, with a system message if there is one."""
    messages = [Message("system", system)] if system is not None else []
    for number, text in enumerate(turns):
        is_first = number == 0
        role = ("user", "assistant")[number % 2]
        messages.append(Message(role, text, given_input if is_first else ""))
    return Row(tuple(messages), "rows.jsonl", 7, "messages")


def renderer(template: str = "auto", *, score_all: bool = False, **tokenizer: object) -> Renderer:
    """For the tiny tokenizer."""
    made = tiny_tokenizer(**tokenizer)  # type: ignore[arg-type]
    return Renderer(made, choose_template(made, template), score_all=score_all)


CHAT, LAYOUT = renderer(), renderer("instruction")
BOTH = pytest.mark.parametrize("by", [CHAT, LAYOUT], ids=["chat", "layout"])


def scored_text(by: Renderer, rendered: object) -> str:
    """What the loss counts, as text, control tokens included."""
    ids = [i for i, s in zip(rendered.ids, rendered.scored, strict=True) if s]  # type: ignore[attr-defined]
    return str(by.tokenizer.decode(ids))


@BOTH
@given(first=PIECES, answer=ANSWERS, second=PIECES, last=ANSWERS, system=st.none() | PIECES)
def test_train_and_generate_ids_are_equal(by, first, answer, second, last, system) -> None:
    whole = row(first, answer, second, last, system=system)
    ids = list(by.render(whole).ids)
    prompt = by.prompt_ids(whole.prompt)
    assert ids[: len(prompt)] == prompt
    earlier = by.prompt_ids(whole.messages[: len(whole.messages) - 3])
    assert ids[: len(earlier)] == earlier


@BOTH
@given(first=PIECES, answer=ANSWERS, system=st.none() | PIECES)
def test_what_people_write_never_becomes_a_control_token(by, first, answer, system) -> None:
    def controls(text: str) -> str:
        return re.sub(r"<\|\w+\|>", "x", text)

    typed = by.render(row(first, answer, system=system))
    harmless = by.render(row(controls(first), controls(answer), system=system and controls(system)))
    count = [sum(i < 3 for i in rendered.ids) for rendered in (typed, harmless)]
    assert count[0] == count[1]


@given(first=MARKED, answer=MARKED.filter(lambda text: bool(text.strip())))
def test_our_own_marks_typed_by_people_smuggle_no_control_token_in(first: str, answer: str) -> None:
    try:
        ids = CHAT.render(row(first, answer)).ids
    except TemplateError as refused:
        assert "cannot be told apart" in str(refused)
    else:
        assert [sum(i == control for i in ids) for control in (1, END)] == [2, 2]


def test_im_end_typed_by_a_user_stays_text() -> None:
    typed = CHAT.render(
        row("Say <|im_end|> please", "No", system="be <|im_start|> kind", given_input="<|im_end|>")
    )
    assert list(typed.ids).count(END) == 3
    assert "Say <|im_end|> please" in CHAT.tokenizer.decode(typed.ids)


@BOTH
@given(first=PIECES, answer=ANSWERS)
def test_each_trained_row_scores_its_end_of_turn_last(by, first, answer) -> None:
    rendered = by.render(row(first, answer))
    scored = [i for i, s in zip(rendered.ids, rendered.scored, strict=True) if s]
    assert scored[-1] == END
    assert scored.count(END) == 1


@BOTH
def test_only_answers_and_their_end_of_turn_are_scored(by) -> None:
    rendered = by.render(row("one", "two", "three", "four", system="be brief"))
    assert scored_text(by, rendered) == "two<|im_end|>four<|im_end|>"


def test_score_all_scores_every_token() -> None:
    rendered = renderer(score_all=True).render(row("one", "two"))
    assert all(rendered.scored)
    assert rendered.scored_tokens == len(rendered.ids) - 1


def test_input_has_a_heading_in_the_layout_and_is_joined_in_a_chat() -> None:
    given_row = row("Translate", "你好", given_input="Hello")
    assert LAYOUT.tokenizer.decode(LAYOUT.render(given_row).ids) == (
        "### Instruction:\nTranslate\n\n### Input:\nHello\n\n### Response:\n你好<|im_end|>"
    )
    assert "user\nTranslate\n\nHello<|im_end|>" in CHAT.tokenizer.decode(CHAT.render(given_row).ids)


def test_layout_of_several_turns_and_a_system_message() -> None:
    text = LAYOUT.tokenizer.decode(LAYOUT.render(row("a", "b", "c", "d", system="s")).ids)
    assert text == (
        "s\n\n### Instruction:\na\n\n### Response:\nb<|im_end|>\n\n"
        "### Instruction:\nc\n\n### Response:\nd<|im_end|>"
    )


def test_layout_saved_as_chat_template_serves_plain_messages() -> None:
    tokenizer = tiny_tokenizer(chat_template=choose_template(tiny_tokenizer(), "instruction").text)
    plain = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert plain == "### Instruction:\nHi\n\n### Response:\n"
    assert choose_template(tokenizer).text == choose_template(tiny_tokenizer(), "instruction").text


def test_a_model_without_chat_template_gets_the_layout() -> None:
    assert choose_template(tiny_tokenizer(chat_template=None)).name == "the ### Instruction: layout"


def test_bos_is_never_doubled() -> None:
    tokenizer = tiny_tokenizer(chat_template="{{ bos_token }}" + CHATML)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    tokenizer.bos_token = "<|endoftext|>"
    assert tokenizer("a").input_ids[0] == 0
    for choice in ("auto", "instruction"):
        by = Renderer(tokenizer, choose_template(tokenizer, choice))
        assert list(by.render(row("a", "b")).ids).count(0) == 1
        assert by.prompt_ids([Message("user", "a")])[0] == 0


def test_markers_that_are_not_special_are_tokens_only_in_answers() -> None:
    by = renderer(extra=(THINK,))
    marker = by.tokenizer.convert_tokens_to_ids("<think>")
    assert list(by.render(row("what is <think>?", "<think>hm</think> four")).ids).count(marker) == 1
    assert list(by.render(row("x", "<think>a <|im_end|>")).ids).count(END) == 3 - 1


def test_prompt_keeps_an_answer_that_begins_with_a_line_break() -> None:
    rendered = CHAT.render(row("poem", "\n\n  rose"))
    assert scored_text(CHAT, rendered) == "\n\n  rose<|im_end|>"


@pytest.mark.parametrize("prepend", ["first", "always"])
def test_tokenizers_that_put_a_blank_first(prepend: str) -> None:
    tokenizer = tiny_tokenizer()
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(prepend_scheme=prepend, replacement="Ġ", split=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    by = Renderer(tokenizer, choose_template(tokenizer, "instruction"))
    text = "### Instruction:\na\n\n### Response:\n"
    assert by.prompt_ids([Message("user", "a")]) == tokenizer(text, add_special_tokens=False).input_ids


def test_end_of_turn_ids_are_the_templates_and_the_tokenizers() -> None:
    tokenizer = tiny_tokenizer()
    assert Renderer(tokenizer, choose_template(tokenizer)).end_of_turn_ids == (END,)
    tokenizer.eos_token = "<|endoftext|>"
    assert Renderer(tokenizer, choose_template(tokenizer)).end_of_turn_ids == (END, 0)
    assert renderer(score_all=True).end_of_turn_ids == (END,)


def test_template_that_closes_an_answer_with_nothing_is_refused() -> None:
    by = renderer(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}bot: {% endif %}"
    )
    with pytest.raises(TemplateError, match=r"rows.jsonl:7: .* in another form than it stores it"):
        by.render(row("a", "b"))
    by = renderer(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    with pytest.raises(
        TemplateError, match=r"rows.jsonl:7: .* closes answer 1 with no control token"
    ) as refused:
        by.render(row("a", "b"))
    assert "--template instruction" in refused.value.hint


def test_template_that_refuses_a_role_says_which_roles() -> None:
    by = renderer(
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
    )
    with pytest.raises(
        TemplateError, match=r"refuses the roles \['system', 'user', 'assistant'\]: no system"
    ):
        by.render(row("a", "b", system="s"))


def test_template_may_trim_texts() -> None:
    by = renderer(CHATML.replace("message.content", "message.content | trim"))
    typed = by.render(row("  say <|im_end|> \n", " no <|im_end|>\n"))
    assert "user\nsay <|im_end|><|im_end|>" in by.tokenizer.decode(typed.ids)
    assert list(typed.ids).count(END) == 2


def test_template_that_cuts_texts_is_refused_only_where_control_tokens_are() -> None:
    by = renderer(CHATML.replace("message.content", "message.content[:20]"))
    assert "hello" in by.tokenizer.decode(by.prompt_ids([Message("user", "hello" * 9)]))
    with pytest.raises(TemplateError, match=r"the text holds the control token '<\|im_end\|>'"):
        by.prompt_ids([Message("user", "hello <|im_end|>" * 9)])


def test_tokenizer_whose_own_vocabulary_yields_control_tokens_is_stopped() -> None:
    words = {"<pad>": 0, "<end>": 1, "###": 2, "Instruction:": 3, "Response:": 4, "hi": 5, "<unk>": 6}
    backend = Tokenizer(WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens([AddedToken(text, normalized=False) for text in ("<pad>", "<end>", "<unk>")])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<end>", pad_token="<pad>", unk_token="<unk>"
    )
    by = Renderer(tokenizer, choose_template(tokenizer))
    assert by.render(row("hi", "hi")).ids[-1] == 1
    with pytest.raises(TemplateError, match=r"reads control tokens into plain text such as .*<end>"):
        by.render(row("hi <end>", "hi"))


def test_layout_needs_an_end_token() -> None:
    tokenizer = tiny_tokenizer(chat_template=None)
    tokenizer.eos_token = None
    with pytest.raises(TemplateError, match="this one has none"):
        choose_template(tokenizer)


def test_template_hash_follows_its_text() -> None:
    first, second = (choose_template(tiny_tokenizer(), text) for text in ("{{ 1 }}", "{{ 2 }}"))
    assert len(first.sha256) == 64
    assert first.sha256 != second.sha256


CHANNELS = (
    "{% for m in messages %}<|start|>{{ m.role }}{{ '<|channel|>final' if m.role == 'assistant' else '' }}"
    "<|message|>{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)


@pytest.mark.parametrize("answer", ["a", "final", "channel", "message", "im_end", "Paris"])
def test_answer_that_reads_like_the_template_is_scored_to_its_own_end(answer: str) -> None:
    """The first control token behind the word `final` was once taken for the end of the answer `a`."""
    extra = [AddedToken(f"<|{name}|>", normalized=False) for name in ("start", "channel", "message")]
    tokenizer = tiny_tokenizer(chat_template=CHANNELS)
    tokenizer.add_special_tokens({"additional_special_tokens": extra})
    by = Renderer(tokenizer, choose_template(tokenizer))
    assert scored_text(by, by.render(row("q", answer))) == f"<|channel|>final<|message|>{answer}<|im_end|>"


@BOTH
@pytest.mark.parametrize("user", ["q", "q <|im_end|>"])
def test_blank_answer_ends_in_its_own_turn(by, user: str) -> None:
    assert scored_text(by, by.render(row(user, " ", "q", "b"))) == " <|im_end|>b<|im_end|>"


def test_blanks_that_are_added_tokens_stay_so_in_what_people_write() -> None:
    """Some tokenizers hold runs of blanks as added tokens; none of them is a control token."""
    by = renderer(extra=(AddedToken("\n\n", normalized=False, special=False),))
    [own] = by.tokenizer("\n\n").input_ids
    assert by.prompt_ids([Message("user", "a\n\nb <|im_end|>")]).count(own) == 1


def test_tokenizer_that_cuts_text_otherwise_than_its_parts_is_refused() -> None:
    tokenizer = tiny_tokenizer(extra=(AddedToken("HELLO", normalized=True, special=False),))
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(TemplateError, match=r"cuts text in a way that cannot be repeated safely \(\d+ ids"):
        Renderer(tokenizer, choose_template(tokenizer))


def test_tokenizer_without_a_fast_backend_is_refused() -> None:
    slow = ByT5Tokenizer()
    with pytest.raises(TemplateError, match=r"^ByT5Tokenizer has no fast backend") as refused:
        Renderer(slow, choose_template(tiny_tokenizer()))
    assert "tokenizer.json" in refused.value.hint


def blanks_first(kind: str) -> PreTrainedTokenizerFast:
    """One token a character; a blank before the first word of a text or of each section."""
    characters = [*map(chr, range(33, 127)), "▁", "\n", "\t", "ö", "你", "好"]
    specials = ["<unk>", "<|end|>", "<|bot|>"]
    vocabulary = {text: number for number, text in enumerate([*specials, *characters])}
    backend = Tokenizer(BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    if kind == "normalizer":
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=kind, split=False)
    backend.add_special_tokens([AddedToken(text, normalized=False) for text in specials])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="<|end|>")


@pytest.mark.parametrize("kind", ["first", "always", "normalizer"])
@pytest.mark.parametrize("opening", ["bot:\n", "<|bot|>", "<|bot|>\n"])
def test_where_blanks_come_first_ids_are_the_tokenizers_and_prompts_begin_rows(kind, opening) -> None:
    tokenizer = blanks_first(kind)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '"
        + opening.replace("\n", "\\n")
        + "' if m.role == 'assistant' else 'me:' }}"
        "{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}"
        "{{ '" + opening.replace("\n", "\\n") + "' }}{% endif %}"
    )
    by = Renderer(tokenizer, choose_template(tokenizer))
    whole = row("hi you", "yes I", "and", "no")
    ids = list(by.render(whole).ids)
    plain = [{"role": m.role, "content": m.content} for m in whole.messages]
    assert ids == tokenizer.apply_chat_template(plain)["input_ids"]
    prompt = by.prompt_ids(whole.prompt)
    assert ids[: len(prompt)] == prompt


def test_blanks_that_are_added_tokens_are_no_reason_to_refuse_a_template() -> None:
    cutting = CHATML.replace("message.content", "message.content[:20]")
    by = renderer(chat_template=cutting, extra=(AddedToken("\n\n", normalized=False, special=False),))
    assert "hello" in by.tokenizer.decode(by.prompt_ids([Message("user", "hello\n\n" * 9)]))
