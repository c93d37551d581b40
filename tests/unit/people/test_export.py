"""Exports: what stands, once, and nothing that a spreadsheet would run."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from people_room import SYSTEMS, make_survey, preference, rating
from tunesmith.errors import DataError
from tunesmith.people.export import as_csv, columns, export_rows, safe_cell, write_export
from tunesmith.people.sessions import Act

AB, RATE = make_survey("ab", 3), make_survey("rate", 2)
SCORES = {"accuracy": 5, "relevance": 4, "fluency": 3, "format_compliance": 2}


def ab_acts() -> list[Act]:
    acts = [
        preference(AB, "=Ada", "item0000", SYSTEMS[1], "a0"),
        preference(AB, "=Ada", "item0001", "tie", "a1"),
        preference(AB, "=Ada", "item0002", SYSTEMS[0], "a2"),
        Act("u2", "", "=Ada", "undo", "item0002", "", {"undoes": "a2"}),
        preference(AB, "=Ada", "item0002", "skip", "a3"),
    ]
    return [replace(act, note="@SUM(A1)\n很好") for act in acts]


def test_json_lines_hold_what_stands_with_the_systems_names(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    assert write_export(path, AB, ab_acts()) == 3
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [(row["act_id"], row["preferred"]) for row in rows] == [
        ("a0", SYSTEMS[1]),
        ("a1", "tie"),
        ("a3", "skip"),
    ]
    assert {rows[0]["left"], rows[0]["right"]} == set(SYSTEMS)
    assert rows[0][rows[0]["choice"]] == SYSTEMS[1]
    assert (rows[0]["prompt"], rows[0]["place"], rows[0]["slice.parity"]) == (
        "Question 0?",
        "rows.jsonl:1",
        "even",
    )
    # Data for programs stays as it was written.
    assert rows[0]["rater"] == "=Ada"
    with pytest.raises(DataError, match="the output exists already"):
        write_export(path, AB, ab_acts())


def test_a_table_has_the_same_rows_and_no_formula(tmp_path: Path) -> None:
    path = tmp_path / "votes.csv"
    write_export(path, AB, ab_acts())
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["act_id"] for row in rows] == ["a0", "a1", "a3"]
    assert list(rows[0]) == columns(AB)
    assert rows[0]["rater"] == "'=Ada"
    assert rows[0]["note"] == "'@SUM(A1)\n很好"


def test_ratings_have_a_column_for_each_scale() -> None:
    acts = [
        rating("Ada", "item0000", SYSTEMS[0], SCORES, "r0"),
        rating("Ada", "item0000", SYSTEMS[1], None, "r1"),
    ]
    full, skipped = export_rows(RATE, acts)
    assert set(full) == set(columns(RATE))
    assert {name: full[name] for name in SCORES} == SCORES
    assert (full["system"], full["skipped"]) == (SYSTEMS[0], False)
    assert (skipped["system"], skipped["skipped"], skipped["accuracy"]) == (SYSTEMS[1], True, None)


@given(st.text())
def test_no_cell_begins_a_formula_and_every_text_can_be_had_back(text: str) -> None:
    cell = safe_cell(text)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert cell in (text, f"'{text}")


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))))
def test_a_table_is_read_as_it_was_written(texts: list[str]) -> None:
    table = as_csv([{"text": text} for text in texts], ["text"])
    read = list(csv.reader(io.StringIO(table, newline="")))
    assert [row[0] if row else "" for row in read[1:]] == [safe_cell(text) for text in texts]


def test_numbers_stay_numbers() -> None:
    assert safe_cell(-1) == -1
    assert safe_cell(None) is None


def test_other_endings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"an export ends in \.jsonl or \.csv") as refused:
        write_export(tmp_path / "votes.xlsx", AB, [])
    assert refused.value.hint == "name it `votes.jsonl`"
    with pytest.raises(DataError, match="there is no folder"):
        write_export(tmp_path / "none" / "votes.csv", AB, [])
