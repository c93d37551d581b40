"""A disk that is full or refuses: said with the bytes, older checkpoints as they were, nothing half there."""

import re
import subprocess
import sys

import pytest
import torch

from full_disk import files_at_most
from tunesmith.errors import RunFolderError
from tunesmith.training.checkpoint import FILES, check_checkpoint, newest_whole, save_checkpoint
from tunesmith.training.whole_folder import MANIFEST

NUMBERS = 2000


def save(folder, *, step, numbers=NUMBERS, **state):
    """Weights of 4 bytes a number, optimizer of 8 more after a step; torch's generator takes 5 KB."""
    torch.manual_seed(step)
    model = torch.nn.Linear(numbers, 1, bias=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.randn(2, numbers)).sum().backward()
    optimizer.step()
    return save_checkpoint(folder, step=step, model=model, optimizer=optimizer, state=state)


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def mounted(tmp_path):
    """A file system of its own whose size the test decides, in a run folder; needs leave to mount."""
    run = tmp_path / "run"
    run.mkdir()

    def mount(*options):
        command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(run)]
        if sys.platform != "linux" or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("mounting a small file system needs Linux and root")
        return run / "checkpoints"

    yield mount
    subprocess.run(["umount", str(run)], capture_output=True, check=False)


def assert_refused(folder, *, fact, step=4, **state):
    """Refused with bytes needed and free, and all that was there is as it was."""
    before = content(folder)
    with pytest.raises(RunFolderError) as caught:
        save(folder, step=step, **state)
    words = re.fullmatch(
        rf"checkpoint `{re.escape(str(folder))}/step-00000{step}` cannot be written: {fact}"
        r"; it needs (?P<needed>\d+) bytes, and (?P<free>\d+) are free",
        str(caught.value),
    )
    assert words, str(caught.value)
    assert caught.value.hint == (
        f"free some disk space, then go on with `tunesmith train --resume {folder.parent}`"
    )
    assert content(folder) == before
    assert [path.name for path in folder.iterdir()] == ["step-000003"]
    return int(words["needed"]), int(words["free"])


@pytest.mark.parametrize(
    ("name", "limit_bytes", "note"),
    [
        ("weights.safetensors", 4000, ""),
        ("optimizer.safetensors", 12_000, ""),
        ("state.json", 40_000, "x" * 60_000),
    ],
)
def test_file_that_may_grow_no_more_keeps_the_checkpoint_before(tmp_path, name, limit_bytes, note):
    folder = tmp_path / "checkpoints"
    earlier = save(folder, step=3)
    sizes = {file: (earlier / file).stat().st_size + len(note) * (file == "state.json") for file in FILES}
    assert next(file for file in FILES if sizes[file] > limit_bytes) == name
    with files_at_most(limit_bytes):
        assert_refused(folder, fact="File too large", note=note)
    assert newest_whole(folder) == (earlier, ())
    assert save(folder, step=4, note=note).is_dir()


def test_disk_too_small_for_the_next_checkpoint_is_noticed_before_it_is_written(mounted):
    folder = mounted("size=256k")
    save(folder, step=3)
    needed_bytes, free_bytes = assert_refused(folder, fact="No space left on device", numbers=20_000)
    assert 240_000 < needed_bytes < 400_000
    assert free_bytes < needed_bytes
    assert free_bytes <= 256 * 1024
    assert save(folder, step=4).is_dir()


@pytest.mark.parametrize("at", range(5), ids=["folder", *FILES, MANIFEST])
def test_no_space_for_the_next_file_keeps_the_checkpoint_before(mounted, at):
    folder = mounted("size=4m")
    save(folder, step=3)
    there = 2 + sum(1 for _ in folder.rglob("*"))
    mounted("remount", f"nr_inodes={there + at}")
    assert_refused(folder, fact="No space left on device")
    mounted("remount", f"nr_inodes={there + 9}")
    path = save(folder, step=4)
    assert newest_whole(folder) == (path, ())


def test_space_that_other_files_take_is_not_free(mounted):
    folder = mounted("size=400k")
    save(folder, step=3)
    (folder.parent / "other").write_bytes(bytes(200_000))
    assert_refused(folder, fact="No space left on device", numbers=12_000)
    (folder.parent / "other").unlink()
    check_checkpoint(save(folder, step=4, numbers=12_000))


def test_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("mine")
    folder = tmp_path / "file" / "checkpoints"
    message = re.escape(f"checkpoint `{folder / 'step-000003'}` cannot be written: Not a directory")
    with pytest.raises(RunFolderError, match=f"{message}$") as caught:
        save(folder, step=3)
    assert caught.value.hint.startswith("make the folder writable, then go on with")
    assert (tmp_path / "file").read_text() == "mine"


def test_folder_that_cannot_be_tidied_is_named(mounted):
    folder = mounted("size=1m")
    (folder / ".step-000003.replaced").mkdir(parents=True)
    mounted("remount", "ro")
    with pytest.raises(RunFolderError, match=re.escape(f"`{folder}` cannot be tidied: Read-only")) as caught:
        newest_whole(folder)
    assert caught.value.hint == "make the folder writable"
