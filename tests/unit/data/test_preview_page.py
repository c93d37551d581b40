"""The page shows text as text, runs nothing, loads nothing, and is written whole or not at all."""

import html
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.data.pages import write_page
from tunesmith.data.preview import RowView, Token, visible_parts
from tunesmith.data.preview_page import css_classes, render_page
from tunesmith.data.whole_file import refuse_taken
from tunesmith.errors import DataError

HOSTILE = '"><script>alert(1)</script><img src=x onerror=y>&amp;'
SHOWN_ROW = re.compile(r'<div class="text">(.*?)</div>', re.DOTALL)


def token(text: str, *, scored: bool = False, control: bool = False, cut: bool = False) -> Token:
    return Token(text, (7,), scored, control, cut)


def page(*views: RowView, title: str = "rows.jsonl") -> str:
    return render_page(views, title=title, facts=[("Model", "tiny")])


def spoken(text: str) -> str:
    """The text as the page spells it: a sign, then the break itself."""
    return "".join(
        shown.replace("⏎", "⏎\n") if kind == "newline" else shown for kind, shown in visible_parts(text)
    )


@given(texts=st.lists(st.text(min_size=1, max_size=12), max_size=6))
def test_a_reader_sees_every_character_in_order(texts: list[str]) -> None:
    view = RowView(1, "rows.jsonl:1", tuple(map(token, texts)), len(texts))
    (shown,) = SHOWN_ROW.findall(page(view))
    assert html.unescape(re.sub(r"<[^>]*>", "", shown)) == spoken("".join(texts))


def test_nothing_from_the_data_is_read_as_markup() -> None:
    row = RowView(1, HOSTILE, (token(HOSTILE),), 1, lookalike=HOSTILE)
    refused = RowView(2, HOSTILE, error=HOSTILE, hint=HOSTILE)
    made = render_page([row, refused], title=HOSTILE, facts=[(HOSTILE, HOSTILE)])
    assert "<script" not in made
    assert "<img" not in made
    assert made.count(html.escape(HOSTILE).replace("&quot;", "&#34;")) == 10


def test_the_page_forbids_scripts_and_the_network_and_asks_for_neither() -> None:
    made = page(RowView(1, "rows.jsonl:1", (token("a"),), 1))
    assert "content=\"default-src 'none'; style-src 'unsafe-inline'\"" in made
    assert re.search(r"\b(?:src|href|action)\s*=|url\(|@import|https?:", made) is None
    assert "prefers-color-scheme: dark" in made
    assert "@media print" in made


@pytest.mark.parametrize(
    ("piece", "index", "classes"),
    [
        (token("a"), 0, "t"),
        (token("a"), 1, "t odd"),
        (token("a", scored=True), 2, "t scored"),
        (token("<|im_end|>", scored=True, control=True), 3, "t odd scored control"),
        (token("a", cut=True), 0, "t cut"),
    ],
)
def test_a_tokens_classes_say_what_it_is(piece: Token, index: int, classes: str) -> None:
    assert css_classes(piece, index) == classes
    view = RowView(1, "rows.jsonl:1", (*[token("x")] * index, piece), index + 1)
    assert f'<span class="{classes}" title="id 7">{html.escape(piece.text)}</span>' in page(view)


def test_figures_stand_over_the_row() -> None:
    view = RowView(
        12, "rows.jsonl:40", (token("a"),), 1200, scored_tokens=300, is_too_long=True, lookalike="</s>"
    )
    made = page(view)
    assert "<h2>Row 12<span>rows.jsonl:40</span></h2>" in made
    assert "<b>1,200</b> tokens" in made
    assert "<b>300</b> scored" in made
    assert 'style="width: 25.0%"' in made
    assert ">too long<" in made
    assert "<code>&lt;/s&gt;</code> is text here" in made


def test_a_row_that_cannot_be_used_shows_why_and_no_tokens() -> None:
    made = page(RowView(2, "rows.jsonl:2", error="the answer is empty (turn 2)", hint="fill it in"))
    assert "the answer is empty (turn 2)" in made
    assert "fill it in" in made
    assert SHOWN_ROW.findall(made) == []


def test_a_page_is_written_whole_and_alone(tmp_path: Path) -> None:
    write_page(tmp_path / "rows.html", "<p>né \udcff</p>")
    assert (tmp_path / "rows.html").read_text(encoding="utf-8") == "<p>né ?</p>"
    assert [file.name for file in tmp_path.iterdir()] == ["rows.html"]


def test_a_page_is_never_written_over_another_file(tmp_path: Path) -> None:
    taken = tmp_path / "rows.html"
    taken.write_text("mine", encoding="utf-8")
    with pytest.raises(DataError, match="the output exists already") as refused:
        write_page(taken, "<p>")
    assert "name another output" in refused.value.hint
    assert taken.read_text(encoding="utf-8") == "mine"


def test_a_page_needs_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no folder") as refused:
        refuse_taken(tmp_path / "none" / "rows.html")
    assert "mkdir -p" in refused.value.hint


def test_a_refusal_of_the_disk_leaves_nothing(tmp_path: Path) -> None:
    long = tmp_path / ("a" * 300)
    with pytest.raises(DataError, match="cannot be written: File name too long"):
        write_page(long, "<p>")
    assert list(tmp_path.iterdir()) == []
