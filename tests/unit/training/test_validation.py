"""What validation decides: the weights that stay, the checkpoints that stay, and when a run ends."""

import pytest
import torch

from tiny_run import PAD, bits, make_loop, mean_by_hand, of, random_rows, tiny_lora, train, weights
from tunesmith.data.conversation import Row
from tunesmith.data.render import Rendered
from tunesmith.training.checkpoint import checkpoints_in, load_checkpoint
from tunesmith.training.loss import mean_loss, row_losses


def answering(token, rows, *, path):
    """The same prompts, each answered with one token over and over."""
    return [
        Rendered(
            tuple(token if scored else i for i, scored in zip(row.ids, row.scored, strict=True)),
            row.scored,
            Row((), path, row.row.line, "messages"),
        )
        for row in rows
    ]


# What is learned from the training rows makes the validation rows worse, from the first steps on.
WORSENING = {
    "rows": answering(7, random_rows(11), path="rows.jsonl"),
    "validation": answering(9, random_rows(11), path="other.jsonl"),
    "eval_steps": 1,
    "lr_scheduler_type": "constant",
    "warmup_ratio": 0,
}


def test_early_stop_ends_the_run_and_leaves_the_best_weights(tmp_path):
    model = tiny_lora()
    found, lines, trained = train(tmp_path, model=model, max_steps=40, early_stopping_patience=3, **WORSENING)
    losses = of(lines, "eval_loss")[1:]
    assert trained.is_early_stop
    assert trained.best_loss == min(losses)
    assert trained.best_step == losses.index(min(losses)) + 1
    assert trained.steps == len(losses) == trained.best_step + 3 < 40
    assert of(lines, "loss")[-1] < of(lines, "loss")[0]
    statistics = row_losses(
        model, WORSENING["validation"], batch_rows=4, pad_id=PAD, device=torch.device("cpu")
    )
    assert mean_loss(statistics) == pytest.approx(trained.best_loss, abs=1e-6)
    best, last = (tiny_lora(), tiny_lora())
    for other, step in ((best, trained.best_step), (last, trained.steps)):
        load_checkpoint(tmp_path / f"step-{step:06d}", model=other, optimizer=None)
    assert bits(weights(best)) == bits(found) != bits(weights(last))


def test_patience_of_zero_never_stops_early(tmp_path):
    _, _, trained = train(tmp_path, max_steps=9, early_stopping_patience=0, **WORSENING)
    assert (trained.steps, trained.is_early_stop) == (9, False)
    assert trained.best_step < 9


def test_run_that_loses_patience_at_its_last_step_did_not_stop_early(tmp_path):
    _, _, longer = train(tmp_path / "a", max_steps=40, early_stopping_patience=3, **WORSENING)
    settings = WORSENING | {"max_steps": longer.steps, "early_stopping_patience": 3}
    found, _, trained = train(tmp_path / "b", **settings)
    assert (longer.is_early_stop, trained.is_early_stop) == (True, False)
    assert (trained.steps, trained.best_step) == (longer.steps, longer.best_step)
    resumed_lines, model = [], tiny_lora()
    loop = make_loop(model, tmp_path / "b", lambda **line: resumed_lines.append(line), **settings)
    loop.resume(checkpoints_in(tmp_path / "b")[-1])
    assert loop.state.step == trained.steps
    assert loop.run() == trained
    assert resumed_lines == []
    assert bits(weights(model)) == bits(found)


def test_best_and_newest_checkpoint_are_kept(tmp_path):
    _, _, trained = train(tmp_path, max_steps=8, save_total_limit=2, **WORSENING)
    assert trained.best_step < 7
    assert [path.name for path in checkpoints_in(tmp_path)] == [
        f"step-{trained.best_step:06d}",
        "step-000008",
    ]


def test_without_validation_rows_the_last_weights_stay(tmp_path):
    found, lines, trained = train(tmp_path, max_steps=5, early_stopping_patience=1)
    assert (trained.best_step, trained.best_loss, trained.first_loss) == (None, None, None)
    assert (trained.steps, trained.is_early_stop) == (5, False)
    assert of(lines, "eval_loss") == []
    newest = checkpoints_in(tmp_path)[-1]
    assert newest.name == "step-000005"
    model = tiny_lora()
    load_checkpoint(newest, model=model, optimizer=None)
    assert bits(weights(model)) == bits(found)


def test_validation_loss_before_the_first_step_is_the_base_models(tmp_path):
    validation = random_rows(5, seed=9)
    _, lines, trained = train(tmp_path, validation=validation, max_steps=2, eval_steps=2)
    assert lines[0].keys() == {"step", "epoch", "eval_loss"}
    assert (lines[0]["step"], lines[0]["epoch"]) == (0, 0)
    assert trained.first_loss == lines[0]["eval_loss"]
    with torch.no_grad():
        base = mean_by_hand(tiny_lora().get_base_model(), validation).item()
    assert trained.first_loss == pytest.approx(base, abs=1e-5)
    assert [line["step"] for line in lines if "eval_loss" in line] == [0, 2]


def test_patience_counts_validations_in_a_row(tmp_path):
    # The learning rate moves nothing; the frozen output layer, scaled after each step, decides the loss:
    # of a random model it grows with a large scale.
    scales = {1: 16, 2: 64, 3: 8, 4: 64, 5: 4, 6: 64, 7: 64, 8: 2}
    model, lines = tiny_lora(), []
    head = model.get_base_model().lm_head.weight
    original = head.detach().clone()

    def record(**line):
        lines.append(line)
        if "loss" in line:
            with torch.no_grad():
                head.copy_(original * scales[line["step"]])

    settings = {"max_steps": 8, "eval_steps": 1, "early_stopping_patience": 2, "learning_rate": 1e-12}
    trained = make_loop(model, tmp_path, record, validation=random_rows(5, seed=9), **settings).run()
    losses = of(lines, "eval_loss")[1:]
    assert losses[0] > losses[2] > losses[4]
    assert min(losses[1], losses[3], losses[5], losses[6]) > losses[0]
    assert (trained.best_step, trained.steps, trained.is_early_stop) == (5, 7, True)
