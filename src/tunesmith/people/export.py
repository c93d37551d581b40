"""Votes and ratings as rows for other programs: JSON lines, or a table that a spreadsheet may open."""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tunesmith.data.whole_file import refuse_taken, whole_file
from tunesmith.errors import DataError
from tunesmith.people.scales import SCALES
from tunesmith.people.sessions import Act, Survey, standing

SUFFIXES = (".jsonl", ".csv")
# A spreadsheet would run a cell that begins so.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def check_export(path: Path) -> None:
    """Say before any work why the file could not be written.

    Raises:
        DataError: if its ending is unknown, it exists, or its folder does not.
    """
    if path.suffix not in SUFFIXES:
        raise DataError(f"{path}: an export ends in .jsonl or .csv", hint=f"name it `{path.stem}.jsonl`")
    refuse_taken(path)


def write_export(path: Path, survey: Survey, acts: Iterable[Act]) -> int:
    """Write each answer that stands as one row; returns how many.

    Raises:
        DataError: as `check_export`, or if the disk refuses.
    """
    check_export(path)
    rows = list(export_rows(survey, acts))
    text = as_csv(rows, columns(survey)) if path.suffix == ".csv" else as_json_lines(rows)
    with whole_file(path) as file:
        file.write(text.encode("utf-8", "replace"))
    return len(rows)


def columns(survey: Survey) -> list[str]:
    """Names of an exported row's fields, slices last."""
    answered = (
        ["choice", "preferred", "left", "right"]
        if survey.kind == "ab"
        else ["system", "skipped", *(scale.name for scale in SCALES)]
    )
    slices = dict.fromkeys(name for item in survey.items.values() for name in item.slices)
    return [
        "act_id",
        "at",
        "rater",
        "item",
        "place",
        "prompt",
        *answered,
        "note",
        *map(_slice_column, slices),
    ]


def export_rows(survey: Survey, acts: Iterable[Act]) -> Iterator[dict[str, Any]]:
    """One row for each answer that stands, with the systems' names."""
    for act in standing(acts).values():
        item = survey.items[act.item]
        answered = _vote(act) if survey.kind == "ab" else _rating(act)
        yield {
            "act_id": act.act_id,
            "at": act.at,
            "rater": act.rater,
            "item": act.item,
            "place": item.place,
            "prompt": item.prompt,
            **answered,
            "note": act.note,
            **{_slice_column(name): value for name, value in item.slices.items()},
        }


def _slice_column(name: str) -> str:
    """A slice may be called as another field."""
    return f"slice.{name}"


def _vote(act: Act) -> dict[str, Any]:
    choice = act.answer["choice"]
    sides = {side: act.answer[side] for side in ("left", "right")}
    return {"choice": choice, "preferred": sides.get(choice, choice), **sides}


def _rating(act: Act) -> dict[str, Any]:
    scores = act.answer["scores"] or {}
    return {
        "system": act.system,
        "skipped": act.is_skip,
        **{scale.name: scores.get(scale.name) for scale in SCALES},
    }


def as_json_lines(rows: Iterable[dict[str, Any]]) -> str:
    """One JSON object a line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def as_csv(rows: Iterable[dict[str, Any]], names: list[str]) -> str:
    """A table with a head; no cell is a formula."""
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\r\n")
    writer.writerow({name: safe_cell(name) for name in names})
    for row in rows:
        writer.writerow({name: safe_cell(value) for name, value in row.items()})
    return text.getvalue()


def safe_cell(value: Any) -> Any:
    """Text that would begin a formula gets an apostrophe before it."""
    is_formula = isinstance(value, str) and value.startswith(_FORMULA_STARTS)
    return f"'{value}" if is_formula else value
