"""Two systems compared: figures of rows, order, scores over all, and which two."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.errors import ConfigError, DataError
from tunesmith.evaluation.outputs import Outputs
from tunesmith.evaluation.side_by_side import choose_systems, compare_items, row_facts, summary_lines
from two_systems import SYSTEMS, compared


def test_rows_that_differ_most_come_first_and_ties_keep_the_order():
    rows = [("a b", "a b", ()), ("a b c d", "a b c e", ()), ("x", "y", ()), ("u", "v", ()), ("a", " a", ())]
    assert [row.number for row in compared(*rows).rows] == [3, 4, 2, 5, 1]
    assert [row.number for row in compared(*rows, by_difference=False).rows] == [1, 2, 3, 4, 5]


TEXTS = st.text(alphabet="ab \n的是", max_size=12)


@given(st.lists(st.tuples(TEXTS, TEXTS, st.just(())), min_size=1, max_size=6))
def test_a_row_holds_both_texts_and_its_share_is_a_fraction(rows):
    side = compared(*rows)
    assert sorted(row.number for row in side.rows) == list(range(1, len(rows) + 1))
    for row in side.rows:
        assert (row.first, row.second) == rows[row.number - 1][:2]
        assert "".join(span.text for span in row.spans if span.kind != "insert") == row.first
        assert "".join(span.text for span in row.spans if span.kind != "delete") == row.second
        assert 0 <= row.equal_share <= 1
    mean = 100 * sum(row.equal_share for row in side.rows) / len(rows)
    assert side.equal_share.value == pytest.approx(mean)
    assert side.identical == sum(first == second for first, second, _ in rows)


def test_scores_stand_beside_rows_that_have_references():
    side = compared(
        ("the cat", "the dog", ("the dog",)),
        ("a b", "c d", ()),
        ("one", "one", ("two", "one")),
        by_difference=False,
    )
    first, second, third = side.rows
    assert [score.metric for score in first.scores] == ["exact_match", "chrf"]
    assert (first.scores[0].first, first.scores[0].second) == (0, 100)
    assert first.scores[1].second == 100 > first.scores[1].first
    assert second.scores == ()
    assert (third.scores[0].first, third.scores[0].second) == (100, 100)
    exact = side.scores[0]
    assert (exact.first.value, exact.second.value, exact.comparison.difference) == (50, 100, 50)
    assert exact.comparison.n == exact.first.n == 2
    assert exact.mark == "few rows"
    assert "seed:17" in exact.comparison.signature
    assert row_facts(first)[2].startswith("Exact match 0.0 → 100.0")


def test_json_answers_are_judged_by_their_fields():
    side = compared(*[('{"a": 1, "b": 2}', '{"a": 1, "b": 3}', ('{"a": 1, "b": 3}',))] * 2)
    assert [pair.first.metric for pair in side.scores] == ["exact_match", "field_accuracy", "chrf"]
    assert side.scores[1].comparison.difference == 50


def test_many_rows_allow_a_mark_of_the_second_system():
    side = compared(*[("wrong answer", "right", ("right",))] * 29, ("x", "y", ("z",)))
    assert {pair.mark for pair in side.scores} == {"better"}
    swapped = compared(*[("right", "wrong answer", ("right",))] * 29, ("x", "y", ("z",)))
    assert {pair.mark for pair in swapped.scores} == {"worse"}


def test_words_are_characters_where_a_script_has_no_spaces():
    (row,) = compared(("我喜欢红茶", "red tea", ())).rows
    assert row.words == (5, 2)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("a", "a", ())], "The only answer is identical."),
        ([("a", "a", ()), ("b", "b", ())], "All 2 answers are identical."),
        ([("a", "b", ())], "0 of 1 answers are identical; on average 0.0 % of the text is equal."),
        ([("a", "a", ()), ("b", "c", ())], "1 of 2 answers is identical; on average 50.0 % ["),
    ],
)
def test_the_summary_says_how_much_is_equal(rows, said):
    assert summary_lines(compared(*rows))[0].startswith(said)


def test_nothing_to_compare_is_refused():
    with pytest.raises(DataError, match="`equal_share` has 0 rows to score"):
        compare_items([], SYSTEMS, seed=17)


def test_all_of_it_fits_into_json_with_finite_numbers():
    side = compared(("", "", ("",)), ("a", "", ("a",)), ("", "b", ()))
    found = json.loads(json.dumps(side.as_dict(), allow_nan=False))
    assert found["systems"] == ["old", "new"]
    assert {item["row"] for item in found["items"]} == {1, 2, 3}
    assert found["items"][0]["answers"].keys() == {"old", "new"}
    assert found["scores"][0]["comparison"]["n"] == 2
    assert found["equal_share"]["signature"].endswith("bootstrap:200|confidence:0.95|seed:17")


def outputs(**by_source):
    systems = tuple(name for names in by_source.values() for name in names)
    return Outputs((), systems, {}, by_source)


@pytest.mark.parametrize(
    ("by_source", "wanted", "chosen"),
    [
        ({"a": ("a",), "b": ("b",)}, None, ("a", "b")),
        ({"run": ("base", "tuned")}, None, ("base", "tuned")),
        ({"run": ("base", "tuned")}, ["tuned", "base"], ("tuned", "base")),
        ({"x": ("x/base", "x/tuned"), "y": ("y/base", "y/tuned")}, None, ("x/tuned", "y/tuned")),
        ({"run": ("base", "tuned"), "b": ("b",)}, None, ("tuned", "b")),
        ({"c": ("zero-shot", "rag", "fine tuned")}, ["rag", "fine tuned"], ("rag", "fine tuned")),
    ],
)
def test_which_two_is_plain_or_said(by_source, wanted, chosen):
    assert choose_systems(outputs(**by_source), wanted) == chosen


@pytest.mark.parametrize(
    ("by_source", "wanted", "message", "hint"),
    [
        ({"a": ("a",)}, None, "there is one system only, `a`", "a second file"),
        (
            {"c": ("fine tuned", "b", "c")},
            None,
            "there are 3 systems: `fine tuned`, `b`, `c`",
            "'fine tuned' b",
        ),
        ({"a": ("a",), "b": ("b",), "c": ("c",)}, None, "there are 3 systems", "say which two"),
        ({"c": ("a", "b", "c"), "d": ("d",)}, None, "there are 4 systems", "say which two"),
        ({"run": ("base", "tuned")}, ["base", "tunde"], "there is no system `tunde`", "did you mean `tuned`"),
        ({"run": ("base", "tuned")}, ["zzz", "base"], "there is no system `zzz`", "name two of them"),
        ({"run": ("base", "tuned")}, ["base"], "names `base`, not two different systems", "name two"),
        ({"run": ("base", "tuned")}, ["base", "base"], "not two different systems", "name two"),
    ],
)
def test_an_unclear_choice_is_refused(by_source, wanted, message, hint):
    with pytest.raises(ConfigError, match=message) as refused:
        choose_systems(outputs(**by_source), wanted)
    assert hint in refused.value.hint
