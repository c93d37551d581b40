import json

import pyarrow as pa
import pytest
from pyarrow import parquet

from tunesmith.data.conversation import Message
from tunesmith.data.formats import FORMATS, count_formats, load_rows, to_row
from tunesmith.data.records import Record
from tunesmith.errors import ConfigError, DataError

ASK, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
PLAIN = (Message("user", "Hi"), Message("assistant", "Hello"))
SHAPES = {
    "instruction": {"instruction": "Hi", "output": "Hello"},
    "conversations": {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
    "messages": {"messages": [ASK, ANSWER]},
    "prompt_completion": {"prompt": "Hi", "completion": "Hello"},
}


def row(value, **settings):
    return to_row(Record(7, value), path="rows.jsonl", **settings)


def error_of(value, **settings):
    with pytest.raises(DataError) as caught:
        row(value, **settings)
    assert str(caught.value).startswith("rows.jsonl:7: ")
    assert caught.value.hint
    return caught.value


def write(tmp_path, rows, name="rows.jsonl"):
    path = tmp_path / name
    path.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    return path


def turns(*roles, content="text"):
    return {"messages": [{"role": role, "content": content} for role in roles]}


def parts(*content):
    return {"messages": [{"role": "user", "content": list(content)}, ANSWER]}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("is_forced", [False, True])
def test_all_shapes_become_the_same_turns(shape, is_forced):
    found = row(SHAPES[shape], format=shape if is_forced else "auto")
    assert found.messages == PLAIN
    assert (found.format, found.place) == (shape, "rows.jsonl:7")


def test_file_may_mix_shapes_and_the_counts_follow_the_fixed_order(tmp_path):
    path = write(tmp_path, [SHAPES["messages"], *SHAPES.values(), SHAPES["messages"]])
    rows = load_rows(path)
    assert {found.messages for found in rows} == {PLAIN}
    assert [found.line for found in rows] == [1, 2, 3, 4, 5, 6]
    assert {found.path for found in rows} == {str(path)}
    counts = count_formats(rows)
    assert counts == {"instruction": 1, "conversations": 1, "messages": 3, "prompt_completion": 1}
    assert tuple(counts) == FORMATS
    assert count_formats(rows[:1]) == {"messages": 1}


def test_instruction_with_all_its_fields():
    value = {
        "instruction": "Add", "input": "1 2", "output": "3", "system": "Brief", "history": [["Hi", "Hello"]],
    }  # fmt: skip
    assert row(value).messages == (
        Message("system", "Brief"), *PLAIN, Message("user", "Add", input="1 2"), Message("assistant", "3")
    )  # fmt: skip


@pytest.mark.parametrize("name", ["input", "system", "history"])
@pytest.mark.parametrize("empty", [None, ""])
def test_empty_optional_fields_are_as_if_absent(name, empty):
    assert row(SHAPES["instruction"] | {name: empty}).messages == PLAIN


def test_input_alone_is_the_prompt():
    assert row({"instruction": "", "input": "Hi", "output": "Hello"}).messages == PLAIN


def test_conversations_take_role_and_content_and_all_known_senders():
    for user, assistant in (("human", "gpt"), ("user", "assistant"), ("human", "bot")):
        value = [
            {"from": "system", "value": "S"},
            {"from": user, "value": "Hi"},
            {"role": assistant, "content": "Hello"},
        ]
        assert row({"conversations": value}).messages == (Message("system", "S"), *PLAIN)


def test_prompt_and_completion_may_be_lists_of_messages_or_text():
    for prompt in ("Hi", [ASK]):
        for completion in ("Hello", [ANSWER]):
            assert row({"prompt": prompt, "completion": completion}).messages == PLAIN
    long = {"prompt": [ASK, ANSWER, ASK], "completion": [ANSWER]}
    assert row(long).messages == (*PLAIN, *PLAIN)


def test_text_parts_are_put_together():
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "value": "lo"}]
    assert row({"messages": [ASK, {"role": "assistant", "content": parts}]}).messages == PLAIN


def test_white_space_of_texts_is_kept():
    assert row({"prompt": " a\n\n", "completion": "\tb "}).reference == "\tb "
    assert row({"prompt": " a\n\n", "completion": "\tb "}).prompt[0].content == " a\n\n"


def test_system_goes_into_rows_that_have_none():
    with_system = {"messages": [{"role": "system", "content": "own"}, ASK, ANSWER]}
    assert row(SHAPES["messages"], system="given").messages == (Message("system", "given"), *PLAIN)
    assert row(with_system, system="given").messages == (Message("system", "own"), *PLAIN)
    assert row(SHAPES["messages"] | {"system": "own"}, system="given").messages == (
        Message("system", "own"),
        *PLAIN,
    )
    empty = {"messages": [{"role": "system", "content": " "}, ASK, ANSWER]}
    assert row(empty).messages == PLAIN
    assert row(empty, system="given").messages == (Message("system", "given"), *PLAIN)


