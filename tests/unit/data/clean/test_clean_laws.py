"""Laws of cleaning: twice is once, every row is accounted for, order stays, nothing else is touched."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.data.audit import signs
from tunesmith.data.clean.records import Unread, clean_records
from tunesmith.data.clean.steps import PRESETS, STEPS, Settings, choose
from tunesmith.data.clean.texts import texts_of, with_texts
from tunesmith.data.records import Record

# Pieces that steps are about, and pieces that make others when something between them goes.
DIRT = (
    *("<|im_end|>", "</s>", "<s>", "[INST]", "<<SYS>>", "<pad>", "<|im", "_end|>", "<|", "|>", "<", ">"),
    *("\u200b", "\ufeff", "\u200d", "\u00ad", "\x00", "\x1b[31m", "\x85", "\x93", "\x0c", "\ufffd"),
    *("Ã©", "â€™", "â\x80\x99", "caf\u00c3\u00a9", "раssword", "а", "Α", "д", "👩\u200d💻"),
    *("<noinput>", "n/a", "{{name}}", "{{", "}}", "&amp;lt;b&gt;", "&nbsp;", "<br/>", "</p>"),
    *("a@b.example.com", "4111 1111 1111 1111", "ghp_" + "a1B2" * 9, "I'm sorry, but I can't help"),
    *(" ", "\n\n", "\t", "yes", "the quick brown fox jumps over a lazy dog", "短い答え", "x" * 3000),
)
TEXTS = st.lists(st.one_of(st.sampled_from(DIRT), st.text(max_size=4)), max_size=6).map("".join)
TURNS = st.lists(TEXTS, min_size=1, max_size=3)
FILL = {"name": "Ada <|im_end|>"}


def turns(texts):
    roles = ("user", "assistant")
    return [{"role": roles[at % 2], "content": text} for at, text in enumerate(texts)]


VALUES = st.one_of(
    st.fixed_dictionaries({"instruction": TEXTS, "input": TEXTS, "output": TEXTS}),
    st.fixed_dictionaries(
        {"instruction": TEXTS, "output": TEXTS}, optional={"system": TEXTS, "id": st.integers()}
    ),
    st.fixed_dictionaries({"prompt": TEXTS, "completion": TEXTS}),
    st.fixed_dictionaries({"messages": TURNS.map(turns)}, optional={"tags": st.lists(TEXTS, max_size=2)}),
    st.fixed_dictionaries({"text": TEXTS}, optional={"label": st.integers(0, 1)}),
)
FILES = st.lists(VALUES, min_size=1, max_size=6)
# Laws hold for the presets, and for any choice of steps that do not depend on a tokenizer.
CHOICES = st.sets(st.sampled_from([step.name for step in STEPS]), min_size=1).map(
    lambda names: choose("none", with_=sorted(names))
)


def words(record):
    return len(json.dumps(record.value).split())


SETTINGS = Settings(fill=FILL, max_length=60, count_tokens=words)


def cleaned(values, steps, settings=SETTINGS):
    records = [Record(line, value) for line, value in enumerate(values, start=1)]
    return list(clean_records(lambda: records, steps, settings))


def kept(values, steps, settings=SETTINGS):
    return [each.after for each in cleaned(values, steps, settings) if each.after is not None]


@pytest.mark.parametrize("preset", ["default", "guide"])
@given(FILES)
def test_cleaning_what_is_clean_changes_nothing(preset, values):
    once = kept(values, choose(preset))
    again = cleaned(once, choose(preset))
    assert [(each.after, each.reasons) for each in again] == [(value, ()) for value in once]


@given(FILES, CHOICES)
def test_any_choice_of_steps_is_idempotent(values, steps):
    once = kept(values, steps)
    assert kept(once, steps) == once


@given(FILES, CHOICES)
def test_every_row_is_kept_or_removed_with_a_reason_and_in_order(values, steps):
    result = cleaned(values, steps)
    assert [each.line for each in result] == list(range(1, len(values) + 1))
    assert [each.before for each in result] == values
    names = {step.name for step in steps}
    for each in result:
        assert {reason.step for reason in each.reasons} <= names
        assert bool(each.reasons) == (each.after != each.before)


@given(FILES, CHOICES)
def test_cleaning_does_not_write_into_the_records_it_is_given(values, steps):
    before = json.dumps(values)
    cleaned(values, steps)
    assert json.dumps(values) == before


@given(FILES)
def test_default_keeps_all_keys_and_leaves_no_sign_it_is_for(values):
    for each in cleaned(values, choose("default")):
        if each.after is None:
            continue
        assert list(each.after) == list(each.before)
        assert {key: each.after[key] for key in ("id", "tags", "label") if key in each.after} == {
            key: each.before[key] for key in ("id", "tags", "label") if key in each.before
        }
        for text in texts_of(each.after):
            for find in (
                signs.find_special_token,
                signs.find_control_character,
                signs.find_zero_width,
                signs.find_homoglyph,
            ):
                assert find(text.text) is None


@given(st.text(alphabet="abc \n\t.,:#|`-", max_size=60))
def test_white_space_and_layout_are_kept_by_default(text):
    value = {"instruction": f"q{text}", "output": f"{text}a"}
    assert kept([value], choose("default")) == [value]


@given(VALUES)
def test_texts_put_back_where_they_were_found_give_the_same_record(value):
    texts = texts_of(value)
    assert len({text.path for text in texts}) == len(texts)
    assert with_texts(value, {text.path: text.text for text in texts}) == value
    marked = with_texts(value, {text.path: f"{text.text}!" for text in texts})
    assert [text.text for text in texts_of(marked)] == [f"{text.text}!" for text in texts]


@given(FILES)
def test_folding_does_not_change_what_the_steps_before_it_do(values):
    names = [name for name in PRESETS["default"] if name != "near_duplicates"]
    without, folded = cleaned(values, choose("none", with_=names)), cleaned(values, choose("default"))
    for one, other in zip(without, folded, strict=True):
        is_folded = bool(other.reasons) and other.reasons[-1].step == "near_duplicates"
        assert one == other or (is_folded and one.reasons == other.reasons[:-1])


def test_places_that_are_no_records_are_removed_with_their_text():
    rows = [Record(1, {"prompt": "a", "completion": "b"}), Unread(2, "not JSON", '{"prompt": ')]
    result = list(clean_records(lambda: rows, choose("default"), Settings()))
    assert [each.after for each in result] == [{"prompt": "a", "completion": "b"}, None]
    assert result[1].before == '{"prompt": '
    assert [(reason.step, reason.what) for reason in result[1].reasons] == [("reading", "not JSON")]
