"""The page of a comparison: it shows all it is given, as text, and nothing from elsewhere."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.evaluation.comparison_page import (
    SHOWN_SAMPLES,
    ComparedSample,
    ComparisonPage,
    Grid,
    render_comparison,
    sample_places,
)
from tunesmith.evaluation.curves import Curve

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\" ' {{ 7*7 }} </div>"
GRID = Grid(("approach", "Exact match"), (("zero-shot", "12.0\n[10.0, 14.0]"),), "The lead.")
PAGE = ComparisonPage(
    title="which",
    facts=(("Base model", "smollm2-135m"),),
    verdict=("Best is fine-tuned.", "It pays."),
    overview=GRID,
    picture=Curve(
        "Score and cost", "data:image/svg+xml;base64,TA==", "data:image/svg+xml;base64,RA==", "Words."
    ),
    scores=GRID,
    slices=GRID,
    differences=GRID,
    break_evens=GRID,
    dimensions=GRID,
    samples=(ComparedSample("rows.jsonl:3", "Ask", ("Good",), (("zero-shot", "An answer"),)),),
    signatures=(("Exact match", "nrefs:1"),),
)


def evil_page(text):
    """A page where every text from outside is `text`."""
    grid = Grid((text, text), ((text, text),), text)
    return replace(
        PAGE,
        title=text,
        facts=((text, text),),
        verdict=(text,),
        overview=grid,
        scores=grid,
        slices=grid,
        differences=grid,
        break_evens=grid,
        dimensions=grid,
        samples=(ComparedSample(text, text, (text,), ((text, text),)),),
        signatures=((text, text),),
    )


def test_it_shows_what_it_is_given():
    html = render_comparison(PAGE)
    for text in (
        "which",
        "Best is fine-tuned.",
        "It pays.",
        "The lead.",
        "rows.jsonl:3",
        "An answer",
        "nrefs:1",
    ):
        assert text in html
    assert html.count('12.0<span class="sub">[10.0, 14.0]</span>') == 6
    assert html == render_comparison(PAGE)


def test_texts_from_outside_never_become_markup():
    html = render_comparison(evil_page(EVIL))
    assert "<script" not in html and "<img src=x" not in html and "49" not in html
    assert html.count("&lt;script&gt;") >= 15


@given(st.text(alphabet=st.sampled_from("<>&\"'`{}%=/ax\n\x00\ud800"), max_size=30))
def test_no_text_adds_an_element(text):
    assert _tags(render_comparison(evil_page(text))) == _tags(
        render_comparison(evil_page(re.sub(r"[^\n]", "a", text)))
    )


def _tags(html):
    return re.findall(r"<[a-zA-Z/!][^<]{0,12}", re.sub(r"(?s)<title>.*?</title>", "", html)).__len__()


def test_the_page_asks_nothing_of_the_network():
    html = render_comparison(PAGE)
    assert "default-src 'none'" in html
    assert not re.search(r"(?:src|href|srcset)=\"(?!data:)", html)


@pytest.mark.parametrize("count", [1, 3, 5, 6, 100])
def test_samples_are_spread_and_few(count):
    places = list(sample_places(count))
    assert len(places) == min(count, SHOWN_SAMPLES) == len(set(places))
    assert places[0] == 0 and max(places) < count


def test_parts_without_rows_are_left_out():
    none = Grid((), ())
    html = render_comparison(replace(PAGE, differences=none, break_evens=none, slices=none))
    for title in ("Differences", "When training pays", "Parts of the inputs"):
        assert title in render_comparison(PAGE) and title not in html