def test_empty_cells_of_a_mixed_table_do_not_count_as_fields(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("instruction,output,prompt,completion\nHi,Hello,,\n,,Hi,Hello\n", encoding="utf-8")
    assert [found.format for found in load_rows(path)] == ["instruction", "prompt_completion"]
    names = {name for value in SHAPES.values() for name in value}
    table = pa.table({name: [value.get(name) for value in SHAPES.values()] for name in sorted(names)})
    parquet.write_table(table, tmp_path / "rows.parquet")
    assert [found.messages for found in load_rows(tmp_path / "rows.parquet")] == [PLAIN] * 4


def test_columns_rename_fields(tmp_path):
    path = write(tmp_path, [{"question": "Hi", "answer": "Hello", "output": "no"}])
    assert load_rows(path, columns={"instruction": "question", "output": "answer"})[0].messages == PLAIN
    swapped = write(tmp_path, [{"instruction": "Hello", "output": "Hi"}])
    assert load_rows(swapped, columns={"instruction": "output", "output": "instruction"})[0].messages == PLAIN
    lists = write(tmp_path, [{"dialog": [ASK, ANSWER]}])
    assert load_rows(lists, columns={"messages": "dialog"})[0].messages == PLAIN


def test_mapped_column_may_be_absent_from_rows_that_do_not_need_it(tmp_path):
    value = {"question": "Hi", "answer": "Hello"}
    path = write(tmp_path, [value, value | {"context": "all"}])
    rows = load_rows(path, columns={"instruction": "question", "output": "answer", "input": "context"})
    assert [found.messages[0].input for found in rows] == ["", "all"]


def test_mapped_column_that_is_nowhere_lists_the_columns_and_the_nearest(tmp_path):
    path = write(tmp_path, [{"question": "Hi", "answer": "Hello"}])
    with pytest.raises(
        DataError, match=r"rows.jsonl:1: there is no column `questions`; the columns are `question`, `a"
    ) as caught:
        load_rows(path, columns={"instruction": "questions", "output": "answer"})
    assert caught.value.hint == "did you mean `--columns instruction=question`?"
    with pytest.raises(DataError, match="there is no column `zzz`") as caught:
        load_rows(path, columns={"instruction": "zzz"})
    assert caught.value.hint == "`--columns instruction=COLUMN`"


def test_mapped_name_that_is_no_field(tmp_path):
    path = write(tmp_path, [{"question": "Hi", "answer": "Hello"}])
    with pytest.raises(
        ConfigError, match="`columns` maps `instructions`, which is no field of a row"
    ) as caught:
        load_rows(path, columns={"instructions": "question"})
    assert caught.value.hint == "did you mean `instruction=question`?"
    with pytest.raises(ConfigError, match="maps `zzz`") as caught:
        load_rows(path, columns={"zzz": "question"})
    assert "`completion`" in caught.value.hint


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        (None, "null"),
        (4, "a number"),
        (0.5, "a number"),
        (True, "true or false"),
        (["a"], "a list"),
        ({"a": 1}, "an object"),
    ],
)
@pytest.mark.parametrize("shape", ["instruction", "prompt_completion"])
def test_answer_that_is_no_text(shape, found, kind):
    name = "output" if shape == "instruction" else "completion"
    expected = (
        "`completion[0]` is text, not an object"
        if (shape, kind) == ("prompt_completion", "a list")
        else (f"`{name}` is {kind}, not text")
    )
    assert expected in str(error_of(SHAPES[shape] | {name: found}))


