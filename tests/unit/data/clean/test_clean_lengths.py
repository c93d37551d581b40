"""Tokens are counted only where it matters, and a row that is passed over does fit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiny import tiny_tokenizer
from tunesmith.data.clean.lengths import token_counter
from tunesmith.data.formats import to_row
from tunesmith.data.records import Record
from tunesmith.data.render import Renderer, choose_template

RENDERERS = {
    choice: Renderer(tiny_tokenizer(), choose_template(tiny_tokenizer(), choice))
    for choice in ("auto", "instruction")
}
WORDS = st.text(st.characters(max_codepoint=0x2FF, exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60)
ROWS = st.fixed_dictionaries(
    {"instruction": WORDS, "output": WORDS}, optional={"input": WORDS, "system": WORDS}
)


@pytest.mark.parametrize("choice", RENDERERS)
@given(value=ROWS, max_length=st.integers(16, 300))
def test_a_row_that_is_not_counted_fits(choice, value, max_length):
    record = Record(1, value)
    counted = token_counter(RENDERERS[choice], max_length=max_length)(record)
    if not (value["instruction"].strip() and value["output"].strip()):
        return
    tokens = len(RENDERERS[choice].render(to_row(record, path="")).ids)
    assert counted == tokens or (counted is None and tokens <= max_length)


def test_what_is_too_long_is_counted_exactly_and_what_cannot_be_rendered_is_not():
    count = token_counter(RENDERERS["auto"], max_length=100)
    long = Record(1, {"instruction": "a", "output": "b" * 200})
    assert count(long) == len(RENDERERS["auto"].render(to_row(long, path="")).ids) > 200
    assert count(Record(1, {"instruction": "a", "output": "b"})) is None
    assert count(Record(1, {"text": "a"})) is None
