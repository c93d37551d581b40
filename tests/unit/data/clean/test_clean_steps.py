"""Each step on rows it is for, and on rows it must leave alone."""

import pytest

from tunesmith.data.clean.records import clean_record, clean_records
from tunesmith.data.clean.steps import STEPS, Settings, choose
from tunesmith.data.clean.texts import shown_path, texts_of
from tunesmith.data.records import Record
from tunesmith.errors import ConfigError

STORY = (
    "Once there was a lighthouse keeper who counted every ship that passed the rocks in a small red book. "
)
STORY += "Nobody had asked him to do it, and nobody ever read a page of what he wrote in all those years. "
STORY += "When the fog came he rang the bell by hand until the last sail was safe behind the northern pier."


def run(step, value, **settings):
    return clean_record(Record(7, value), choose("none", with_=[step]), Settings(**settings))


def row(output="yes", instruction="Say it.", **more):
    return {"instruction": instruction, "output": output} | more


def mended(step, text, **settings):
    """The answer after one step."""
    return run(step, row(text), **settings).after["output"]


def kept(values, *names):
    records = [Record(line, value) for line, value in enumerate(values, start=1)]
    steps = choose("none", with_=names)
    return [each.line for each in clean_records(lambda: records, steps, Settings()) if each.after]


@pytest.mark.parametrize(
    ("step", "before", "after"),
    [
        ("invisible", "zero\u200bwidth \ufeffmark\u2060", "zerowidth mark"),
        ("invisible", "bell\x07 \x1b[31mred\x1b[0m\x00", "bell red"),
        ("invisible", "page\x0cbreak", "page\nbreak"),
        ("invisible", "tab\tline\r\nend\n", "tab\tline\r\nend\n"),
        ("invisible", "👩\u200d💻 می\u200cخواهم", "👩\u200d💻 می\u200cخواهم"),
        ("mojibake", "donâ€™t, cafÃ©", "don’t, café"),
        ("mojibake", "\x93quoted\x94", "“quoted”"),
        ("mojibake", "naïve café — “fine”", "naïve café — “fine”"),
        ("homoglyphs", "pаsswоrd", "password"),
        ("homoglyphs", "пароль и код", "пароль и код"),
        ("homoglyphs", "let α be small", "let α be small"),
        ("special_tokens", "Yes.<|im_end|>\n</s>", "Yes."),
        ("special_tokens", "Write <|im_end|> there", "Write < |im_end|> there"),
        ("special_tokens", "[INST] no [/INST]", "[ INST] no [ /INST]"),
        ("special_tokens", "a <b and c> d [1]", "a <b and c> d [1]"),
        ("html", "a&amp;b<br/>c <b>d</b>", "a&b\nc d"),
        ("html", "if a < b && c > d;", "if a < b && c > d;"),
        ("emails", "Write to ada@example.org today", "Write to [EMAIL] today"),
        ("secrets", "key: ghp_" + "a1B2" * 9, "key: [SECRET]"),
        ("secrets", "card 4111-1111-1111-1111.", "card [CARD]."),
        (
            "secrets",
            "-----BEGIN RSA PRIVATE " + "KEY-----\nabc\n-----END RSA PRIVATE KEY-----\nend",
            "[SECRET]\nend",
        ),
        ("strip", "  yes \n", "yes"),
        ("white_space", "a \n\n b\tc", "a b c"),
    ],
)
def test_texts_after_a_step(step, before, after):
    result = run(step, row(before))
    assert result.after["output"] == after
    assert bool(result.reasons) == (before != after)


def test_an_end_token_in_a_prompt_is_escaped_not_removed():
    result = run("special_tokens", row("yes", instruction="What does </s> mean? </s>"))
    assert result.after["instruction"] == "What does < /s> mean? < /s>"


def test_an_answer_of_control_tokens_alone_becomes_empty_and_is_dropped():
    steps = choose("default", without=["length"])
    result = clean_record(Record(1, row("<pad> <|endoftext|>")), steps, Settings())
    assert result.after is None
    assert [reason.step for reason in result.reasons] == ["special_tokens", "empty"]
    assert result.reasons[-1].what == "the answer is empty (`output`)"


@pytest.mark.parametrize(
    "text", ["<noinput>", "No input", "noinput.", "N/A", "<No input needed>", "None", "无输入"]
)
def test_spellings_of_no_input_become_empty_as_input_only(text):
    assert run("placeholders", row(input=text)).after["input"] == ""
    assert run("placeholders", row(text, input="x")).after == row(text, input="x")


