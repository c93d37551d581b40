"""What acts add up to: items, not raters, are counted, and models are kept apart from people."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from people_room import SYSTEMS, make_survey, open_votes, preference, rating
from tunesmith.errors import RunFailed
from tunesmith.evaluation.judge import Judge
from tunesmith.people.judging import ask_judge
from tunesmith.people.sessions import Act, Survey
from tunesmith.people.votes import ab_results, rate_results, stop_message
from tunesmith.progress import Silent

FIRST, SECOND = SYSTEMS
SURVEY = make_survey("ab", 12)
RATE = make_survey("rate", 4)
SCALES = ("accuracy", "relevance", "fluency", "format_compliance")


def votes(survey: Survey, rater: str, wanted: list[str]) -> list[Act]:
    """One vote an item, in file order."""
    items = zip(survey.items, wanted, strict=False)
    return [preference(survey, rater, item, want, f"{rater}-{item}") for item, want in items]


def test_rates_are_the_second_systems_whatever_side_it_stood_on() -> None:
    acts = votes(SURVEY, "Ada", [SECOND] * 7 + ["tie"] * 2 + [FIRST] * 2 + ["skip"])
    results = ab_results(SURVEY, acts)
    (people,) = results.groups
    assert (results.system, results.against, results.items) == (SECOND, FIRST, 12)
    assert (people.who, people.raters, people.votes, people.skipped) == ("people", ("Ada",), 11, 1)
    assert people.rate is not None
    assert (people.rate.wins, people.rate.ties, people.rate.losses) == (7, 2, 2)
    assert people.rate.value == pytest.approx(8 / 11)
    assert (people.stop.word, people.stop.n) == ("go on", 9)
    assert people.agreement is None
    swapped = ab_results(replace(SURVEY, systems=(SECOND, FIRST)), acts).groups[0].rate
    assert swapped is not None
    assert (swapped.wins, swapped.losses) == (2, 7)
    json.dumps(results.as_dict(), allow_nan=False)


def test_before_the_first_vote_there_is_nothing_and_no_error() -> None:
    (people,) = ab_results(SURVEY, []).groups
    assert (people.rate, people.votes, people.stop.word) == (None, 0, "go on")
    assert rate_results(RATE, []).scales[0].means == {}
    json.dumps(rate_results(RATE, []).as_dict(), allow_nan=False)


def test_raters_who_agree_add_no_evidence() -> None:
    one = votes(SURVEY, "Ada", [SECOND] * 4 + [FIRST])
    three = [*one, *votes(SURVEY, "Bo", [SECOND] * 4 + [FIRST]), *votes(SURVEY, "Cy", [SECOND] * 4 + [FIRST])]
    alone, together = (ab_results(SURVEY, acts).groups[0] for acts in (one, three))
    assert together.votes == 15
    assert together.rate == alone.rate
    assert together.stop == alone.stop
    assert together.agreement is not None
    assert together.agreement.value == pytest.approx(1.0)


def test_raters_who_differ_are_merged_by_majority() -> None:
    acts = [
        *votes(SURVEY, "Ada", [SECOND, SECOND, SECOND]),
        *votes(SURVEY, "Bo", [SECOND, FIRST, FIRST]),
        *votes(SURVEY, "Cy", ["tie", "tie", FIRST]),
    ]
    rate = ab_results(SURVEY, acts).groups[0].rate
    assert rate is not None
    assert (rate.wins, rate.ties, rate.losses, rate.n) == (1, 1, 1, 3)


def test_the_stop_rule_hears_the_first_decided_vote_on_each_item() -> None:
    tied = votes(SURVEY, "Ada", ["tie"] * 8)
    assert ab_results(SURVEY, tied).groups[0].stop.n == 0
    later = [*tied, *votes(SURVEY, "Bo", [SECOND] * 8)]
    assert ab_results(SURVEY, later).groups[0].stop.stopped_at == 8
    assert stop_message(SURVEY, later[:15]) is None
    message = stop_message(SURVEY, later)
    assert message is not None
    assert not any(system in message for system in SYSTEMS)
    assert stop_message(RATE, []) is None


def test_what_was_taken_back_does_not_count() -> None:
    acts = votes(SURVEY, "Ada", [SECOND, SECOND])
    undo = Act("undo", "", "Ada", "undo", acts[1].item, "", {"undoes": acts[1].act_id})
    rate = ab_results(SURVEY, [*acts, undo]).groups[0].rate
    assert rate is not None
    assert rate.n == 1


def test_slices_have_their_own_rates_and_share_one_error() -> None:
    acts = votes(SURVEY, "Ada", [SECOND, FIRST] * 6)
    slices = {part.value: part for part in ab_results(SURVEY, acts).groups[0].slices}
    assert {part.slice for part in slices.values()} == {"parity"}
    assert (slices["even"].rate.value, slices["odd"].rate.value) == (1.0, 0.0)
    assert slices["even"].rate.p_value == pytest.approx(2 / 64)
    assert slices["even"].adjusted_p_value == pytest.approx(4 / 64)


def scores(*values: int) -> dict[str, int]:
    return dict(zip(SCALES, values, strict=True))


def test_ratings_are_means_over_items_with_differences_and_agreement() -> None:
    acts = []
    for number, item in enumerate(RATE.items):
        acts.append(rating("Ada", item, FIRST, scores(2, 3, 4, 1 + number), f"a{number}"))
        acts.append(rating("Bo", item, FIRST, scores(4, 3, 4, 1 + number), f"b{number}"))
        acts.append(rating("Ada", item, SECOND, scores(5, 3, 4, 5), f"c{number}"))
    acts.append(rating("Bo", "item0000", SECOND, None, "skip"))
    results = rate_results(RATE, acts)
    assert (results.rated, results.skipped, results.raters) == (12, 1, ("Ada", "Bo"))
    by_name = {scale.scale: scale for scale in results.scales}
    accuracy = by_name["accuracy"]
    assert {system: mean.value for system, mean in accuracy.means.items()} == {FIRST: 3.0, SECOND: 5.0}
    assert accuracy.means[FIRST].n == 4
    assert set(accuracy.differences) == {SECOND}
    assert accuracy.differences[SECOND].difference == pytest.approx(2.0)
    assert accuracy.agreement is not None
    assert accuracy.agreement.value < 0
    # All said 4, so there is no telling whether they agree.
    assert by_name["fluency"].agreement is None
    perfect = by_name["format_compliance"].agreement
    assert perfect is not None
    assert perfect.value == pytest.approx(1.0)
    json.dumps(results.as_dict(), allow_nan=False)


class LongerIsBetter(BaseHTTPRequestHandler):
    """A judge that prefers the longer answer, and breaks down when it was asked too often."""

    asked = 0
    breaks_after = 10**9

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        pair = json.loads(asked["messages"][1]["content"])
        LongerIsBetter.asked += 1
        is_broken = LongerIsBetter.asked > LongerIsBetter.breaks_after
        better = "first" if len(pair["first"]) > len(pair["second"]) else "second"
        reply = {"choices": [{"message": {"content": json.dumps({"better": better})}}]}
        content = json.dumps(reply).encode()
        self.send_response(503 if is_broken else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def judge() -> Iterator[Judge]:
    LongerIsBetter.asked, LongerIsBetter.breaks_after = 0, 10**9
    server = HTTPServer(("127.0.0.1", 0), LongerIsBetter)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield Judge(f"http://127.0.0.1:{server.server_address[1]}/v1", "tiny-judge", attempts=1)
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_judges_votes_stand_beside_those_of_people_and_are_asked_for_once(
    tmp_path: Path, judge: Judge
) -> None:
    store = open_votes(tmp_path / "votes.sqlite", SURVEY)
    for act in votes(SURVEY, "Ada", [FIRST] * 3):
        store.answer(act)
    assert ask_judge(SURVEY, store, judge, progress=Silent()) == 12
    asked = LongerIsBetter.asked
    assert ask_judge(SURVEY, store, judge, progress=Silent()) == 0
    assert LongerIsBetter.asked == asked
    people, model = ab_results(SURVEY, store.acts).groups
    assert people.rate is not None
    assert (people.who, people.raters, people.rate.losses, people.rate.n) == ("people", ("Ada",), 3, 3)
    assert model.rate is not None
    # The second system's answers are the longer ones.
    assert (model.who, model.rate.wins, model.rate.n) == ("judge: tiny-judge", 12, 12)
    assert stop_message(SURVEY, store.acts) is None
    store.close()


def test_a_judge_that_breaks_down_keeps_what_it_said(tmp_path: Path, judge: Judge) -> None:
    store = open_votes(tmp_path / "votes.sqlite", SURVEY)
    LongerIsBetter.breaks_after = 7
    with pytest.raises(RunFailed, match="gave no reply"):
        ask_judge(SURVEY, store, judge, progress=Silent())
    assert len(store.acts) == 3
    LongerIsBetter.breaks_after = 10**9
    assert ask_judge(SURVEY, store, judge, progress=Silent()) == 9
    store.close()
