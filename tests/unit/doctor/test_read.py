"""Runs and foreign logs as signs: what is read, what is passed over, and how a bad file is refused."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.doctor.lines import Curves, number
from tunesmith.doctor.loss_table import read_loss_table
from tunesmith.doctor.read_foreign import read_foreign
from tunesmith.doctor.read_run import read_run
from tunesmith.errors import DataError, RunFolderError
from tunesmith.resolve import resolve
from tunesmith.run_lock import locked
from tunesmith.runs import RunFolder, create_run

DATA = {"rows": {"train": 80, "validation": 8, "test": 8}}


def make_run(path: Path, *, lines=(), **manifest) -> RunFolder:
    """A run folder with these metrics; by default it says `running`, as a killed one does."""
    run = create_run(path)
    run.write_text("config.yaml", resolve(None, {"data": "rows.jsonl"}).as_yaml())
    run.update_manifest(**{"status": "running", "data": DATA, "seed": 17} | manifest)
    for line in lines:
        run.add_metrics(**line)
    return run


def step_lines(count, *, steps_per_epoch=5):
    """Lines of steps as our loop writes them."""
    return [
        {"step": step, "epoch": round(step / steps_per_epoch, 4), "loss": 2 / step, "learning_rate": 1e-4}
        for step in range(1, count + 1)
    ]


def test_a_finished_run_gives_all_it_has(tmp_path):
    timed = {"step": 11, "epoch": 2.2, "loss": 0.2, "input_seconds": 0.5, "step_seconds": 2.0}
    lines = [*step_lines(10), {"step": 11, "epoch": 2.0, "micro_batch_rows": 2}, timed]
    run = make_run(tmp_path / "run", lines=lines, status="succeeded", answers={"rows": 8})
    run.write_json("evaluation.json", {"base": []})
    run.write_json("elsewhere.json", {"verdict": "no worse"})
    run.write_lines("samples.jsonl", [{"prompt": "a", "tuned": "b"}])
    signs = read_run(run)
    assert (signs.kind, signs.status, signs.is_over) == ("run", "succeeded", True)
    assert signs.loss.values.tolist() == [*(2 / step for step in range(1, 11)), 0.2]
    assert signs.curve("input_share").values.tolist() == [0.25]
    assert (signs.steps_per_epoch, signs.total_steps) == (5.0, 15)
    assert signs.halvings == ((11, 2),)
    assert signs.settings["training.learning_rate"] == 2e-4
    assert signs.data == DATA
    assert signs.facts["answers"] == {"rows": 8}
    assert (signs.evaluation, signs.elsewhere) == ({"base": []}, {"verdict": "no worse"})
    assert signs.samples == ({"prompt": "a", "tuned": "b"},)


def test_a_killed_run_is_interrupted_and_its_half_line_passed_over(tmp_path):
    run = make_run(tmp_path / "run", lines=step_lines(3))
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    signs = read_run(run)
    assert signs.status == "interrupted"
    assert "without a word" in signs.why
    assert len(signs.loss) == 3
    assert signs.evaluation == {}
    assert signs.samples == ()


def test_a_run_that_goes_on_is_running_and_what_it_will_say_at_its_end_can_be_given(tmp_path):
    run = make_run(tmp_path / "run", lines=step_lines(3))
    with locked(run.path):
        assert read_run(run).status == "running"
        assert not read_run(run).is_over
        ended = read_run(run, outcome={"status": "succeeded", "seconds": 3})
    assert ended.is_over
    assert ended.facts["seconds"] == 3


def test_several_processes_have_longer_steps_than_the_configuration_says(tmp_path):
    # 80 rows in windows of 16 would be 5 steps of one process; these lines say 3.
    signs = read_run(make_run(tmp_path / "run", lines=step_lines(7, steps_per_epoch=3)))
    assert (signs.steps_per_epoch, signs.total_steps) == (3.0, 9)


def test_an_early_rounded_epoch_does_not_bend_the_plan(tmp_path):
    data = {"rows": {"train": 16 * 12_345}}
    lines = [{"step": 1, "epoch": 0.0001, "loss": 1.0}]
    assert read_run(make_run(tmp_path / "run", lines=lines, data=data)).steps_per_epoch == 12_345


def test_a_run_without_a_line_has_its_plan(tmp_path):
    signs = read_run(make_run(tmp_path / "run"))
    assert (signs.last_step, signs.total_steps) == (0.0, 15)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("evaluation.json", "{", "is no JSON"),
        ("elsewhere.json", "[1]", "holds a list, not an object"),
        ("metrics.jsonl", "x\n", "metrics.jsonl:1 is no JSON object"),
        ("manifest.json", "x", "cannot be read"),
    ],
)
def test_a_damaged_file_of_a_run_is_named(tmp_path, name, text, said):
    run = make_run(tmp_path / "run", lines=step_lines(1))
    (run.path / name).write_text(text)
    with pytest.raises(RunFolderError, match=said):
        read_run(run)


def test_damaged_samples_are_named_with_their_line(tmp_path):
    run = make_run(tmp_path / "run")
    (run.path / "samples.jsonl").write_text('{"prompt": "a"}\n{"prompt"\n')
    with pytest.raises(DataError, match=r"samples\.jsonl:2"):
        read_run(run)


def state(folder: Path, *lines, **changes) -> Path:
    """A trainer_state.json as transformers writes one."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "best_metric": None,
        "epoch": 3.0,
        "eval_steps": 50,
        "global_step": 150,
        "is_world_process_zero": True,
        "log_history": list(lines),
        "logging_steps": 10,
        "max_steps": 150,
        "num_train_epochs": 3,
        "save_steps": 50,
        "stateful_callbacks": {},
        "train_batch_size": 8,
    }
    file = folder / "trainer_state.json"
    file.write_text(json.dumps(content | changes))  # NaN is written as NaN, as transformers does
    return file