@pytest.mark.parametrize("text", ["No input was lost", "nano", "1/2", "Nancy"])
def test_an_input_that_says_more_stays(text):
    assert run("placeholders", row(input=text)).after["input"] == text


def test_fill_puts_in_what_is_named_and_leaves_other_placeholders():
    text = "I am {{ name }} by {{author}}; x^{{2}}"
    assert mended("fill", text, fill={"name": r"Ada \1"}) == r"I am Ada \1 by {{author}}; x^{{2}}"
    assert run("unrendered", row(text)).reasons[0].what == "`output` holds {{ name }}"


@pytest.mark.parametrize(
    ("step", "value", "what"),
    [
        ("empty", row(" \n"), "the answer is empty (`output`)"),
        ("empty", {"instruction": "x", "output": None}, "the answer is empty (`output`)"),
        ("empty", row(instruction="", input=" "), "the prompt is empty (`instruction`)"),
        (
            "empty",
            {"messages": [{"role": "user", "content": ""}]},
            "the prompt is empty (`messages[0].content`)",
        ),
        ("empty", {"conversations": []}, "`conversations` has no turns"),
        ("empty", {"prompt": "x", "completion": []}, "`completion` has no turns"),
        ("empty", {"text": " ", "label": 1}, "all texts are empty"),
        ("refusals", row("I'm sorry, but I can't assist with that."), "`output` declines"),
        ("placeholder_rows", row("TODO"), "`output` is only 'TODO'"),
        (
            "truncated",
            row("The keeper counted every single ship that passed by the"),
            "the answer breaks off",
        ),
        ("unknown_shape", {"q": "x", "a": "y"}, "the row has the keys `q`, `a`, which are of no known shape"),
        (
            "unusable",
            {"messages": [{"role": "assistant", "content": "x"}]},
            "turn 1 is `assistant` after `the start`",
        ),
        ("empty_fields", {"prompt": "x", "completion": "y"}, "the row has no text `instruction`"),
        ("empty_fields", row(instruction=" "), "`instruction` is empty"),
        ("output_characters", row("九个字也不够长的"), "`output` has 8 characters, fewer than 10"),
        ("output_characters", row("x" * 2049), "`output` has 2049 characters, more than 2048"),
    ],
)
def test_rows_that_a_step_removes(step, value, what):
    result = run(step, value)
    assert result.after is None
    assert result.before == value
    assert result.reasons[0].step == step
    assert what in result.reasons[0].what


