import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.tools.json_format import format_json
from tunesmith.tools.json_problems import Edit, Excerpt, Mend, Problem
from tunesmith.tools.json_show import apply_edits, caret_lines, cells, show_mends, show_problems, visible


def problems_of(text: str):
    return format_json(io.BytesIO(text.encode()).read, lambda _: None).problems


def caret_of(text: str) -> tuple[str, str]:
    return caret_lines(problems_of(text)[0])


def test_the_caret_stands_under_the_column():
    assert caret_of('{"a": 1,}') == ('{"a": 1,}', "       ^")


def test_wide_characters_count_two_cells_and_a_tab_one():
    assert caret_of('\t{"数据": 1,}') == (' {"数据": 1,}', " " * 11 + "^")


def test_combining_and_invisible_characters_count_none():
    assert caret_of('["e\u0301\u200b", 1,]') == ('["e\u0301", 1,]', " " * 7 + "^")


@given(
    before=st.text(st.characters(exclude_categories=["Cs"], exclude_characters='\n"\\'), max_size=300),
    after=st.integers(0, 300),
)
def test_a_long_line_is_cut_around_the_caret(before, after):
    excerpt = Excerpt(f'["{before}"!{"x" * after}', 1)
    column = len(before) + 4
    line, caret = caret_lines(Problem(1, column, "unexpected", "", Mend(""), excerpt))
    assert cells(line) <= 96
    assert caret == " " * (len(caret) - 1) + "^"
    width, at = 0, 0
    while width < len(caret) - 1:
        width += cells(line[at])
        at += 1
    while cells(line[at]) == 0:
        at += 1
    assert line[at] == "!"
    assert "\n" not in line


@given(text=st.text())
def test_what_is_shown_moves_no_cursor(text):
    assert not {"Cc", "Cf", "Cs", "Zl", "Zp"} & set(map(unicodedata.category, visible(text)))
    assert not {"\n", "\r", "\x1b", "\t", "\x9b", "\u202e"} & set(visible(text))


def test_the_place_is_one_that_editors_open():
    shown = show_problems(problems_of("[\n  1,\n  None\n]"), name="rows.json", total=1)
    assert shown == (
        "rows.json: 1 problem\n\nrows.json:3:3: `None` is Python, not JSON\n"
        "      None\n      ^\n  write `null` (`--fix` does it)"
    )


def test_no_more_than_twenty_are_shown():
    problems = problems_of("[" + "None,\n" * 30 + "1]")
    shown = show_problems(problems, name="x", total=30)
    assert shown.startswith("x: 30 problems")
    assert shown.count("^") == 20
    assert shown.endswith("and 10 more")
    assert show_mends(problems, name="x", total=30).endswith("and 10 more places")


def test_mends_are_a_diff_of_the_lines():
    problems = problems_of("{'a': True,\n // why\n \"b\": [1,],}")
    assert show_mends(problems, name="x", total=5).splitlines() == [
        "--- x",
        "+++ x (mended)",
        "@@ -1 +1 @@",
        "-{'a': True,",
        '+{"a": true,',
        "@@ -2 +2 @@",
        "- // why",
        "@@ -3 +3 @@",
        '- "b": [1,],}',
        '+ "b": [1]}',
    ]


def test_a_diff_of_a_long_line_shows_the_change():
    shown = show_mends(problems_of(f'["{"x" * 190}", None, "{"y" * 500}"]'), name="x", total=1).splitlines()
    assert len(shown) == 5
    assert all(len(line) < 100 for line in shown)
    assert '", None, "' in shown[3]
    assert '", null, "' in shown[4]


@pytest.mark.parametrize("column", [0, 4, 9])
def test_an_edit_outside_of_the_excerpt_is_left_out(column):
    assert apply_edits(Excerpt("abc", 5), [Edit(column, 1, "x")]) == "abc"
