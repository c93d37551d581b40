"""Harmless conversations give exactly the ids of transformers, for the template styles in use."""

import pytest
from tokenizers import AddedToken

from tiny import CHATML, tiny_tokenizer
from tunesmith.data.conversation import Message, Row
from tunesmith.data.render import Renderer, choose_template

HEADERS = (
    "{{ bos_token }}{% for m in messages %}<|start|>{{ m.role }}<|stop|>\n\n{{ m.content | trim }}<|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant<|stop|>\n\n{% endif %}"
)
BRACKETS = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
MODEL_TURNS = (
    "{{ bos_token }}{% for m in messages %}<|start|>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|start|>model\n{% endif %}"
)
THINKING = (
    "{% for m in messages %}<|start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
EXTRA = (
    AddedToken("<|start|>", normalized=False, special=True),
    AddedToken("<|stop|>", normalized=False, special=True),
    AddedToken("<think>", normalized=False, special=False),
)
TURNS = (
    Message("user", "Hello, wörld! 12 345\n\n  x"),
    Message("assistant", "你好\n\tcode()  {}"),
    Message("user", "And <b>now</b>?"),
    Message("assistant", "Done."),
)


@pytest.mark.parametrize(
    "template",
    [CHATML, HEADERS, BRACKETS, MODEL_TURNS, THINKING],
    ids=["chatml", "llama3", "mistral", "gemma", "qwen3"],
)
def test_ids_are_those_of_apply_chat_template(template: str) -> None:
    tokenizer = tiny_tokenizer(chat_template=template, extra=EXTRA)
    renderer = Renderer(tokenizer, choose_template(tokenizer))
    plain = [{"role": m.role, "content": m.content} for m in TURNS]
    ours = renderer.render(Row(TURNS, "rows", 1, "messages"))
    assert list(ours.ids) == tokenizer.apply_chat_template(plain, tokenize=True)["input_ids"]
    prompt = tokenizer.apply_chat_template(plain[:3], tokenize=True, add_generation_prompt=True)["input_ids"]
    assert renderer.prompt_ids(TURNS[:3]) == prompt
    assert ours.ids[-1 if template in (HEADERS, BRACKETS) else -2] in renderer.end_of_turn_ids
    scored = [i for i, s in zip(ours.ids, ours.scored, strict=True) if s]
    assert scored.count(2) == 2
    assert scored[-1] == 2


def test_tokens_that_take_the_blanks_behind_them_take_as_many_as_in_transformers() -> None:
    """A line break behind an end of turn belongs to that token, though the answer's piece ends before it."""
    extra = tuple(
        AddedToken(f"<|{name}|>", normalized=False, special=True, rstrip=True)
        for name in ("user", "assistant", "end")
    )
    template = (
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    )
    tokenizer = tiny_tokenizer(chat_template=template, extra=extra)
    renderer = Renderer(tokenizer, choose_template(tokenizer))
    plain = [{"role": m.role, "content": m.content} for m in TURNS]
    ours = list(renderer.render(Row(TURNS, "rows", 1, "messages")).ids)
    assert ours == tokenizer.apply_chat_template(plain, tokenize=True)["input_ids"]
    prompt = renderer.prompt_ids(TURNS[:3])
    assert ours[: len(prompt)] == prompt
    assert ours[-1] == renderer.end_of_turn_ids[0]


@pytest.mark.real_model
def test_ids_of_the_embedded_model_are_those_of_apply_chat_template() -> None:
    from tunesmith.models.find import find_model
    from tunesmith.models.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(find_model("smollm2-135m"))
    renderer = Renderer(tokenizer, choose_template(tokenizer))
    plain = [{"role": m.role, "content": m.content} for m in TURNS]
    ours = list(renderer.render(Row(TURNS, "rows", 1, "messages")).ids)
    assert ours == tokenizer.apply_chat_template(plain, tokenize=True)["input_ids"]
