"""The frontier's laws, and a picture that says what it shows."""

import re
from base64 import b64decode

from hypothesis import given
from hypothesis import strategies as st

from tunesmith.evaluation.pareto import Point, draw_pareto, frontier

coordinates = st.integers(min_value=0, max_value=8).map(float)
some_points = st.lists(st.tuples(coordinates, coordinates), min_size=1, max_size=8).map(
    lambda pairs: [Point(f"p{at}", cost, score, None, None) for at, (cost, score) in enumerate(pairs)]
)
POINTS = [
    Point("zero-shot", 50, 20.0, 12.0, 30.0),
    Point("few-shot", 400, 45.0, 35.0, 55.0),
    Point("rag", 380, 47.0, 36.0, 58.0),
    Point("fine-tuned", 50, 90.0, 84.0, 95.0),
]


def beats(one, other):
    """As the law is usually written: nowhere worse, somewhere better."""
    pairs = (one.cost <= other.cost, one.score >= other.score)
    return all(pairs) and (one.cost, one.score) != (other.cost, other.score)


@given(some_points)
def test_frontier_is_what_nothing_beats(points):
    best = frontier(points)
    assert best
    assert all(not any(beats(other, point) for other in points) for point in best)
    assert all(any(beats(other, point) for other in best) for point in points if point not in best)
    assert [point.cost for point in best] == sorted(point.cost for point in best)


@given(some_points)
def test_the_highest_and_the_cheapest_are_on_it(points):
    best = frontier(points)
    assert max(point.score for point in best) == max(point.score for point in points)
    assert min(point.cost for point in best) == min(point.cost for point in points)


def test_the_picture_names_every_point_in_both_versions():
    drawn = draw_pareto(POINTS, cost="tokens a request", score="Exact match (percent)")
    assert drawn == draw_pareto(POINTS, cost="tokens a request", score="Exact match (percent)")
    assert drawn.light != drawn.dark
    for version in (drawn.light, drawn.dark):
        svg = b64decode(version.removeprefix("data:image/svg+xml;base64,")).decode()
        assert all(f">{point.name}</text>" in svg for point in POINTS)
        assert "tokens a request" in svg and "Exact match (percent)" in svg
        assert "<script" not in svg
    assert drawn.caption.endswith("those on the line: fine-tuned.")


def test_names_of_equal_points_do_not_lie_over_each_other():
    drawn = draw_pareto([Point(f"approach {at}", 5, 5, None, None) for at in range(5)], cost="c", score="s")
    svg = b64decode(drawn.light.removeprefix("data:image/svg+xml;base64,")).decode()
    places = re.findall(r'translate\(([\d.]+ [\d.]+)\)[^>]*>approach|y="([\d.]+)"[^>]*>approach', svg)
    assert len(set(places)) == len(places) == 5


def test_one_point_without_cost_or_interval_can_be_drawn():
    assert "only" in draw_pareto([Point("only", 0, 0, None, None)], cost="c", score="s").caption
