import json
import re

import pytest
import torch
from safetensors import safe_open
from torch import nn

from tunesmith.errors import RunFolderError
from tunesmith.training.checkpoint import (
    OPTIMIZER,
    STATE,
    WEIGHTS,
    check_checkpoint,
    checkpoints_in,
    load_checkpoint,
    save_checkpoint,
)
from tunesmith.training.whole_folder import MANIFEST

ALL_FILES = (WEIGHTS, OPTIMIZER, STATE, MANIFEST)


def network(*, seed, width=4):
    """A frozen layer and a trained one."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, width), nn.Dropout(0.5), nn.Linear(width, 2))
    model[0].requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    return model, optimizer


def train(model, optimizer, *, steps):
    for _ in range(steps):
        model(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def saved(folder, *, step=3, seed=1):
    model, optimizer = network(seed=seed)
    train(model, optimizer, steps=step)
    state = {"tokens": 7, "best_loss": None}
    return save_checkpoint(folder, step=step, model=model, optimizer=optimizer, state=state)


def weights(model):
    return {name: value.numpy().tobytes() for name, value in model.state_dict().items()}


def moments(optimizer):
    state = optimizer.state_dict()
    values = {(at, name): value.tolist() for at, of in state["state"].items() for name, value in of.items()}
    return values, json.dumps(state["param_groups"])


def test_training_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(tmp_path):
    model, optimizer = network(seed=1)
    train(model, optimizer, steps=3)
    path = save_checkpoint(tmp_path, step=3, model=model, optimizer=optimizer, state={"tokens": 7})
    train(model, optimizer, steps=4)
    again, other_optimizer = network(seed=1)
    torch.manual_seed(99)
    state = load_checkpoint(path, model=again, optimizer=other_optimizer)
    assert (state["step"], state["tokens"]) == (3, 7)
    train(again, other_optimizer, steps=4)
    assert weights(again) == weights(model)
    assert moments(other_optimizer) == moments(optimizer)


class Counting(torch.optim.AdamW):
    """Holds numbers beside tensors, as 8-bit optimizers do."""

    def step(self, closure=None):
        super().step(closure)
        for state in self.state.values():
            state["count"] = state.get("count", 0) + 1
            state["share"] = state["count"] / 3
            state["is_new"] = state["count"] == 1


def test_optimizer_may_hold_numbers_beside_tensors(tmp_path):
    def start():
        model, _ = network(seed=1)
        return model, Counting([p for p in model.parameters() if p.requires_grad], lr=0.1)

    model, optimizer = start()
    train(model, optimizer, steps=2)
    path = save_checkpoint(tmp_path, step=2, model=model, optimizer=optimizer, state={})
    _, again = start()
    load_checkpoint(path, model=model, optimizer=again)
    for expected, found in zip(optimizer.state.values(), again.state.values(), strict=True):
        assert found.keys() == expected.keys()
        for name in ("count", "share", "is_new"):
            assert (type(found[name]), found[name]) == (type(expected[name]), expected[name])
        assert torch.equal(found["exp_avg"], expected["exp_avg"])
    assert json.loads((path / STATE).read_text())["optimizer_numbers"]["0.share"] == 2 / 3


def test_weights_alone_leave_the_random_generator_as_it_is(tmp_path):
    path = saved(tmp_path)
    model, _ = network(seed=2)
    before = torch.get_rng_state()
    load_checkpoint(path, model=model, optimizer=None)
    assert torch.equal(torch.get_rng_state(), before)


def test_only_trained_weights_are_kept(tmp_path):
    path = saved(tmp_path, seed=1)
    model, _ = network(seed=2)
    frozen = model[0].weight.clone()
    load_checkpoint(path, model=model, optimizer=None)
    assert torch.equal(model[0].weight, frozen)
    with safe_open(path / WEIGHTS, "pt") as file:
        assert sorted(file.keys()) == ["2.bias", "2.weight"]
        assert torch.equal(file.get_tensor("2.weight"), model[2].weight)


def test_no_file_needs_pickle(tmp_path):
    path = saved(tmp_path)
    assert sorted(file.name for file in path.iterdir()) == sorted(ALL_FILES)
    for name in (WEIGHTS, OPTIMIZER):
        with safe_open(path / name, "pt") as file:
            assert file.keys()
    for name in (STATE, MANIFEST):
        assert isinstance(json.loads((path / name).read_text()), dict)


def test_whole_checkpoint_passes_the_check_and_says_its_step(tmp_path):
    path = saved(tmp_path, step=12)
    assert path == tmp_path / "step-000012"
    check_checkpoint(path)
    assert [file.name for file in tmp_path.iterdir()] == ["step-000012"]


def test_checkpoint_of_another_width_is_refused(tmp_path):
    path = saved(tmp_path)
    model, optimizer = network(seed=1, width=5)
    message = re.escape("holds 2 tensors of 10 numbers, and this model trains 2 tensors of 12 numbers")
    with pytest.raises(RunFolderError, match=message) as caught:
        load_checkpoint(path, model=model, optimizer=optimizer)
    assert caught.value.hint == "resume with the configuration the run was started with"


def test_checkpoint_with_other_names_is_refused(tmp_path):
    path = saved(tmp_path)
    with pytest.raises(RunFolderError, match="and this model trains 2 tensors"):
        load_checkpoint(path, model=nn.Linear(4, 2), optimizer=None)


def test_saving_a_step_again_replaces_it(tmp_path):
    first = (saved(tmp_path, seed=1) / WEIGHTS).read_bytes()
    second = (saved(tmp_path, seed=2) / WEIGHTS).read_bytes()
    assert first != second
    assert [path.name for path in checkpoints_in(tmp_path)] == ["step-000003"]
    check_checkpoint(tmp_path / "step-000003")


def test_absent_folder_holds_no_checkpoint(tmp_path):
    assert checkpoints_in(tmp_path / "absent") == []
