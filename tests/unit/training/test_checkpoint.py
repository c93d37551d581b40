import json
import re
import resource
import shutil
from contextlib import contextmanager

import pytest
import torch
from safetensors import safe_open
from torch import nn

from tunesmith.errors import RunFolderError
from tunesmith.training.checkpoint import (
    MANIFEST,
    OPTIMIZER,
    STATE,
    WEIGHTS,
    check_checkpoint,
    checkpoints_in,
    load_checkpoint,
    remove_old,
    save_checkpoint,
)

FILES = (WEIGHTS, OPTIMIZER, STATE, MANIFEST)
EARLIER = "delete this folder to go on from the checkpoint before it"


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


@contextmanager
def files_at_most(number_bytes):
    """A disk that is full: writing more into one file is refused by the system."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (number_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


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
    assert sorted(file.name for file in path.iterdir()) == sorted(FILES)
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


def refused(path):
    """The message of a load that must leave the model as it was."""
    model, optimizer = network(seed=2)
    before = weights(model)
    with pytest.raises(RunFolderError) as caught:
        load_checkpoint(path, model=model, optimizer=optimizer)
    assert caught.value.hint == EARLIER
    assert weights(model) == before
    assert not optimizer.state
    return str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_truncated_file_is_named(tmp_path, name):
    path = saved(tmp_path)
    content = (path / name).read_bytes()
    for length in (0, len(content) // 2, len(content) - 1):
        (path / name).write_bytes(content[:length])
        message = refused(path)
        assert message.startswith(f"checkpoint `{path}` is damaged: ")
        assert name in message


@pytest.mark.parametrize("name", FILES)
def test_deleted_file_is_named(tmp_path, name):
    path = saved(tmp_path)
    (path / name).unlink()
    message = refused(path)
    assert re.search(r"is not whole|cannot be read", message)
    assert name in message


@pytest.mark.parametrize("name", [WEIGHTS, OPTIMIZER, STATE])
def test_one_flipped_bit_names_the_file(tmp_path, name):
    path = saved(tmp_path)
    content = (path / name).read_bytes()
    for at in (0, len(content) // 3, len(content) - 1):
        (path / name).write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        assert refused(path) == f"checkpoint `{path}` is damaged: {name} changed"


def test_one_flipped_bit_anywhere_in_the_manifest_is_noticed(tmp_path):
    path = saved(tmp_path)
    content = (path / MANIFEST).read_bytes()
    for at in range(len(content)):
        (path / MANIFEST).write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(RunFolderError, match=rf"{MANIFEST} cannot be read|(safetensors|json) changed"):
            check_checkpoint(path)


@pytest.mark.parametrize("content", ["{}", "[]", '{"weights.safetensors": ""}'])
def test_manifest_that_leaves_files_out_vouches_for_nothing(tmp_path, content):
    path = saved(tmp_path)
    (path / MANIFEST).write_text(content)
    assert f"{MANIFEST} cannot be read" in refused(path)


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


@pytest.mark.parametrize("limit_bytes", [64, 700], ids=["weights", "optimizer"])
def test_full_disk_keeps_the_checkpoint_before_and_leaves_no_partial_one(tmp_path, limit_bytes):
    earlier = saved(tmp_path, step=3)
    message = re.escape(f"checkpoint `{tmp_path / 'step-000004'}` cannot be written: ")
    with files_at_most(limit_bytes), pytest.raises(RunFolderError, match=message) as caught:
        saved(tmp_path, step=4)
    assert caught.value.hint == "free some disk space, then go on with `tunesmith train --resume`"
    assert list(tmp_path.iterdir()) == [earlier]
    check_checkpoint(earlier)


def test_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("mine")
    folder = tmp_path / "file" / "checkpoints"
    message = re.escape(f"checkpoint `{folder / 'step-000003'}` cannot be written: Not a directory")
    with pytest.raises(RunFolderError, match=message):
        saved(folder)
    assert (tmp_path / "file").read_text() == "mine"


def test_partial_folder_of_a_crash_is_no_checkpoint_and_no_obstacle(tmp_path):
    partial = tmp_path / ".step-000003.partial"
    shutil.copytree(saved(tmp_path), partial)
    (partial / MANIFEST).unlink()
    shutil.rmtree(tmp_path / "step-000003")
    assert checkpoints_in(tmp_path) == []
    path = saved(tmp_path)
    assert list(tmp_path.iterdir()) == [path]
    check_checkpoint(path)


def test_saving_a_step_again_replaces_it(tmp_path):
    first = (saved(tmp_path, seed=1) / WEIGHTS).read_bytes()
    second = (saved(tmp_path, seed=2) / WEIGHTS).read_bytes()
    assert first != second
    assert [path.name for path in checkpoints_in(tmp_path)] == ["step-000003"]
    check_checkpoint(tmp_path / "step-000003")


def test_absent_folder_holds_no_checkpoint(tmp_path):
    assert checkpoints_in(tmp_path / "absent") == []


@pytest.mark.parametrize(
    ("keep", "best", "left"),
    [
        (1, None, [40]),
        (2, None, [30, 40]),
        (9, None, [9, 10, 20, 30, 40]),
        (1, 40, [40]),
        (1, 10, [10, 40]),
        (2, 10, [10, 40]),
        (2, 40, [30, 40]),
        (3, 9, [9, 30, 40]),
        (3, 40, [20, 30, 40]),
    ],
)
def test_remove_old_keeps_the_best_and_one_to_go_on_from(tmp_path, keep, best, left):
    folders = {step: tmp_path / f"step-{step:06d}" for step in (9, 10, 20, 30, 40)}
    for folder in folders.values():
        folder.mkdir()
    remove_old(tmp_path, keep=keep, best=folders.get(best))
    assert checkpoints_in(tmp_path) == [folders[step] for step in left]
