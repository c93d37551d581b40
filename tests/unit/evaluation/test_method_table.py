"""Methods side by side: figures come from the run folders, and a run that lacks them is named."""

import json
import re

import pytest

from tunesmith.errors import RunFolderError
from tunesmith.evaluation.method_table import base_cells, cells, columns, method_row, render_methods
from tunesmith.runs import create_run


def score(metric, value, unit="percent"):
    return {"metric": metric, "value": value, "low": value - 0.5, "high": value + 0.5, "n": 24, "unit": unit}


def run_of(folder, method="lora", *, tuned=("loss", "exact_match", "field_accuracy"), first_loss=2.0):
    """A finished run of two validations."""
    run = create_run(folder / method)
    run.update_manifest(
        method=method,
        seconds=60.5,
        parameters={"trainable": 2_000_000, "base": 134_000_000},
        training={"tokens": 9000, "seconds": 30.0, "first_loss": first_loss, "best_loss": 0.5},
    )
    figures = {"loss": score("loss", 0.4, "nats/token"), "exact_match": score("exact_match", 10.0)}
    figures["field_accuracy"] = score("field_accuracy", 75.0)
    scores = [figures[name] for name in tuned]
    run.write_json("evaluation.json", {"base": scores, "tuned": scores})
    for step, loss in ((0, 2.0), (30, 0.5)):
        run.add_metrics(step=step, eval_loss=loss)
    for step, peak in ((1, 900_000_000), (30, 1_250_000_000)):
        run.add_metrics(step=step, loss=1.0, peak_memory_bytes=peak)
    weights = run.adapter if method != "full" else run.model
    weights.mkdir()
    (weights / "model.safetensors").write_bytes(b"x" * 7_700_000)
    return run


def test_row_is_what_the_run_folder_holds(tmp_path):
    row = method_row(run_of(tmp_path))
    assert (row.share, row.tokens_per_second) == (2 / 134, 300)
    assert (row.peak_memory_bytes, row.size_bytes) == (1_250_000_000, 7_700_000)
    assert row.score == "field_accuracy"
    assert dict(zip(columns(row), cells(row), strict=True)) == {
        "method": "lora",
        "trainable": "2.0 M",
        "share": "1.49%",
        "peak": "1.25 GB",
        "tokens/s": "300",
        "held-out loss": "0.400\n[−0.100, 0.900]",
        "Field accuracy": "75.0\n[74.5, 75.5]",
        "on disk": "7.7 MB",
    }
    assert len(base_cells(row)) == len(cells(row))


def test_a_whole_model_is_as_large_as_its_weights(tmp_path):
    assert method_row(run_of(tmp_path, "full")).size_bytes == 7_700_000


def test_page_shows_every_method_and_draws_every_line(tmp_path):
    rows = [method_row(run_of(tmp_path, method)) for method in ("full", "lora", "prefix")]
    page = render_methods(rows, title="<b>trial</b>")
    assert "&lt;b&gt;trial&lt;/b&gt;" in page
    assert len(re.findall("<tr>", page)) == 1 + 1 + len(rows)
    assert "Lowest: full 0.500, lora 0.500, prefix 0.500." in page
    assert "<script" not in page
    assert page == render_methods(rows, title="<b>trial</b>")


def test_a_run_without_held_out_rows_is_named(tmp_path):
    run = run_of(tmp_path, first_loss=None)
    message = f"run `{run.path}` lacks what a comparison needs: validation and held-out rows, and an end"
    with pytest.raises(RunFolderError, match=re.escape(message)):
        method_row(run)


def test_a_run_without_answers_is_refused(tmp_path):
    run = run_of(tmp_path, tuned=("loss",))
    with pytest.raises(RunFolderError, match="no row was answered, so there is no task score"):
        method_row(run)


def test_rows_are_json(tmp_path):
    row = method_row(run_of(tmp_path))
    assert json.loads(json.dumps(row.as_dict()))["tuned"]["loss"]["value"] == 0.4


@pytest.mark.parametrize(
    ("parameters", "shown"), [(648, "0.6 k"), (368_640, "368.6 k"), (134_515_008, "134.5 M")]
)
def test_parameters_are_counted_for_people(tmp_path, parameters, shown):
    run = run_of(tmp_path)
    run.update_manifest(parameters={"trainable": parameters, "base": 134_515_008})
    assert cells(method_row(run))[1] == shown