@pytest.mark.parametrize(
    ("step", "value"),
    [
        ("empty", row(instruction="", input="x")),
        ("empty", {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": 1}]}]}),
        ("empty", {"n": 1}),
        ("truncated", row('{"a": "the keeper counted every single ship and the"')),
        ("truncated", row("Yes")),
        ("unusable", {"q": "x"}),
        ("output_characters", row("x" * 10)),
        ("output_characters", row("x" * 2048)),
    ],
)
def test_rows_that_a_step_leaves_alone(step, value):
    assert run(step, value).after == value


def test_length_counts_tokens_and_leaves_what_cannot_be_counted():
    def count(record):
        return {"a b c": 3, "a b": 2}.get(record.value["output"])

    settings = {"max_length": 2, "count_tokens": count}
    assert run("length", row("a b"), **settings).after
    assert run("length", row("?"), **settings).after
    result = run("length", row("a b c"), **settings)
    assert (result.after, result.reasons[0].what) == (None, "the row has 3 tokens, more than 2")


def test_tokens_are_counted_once_for_a_row_that_stays():
    counted = []
    settings = Settings(count_tokens=lambda record: counted.append(record.line) or 1)
    records = [Record(line, row(f"answer {line}")) for line in range(1, 4)]
    assert len(list(clean_records(lambda: records, choose("default"), settings))) == 3
    assert counted == [1, 2, 3]


def test_three_fields_names_what_is_lost():
    result = run("three_fields", row(id=1, system="Be kind.", input=""))
    assert result.after == {"instruction": "Say it.", "output": "yes", "input": ""}
    assert result.reasons[0].what == "lost `id`, `system`"


def test_later_exact_copies_are_dropped_whatever_their_other_keys_and_shape():
    values = [row(id=1), row(id=2), row("no"), {"prompt": "Say it.", "completion": "yes"}, row(tools="[]")]
    assert kept(values, "duplicates") == [1, 3, 5]
    assert kept(
        [{"text": "a", "label": 0}, {"text": "a", "label": 1}, {"label": 1, "text": "a"}], "duplicates"
    ) == [1, 2]


def test_near_copies_with_another_prompt_are_folded_into_the_first():
    values = [
        row(STORY),
        row(STORY, instruction="Say it now."),
        row(STORY.replace("red", "blue"), instruction="Go."),
    ]
    assert kept(values, "near_duplicates") == [1]


def test_rows_that_teach_a_difference_are_not_folded():
    asked = f"{STORY} Is the book red?"
    other = f"{STORY} Is the book blue?"
    assert kept([row("yes", instruction=asked), row("no", instruction=other)], "near_duplicates") == [1, 2]
    two_answers = [row(f"{STORY} Good night."), row(f"{STORY} Good bye.")]
    assert kept(two_answers, "near_duplicates") == [1, 2]
    personas = [row(STORY, system="a"), row(STORY, system="b", instruction="Say it now.")]
    assert kept(personas, "near_duplicates") == [1, 2]
    assert kept([row(STORY), row(STORY)], "near_duplicates") == [1, 2]


def test_a_row_near_to_a_folded_one_alone_stays():
    def with_changed(*places):
        return " ".join("hen" if at in places else word for at, word in enumerate(STORY.split()))

    first, second, third = STORY, with_changed(2, 12), with_changed(2, 12, 22, 32)
    values = [row("yes", instruction=text) for text in (first, second, third)]
    assert kept(values, "near_duplicates") == [1, 3]


def test_a_reason_quotes_the_change_and_counts_the_others():
    result = run("invisible", row("a\u200bb", instruction="x\u200by", input="fine"))
    assert result.reasons[0].what == r"`instruction`: '\u200b' is taken out (and in other texts: 1)"
    assert run("mojibake", row("cafÃ©!")).reasons[0].what == "`output`: 'Ã©' becomes 'é'"


def test_columns_lead_to_the_texts():
    value = {"question": "<|im_end|>", "answer": "yes</s>", "note": "</s>"}
    columns = {"instruction": "question", "output": "answer"}
    after = run("special_tokens", value, columns=columns).after
    assert after == {"question": "< |im_end|>", "answer": "yes", "note": "</s>"}


def test_texts_of_every_shape_with_role_and_path():
    messages = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "p"}, {"type": "image"}]},
        {"from": "gpt", "value": "a"},
        {"role": "tool", "content": "t"},
    ]
    found = [
        (shown_path(text.path), text.role, text.text) for text in texts_of({"messages": messages, "id": "x"})
    ]
    assert found == [
        ("messages[0].content", "system", "s"),
        ("messages[1].content[0].text", "user", "p"),
        ("messages[2].value", "assistant", "a"),
        ("messages[3].content", "other", "t"),
    ]
    texts = texts_of(row("o", "i", input="n", system="s", history=[["h", "g"]]))
    assert [(text.text, text.role, text.turn) for text in texts] == [
        ("s", "system", 0),
        ("h", "user", 1),
        ("g", "assistant", 2),
        ("i", "user", 3),
        ("n", "user", 3),
        ("o", "assistant", 4),
    ]
    assert [(text.text, text.role) for text in texts_of({"a": "x", "b": 1, "c": "y"})] == [
        ("x", "other"),
        ("y", "other"),
    ]


def test_a_table_of_mixed_shapes_is_read_by_its_filled_cells():
    value = {"instruction": "", "output": "", "prompt": "p", "completion": "c"}
    assert [text.text for text in texts_of(value)] == ["p", "c"]


def test_steps_come_in_one_order_whatever_the_flags_say():
    names = [step.name for step in choose("none", with_=["near_duplicates", "strip", "empty"])]
    assert names == ["strip", "empty", "near_duplicates"]
    assert len({step.name for step in STEPS}) == len(STEPS)


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        ({"preset": "default", "with_": ["emial"]}, "there is no step `emial`", "did you mean `emails`?"),
        ({"preset": "default", "without": ["?"]}, "there is no step `?`", "the steps are `strip`"),
        ({"preset": "best"}, "there is no preset `best`", "choose from `default`, `guide`, `none`"),
        (
            {"preset": "none", "with_": ["html"], "without": ["html"]},
            "`html` is switched on and off",
            "one of the two",
        ),
        ({"preset": "none"}, "no step is on", "`--with strip`"),
    ],
)
def test_choices_that_make_no_sense(arguments, message, hint):
    with pytest.raises(ConfigError) as caught:
        choose(**arguments)
    assert message in str(caught.value)
    assert hint in caught.value.hint
