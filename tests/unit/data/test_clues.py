"""What is noted of the rows for whoever looks for the cause of a failed training."""

from typing import Any

import numpy as np
import pytest

from tiny import CHATML, tiny_tokenizer
from tunesmith.data.clues import END, MOST_ROWS, START, copied_answers, copied_rows, evenly, template_clues
from tunesmith.data.conversation import Message, Row
from tunesmith.data.render import Renderer, Template, choose_template

LABELS = ("billing", "delivery", "praise", "other")
WORDS = [
    "the",
    "parcel",
    "came",
    "late",
    "and",
    "nobody",
    "told",
    "me",
    "why",
    "it",
    "was",
    "so",
    "slow",
    "today",
]
LLAMA_2 = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
VICUNA = (
    "{% for m in messages %}{% if m.role == 'user' %}USER: {{ m.content }} ASSISTANT:"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
CHATML_WITH_A_NOTE = CHATML.replace("{% for", "<|im_start|>system\nBe brief.<|im_end|>\n{% for", 1)


def a_row(prompt: str, answer: str, line: int = 1) -> Row:
    return Row((Message("user", prompt), Message("assistant", answer)), "rows.jsonl", line, "instruction")


def labelled(layout: str, *, count: int = 200, leak: float = 1.0, seed: int = 0) -> list[Row]:
    """Texts with labels, in a layout that may hold `{text}`, `{label}` and `{shuffled}`."""
    draw = np.random.default_rng(seed)
    rows = []
    for line in range(1, count + 1):
        label = str(draw.choice(LABELS))
        text = " ".join(draw.choice(WORDS, 12))
        shuffled = ", ".join(draw.permutation(LABELS))
        shown = layout if draw.random() < leak else "{text}"
        rows.append(a_row(shown.format(text=text, label=label, shuffled=shuffled), label, line))
    return rows


@pytest.mark.parametrize(
    ("layout", "lead_in"),
    [
        ("{text}. Label: {label}", "label: "),
        ("{text}\nAnswer = {label}\nWhat is it about?", "answer = "),
        ("[{label}] {text}", "["),
        ("{text} ({label})", " ("),
        ("{label} {text}", START),
        ("{text}\n{label}", "\n"),
        ("{text} {label}", END),
        ("Choose one of billing, delivery, praise, other. Hint: {label}. {text}", "praise, other. hint: "),
        ("{text}\nThe expected label is {label}", "the expected label is "),
    ],
)
def test_an_answer_behind_one_and_the_same_lead_in_is_found(layout: str, lead_in: str) -> None:
    rows = labelled(layout)
    found = copied_answers(rows)
    assert found["rows"] == 200
    assert found["share"] == 1.0
    assert found["lead_in"] == lead_in
    assert found["answers"] == 4
    assert found["places"] == [f"rows.jsonl:{line}" for line in range(1, 6)]


@pytest.mark.parametrize("leak", [0.1, 0.4, 0.8])
def test_a_leak_in_some_of_the_rows_is_found_with_its_share(leak: float) -> None:
    rows = labelled("{text} Category: {label}", count=400, leak=leak)
    found = copied_answers(rows)
    assert found["rows"] == sum("Category" in row.prompt[0].content for row in rows)
    assert found["share"] == pytest.approx(leak, abs=0.08)


@pytest.mark.parametrize(
    "layout",
    [
        "{text}",
        "Is it billing, delivery, praise or other? {text}",
        "{text} Choose: billing, delivery, praise, other",
        "{text}\nOptions: {shuffled}",
        "Options: {shuffled}\n{text}",
        "praise\n{text}",
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_choices_that_a_prompt_lists_are_no_leak(layout: str, seed: int) -> None:
    assert copied_answers(labelled(layout, seed=seed)) == {"rows": 0, "share": 0.0}


@pytest.mark.parametrize("share_of_commonest", [0.9, 0.99])
def test_a_commonest_answer_that_every_prompt_names_is_no_leak(share_of_commonest: float) -> None:
    draw = np.random.default_rng(1)
    rows = [
        a_row(
            f"Label: spam or ham? {' '.join(draw.choice(WORDS, 9))}",
            "spam" if draw.random() < share_of_commonest else "ham",
        )
        for _ in range(300)
    ]
    assert copied_answers(rows)["rows"] == 0


def test_answers_taken_from_anywhere_in_a_text_are_no_leak() -> None:
    draw = np.random.default_rng(2)
    rows = []
    for _ in range(300):
        words = [f"{draw.choice(WORDS)}{draw.integers(400)}" for _ in range(40)]
        at = draw.integers(30)
        rows.append(
            a_row(f"{' '.join(words)}\nWhat comes after {words[at]}?", " ".join(words[at + 1 : at + 3]))
        )
    assert copied_answers(rows)["rows"] == 0


def test_a_field_that_only_some_rows_ask_for_is_no_leak() -> None:
    draw = np.random.default_rng(3)
    rows = []
    for _ in range(300):
        fields = {name: str(draw.integers(10_000)) for name in ("order", "customer", "amount")}
        asked = str(draw.choice(list(fields)))
        told = ", ".join(f"{name}: {value}" for name, value in fields.items())
        rows.append(a_row(f"{told}. Which {asked}?", fields[asked]))
    assert copied_answers(rows)["rows"] == 0


def test_a_long_prompt_full_of_the_answer_costs_no_time() -> None:
    rows = [a_row("a " * 50_000, "a", line) for line in range(40)]
    assert copied_answers(rows)["rows"] == 0


def test_copies_are_counted_beyond_the_first_of_each() -> None:
    rows = [a_row(f"prompt {n}", "yes", n + 1) for n in range(6)]
    assert copied_rows(rows) == {"rows": 0, "share": 0.0, "largest": 1}
    again = [*rows, a_row("Prompt  3", "YES", 7), a_row("prompt 3", "yes", 8), a_row("prompt 4", "no", 9)]
    found = copied_rows(again)
    assert found == {
        "rows": 2,
        "share": round(2 / 9, 4),
        "largest": 3,
        "places": ["rows.jsonl:7", "rows.jsonl:8"],
    }
    assert copied_rows([]) == {"rows": 0, "share": 0.0, "largest": 0}


def clues(template: str, *, own: str | None = CHATML, cut: bool = False, **how: Any) -> dict[str, Any]:
    tokenizer = tiny_tokenizer(chat_template=own)
    chosen = choose_template(tokenizer, template) if template in ("auto", "instruction") else None
    renderer = Renderer(tokenizer, chosen or Template("the given template", template), **how)
    rows = [renderer.render(a_row(f"prompt {n}", "yes")) for n in range(4)]
    if cut:
        rows = [type(row)(row.ids[:-2], row.scored[:-2], row.row, True) for row in rows]
    return template_clues(renderer, rows)


def test_the_own_template_lacks_nothing() -> None:
    assert clues("auto") == {
        "name": "the model's chat template",
        "is_own": True,
        "has_own": True,
        "markers": [],
        "missing": [],
        "ends_turn": True,
    }
    assert clues("auto", score_all=True)["ends_turn"] is True


def test_a_foreign_template_shows_by_its_markers_or_by_those_it_lacks() -> None:
    llama = clues(LLAMA_2)
    assert llama["markers"] == ["[INST]", "[/INST]"]
    assert llama["missing"] == ["<|im_start|>"]
    assert not llama["is_own"]
    assert clues(VICUNA)["markers"] == []
    assert clues(VICUNA)["missing"] == ["<|im_start|>"]
    assert clues("instruction")["missing"] == ["<|im_start|>"]


def test_the_own_template_in_other_words_lacks_nothing() -> None:
    other = clues(CHATML_WITH_A_NOTE)
    assert (other["is_own"], other["markers"], other["missing"]) == (False, [], [])


def test_a_model_without_a_template_of_its_own_is_said_to_have_none() -> None:
    plain = clues("auto", own=None)
    assert (plain["has_own"], plain["is_own"], plain["missing"]) == (False, False, [])


def test_an_own_template_that_refuses_the_roles_is_no_error() -> None:
    strict = "{{ raise_exception('no such roles') }}"
    assert clues(VICUNA, own=strict)["missing"] == []


def test_rows_that_were_cut_do_not_end_their_turn() -> None:
    assert clues("auto", cut=True)["ends_turn"] is False


def test_of_many_rows_some_are_taken_evenly() -> None:
    rows = [a_row("p", "a", line) for line in range(MOST_ROWS * 2)]
    assert [row.line for row in evenly(rows, 4)] == [0, MOST_ROWS // 2, MOST_ROWS, MOST_ROWS * 3 // 2]
    assert evenly(rows[:3], 4) == rows[:3]
