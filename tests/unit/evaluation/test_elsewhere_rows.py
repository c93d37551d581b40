"""The shipped general set is right and clean; neighbours are the same question, asked otherwise."""

import ast
import json
import re
import unicodedata
from collections import Counter

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.data.conversation import Message, Row
from tunesmith.data.formats import load_rows
from tunesmith.evaluation.elsewhere_rows import (
    WAYS,
    WITHOUT_SYSTEM,
    ask_otherwise,
    general_bytes,
    general_rows,
    general_sha256,
    neighbours,
)
from tunesmith.evaluation.scripts import dominant_script

RECORDS = [orjson.loads(line) for line in general_bytes().splitlines()]
OPERATIONS = {"+": int.__add__, "−": int.__sub__, "×": int.__mul__}


def row(content, answer="Some answer", *, system=None, entered="", line=1):
    first = (Message("system", system),) if system else ()
    return Row(
        (*first, Message("user", content, entered), Message("assistant", answer)), "t", line, "messages"
    )


def test_general_set_has_many_kinds_and_no_row_twice():
    kinds = Counter(record["kind"] for record in RECORDS)
    assert len(RECORDS) == 96
    assert len(kinds) == 11
    assert min(kinds.values()) >= 6
    assert len({record["prompt"] for record in RECORDS}) == 96
    assert len({record["completion"] for record in RECORDS}) == 96


def test_general_set_speaks_more_than_english():
    scripts = Counter(dominant_script([record["prompt"]]) for record in RECORDS)
    assert scripts["han"] >= 5
    completions = " ".join(record["completion"] for record in RECORDS)
    for word in ("Rhein", "sesenta", "Bonsoir", "Grazie", "livro", "喜欢"):
        assert word in completions


def test_general_texts_are_clean_and_short():
    for record in RECORDS:
        for text in (record["prompt"], record["completion"]):
            assert text == unicodedata.normalize("NFC", text.strip())
            assert not [char for char in text if unicodedata.category(char) == "Cc" and char != "\n"]
        assert len(record["completion"]) >= 3
        assert len((record["prompt"] + record["completion"]).encode()) <= 300


def test_general_sums_are_right():
    completions = "\n".join(record["completion"] for record in RECORDS)
    sums = re.findall(r"(\d+) ([+−×]) (\d+) = (\d+)", completions)
    assert len(sums) >= 6
    for left, sign, right, result in sums:
        assert OPERATIONS[sign](int(left), int(right)) == int(result)


def test_general_code_and_json_parse():
    answers = {record["prompt"]: record["completion"] for record in RECORDS}
    code = [text for text in answers.values() if text.startswith(("def ", "[number"))]
    assert len(code) == 2
    for text in code:
        ast.parse(text)
    assert eval(code[1], {"__builtins__": {"range": range}}) == list(range(0, 21, 2))  # noqa: S307
    values = [text for text in answers.values() if text.startswith(("{", '["'))]
    assert len(values) == 5
    assert all(json.dumps(json.loads(text), ensure_ascii=False) == text for text in values)


def test_general_file_can_be_mixed_into_training_data(tmp_path):
    file = tmp_path / "general.jsonl"
    file.write_bytes(general_bytes())
    assert [each.messages for each in load_rows(file)] == [each.messages for each in general_rows()]


def test_general_rows_name_their_line_and_the_set_has_a_hash():
    assert [each.line for each in general_rows()] == list(range(1, 97))
    assert re.fullmatch("[0-9a-f]{64}", general_sha256())


TEXT = "Could you tell me where the nearest open bakery is? I need some fresh bread today."


@pytest.mark.parametrize("way", WAYS)
def test_each_way_changes_the_request_and_leaves_the_answer(way):
    asked = row(TEXT, "Around the corner", system="Be brief.")
    other = ask_otherwise(asked, way, seed=1)
    assert other.messages != asked.messages
    assert other.reference == asked.reference
    assert (other.path, other.line) == (asked.path, asked.line)
    assert other == ask_otherwise(asked, way, seed=1)
    if way == WITHOUT_SYSTEM:
        assert other.messages == asked.messages[1:]
    else:
        assert other.messages[0] == asked.messages[0]