@pytest.mark.parametrize("name", ["instruction", "input", "system"])
def test_prompt_field_that_is_no_text(name):
    error = error_of(SHAPES["instruction"] | {name: 12})
    assert f"`{name}` is a number, not text" in str(error)
    assert "as text in quotes" in error.hint


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ({"messages": "[]"}, "`messages` is text, not a list of turns"),
        ({"messages": []}, "the row has no turns"),
        (turns("system"), "the row has no turns"),
        ({"messages": ["Hi"]}, "`messages[0]` is text, not an object"),
        ({"messages": [{"text": "Hi", "who": "me"}]}, "`messages[0]` has the keys `text`, `who`"),
        ({"messages": [ASK, {"role": "assistant", "content": None}]}, "[1].content` is null, not text"),
        ({"messages": [ASK, {"role": "assistant"}]}, "`messages[1].content` is null, not text"),
        ({"messages": [ASK, {"role": 3, "content": "x"}]}, "`messages[1].role` is the unknown role a number"),
        (turns("user", "tool"), "`messages[1].role` is the unknown role `tool`"),
        ({"conversations": [{"from": "observation", "value": "x"}]}, "unknown role `observation`"),
        (turns("user"), "the row ends with a `user` turn (turn 1), not with an answer"),
        (turns("user", "assistant", "user"), "the row ends with a `user` turn (turn 3), not with an answer"),
        (turns("user", "user", "assistant"), "turn 2 is `user` after `user`, where `assistant` is due"),
        (turns("system", "user", "assistant", "assistant"), "turn 4 is `assistant` after `assistant`"),
        (turns("assistant"), "turn 1 is `assistant` after `the start`, where `user` is due"),
        (turns("user", "system", "assistant"), "turn 2 is `system` after `user`, where `assistant` is due"),
        (turns("system", "user", "assistant") | {"system": "two"}, "turn 2 is `system` after `system`"),
        (turns("user", "assistant", content=" \n"), "the prompt is empty (turn 1)"),
        ({"prompt": "Hi", "completion": " "}, "the answer is empty (turn 2)"),
        ({"instruction": "Hi", "output": ""}, "the answer is empty (turn 2)"),
        ({"instruction": "", "input": "", "output": "Hello"}, "the prompt is empty (turn 1)"),
        (SHAPES["instruction"] | {"history": [["", "x"]]}, "the prompt is empty (turn 1)"),
        (SHAPES["instruction"] | {"history": "x"}, "`history` is text, not a list"),
        (SHAPES["instruction"] | {"history": [["a", "b"], ["a"]]}, "`history[1]` is not a pair of texts"),
        (SHAPES["messages"] | {"images": ["a.png"]}, "the row has `images`, and only text is trained"),
        (parts({"type": "image_url"}), "`messages[0].content[0]` is a part of type `image_url`"),
        (parts("Hi"), "`messages[0].content[0]` is text, not a part with a type"),
        (parts({"type": "text"}), "`messages[0].content[0].value` is null, not text"),
        ({"messages": [ASK, ANSWER | {"weight": 0}]}, "`messages[1]` asks for the loss weight 0"),
    ],
)  # fmt: skip
def test_row_that_cannot_be_trained_on_is_refused(value, what):
    assert what in str(error_of(value))


def test_unknown_role_names_the_nearest():
    assert error_of(turns("user", "asistant")).hint.startswith("did you mean `assistant`?")


def test_user_weight_of_zero_is_what_training_does_anyway():
    assert row({"messages": [ASK | {"weight": 0}, ANSWER | {"weight": 1}]}).messages == PLAIN


def test_unknown_shape_lists_keys_shapes_and_how_to_map():
    error = error_of({"question": "Hi", "answer": "Hello"})
    assert "the row has the keys `question`, `answer`, which are of no known shape" in str(error)
    for shape in FORMATS:
        assert f"{shape} (" in error.hint
    assert error.hint.endswith("`--columns instruction=KEY --columns output=KEY`")
    assert "the row has the keys none" in str(error_of({}))


def test_unknown_shape_with_a_typo_names_the_key():
    assert error_of({"instrution": "Hi", "output": "Hello"}).hint.endswith(
        "`--columns instruction=instrution`"
    )


def test_row_of_two_shapes_is_not_guessed():
    error = error_of(SHAPES["messages"] | SHAPES["instruction"])
    assert "the row has the fields of `instruction`, `messages`" in str(error)
    assert error.hint == "choose: `--format instruction`"
    assert row(SHAPES["messages"] | SHAPES["instruction"], format="messages").format == "messages"


def test_forced_format_needs_its_keys():
    error = error_of(SHAPES["messages"], format="instruction")
    assert (
        "the row lacks `instruction`, `output`, which the format `instruction` needs; it has `messages`"
        in str(error)
    )
    assert "--columns instruction=KEY" in error.hint


def test_unknown_format():
    error = error_of(SHAPES["messages"], format="alpaca")
    assert "there is no format `alpaca`" in str(error)
    assert "`auto`, `instruction`" in error.hint


def test_bad_rows_of_a_file_are_collected(tmp_path):
    path = write(tmp_path, [SHAPES["instruction"], *[{"instruction": "Hi", "output": None}] * 7])
    with pytest.raises(DataError) as caught:
        load_rows(path)
    shown = [f"  {path}:{line}: `output` is null, not text" for line in range(2, 7)]
    assert str(caught.value).split("\n") == [
        f"7 of 8 rows in `{path}` cannot be used:",
        *shown,
        "  and 2 more",
    ]
    assert caught.value.hint


def test_path_may_be_text(tmp_path):
    assert load_rows(str(write(tmp_path, [SHAPES["messages"]])))[0].messages == PLAIN
