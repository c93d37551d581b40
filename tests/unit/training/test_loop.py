"""Laws of the loop on a tiny random Llama and random rows."""

from functools import partial

import pytest
import torch

from tiny_run import SEED, bits, make_loop, mean_by_hand, of, random_rows, timeless, tiny_lora, train, weights
from tunesmith.data.batches import windows
from tunesmith.training.checkpoint import checkpoints_in, load_checkpoint
from tunesmith.training.schedule import learning_rate_at


class Stop(Exception):
    """Stands for whatever ends a process in the middle of a run."""


@pytest.mark.parametrize(("micro", "accumulation"), [(1, 8), (2, 4), (5, 2), (4, 2)])
def test_micro_batches_never_change_what_is_learned(tmp_path, micro, accumulation):
    # 11 rows make a whole window and a partial one; 5 x 2 makes windows of 10 rows and 1 row.
    window = micro * accumulation
    # In float64: Adam divides by the gradient's size, so float32's rounding of a tiny one is no tiny step.
    run = partial(train, num_train_epochs=3)
    whole, lines, _ = run(
        tmp_path / "a",
        model=tiny_lora().double(),
        per_device_train_batch_size=window,
        gradient_accumulation_steps=1,
    )
    cut, cut_lines, _ = run(
        tmp_path / "b",
        model=tiny_lora().double(),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=accumulation,
    )
    assert len(lines) == 6
    assert of(cut_lines, "loss") == pytest.approx(of(lines, "loss"), abs=1e-5)
    assert of(cut_lines, "grad_norm") == pytest.approx(of(lines, "grad_norm"), rel=1e-4)
    for name, tensor in whole.items():
        torch.testing.assert_close(cut[name], tensor, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rows", [11, 8, 3])
def test_loss_and_gradient_of_a_window_are_the_token_weighted_mean_by_hand(tmp_path, rows):
    data = random_rows(rows)
    model = tiny_lora()
    (window, *_) = windows(data, window_rows=8, seed=SEED, epoch=0)
    expected = mean_by_hand(model, window)
    expected.backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    _, lines, _ = train(tmp_path, rows=data, max_steps=1, gradient_accumulation_steps=4)
    assert lines[0]["loss"] == pytest.approx(expected.item(), abs=1e-5)
    assert lines[0]["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)


def test_same_seed_gives_the_same_bits_and_another_seed_others(tmp_path):
    def run(name, seed):
        model = tiny_lora(seed=seed, dropout=0.1)
        return train(tmp_path / name, model=model, seed=seed, validation=random_rows(5, seed=9))

    found, lines, _ = run("a", 3)
    again, again_lines, _ = run("b", 3)
    other, other_lines, _ = run("c", 4)
    assert bits(again) == bits(found)
    assert timeless(again_lines) == timeless(lines)
    assert all(bits(other)[name] != bits(found)[name] for name in found)
    assert of(other_lines, "loss") != of(lines, "loss")


def test_windows_are_those_of_seed_and_epoch(tmp_path):
    rows = random_rows(11)
    _, lines, _ = train(tmp_path, rows=rows, num_train_epochs=2, learning_rate=1e-12)
    seen = [window for epoch in (0, 1) for window in windows(rows, window_rows=4, seed=SEED, epoch=epoch)]
    model = tiny_lora()
    assert of(lines, "loss") == pytest.approx([mean_by_hand(model, w).item() for w in seen], abs=1e-5)
    assert of(lines, "loss")[:3] != pytest.approx(of(lines, "loss")[3:], abs=1e-3)


def test_every_row_is_seen_once_an_epoch(tmp_path):
    rows = random_rows(11)
    _, lines, trained = train(tmp_path, rows=rows, num_train_epochs=2)
    assert trained.steps == 6
    assert trained.tokens == 2 * sum(len(row.ids) for row in rows)
    assert of(lines, "step") == [1, 2, 3, 4, 5, 6]
    assert of(lines, "epoch") == [0.3333, 0.6667, 1, 1.3333, 1.6667, 2]


def test_learning_rates_are_the_schedule(tmp_path):
    _, lines, _ = train(tmp_path, max_steps=7, warmup_ratio=0.3, lr_scheduler_type="linear")
    rate = partial(learning_rate_at, peak=5e-3, total_steps=7, warmup_steps=2, kind="linear")
    assert of(lines, "learning_rate") == [rate(step) for step in range(1, 8)]


def test_first_step_and_last_step_move_the_weights(tmp_path):
    found, _, _ = train(tmp_path, max_steps=4, warmup_ratio=0.9, save_steps=1, save_total_limit=9)
    one, three = tiny_lora(), tiny_lora()
    for model, step in ((one, 1), (three, 3)):
        load_checkpoint(tmp_path / f"step-{step:06d}", model=model, optimizer=None)
    assert bits(weights(one)) != bits(weights(tiny_lora()))
    assert bits(weights(three)) != bits(found)


def test_frozen_weights_stay_as_they_are(tmp_path):
    model = tiny_lora()
    before = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    train(tmp_path, model=model)
    frozen = {name: p for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen.keys() == before.keys()
    assert all(torch.equal(frozen[name], before[name]) for name in before)


# 11 rows in windows of 4: three steps an epoch, the third a partial window; 9 steps, saved at 2, 4, 6, 8, 9.
RESUMED = {"num_train_epochs": 3, "eval_steps": 2, "validation": random_rows(5, seed=9)}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    torch.set_num_threads(1)  # as in each test: this fixture comes before what a test sets up
    folder = tmp_path_factory.mktemp("uninterrupted")
    return train(folder, model=tiny_lora(dropout=0.1), **RESUMED)


@pytest.mark.parametrize("stop_at", [("loss", 3), ("loss", 4), ("eval_loss", 6), ("loss", 8), ("loss", 9)])
def test_resumed_equals_uninterrupted(tmp_path, uninterrupted, stop_at):
    name, step = stop_at
    lines = []

    def record(**line):
        if name in line and line["step"] == step:
            raise Stop
        lines.append(line)

    with pytest.raises(Stop):
        make_loop(tiny_lora(dropout=0.1), tmp_path, record, **RESUMED).run()
    newest = checkpoints_in(tmp_path)[-1]
    model = tiny_lora(dropout=0.1)
    torch.manual_seed(999)
    loop = make_loop(model, tmp_path, lambda **line: kept.append(line), **RESUMED)
    loop.resume(newest)
    assert 0 < loop.state.step < step
    kept = [line for line in lines if line["step"] <= loop.state.step]
    trained = loop.run()
    expected, expected_lines, expected_trained = uninterrupted
    assert bits(weights(model)) == bits(expected)
    assert timeless(kept) == timeless(expected_lines)
    for field in ("steps", "tokens", "best_step", "best_loss", "first_loss", "is_early_stop"):
        assert getattr(trained, field) == getattr(expected_trained, field)
