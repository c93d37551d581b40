"""A row goes to each shape and back as itself, or the difference has a name."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.data.formats import FORMATS, to_row
from tunesmith.data.losses import Tally, shape_losses
from tunesmith.data.records import Record
from tunesmith.data.reshape import reshape
from tunesmith.errors import DataError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SAID = st.one_of(TEXT, st.sampled_from(["a", "a\n\nb", "\n\nb", "b", "  x "])).filter(str.strip)
BLANK = st.sampled_from(["", " ", "\n\n"])
VALUE = st.none() | st.booleans() | st.integers() | TEXT | st.lists(TEXT, max_size=2)
# Keys that no shape reads.
EXTRA = st.dictionaries(st.sampled_from(["id", "category", "tools", "weight", "Output"]), VALUE, max_size=3)
ROLES = {"messages": ("system", "user", "assistant"), "conversations": ("system", "human", "gpt")}


def shuffled(draw, fields):
    return dict(draw(st.permutations(list(fields.items()))))


@st.composite
def instructions(draw):
    """As the Alpaca family writes them, with whatever of the optional fields."""
    first, second = draw(st.one_of(st.tuples(SAID, SAID | st.just("")), st.tuples(st.just(""), SAID)))
    fields = {"instruction": first, "output": draw(SAID), **draw(EXTRA)}
    if second or draw(st.booleans()):
        fields["input"] = second
    if draw(st.booleans()):
        fields["system"] = draw(SAID | BLANK)
    if draw(st.booleans()):
        fields["history"] = draw(st.lists(st.lists(SAID, min_size=2, max_size=2), max_size=2))
    return shuffled(draw, fields)


@st.composite
def said_turns(draw, names, keys, beside=None):
    pairs = draw(st.integers(1, 3))
    order = [*([names[0]] if draw(st.booleans()) else []), *([names[1], names[2]] * pairs)]
    turns = [{keys[0]: role, keys[1]: draw(SAID)} for role in order]
    return [turn | draw(beside) for turn in turns] if beside is not None else turns


@st.composite
def conversations(draw, beside=None):
    turns = draw(said_turns(ROLES["conversations"], ("from", "value"), beside))
    return shuffled(draw, {"conversations": turns, **draw(EXTRA)})


@st.composite
def chats(draw, beside=None):
    turns = draw(said_turns(ROLES["messages"], ("role", "content"), beside))
    return shuffled(draw, {"messages": turns, **draw(EXTRA)})


@st.composite
def completions(draw):
    """One turn as text, several as lists with the last answer alone."""
    turns = draw(said_turns(ROLES["messages"], ("role", "content")))
    system, body = ([turns[0]], turns[1:]) if turns[0]["role"] == "system" else ([], turns)
    if len(body) > 2:
        return shuffled(draw, {"prompt": turns[:-1], "completion": turns[-1:], **draw(EXTRA)})
    fields = {"prompt": body[0]["content"], "completion": body[1]["content"], **draw(EXTRA)}
    return shuffled(draw, fields | ({"system": system[0]["content"]} if system else {}))


CLEAN = st.one_of(instructions(), conversations(), chats(), completions())
SHAPES = st.sampled_from(FORMATS)


def texts(row):
    return [(turn.role, turn.text) for turn in row.messages]


def read(fields, **settings):
    return to_row(Record(7, fields), path="rows.jsonl", **settings)


def there_and_back(fields, to, format="auto"):
    """The row in the other shape, itself again, and the names of what differs."""
    row = read(fields, format=format)
    there, reread = reshape(fields, row, to=to)
    assert read(there) == reread
    assert (reread.format, texts(reread)) == (to, texts(row))
    back, again = reshape(there, reread, to=row.format)
    assert texts(again) == texts(row)
    return there, back, shape_losses(fields, back, shape=row.format)


@settings(max_examples=400)
@given(fields=CLEAN, to=SHAPES)
def test_there_and_back_is_the_same_record_and_no_loss(fields, to):
    kept = json.dumps(fields)
    _, back, losses = there_and_back(fields, to)
    assert (back, losses) == (fields, set())
    assert json.dumps(fields) == kept  # the row itself is not touched


@given(fields=CLEAN, to=SHAPES)
def test_other_keys_stay_as_they_are_in_their_order(fields, to):
    there, _, _ = there_and_back(fields, to)
    extra = ["id", "category", "tools", "weight", "Output"]
    assert [pair for pair in there.items() if pair[0] in extra] == [
        pair for pair in fields.items() if pair[0] in extra
    ]


BESIDE = st.dictionaries(st.sampled_from(["name", "weight", "loss_weight"]), st.just(1), max_size=2)


@given(fields=conversations(BESIDE) | chats(BESIDE), to=st.sampled_from(["conversations", "messages"]))
def test_keys_of_a_turn_go_from_turn_to_turn(fields, to):
    _, back, losses = there_and_back(fields, to)
    assert (back, losses) == (fields, set())


@given(fields=conversations(BESIDE) | chats(BESIDE))
def test_keys_of_a_turn_that_an_instruction_row_cannot_hold_are_all_named(fields):
    _, _, losses = there_and_back(fields, "instruction")
    turns = fields.get("messages") or fields.get("conversations")
    own = {"role", "content", "from", "value"}
    assert losses == {("turn_key", name) for turn in turns for name in turn if name not in own}


@st.composite
def untidy(draw):
    """Rows that a reader takes but no converter can keep whole: every part of them may be odd."""
    styles = [("from", "value"), ("role", "content")]
    odd = st.dictionaries(st.sampled_from(["name", "from", "content", "value"]), st.none() | TEXT, max_size=2)

    def turn(role):
        keys = draw(st.sampled_from(styles))
        content = draw(SAID)
        if draw(st.booleans()):
            key = draw(st.sampled_from(["text", "value"]))
            content = [{"type": "text", key: part} for part in (content[:1], content[1:])]
        return draw(odd) | {keys[0]: role, keys[1]: content} | ({"role": None} if keys[0] == "from" else {})

    def blank():
        return [{"role": "system", "content": draw(BLANK)}] if draw(st.booleans()) else []

    pairs = [
        [
            turn(draw(st.sampled_from(["user", "human"]))),
            turn(draw(st.sampled_from(["assistant", "gpt", "bot"]))),
        ]
        for _ in range(draw(st.integers(1, 2)))
    ]
    fields = {}
    system = draw(st.sampled_from(["none", "key", "turn", "blank key"]))
    if "key" in system:
        fields["system"] = draw(SAID if system == "key" else BLANK)
    turns = [*blank(), *([turn("system")] if system == "turn" else []), *blank()]
    turns += [each for pair in pairs for each in pair]
    shape = draw(st.sampled_from(["messages", "conversations", "prompt_completion"]))
    if shape == "prompt_completion":
        border = len(turns) - draw(st.integers(1, len(pairs)))
        fields |= {"prompt": turns[:border], "completion": turns[border:]}
    else:
        fields[shape] = turns
    for name in draw(st.lists(st.sampled_from(["input", "history", "output", "instruction"]), max_size=2)):
        fields[name] = draw(st.sampled_from([None, "", [], "b", turns[-2].get("content"), [["a", "b"]], 5]))
    return shuffled(draw, fields), shape


def without_nulls(value):
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list) else value


@settings(max_examples=600)
@given(untidy=untidy(), to=SHAPES)
def test_a_difference_always_has_a_name_and_a_name_a_difference(untidy, to):
    fields, shape = untidy
    _, back, losses = there_and_back(fields, to, shape)
    assert bool(losses) == (without_nulls(back) != without_nulls(fields))
    tally = Tally()
    tally.add(losses, "rows.jsonl:7")
    assert {(loss.kind, loss.key) for loss in tally.losses()} == losses
    assert all(loss.what and loss.done and loss.effect in ("lost", "rewritten") for loss in tally.losses())


ASK, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}


def test_instruction_and_input_are_one_prompt_and_the_input_marks_the_border():
    fields = {"id": 3, "instruction": "Add", "input": "1 2", "output": "3", "kind": "sum"}
    there, _, _ = there_and_back(fields, "messages")
    assert list(there) == ["id", "messages", "input", "kind"]
    assert there["messages"] == [
        {"role": "user", "content": "Add\n\n1 2"},
        {"role": "assistant", "content": "3"},
    ]
    there, _, _ = there_and_back(fields, "prompt_completion")
    assert there == {"id": 3, "prompt": "Add\n\n1 2", "completion": "3", "input": "1 2", "kind": "sum"}


def test_every_shape_of_one_conversation():
    turns = [{"role": "system", "content": "Be brief"}, ASK, ANSWER, {**ASK, "content": "Bye"}, ANSWER]
    fields = {"messages": turns}
    assert there_and_back(fields, "instruction")[0] == {
        "instruction": "Bye",
        "output": "Hello",
        "system": "Be brief",
        "history": [["Hi", "Hello"]],
    }
    assert there_and_back(fields, "conversations")[0] == {
        "conversations": [
            {"from": "system", "value": "Be brief"},
            {"from": "human", "value": "Hi"},
            {"from": "gpt", "value": "Hello"},
            {"from": "human", "value": "Bye"},
            {"from": "gpt", "value": "Hello"},
        ]
    }
    assert there_and_back(fields, "prompt_completion")[0] == {"prompt": turns[:-1], "completion": turns[-1:]}
    one = {"messages": turns[:3]}
    assert there_and_back(one, "prompt_completion")[0] == {
        "system": "Be brief",
        "prompt": "Hi",
        "completion": "Hello",
    }


PARTS = [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]


@pytest.mark.parametrize(
    ("fields", "to", "expected"),
    [
        ({"messages": [{**ASK, "name": "Bo"}, ANSWER]}, "instruction", {("turn_key", "name")}),
        ({"messages": [{**ASK, "content": PARTS}, ANSWER]}, "conversations", {("parts", "")}),
        ({"messages": [{**ASK, "content": PARTS}, ANSWER, ASK, ANSWER]}, "prompt_completion", set()),
        ({"messages": [{"role": "system", "content": " "}, ASK, ANSWER]}, "messages", {("blank_system", "")}),
        ({"messages": [{**ASK, "role": "human"}, ANSWER]}, "conversations", {("spelling", "")}),
        ({"messages": [{"from": "user", "value": "Hi"}, ANSWER]}, "instruction", {("spelling", "")}),
        ({"system": "Be brief", "messages": [ASK, ANSWER]}, "conversations", {("system_place", "")}),
        ({"prompt": [ASK], "completion": [ANSWER]}, "messages", {("lists", "")}),
        ({"prompt": [ASK], "completion": [ANSWER, ASK, ANSWER]}, "messages", {("lists", "")}),
        ({"messages": [ASK, ANSWER], "input": "other"}, "instruction", {("key", "input")}),
        ({"messages": [ASK, ANSWER], "history": [["a", "b"]]}, "instruction", {("key", "history")}),
        ({"messages": [ASK, ANSWER], "output": "x"}, "instruction", {("key", "output")}),
        ({"messages": [ASK, ANSWER], "prompt": "x"}, "prompt_completion", {("key", "prompt")}),
        ({"instruction": " ", "input": "Hi", "output": "Hello"}, "messages", {("blank_instruction", "")}),
    ],
)
def test_what_a_shape_cannot_hold_has_its_name(fields, to, expected):
    assert there_and_back(fields, to)[2] == expected


def test_a_second_shape_in_the_row_is_left_out_where_it_would_be_read():
    fields = {"prompt": "Hi", "completion": "Hello", "instruction": "x", "output": "y"}
    row = read(fields, format="prompt_completion")
    there, _ = reshape(fields, row, to="messages")
    assert there == {"messages": [ASK, ANSWER]}


def test_a_row_that_no_record_of_the_shape_gives_back_is_refused():
    fields = {"messages": [ASK, ANSWER], "images": None}
    row = read(fields)
    with pytest.raises(
        DataError, match=r"rows\.jsonl:7: the row cannot be written as `instruction`"
    ) as caught:
        reshape({**fields, "images": ["a.png"]}, row, to="instruction")
    assert caught.value.hint


def test_a_tally_counts_rows_and_keeps_five_places():
    tally = Tally()
    for number in range(7):
        tally.add([("parts", ""), ("parts", "")], f"rows.jsonl:{number}")
    tally.add([("spelling", "")], "rows.jsonl:9")
    parts, spelling = tally.losses()
    assert (parts.kind, parts.rows, parts.effect) == ("parts", 7, "lost")
    assert parts.places == tuple(f"rows.jsonl:{number}" for number in range(5))
    assert (spelling.effect, spelling.as_dict()["places"]) == ("rewritten", ["rows.jsonl:9"])
