"""What `tunesmith evaluate` prints of slices."""

import io

from rich.console import Console

from tunesmith.cli.use import slices_table
from tunesmith.evaluation.marks import slice_rows
from tunesmith.evaluation.metrics import exact_match_metric
from tunesmith.evaluation.scores import Evaluation
from tunesmith.evaluation.slices import scores_by_slice


def printed(slices, base, tuned=None):
    metric = exact_match_metric()
    found = scores_by_slice(slices, [(metric, base, tuned)], seed=1, resamples=100)
    stream = io.StringIO()
    Console(file=stream, width=80).print(slices_table(slice_rows(Evaluation((), (), (), found))))
    return stream.getvalue()


def rows(hits):
    return exact_match_metric().statistics(["a" if hit else "b" for hit in hits], [["a"]] * len(hits))


def test_slices_are_shown_with_intervals_within_80_columns():
    slices = [{"length": "short (up to 3)"}] * 40 + [{"length": "long (over 3)"}] * 10
    text = printed(slices, rows([0, 1] * 25), rows([1] * 45 + [0] * 5))
    assert "Exact match by slice" in text
    lines = text.splitlines()
    short = next(place for place, line in enumerate(lines) if "length: short (up to 3)" in line)
    assert lines[short].split()[-4:] == ["50.0", "100.0", "+50.0", "40"]
    assert "[100.0, 100.0]" in lines[short + 1]
    assert "few rows: 10, below 30" in text
    assert text.index("short") < text.index("long")


def test_a_model_alone_has_one_column_and_labels_are_text():
    text = printed([{"perturbation": "[red]x[/]"}] * 6 + [{"perturbation": "case"}] * 6, rows([1, 0] * 6))
    assert "perturbation: [red]x[/]" in text
    assert "score" in text
    assert "tuned" not in text