LINES = (
    {"epoch": 0.2, "grad_norm": 1.5, "learning_rate": 1e-4, "loss": 2.5, "step": 10},
    {"epoch": 1.0, "eval_loss": 2.0, "eval_runtime": 3.0, "step": 50},
    {"epoch": 1.2, "grad_norm": float("nan"), "learning_rate": 9e-5, "loss": 1.5, "step": 60},
    {"epoch": 3.0, "train_loss": 1.9, "train_runtime": 60.0, "total_flos": 1, "step": 150},
)


def test_a_trainers_state_gives_curves_and_the_settings_it_names(tmp_path):
    signs = read_foreign(state(tmp_path, *LINES))
    assert signs.kind == "trainer_state"
    assert signs.loss.steps.tolist() == [
        10,
        60,
    ]  # the mean over the run, `train_loss`, is no point of the curve
    assert signs.validation.values.tolist() == [2.0]
    assert math.isnan(signs.curve("grad_norm").values[1])
    assert (signs.total_steps, signs.steps_per_epoch, signs.status) == (150, 50.0, "succeeded")
    assert signs.settings == {
        "training.num_train_epochs": 3,
        "training.per_device_train_batch_size": 8,
        "training.save_steps": 50,
        "training.eval_steps": 50,
        "training.learning_rate": 1e-4,
    }


def test_a_state_that_stopped_before_its_end_does_not_say_it_succeeded(tmp_path):
    signs = read_foreign(state(tmp_path, *LINES, global_step=60))
    assert (signs.status, signs.is_over) == ("", True)


def test_of_a_folder_the_state_with_the_highest_step_is_read(tmp_path):
    for step in (50, 100, 1000):
        state(tmp_path / f"checkpoint-{step}", {"step": step, "loss": float(step)}, global_step=step)
    (tmp_path / "checkpoint-x").mkdir()
    (tmp_path / "checkpoint-2000").mkdir()  # just being written
    assert read_foreign(tmp_path).loss.values.tolist() == [1000.0]
    state(tmp_path, {"step": 1200, "loss": 7.0}, global_step=1200)
    assert read_foreign(tmp_path).loss.values.tolist() == [7.0]
    assert read_foreign(tmp_path / "checkpoint-50").loss.values.tolist() == [50.0]


