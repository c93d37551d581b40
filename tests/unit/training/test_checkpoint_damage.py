"""Every damage to every file of a checkpoint is found before anything of it is used."""

import json
import re
import shutil

import pytest
import torch

from tunesmith.errors import RunFolderError
from tunesmith.training.checkpoint import (
    FILES,
    check_checkpoint,
    load_checkpoint,
    newest_whole,
    remove_old,
    save_checkpoint,
)
from tunesmith.training.whole_folder import MANIFEST, damage

ALL_FILES = (*FILES, MANIFEST)
STEPS = (9, 10, 20)


def parts():
    torch.manual_seed(1)
    model = torch.nn.Linear(4, 3)
    return model, torch.optim.AdamW(model.parameters(), lr=0.1)


@pytest.fixture(scope="module")
def whole_ones(tmp_path_factory):
    """Checkpoints of steps 9, 10 and 20; tests take copies."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    model, optimizer = parts()
    for step in STEPS:
        model(torch.randn(5, 4)).sum().backward()
        optimizer.step()
        save_checkpoint(folder, step=step, model=model, optimizer=optimizer, state={"tokens": 7})
    return folder


@pytest.fixture
def folder(whole_ones, tmp_path):
    return shutil.copytree(whole_ones, tmp_path / "run" / "checkpoints")


def step_in(folder, step):
    return folder / f"step-{step:06d}"


def truncate(path, *, to=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * to)])


def empty(path):
    truncate(path, to=0)


def lose_the_last_byte(path):
    path.write_bytes(path.read_bytes()[:-1])


def zero(path):
    path.write_bytes(bytes(path.stat().st_size))


def zero_the_end(path):
    content = path.read_bytes()
    kept = len(content) // 2
    path.write_bytes(content[:kept] + bytes(len(content) - kept))


def flip(path, *, at=0.5):
    content = bytearray(path.read_bytes())
    content[int(len(content) * at)] ^= 1
    path.write_bytes(content)


def flip_first(path):
    flip(path, at=0)


def grow(path):
    path.write_bytes(path.read_bytes() + b"\n")


def become_a_folder(path):
    path.unlink()
    path.mkdir()


def delete(path):
    path.unlink()


HARMS = (
    truncate,
    empty,
    lose_the_last_byte,
    zero,
    zero_the_end,
    flip,
    flip_first,
    grow,
    become_a_folder,
    delete,
)


def told(name, harm, *, size_bytes, now_bytes):
    """What is said of the file, without the checkpoint's name."""
    if harm is delete:
        return f"{name} is missing"
    if harm is become_a_folder and name == MANIFEST:
        return f"{name} cannot be read: Is a directory"
    if name == MANIFEST:
        return f"{name} changed: it is not as it was written"
    if now_bytes < size_bytes:
        return re.escape(f"{name} is truncated ({now_bytes} of {size_bytes} bytes)")
    if now_bytes > size_bytes:
        return re.escape(f"{name} changed ({now_bytes} bytes, not {size_bytes})")
    return re.escape(f"{name} changed (another sha256)")


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
@pytest.mark.parametrize("name", ALL_FILES)
def test_each_damage_to_each_file_is_named_and_the_one_before_is_taken(folder, name, harm):
    file = step_in(folder, 20) / name
    size_bytes = file.stat().st_size
    harm(file)
    now_bytes = file.stat().st_size if file.exists() else 0
    expected = told(name, harm, size_bytes=size_bytes, now_bytes=now_bytes)
    sentence = rf"checkpoint `{re.escape(str(step_in(folder, 20)))}` is damaged: {expected}"
    found, damaged = newest_whole(folder)
    assert found == step_in(folder, 10)
    assert len(damaged) == 1
    assert re.fullmatch(sentence, damaged[0])
    model, optimizer = parts()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random_before = torch.get_rng_state()
    with pytest.raises(RunFolderError, match=sentence) as caught:
        load_checkpoint(step_in(folder, 20), model=model, optimizer=optimizer)
    assert caught.value.hint == (
        f"`tunesmith train --resume {folder.parent}` goes on from the newest whole one"
    )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_before)
    assert not optimizer.state