def test_blanks_and_frames_keep_every_word_in_order():
    words = TEXT.split()
    for seed in range(20):
        blanks = ask_otherwise(row(TEXT), "extra blanks", seed=seed).asked
        assert blanks.split() == words
        assert len(blanks) > len(TEXT)
        assert TEXT in ask_otherwise(row(TEXT), "polite frame", seed=seed).asked


def test_both_frames_and_many_changes_come_up():
    for way in ("typos", "extra blanks", "polite frame", "other case"):
        assert len({ask_otherwise(row(TEXT), way, seed=seed).asked for seed in range(20)}) > 1


def test_chinese_is_framed_in_chinese():
    framed = ask_otherwise(row("附近哪里有面包店？"), "polite frame", seed=1)
    assert dominant_script([framed.asked.replace("附近哪里有面包店？", "")]) == "han"


@pytest.mark.parametrize("text", ["def f(x):\n    return x", "a | b\nc | d", "```\nx = 1\n```", "one\ttwo"])
def test_white_space_with_a_meaning_stays(text):
    assert ask_otherwise(row(text), "extra blanks", seed=1) is None


def test_instruction_keeps_its_input_apart():
    asked = row(
        "Find the town in this text for me", "Turin", entered="The fair opens in Turin tomorrow morning"
    )
    for way in WAYS[:-1]:
        other = ask_otherwise(asked, way, seed=3)
        assert "Turin" in other.prompt[-1].input
        assert other.prompt[-1].content


@pytest.mark.parametrize(
    ("asked", "way"),
    [
        (row(TEXT), WITHOUT_SYSTEM),
        (row("?"), "typos"),
        (row("?"), "other case"),
        (row("one"), "extra blanks"),
        (Row((Message("assistant", "Hello"),), "t", 1, "messages"), "polite frame"),
        (Row((Message("system", "Be brief."), Message("assistant", "Hello")), "t", 1, "messages"), "typos"),
    ],
)
def test_what_a_way_cannot_change_is_none(asked, way):
    assert ask_otherwise(asked, way, seed=1) is None


def test_ways_take_turns_and_each_row_comes_once():
    rows = [row(f"{TEXT} Number {n}.", system="Be brief.", line=n) for n in range(1, 31)]
    found = neighbours(rows, most=30, seed=1)
    assert Counter(way for way, _ in found) == dict.fromkeys(WAYS, 6)
    assert [other.line for _, other in found] == list(range(1, 31))


def test_row_that_a_way_cannot_change_goes_to_the_next():
    rows = [row(f"{TEXT} Number {n}.", line=n) for n in range(1, 31)]
    ways = Counter(way for way, _ in neighbours(rows, most=30, seed=1))
    assert sum(ways.values()) == 30
    assert ways[WITHOUT_SYSTEM] == 0


def test_rows_with_one_prompt_count_once_and_in_order():
    rows = [row(TEXT, "one", line=1), row("Another question, please?", line=2), row(TEXT, "two", line=3)]
    assert [other.line for _, other in neighbours(rows, most=5, seed=1)] == [1, 2]


@settings(max_examples=25)
@given(st.integers(0, 12), st.integers(0, 5))
def test_as_many_as_wanted_in_file_order_and_by_the_seed(most, seed):
    rows = [row(f"{TEXT} Number {n}.", line=n) for n in range(1, 11)]
    lines = [other.line for _, other in neighbours(rows, most=most, seed=seed)]
    assert lines == sorted(set(lines))
    assert len(lines) == min(most, 10)
    assert neighbours(rows, most=most, seed=seed) == neighbours(rows, most=most, seed=seed)


@settings(max_examples=60)
@given(st.text(max_size=60), st.text(max_size=20), st.sampled_from(WAYS), st.integers(0, 3))
def test_any_text_is_changed_or_refused_but_its_answer_never(content, answer, way, seed):
    asked = row(content, answer, system="S")
    other = ask_otherwise(asked, way, seed=seed)
    if other is not None:
        assert other.messages != asked.messages
        assert other.messages[-1] == asked.messages[-1]