def test_an_adapter_beside_the_state_says_what_was_trained(tmp_path):
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 8, "lora_alpha": 16, "lora_dropout": 0.05})
    )
    settings = read_foreign(state(tmp_path, *LINES)).settings
    assert {key: value for key, value in settings.items() if key.startswith("method.")} == {
        "method.name": "lora",
        "method.rank": 8,
        "method.alpha": 16,
        "method.dropout": 0.05,
    }


def deep() -> str:
    return '{"log_history": ' + "[" * 200_000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ":1: the file is empty"),
        ("{\n", ":2: the JSON breaks off"),
        ('{"log_history":\n [}', ":2: not JSON in column 3"),
        ("[1]", "no trainer state: `log_history` is missing from a list"),
        ('{"steps": 3}', "`log_history` is missing from an object with `steps`"),
        ('{"log_history": 3}', "`log_history` is a number, not a list"),
        ('{"log_history": [3]}', r"log_history\[0\] is a number, not an object"),
        ('{"log_history": [{"step": 1, "loss": "low"}]}', r"log_history\[0\]: `loss` is text, not a number"),
        ('{"log_history": [{"step": true, "loss": 1}]}', "`step` is true or false, not a number"),
        ('{"log_history": []}', "holds no loss: it has 0 entries"),
        ('{"log_history": [{"step": 1, "train_runtime": 2}]}', "holds no loss: it has 1 entries"),
        (deep(), "nested too deeply"),
        ('{"log_history": ' + "9" * 5000 + "}", "not usable JSON"),
    ],
    ids=lambda value: value[:24],
)
def test_a_bad_state_is_refused_with_its_place(tmp_path, text, said):
    file = tmp_path / "trainer_state.json"
    file.write_text(text)
    with pytest.raises(DataError, match=said):
        read_foreign(file)


def test_numbers_out_of_all_bounds_are_infinite_not_an_error(tmp_path):
    signs = read_foreign(state(tmp_path, {"step": 1, "loss": 10**400}, {"step": 2, "loss": "NaN"}))
    assert signs.loss.values[0] == math.inf
    assert math.isnan(signs.loss.values[1])
    assert number("many") is None


@pytest.mark.parametrize(
    ("name", "said", "hint"),
    [
        ("missing.csv", "there is no such file or folder", "did you mean `losses.csv`"),
        ("nothing/at/all", "there is no such file or folder", "give a run folder"),
        ("", "holds no run of ours and no `trainer_state.json`", "give a run folder"),
    ],
)
def test_a_path_that_leads_nowhere(tmp_path, name, said, hint):
    (tmp_path / "losses.csv").write_text("loss\n1\n")
    with pytest.raises(DataError, match=said) as refused:
        read_foreign(tmp_path / name.replace("missing", "lossess"))
    assert hint in refused.value.hint


def test_a_file_too_large_for_a_log_is_refused_unread(tmp_path):
    file = tmp_path / "log.csv"
    with file.open("wb") as sparse:
        sparse.truncate(200_000_001)
    with pytest.raises(DataError, match="200 MB are more than a log's 200 MB at most"):
        read_foreign(file)


def table(tmp_path, text):
    file = tmp_path / "losses.csv"
    file.write_text(text, encoding="utf-8")
    return read_foreign(file)


