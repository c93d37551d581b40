"""Several processes: what is dealt to whom, and what a launcher may not ask for."""

import importlib.util

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tiny_run import PAD, make_loop, random_rows, tiny_full, tiny_lora
from tunesmith.config import TrainingConfig
from tunesmith.data.batches import dealt, micro_batches
from tunesmith.errors import ConfigError
from tunesmith.training.loss import batch_loss_sum
from tunesmith.training.randomness import seed_step
from tunesmith.training.ranks import ALONE, loading_device, this_process
from tunesmith.training.schedule import plan_steps
from tunesmith.training.shards import reshard, shard, whole_weights

CPU = torch.device("cpu")


@given(st.integers(1, 40), st.integers(1, 6), st.integers(1, 5))
def test_every_row_is_dealt_once_and_all_processes_pass_equally_often(rows, batch_rows, count):
    cut = list(micro_batches(random_rows(rows), micro_batch_rows=batch_rows, pad_id=PAD))
    hands = [list(dealt(cut, rank=rank, count=count, pad_id=PAD)) for rank in range(count)]
    assert {len(hand) for hand in hands} == {-(-len(cut) // count)}
    lines = [row.row.line for hand in hands for batch in hand for row in batch.rows]
    assert sorted(lines) == list(range(1, rows + 1))
    # Batches that are computed at the same time are neighbours in length.
    turns = [batch for turn in zip(*hands, strict=True) for batch in turn if batch.rows]
    assert [batch.rows for batch in turns] == [batch.rows for batch in cut]
    assert all(not batch.predicts_BT.any() for hand in hands for batch in hand if not batch.rows)


def test_batch_of_no_rows_costs_nothing_and_reaches_every_learning_weight():
    model = tiny_lora()
    *_, nothing = dealt(
        micro_batches(random_rows(1), micro_batch_rows=1, pad_id=PAD), rank=1, count=2, pad_id=PAD
    )
    loss = batch_loss_sum(model, nothing, CPU)
    loss.backward()
    assert loss.item() == 0
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert learning
    assert all(torch.equal(parameter.grad, torch.zeros_like(parameter)) for parameter in learning)


@given(st.integers(1, 500), st.integers(1, 9), st.integers(1, 9), st.integers(1, 8))
def test_processes_count_like_accumulation(rows, micro, accumulation, processes):
    def plan(accumulation, **others):
        settings = TrainingConfig(per_device_train_batch_size=micro, gradient_accumulation_steps=accumulation)
        return plan_steps(settings, rows=rows, **others)

    assert plan(accumulation, processes=processes) == plan(accumulation * processes)


def test_each_process_and_step_draws_other_numbers_and_the_same_ones_again():
    def drawn(seed, step, rank):
        seed_step(seed, step=step, rank=rank)
        return tuple(torch.rand(3).tolist())

    places = [(seed, step, rank) for seed in (0, 1) for step in (1, 2, 3) for rank in (0, 1, 2)]
    assert len({drawn(*place) for place in places}) == len(places)
    assert drawn(1, 2, 1) == drawn(1, 2, 1)


def test_one_process_is_alone_and_agrees_with_itself():
    assert this_process() == ALONE
    assert ALONE.is_main
    assert ALONE.share({"path": "runs/x"}) == {"path": "runs/x"}
    ALONE.wait()
    ALONE.leave()


def test_weights_to_be_cut_are_loaded_in_main_memory(monkeypatch):
    assert loading_device("cuda") == "cuda"
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert loading_device("cuda") == "cpu"


def test_without_shards_whole_weights_changes_nothing():
    model = tiny_full()
    before = dict(model.named_parameters())
    reshard(model)
    with whole_weights(model, ALONE):
        assert all(parameter is before[name] for name, parameter in model.named_parameters())
    assert all(parameter is before[name] for name, parameter in model.named_parameters())


def quantized():
    model = nn.Linear(2, 2)
    model.weight = nn.Parameter(torch.zeros(2, 1, dtype=torch.uint8), requires_grad=False)
    return model


@pytest.mark.parametrize(
    ("settings", "model", "message", "hint"),
    [
        ({"FSDP_VERSION": "1"}, tiny_full, "`fsdp_version: 1`, and only 2 is offered", "fsdp2.yaml"),
        (
            {"FSDP_VERSION": "2", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"},
            tiny_full,
            "`fsdp_cpu_ram_efficient_loading: true`, which leaves weights empty on all processes but one",
            "`fsdp_cpu_ram_efficient_loading: false`",
        ),
        ({"FSDP_VERSION": "2"}, quantized, "cannot cut 1 quantized weights such as `weight`", "ddp.yaml"),
    ],
)
def test_fsdp_refuses_what_it_cannot_do(monkeypatch, settings, model, message, hint):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message) as caught:
        shard(model(), device=CPU, dtype=torch.float32, ranks=ALONE)
    assert hint in caught.value.hint


def refused_by_zero(monkeypatch, folder, *, stage=2):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", str(stage))
    with pytest.raises(ConfigError) as caught:
        make_loop(tiny_lora(), folder, lambda **line: None)
    return str(caught.value), caught.value.hint


def test_other_stages_of_zero_are_refused(monkeypatch, tmp_path):
    message, hint = refused_by_zero(monkeypatch, tmp_path, stage=3)
    assert message == "the accelerate configuration asks for ZeRO stage 3, and 1 and 2 are offered"
    assert "`zero_stage: 2`" in hint


@pytest.mark.parametrize("launcher", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_states_of_eight_bits_are_not_cut(monkeypatch, tmp_path, launcher):
    monkeypatch.setenv(launcher, "true")
    message = "`optim` is adamw_8bit, and FSDP and DeepSpeed cut only the states of adamw_torch"
    with pytest.raises(ConfigError, match=message) as caught:
        make_loop(tiny_lora(), tmp_path, lambda **line: None, optim="adamw_8bit")
    assert "--optim adamw_torch" in caught.value.hint


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is not None, reason="DeepSpeed is installed")
def test_missing_deepspeed_is_named(monkeypatch, tmp_path):
    message, hint = refused_by_zero(monkeypatch, tmp_path)
    assert message == "the accelerate configuration asks for DeepSpeed, which is not installed"
    assert "pip install deepspeed" in hint
