"""Findings as pages and reports show them: numbers on the curve, words for confidence, nothing but text."""

from base64 import b64decode

import pytest

from html_page import Page
from tunesmith.evaluation.curves import draw_curves
from tunesmith.evaluation.findings import Mark, marks_of, shown, sureness, verdict_line, view_findings
from tunesmith.evaluation.report import RunFacts, render_report

PAYLOAD = "<img src=x onerror=alert(1)>{{ 7 * 7 }}"
METRICS = [{"step": step, "loss": 2 / step, "grad_norm": 1.0} for step in range(1, 11)]


def evidence(text, curve="", first=None, last=None):
    return {"text": text, "curve": curve, "first_step": first, "last_step": last}


def finding(*pieces, title="overfitting", confidence=0.9, **changes):
    return {
        "ailment": "overfitting",
        "title": title,
        "cause": "cause",
        "evidence": list(pieces),
        "remedy": "remedy",
        "confidence": confidence,
        "changes": [{"key": key, "value": value, "reason": "why"} for key, value in changes.items()],
        "commands": ["tunesmith data check rows.jsonl"],
    }


FOUND = [
    finding(evidence("a", "loss", 2.0, 4.0), evidence("b"), evidence("c", "input_share", 1.0, 2.0)),
    finding(evidence("d", "eval_loss", 5.0), evidence("e", "grad_norm", 3.0, 3.0)),
]


def test_what_can_be_seen_on_a_curve_is_numbered_through():
    assert marks_of(FOUND) == [
        Mark(1, "loss", 2.0, 4.0),
        Mark(2, "eval_loss", 5.0, 5.0),
        Mark(3, "grad_norm", 3.0, 3.0),
    ]
    assert [view.evidence for view in view_findings(FOUND, {})] == [
        ((1, "A."), (None, "B."), (None, "C.")),
        ((2, "D."), (3, "E.")),
    ]


@pytest.mark.parametrize(
    ("confidence", "word"),
    [(1.0, "sure"), (0.85, "sure"), (0.84, "likely"), (0.6, "likely"), (0.59, "possible"), (0, "possible")],
)
def test_confidence_has_a_word(confidence, word):
    assert sureness(confidence) == word


def test_texts_are_sentences_and_names_stay_as_they_are():
    (view,) = view_findings(
        [finding(evidence("eval_loss rises"), evidence("is it?"), title="loss rises")], {}
    )
    assert (view.title, view.cause, view.remedy) == ("Loss rises", "Cause.", "Remedy.")
    assert [text for _, text in view.evidence] == ["eval_loss rises.", "Is it?"]


def test_the_verdict_counts_and_names():
    assert verdict_line([], checks=12) == "Nothing found in 12 checks."
    assert verdict_line(FOUND[:1], checks=12) == "1 finding in 12 checks: overfitting (sure)."
    assert verdict_line(FOUND, checks=12).startswith("2 findings in 12 checks: overfitting (sure); ")


def test_a_change_shows_the_value_before_or_that_it_is_not_known():
    found = [finding(evidence("a"), **{"training.max_steps": 5, "training.learning_rate": 1e-5})]
    (view,) = view_findings(found, {"training.max_steps": None})
    assert view.changes == (
        ("training.max_steps", "none", "5", "why"),
        ("training.learning_rate", "not known", "1e-05", "why"),
    )
    assert shown(["q", "v"]) == "['q', 'v']"


def pictures(marks):
    return [b64decode(curve.light.partition(",")[2]).decode() for curve in draw_curves(METRICS, marks)]


def test_marks_stand_on_the_picture_of_their_curve_each_with_its_number():
    marks = [Mark(71, "loss", 2, 4), Mark(72, "eval_loss", 3, 3), Mark(73, "grad_norm", 3, 9)]
    loss, norm = pictures(marks)
    assert (">71</text>" in loss, ">72</text>" in loss, ">73</text>" in loss) == (True, True, False)
    assert (">71</text>" in norm, ">73</text>" in norm) == (False, True)
    plain = pictures([])
    assert "#a8321f" not in plain[0]
    assert "#a8321f" in loss


def test_a_mark_does_not_move_the_axes():
    (plain, _), (marked, _) = pictures([]), pictures([Mark(1, "loss", 1, 10)])
    ticks = [text for text in ("2.0", "10", "step") if f">{text}</text>" in plain]
    assert all(f">{text}</text>" in marked for text in ticks)


def facts(**changes):
    return RunFacts(title="run", base_model="small", method="lora", metrics=METRICS, **changes)


def test_the_report_says_what_was_found_that_nothing_was_or_neither():
    assert "What the doctor found" not in Page(render_report(facts())).text
    assert "none of the ailments it knows" in Page(render_report(facts(findings=[]))).text
    text = Page(render_report(facts(findings=FOUND))).text
    assert "Shaded and numbered" in text
    assert "tunesmith data check rows.jsonl" in text


def test_nothing_in_a_finding_is_read_as_markup():
    hostile = finding(evidence(PAYLOAD, "loss", 1.0, 2.0), title=PAYLOAD, **{PAYLOAD: PAYLOAD})
    hostile |= {name: PAYLOAD for name in ("cause", "remedy")} | {"commands": [PAYLOAD]}
    page = Page(render_report(facts(findings=[hostile])))
    harmless = Page(render_report(facts(findings=FOUND[:1])))
    assert page.tags.count("img") == harmless.tags.count("img")
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert page.text.count("{{ 7 * 7 }}") == 7