def test_every_flipped_bit_and_every_missing_end_of_the_manifest_is_noticed(folder):
    path = step_in(folder, 20)
    content = (path / MANIFEST).read_bytes()
    for at in range(len(content)):
        flipped = content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :]
        for changed in (flipped, content[:at]):
            (path / MANIFEST).write_bytes(changed)
            assert damage(path, names=FILES) == f"{MANIFEST} changed: it is not as it was written"
    (path / MANIFEST).write_bytes(content)
    check_checkpoint(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"null", b"7", b'{"files": 7}', b'{"files": {}}', b'{"files": {"a": 7}}', b"\xff"],
    ids=repr,
)
def test_manifest_that_leaves_files_out_vouches_for_nothing(folder, content):
    (step_in(folder, 20) / MANIFEST).write_bytes(content)
    with pytest.raises(RunFolderError, match=f"{MANIFEST} changed: it is not as it was written"):
        check_checkpoint(step_in(folder, 20))


def test_files_of_another_checkpoint_are_noticed(folder):
    for name in FILES[:2]:
        shutil.copy(step_in(folder, 10) / name, step_in(folder, 20) / name)
    with pytest.raises(
        RunFolderError, match=r"weights\.safetensors changed .*, optimizer\.safetensors changed"
    ):
        check_checkpoint(step_in(folder, 20))


def test_each_damaged_one_has_its_sentence_newest_first(folder):
    delete(step_in(folder, 20) / "state.json")
    empty(step_in(folder, 10) / "weights.safetensors")
    found, damaged = newest_whole(folder)
    assert found == step_in(folder, 9)
    assert [re.search(r"step-\d+", sentence).group() for sentence in damaged] == [
        "step-000020",
        "step-000010",
    ]
    zero(step_in(folder, 9) / MANIFEST)
    found, damaged = newest_whole(folder)
    assert found is None
    assert len(damaged) == 3


def test_whole_checkpoints_need_no_words(folder):
    delete(step_in(folder, 9) / "state.json")
    assert newest_whole(folder) == (step_in(folder, 20), ())


def test_absent_folder_has_no_checkpoint_to_go_on_from(tmp_path):
    assert newest_whole(tmp_path / "absent") == (None, ())


def test_newest_is_the_one_of_the_highest_step_not_of_the_last_name(folder):
    step_in(folder, 20).rename(folder / "step-1000000")
    step_in(folder, 10).rename(folder / "step-999999")
    assert newest_whole(folder) == (folder / "step-1000000", ())


def test_looking_for_the_newest_whole_one_changes_no_checkpoint(folder):
    flip(step_in(folder, 20) / "weights.safetensors")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    newest_whole(folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("keep", "best", "harmed", "left"),
    [
        (1, None, [], [20]),
        (2, None, [], [10, 20]),
        (3, None, [], [9, 10, 20]),
        (1, 20, [], [20]),
        (1, 9, [], [9, 20]),
        (2, 9, [], [9, 20]),
        (2, 20, [], [10, 20]),
        (1, None, [20], [10, 20]),
        (1, 9, [20], [9, 10, 20]),
        (1, None, [20, 10], [9, 10, 20]),
        (1, None, [20, 10, 9], [9, 10, 20]),
        (1, 20, [20], [10, 20]),
    ],
)
def test_the_newest_whole_one_and_the_best_are_never_removed(folder, keep, best, harmed, left):
    for step in harmed:
        flip(step_in(folder, step) / "optimizer.safetensors")
    remove_old(folder, keep=keep, best=best and step_in(folder, best))
    assert sorted(path.name for path in folder.iterdir()) == [f"step-{step:06d}" for step in left]


def test_manifest_says_bytes_and_sha256_of_each_file(folder):
    path = step_in(folder, 20)
    files = json.loads((path / MANIFEST).read_text())["files"]
    assert {name: of["bytes"] for name, of in files.items()} == {
        name: (path / name).stat().st_size for name in FILES
    }
    assert all(re.fullmatch("[0-9a-f]{64}", of["sha256"]) for of in files.values())
