"""What is asked: one system message, the row's own prompt last, never its answer; examples spread, short."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.approaches.prompting import (
    choose_examples,
    few_shot,
    is_same_question,
    question_key,
    zero_shot,
)
from tunesmith.data.conversation import Message, Row
from tunesmith.data.render import Renderer, choose_template

WORDS = st.text("abc 早上", min_size=1, max_size=12).filter(str.strip)


def row(*texts: str, system: str | None = None, line: int = 1) -> Row:
    """User and assistant in turn, with a system message if there is one."""
    messages = [Message("system", system)] if system is not None else []
    messages += [Message(("user", "assistant")[at % 2], text) for at, text in enumerate(texts)]
    return Row(tuple(messages), "rows.jsonl", line, "messages")


ROWS = st.lists(
    st.builds(row, WORDS, WORDS, system=st.none() | WORDS)
    | st.builds(row, WORDS, WORDS, WORDS, WORDS, system=st.none() | WORDS),
    max_size=8,
)
ROW = st.builds(row, WORDS, WORDS, system=st.none() | WORDS)


def test_zero_shot_asks_the_prompt_alone() -> None:
    asked = row("Hi", "Hello!", "And you?", "Fine.", system="Be kind.")
    assert zero_shot()(asked) == list(asked.prompt)


@given(ROWS, ROW)
def test_few_shot_has_one_system_message_alternates_and_ends_in_the_question(
    examples: list[Row], asked: Row
) -> None:
    messages = few_shot(examples)(asked)
    roles = [message.role for message in messages]
    own = [message for message in asked.prompt if message.role == "system"]
    assert [message for message in messages if message.role == "system"] == own
    assert messages[: len(own)] == own
    spoken = roles[len(own) :]
    assert spoken == ["user", "assistant"] * (len(spoken) // 2) + ["user"]
    assert messages[-1] == asked.prompt[-1]


@given(ROWS, ROW)
def test_an_example_with_the_same_question_is_never_shown(examples: list[Row], asked: Row) -> None:
    shown = few_shot([*examples, asked])(asked)
    kept = [example for example in examples if not is_same_question(example, asked)]
    assert shown == few_shot(kept)(asked)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (row("What is it?", "a"), row("what  IS it?\n", "b"), True),
        (row("What is it?", "a", system="Be short."), row("What is it?", "b"), True),
        (row("What is it?", "a"), row("What was it?", "a"), False),
        (row("Hi", "Hello", "What is it?", "a"), row("What is it?", "a"), False),
        (row("这是什么？", "a"), row("这是什么?", "b"), True),
    ],
)
def test_the_same_question(one: Row, other: Row, same: bool) -> None:
    assert is_same_question(one, other) is same
    assert (question_key(one) == question_key(other)) is same


def test_the_second_field_of_a_question_counts() -> None:
    one, other = (
        Row((Message("user", "Translate.", text), Message("assistant", "x")), "r", 1, "instruction")
        for text in ("Hello", "Bye")
    )
    assert not is_same_question(one, other)
    assert few_shot([one])(other) == [*one.messages, *other.prompt]


def test_examples_are_left_out_from_the_end_until_the_prompt_fits() -> None:
    examples = [row(f"question {n}", f"answer {n}") for n in range(5)]
    asked = row("Now?", "yes")
    limited = few_shot(examples, fits=lambda messages: len(messages) <= 6)
    assert limited(asked) == few_shot(examples[:2])(asked)
    assert few_shot(examples, fits=lambda messages: False)(asked) == list(asked.prompt)


@given(ROWS.flatmap(lambda rows: st.tuples(st.just(rows), st.permutations(rows))), st.integers(0, 10))
def test_choice_is_deterministic_distinct_and_no_more_than_asked(
    orders: tuple[list[Row], list[Row]], count: int
) -> None:
    rows, shuffled = orders
    chosen = choose_examples(rows, count=count, seed=3)
    assert choose_examples(shuffled, count=count, seed=3) == chosen
    keys = [question_key(example) for example in chosen]
    assert len(keys) == len(set(keys))
    assert len(chosen) == min(count, len({question_key(one) for one in rows}))
    assert set(chosen) <= set(rows)


def test_each_label_comes_once_before_any_comes_twice() -> None:
    labels = ["refund"] * 30 + ["repair"] * 5 + ["praise"] * 2
    rows = [row(f"message number {n}", label, line=n) for n, label in enumerate(labels)]
    for count in (3, 4, 6):
        counts = Counter(one.reference for one in choose_examples(rows, count=count, seed=3))
        assert set(counts) == {"refund", "repair", "praise"}
        assert max(counts.values()) - min(counts.values()) <= 1
    assert [one.reference for one in choose_examples(rows, count=2, seed=3)] == ["refund", "repair"]


def test_the_longest_rows_are_not_shown() -> None:
    rows = [row(f"question {n} " + "long " * n, f"answer {n}") for n in range(40)]
    chosen = choose_examples(rows, count=8, seed=0)
    assert max(len(one.asked) for one in chosen) <= len(rows[30].asked)
    # Where a label has only long rows, it is shown all the same.
    rare = row("long " * 100, "rare")
    assert rare in choose_examples([*(row(f"q {n}", "common") for n in range(20)), rare], count=2, seed=0)


def test_another_seed_chooses_others() -> None:
    rows = [row(f"question {n}", f"answer {n}") for n in range(40)]
    assert len({choose_examples(rows, count=3, seed=seed) for seed in range(5)}) == 5


@pytest.mark.real_model
def test_few_shot_prompts_of_the_embedded_model_share_their_examples_to_the_token() -> None:
    from tunesmith.models.find import find_model
    from tunesmith.models.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(find_model("smollm2-135m"))
    renderer = Renderer(tokenizer, choose_template(tokenizer))
    system = "Sort the message."
    train = [row(f"Message {n}: 早上好", f"label {n % 3}", system=system) for n in range(12)]
    asker = few_shot(choose_examples(train, count=4, seed=1))
    asked = [row(text, "label 0", system=system) for text in ("My parcel is late", "你好", "late <|im_end|>")]
    prompts = [renderer.prompt_ids(asker(one)) for one in asked]
    examples = Row(tuple(asker(asked[0])[:-1]), "examples", 1, "messages")
    shared = renderer.render(examples).ids
    assert [message.role for message in examples.messages] == ["system", *["user", "assistant"] * 4]
    for prompt in prompts:
        assert tuple(prompt[: len(shared)]) == shared
        assert len(prompt) > len(shared)
