"""Laws of the loop on a tiny random Llama and random rows."""

import re
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from tunesmith.config import MethodConfig, TrainingConfig
from tunesmith.data.batches import windows
from tunesmith.data.conversation import Row
from tunesmith.data.render import Rendered
from tunesmith.errors import RunFailed
from tunesmith.hardware import choose_hardware
from tunesmith.methods import lora
from tunesmith.progress import Silent
from tunesmith.training.checkpoint import check_checkpoint, checkpoints_in, load_checkpoint
from tunesmith.training.loop import Loop
from tunesmith.training.loss import mean_loss, row_losses
from tunesmith.training.schedule import learning_rate_at

VOCABULARY, PAD, SEED = 48, 0, 3


class Stop(Exception):
    """Stands for whatever ends a process in the middle of a run."""


def tiny(*, seed=SEED, dropout=0.0):
    """A random Llama, always the same, with LoRA weights decided by the seed."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.2,
    )
    base = LlamaForCausalLM(config)
    torch.manual_seed(seed)
    return lora.prepare(base, MethodConfig(rank=4, dropout=dropout))


def random_rows(count, *, seed=0, path="rows.jsonl"):
    """Rows of 6 to 25 tokens with answers of 1 to 9 tokens."""
    random = np.random.default_rng(seed)
    found = []
    for line in range(1, count + 1):
        ids = tuple(random.integers(1, VOCABULARY, random.integers(6, 26)).tolist())
        answer = int(random.integers(1, min(10, len(ids))))
        scored = (False,) * (len(ids) - answer) + (True,) * answer
        found.append(Rendered(ids, scored, Row((), path, line, "messages")))
    return found


def make_loop(model, folder, record, *, rows=None, validation=(), **settings):
    chosen = {"learning_rate": 5e-3, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    return Loop(
        model,
        random_rows(11) if rows is None else rows,
        validation,
        settings=TrainingConfig(**{"seed": SEED, "early_stopping_patience": 0} | chosen | settings),
        hardware=choose_hardware(device="cpu"),
        pad_id=PAD,
        eval_batch_rows=4,
        checkpoints=folder,
        record=record,
        progress=Silent(),
    )


def train(folder, *, model=None, **settings):
    """Weights, metrics lines and outcome of a whole run."""
    lines = []
    model = model or tiny(seed=settings.get("seed", SEED))
    trained = make_loop(model, folder, lambda **line: lines.append(line), **settings).run()
    return weights(model), lines, trained


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def bits(tensors):
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def of(lines, name):
    return [line[name] for line in lines if name in line]


def timeless(lines):
    """The lines without what no two runs have in common."""
    return [
        {k: v for k, v in line.items() if k not in ("tokens_per_second", "peak_memory_bytes")}
        for line in lines
    ]


def mean_by_hand(model, rows):
    """Nats a scored token over the rows together, one row at a time from all its logits."""
    nats = torch.zeros(())
    for row in rows:
        ids = torch.tensor([row.ids])
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
        losses = functional.cross_entropy(logits, ids[0, 1:], reduction="none")
        nats = nats + losses[torch.tensor(row.scored[1:])].sum()
    return nats / sum(row.scored_tokens for row in rows)


@pytest.mark.parametrize(("micro", "accumulation"), [(1, 8), (2, 4), (5, 2), (4, 2)])
def test_micro_batches_never_change_what_is_learned(tmp_path, micro, accumulation):
    # 11 rows make a whole window and a partial one; 5 x 2 makes windows of 10 rows and 1 row.
    window = micro * accumulation
    run = partial(train, num_train_epochs=3)
    whole, lines, _ = run(tmp_path / "a", per_device_train_batch_size=window, gradient_accumulation_steps=1)
    cut, cut_lines, _ = run(
        tmp_path / "b", per_device_train_batch_size=micro, gradient_accumulation_steps=accumulation
    )
    assert len(lines) == 6
    assert of(cut_lines, "loss") == pytest.approx(of(lines, "loss"), abs=1e-5)
    assert of(cut_lines, "grad_norm") == pytest.approx(of(lines, "grad_norm"), rel=1e-4)
    for name, tensor in whole.items():
        torch.testing.assert_close(cut[name], tensor, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rows", [11, 8, 3])
def test_loss_and_gradient_of_a_window_are_the_token_weighted_mean_by_hand(tmp_path, rows):
    data = random_rows(rows)
    model = tiny()
    (window, *_) = windows(data, window_rows=8, seed=SEED, epoch=0)
    expected = mean_by_hand(model, window)
    expected.backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    _, lines, _ = train(tmp_path, rows=data, max_steps=1, gradient_accumulation_steps=4)
    assert lines[0]["loss"] == pytest.approx(expected.item(), abs=1e-5)
    assert lines[0]["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)


def test_same_seed_gives_the_same_bits_and_another_seed_others(tmp_path):
    def run(name, seed):
        model = tiny(seed=seed, dropout=0.1)
        return train(tmp_path / name, model=model, seed=seed, validation=random_rows(5, seed=9))

    found, lines, _ = run("a", 3)
    again, again_lines, _ = run("b", 3)
    other, other_lines, _ = run("c", 4)
    assert bits(again) == bits(found)
    assert timeless(again_lines) == timeless(lines)
    assert all(bits(other)[name] != bits(found)[name] for name in found)
    assert of(other_lines, "loss") != of(lines, "loss")


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
    one, three = tiny(), tiny()
    for model, step in ((one, 1), (three, 3)):
        load_checkpoint(tmp_path / f"step-{step:06d}", model=model, optimizer=None)
    assert bits(weights(one)) != bits(weights(tiny()))
    assert bits(weights(three)) != bits(found)


def test_frozen_weights_stay_as_they_are(tmp_path):
    model = tiny()
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
    return train(folder, model=tiny(dropout=0.1), **RESUMED)


@pytest.mark.parametrize("stop_at", [("loss", 3), ("loss", 4), ("eval_loss", 6), ("loss", 8), ("loss", 9)])
def test_resumed_equals_uninterrupted(tmp_path, uninterrupted, stop_at):
    name, step = stop_at
    lines = []

    def record(**line):
        if name in line and line["step"] == step:
            raise Stop
        lines.append(line)

    with pytest.raises(Stop):
        make_loop(tiny(dropout=0.1), tmp_path, record, **RESUMED).run()
    newest = checkpoints_in(tmp_path)[-1]
    model = tiny(dropout=0.1)
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
    model = tiny()
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
    best, last = (tiny(), tiny())
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
    resumed_lines, model = [], tiny()
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
    model = tiny()
    load_checkpoint(newest, model=model, optimizer=None)
    assert bits(weights(model)) == bits(found)


def test_validation_loss_before_the_first_step_is_the_base_models(tmp_path):
    validation = random_rows(5, seed=9)
    _, lines, trained = train(tmp_path, validation=validation, max_steps=2, eval_steps=2)
    assert lines[0].keys() == {"step", "epoch", "eval_loss"}
    assert (lines[0]["step"], lines[0]["epoch"]) == (0, 0)
    assert trained.first_loss == lines[0]["eval_loss"]
    with torch.no_grad():
        base = mean_by_hand(tiny().get_base_model(), validation).item()
    assert trained.first_loss == pytest.approx(base, abs=1e-5)
    assert [line["step"] for line in lines if "eval_loss" in line] == [0, 2]


def failing(folder, spoil, **settings):
    """The error of a run that `spoil(model, line)` harms after a line of metrics, and its model."""
    model, lines = tiny(), []

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
    good = tiny()
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
    assert bits(weights(model)) == bits(weights(tiny()))


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
