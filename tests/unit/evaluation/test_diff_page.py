"""The page of two systems: marks, all rows, and nothing that runs."""

from html_page import Page
from tunesmith.evaluation.diff_page import LITTLE_SHARED, render_diff, view_row
from tunesmith.evaluation.outputs import Item
from tunesmith.evaluation.side_by_side import compare_items
from tunesmith.tools.text_diff import Span
from two_systems import SYSTEMS, compared

PAYLOAD = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>{{ 7 * 7 }}</style></title><!--"


def test_each_answer_shows_what_only_it_has():
    side = compared(("the red cat", "the red dog", ()))
    view = view_row(side.rows[0], SYSTEMS)
    (_, first), (_, second) = view.answers
    assert first == (Span("equal", "the red "), Span("delete", "cat"))
    assert second == (Span("equal", "the red "), Span("insert", "dog"))
    assert LITTLE_SHARED not in view.facts


def test_answers_that_share_little_or_nothing_are_not_marked():
    side = compared(("alpha beta", "one two", ()), ("", "x", ()), by_difference=False)
    unlike, empty = (view_row(row, SYSTEMS) for row in side.rows)
    assert [spans for _, spans in unlike.answers] == [
        (Span("equal", "alpha beta"),),
        (Span("equal", "one two"),),
    ]
    assert LITTLE_SHARED in unlike.facts
    assert [spans for _, spans in empty.answers] == [(), (Span("equal", "x"),)]
    assert LITTLE_SHARED not in empty.facts
    assert "Empty answer." in render_diff(side)


def hostile():
    item = Item("x", PAYLOAD, PAYLOAD, (PAYLOAD,), {PAYLOAD: f"{PAYLOAD} a", "new": f"{PAYLOAD} b\x1b"}, {})
    return render_diff(compare_items([item, item], (PAYLOAD, "new"), seed=17), notes=[PAYLOAD])


def test_payloads_stay_text_on_the_page():
    page, plain = Page(hostile()), Page(render_diff(compared(("a", "b", ("c",)), ("a", "b", ("c",)))))
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert page.tags.count("style") == plain.tags.count("style") == 1
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert page.text.count("{{ 7 * 7 }}") > 10
    assert PAYLOAD in page.text
    assert "\x1b" not in page.text


def test_the_page_shows_every_row_in_order_and_reaches_nothing_outside():
    side = compared(("a b", "a b", ("r",)), ("我喜欢红茶", "我喜欢绿茶", ("s", "t")), ("x", "y", ()))
    html = render_diff(side, notes=["2 rows left out"])
    assert html == render_diff(side, notes=["2 rows left out"])
    page = Page(html)
    assert page.tags.count("article") == 3
    assert html.index("t.jsonl:3") < html.index("t.jsonl:2") < html.index("t.jsonl:1")
    assert "<del>红</del>" in html
    assert "<ins>绿</ins>" in html
    for words in ("2 rows left out", "References", "chrF", "1 of 3 answers is identical", "seed:17"):
        assert words in page.text
    policy = next(value for _, name, value in page.attributes if name == "content" and "default-src" in value)
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'")
    assert not {"link", "script", "iframe", "object", "form", "base", "img", "a"} & set(page.tags)
