"""The guard against numbers that are not finite: nothing harmed is learned or saved."""

import re
from functools import partial

import pytest
import torch

from tiny_run import SEED, bits, make_loop, random_rows, tiny_lora, weights
from tunesmith.data.batches import windows
from tunesmith.errors import RunFailed
from tunesmith.training.checkpoint import check_checkpoint, checkpoints_in, load_checkpoint


def failing(folder, spoil, **settings):
    """The error of a run that `spoil(model, line)` harms after a line of metrics, and its model."""
    model, lines = tiny_lora(), []

    def record(**line):
        lines.append(line)
        spoil(model, line)

    loop = make_loop(model, folder, record, **{"save_steps": 2, "max_steps": 8} | settings)
    with pytest.raises(RunFailed) as caught:
        loop.run()
    return caught.value, model, lines


def spoil_frozen_weight(model, line, *, after, name="loss"):
    if line["step"] == after and name in line:
        with torch.no_grad():
            model.get_base_model().lm_head.weight[5, 5] = float("nan")


def spoil_gradient(model, line, *, after, value=float("inf")):
    if line["step"] == after:
        next(p for p in model.parameters() if p.requires_grad).register_hook(lambda g: g * value)


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (partial(spoil_frozen_weight, after=2), "loss is nan, grad_norm is nan"),
        (partial(spoil_gradient, after=2), "grad_norm is nan"),
        (partial(spoil_gradient, after=2, value=float("nan")), "grad_norm is nan"),
    ],
    ids=["weight", "infinite gradient", "gradient"],
)
def test_non_finite_number_stops_the_run_before_the_step(tmp_path, spoil, found):
    rows = random_rows(11)
    error, model, lines = failing(tmp_path, spoil, rows=rows)
    window = windows(rows, window_rows=4, seed=SEED, epoch=0)[2]
    places = ", ".join(f"rows.jsonl:{row.row.line}" for row in window)
    assert re.fullmatch(rf"step 3 was not taken: .*{found}; its rows: {re.escape(places)}", str(error))
    assert [line["step"] for line in lines] == [1, 2]
    newest = checkpoints_in(tmp_path)[-1]
    assert error.hint == (
        f"lower `--learning-rate` (now 0.005) or look at these rows; the last good checkpoint is `{newest}`"
    )
    check_checkpoint(newest)
    good = tiny_lora()
    load_checkpoint(newest, model=good, optimizer=None)
    assert newest.name == "step-000002"
    assert bits(weights(good)) == bits(weights(model))
    assert all(torch.isfinite(tensor).all() for tensor in weights(model).values())


def test_failure_before_the_first_checkpoint_says_so_and_names_eight_rows_at_most(tmp_path):
    settings = {"per_device_train_batch_size": 5, "save_steps": 9, "validation": random_rows(2, seed=9)}
    error, model, _ = failing(tmp_path, partial(spoil_frozen_weight, after=0, name="eval_loss"), **settings)
    assert str(error).startswith("step 1 was not taken: loss is nan")
    assert str(error).count("rows.jsonl:") == 8
    assert str(error).endswith(" ...")
    assert error.hint.endswith("no checkpoint was due yet")
    assert bits(weights(model)) == bits(weights(tiny_lora()))


def test_non_finite_validation_loss_stops_the_run_and_saves_nothing(tmp_path):
    validation = random_rows(2, seed=9, path="validation.jsonl")
    error, _, lines = failing(
        tmp_path, partial(spoil_frozen_weight, after=4), validation=validation, eval_steps=2
    )
    assert str(error) == (
        "validation after step 4 failed: eval_loss is nan; its rows: validation.jsonl:1, validation.jsonl:2"
    )
    assert "the last good checkpoint is `" in error.hint
    assert [path.name for path in checkpoints_in(tmp_path)] == ["step-000002"]
    assert lines[-1]["step"] == 4
    assert "eval_loss" not in lines[-1]