@pytest.mark.parametrize(
    ("text", "curves", "steps_per_epoch"),
    [
        ("step,loss\n1,2.5\n2,2.0\n", {"loss": ([1, 2], [2.5, 2.0])}, None),
        ("3.0\n2.0\nnan\n", {"loss": ([1, 2, 3], [3, 2, math.nan])}, None),
        ("\ufeffglobal_step\ttrain/loss\n10\t2,5\n", {"loss": ([10], [2.5])}, None),
        (
            "Iteration;Train Loss;Val-Loss\n5;1,5;\n5;;1,25\n",
            {"loss": ([5], [1.5]), "eval_loss": ([5], [1.25])},
            None,
        ),
        (
            "epoch,loss,val_loss\n0,2,3\n1,1,2\n",
            {"loss": ([1, 2], [2, 1]), "eval_loss": ([1, 2], [3, 2])},
            1.0,
        ),
        ("epoch,loss\n1,2\n2,1\n", {"loss": ([1, 2], [2, 1])}, 1.0),
        ("Wall time,Step,Value\n1.5e9,4,0.5\n", {"loss": ([4], [0.5])}, None),
        (
            '"Step","red-owl-3 - train/loss","red-owl-3 - train/loss__MIN"\n"1","2.5","2.4"\n',
            {"loss": ([1], [2.5])},
            None,
        ),
        (
            "step,lr,grad_norm\n1,1e-4,Infinity\n",
            {"learning_rate": ([1], [1e-4]), "grad_norm": ([1], [math.inf])},
            None,
        ),
        (
            "step,loss,data_time,step_time\n1,2,0.3,1.2\n",
            {"loss": ([1], [2]), "input_share": ([1], [0.25])},
            None,
        ),
        ("step,epoch,loss\n10,0.5,2\n20,1,1\n", {"loss": ([10, 20], [2, 1])}, 20.0),
        ("step,loss,train_loss\n1,2,\n2,1,9\n", {"loss": ([1, 2], [2, 1])}, None),
        (
            "step,loss,tokens_per_second\n1,2,N/A\n2,1,300\n",
            {"loss": ([1, 2], [2, 1]), "tokens_per_second": ([2], [300])},
            None,
        ),
        ("step,loss\n3,3\n1,1\n3,2\n\n", {"loss": ([1, 3], [1, 2])}, None),
    ],
)
def test_tables_of_every_usual_make(tmp_path, text, curves, steps_per_epoch):
    signs = table(tmp_path, text)
    assert set(signs.curves) == set(curves)
    for name, (steps, values) in curves.items():
        np.testing.assert_array_equal(signs.curve(name).steps, steps)
        np.testing.assert_array_equal(signs.curve(name).values, values)
    assert (signs.kind, signs.steps_per_epoch, signs.is_over) == ("csv", steps_per_epoch, True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("step,los\n1,2\n", "losses.csv:1: no column is a loss.*`step`, `los`; `los` looks like `loss`"),
        ("1,2\n3,4\n", ":1: 2 columns of numbers without names"),
        ("step,loss\n1,2\n2,low\n", ":3: `low` in the column of `loss` is no number"),
        ("step,loss\n1,2\n2\n", ":3: 1 cells, but the first row has 2"),
        ('step,loss\n1,"2\n', "not CSV"),
        ("step,loss\n1,1_000\n", ":2: `1_000`"),
        ("step,loss\n", "hold no figure"),
        ("step,loss\n1,\n", "hold no figure"),
        (",,\n", ":1: the file holds no row"),
        ("\ufeff", ":1: the file holds no row"),
    ],
)
def test_a_bad_table_is_refused_with_its_line(tmp_path, text, said):
    with pytest.raises(DataError, match=said):
        table(tmp_path, text)


def test_bytes_that_are_no_text_are_refused_with_their_line(tmp_path):
    file = tmp_path / "log.csv"
    file.write_bytes(b"step,loss\n1,\xff\n")
    with pytest.raises(DataError, match=r"log\.csv:2: byte 0xff"):
        read_foreign(file)


values = st.floats(allow_nan=True, width=64)


@given(st.lists(values, min_size=1, max_size=30), st.sampled_from(",;\t"))
def test_what_a_program_writes_is_what_is_read(losses, separator):
    text = separator.join(("step", "loss")) + "\n"
    text += "".join(f"{step}{separator}{loss!r}\n" for step, loss in enumerate(losses, start=1))
    curve = read_loss_table(Path("log.csv"), text).loss
    np.testing.assert_array_equal(curve.values, losses)


@given(st.lists(st.tuples(st.integers(0, 20), values), max_size=40))
def test_steps_rise_and_the_later_of_two_values_counts(points):
    curves = Curves({"step": step, "loss": loss} for step, loss in points).as_curves()
    last = dict(points)
    if points:
        assert curves["loss"].steps.tolist() == sorted(last)
        np.testing.assert_array_equal(curves["loss"].values, [last[step] for step in sorted(last)])
    else:
        assert curves == {}
