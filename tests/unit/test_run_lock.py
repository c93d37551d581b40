"""The lock of a run folder, between processes that are real."""

import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from tunesmith.errors import RunFolderError
from tunesmith.run_lock import LOCK_FILE, is_alive, locked, refuse_if_held

HOLDER = """
import sys
from pathlib import Path
from tunesmith.run_lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
RIVAL = """
import sys
from pathlib import Path
from tunesmith.run_lock import locked
folder = Path(sys.argv[1])
for turn in range(20):
    with locked(folder):
        found = (folder / "count").read_text()
        (folder / "count").write_text(str(int(found) + 1))
"""


@contextmanager
def holder(folder):
    """A process that holds the lock until its stdin closes."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], **pipes) as process:
        assert process.stdout.readline() == "held\n"
        yield process


def test_second_process_is_refused_and_told_who_holds_the_folder(tmp_path):
    with holder(tmp_path) as process:
        message = re.escape(f"`{tmp_path}` is in use by process {process.pid} on {platform.node()}, since 20")
        for ask in (refuse_if_held, lambda folder: locked(folder).__enter__()):
            with pytest.raises(RunFolderError, match=message) as caught:
                ask(tmp_path)
            assert "choose another folder" in caught.value.hint
        assert is_alive(tmp_path)
    assert not is_alive(tmp_path)
    refuse_if_held(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_lock_of_a_killed_process_is_free_by_itself(tmp_path):
    with holder(tmp_path) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert (tmp_path / LOCK_FILE).exists()
        assert not is_alive(tmp_path)
        with locked(tmp_path):
            assert json.loads((tmp_path / LOCK_FILE).read_text())["process"] == os.getpid()
            assert is_alive(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_lock_is_let_go_by_an_error_too(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path):
        raise KeyError
    with locked(tmp_path):
        assert is_alive(tmp_path)


def test_same_process_does_not_take_it_twice(tmp_path):
    with locked(tmp_path), pytest.raises(RunFolderError, match="is in use by process"), locked(tmp_path):
        pass


def test_readers_do_not_get_in_the_way(tmp_path):
    end = time.monotonic() + 0.5

    def look():
        while time.monotonic() < end:
            is_alive(tmp_path)

    with ThreadPoolExecutor(2) as pool:
        lookers = [pool.submit(look) for _ in range(2)]
        while time.monotonic() < end:
            with locked(tmp_path):
                assert is_alive(tmp_path)
        assert [looker.result() for looker in lookers] == [None, None]


def test_of_processes_that_want_it_at_once_one_holds_it(tmp_path):
    (tmp_path / "count").write_text("0")
    rivals = [subprocess.Popen([sys.executable, "-c", RIVAL, str(tmp_path)]) for _ in range(3)]
    assert [rival.wait() for rival in rivals] == [0, 0, 0]
    assert (tmp_path / "count").read_text() == "60"


def test_text_of_a_lock_that_says_nothing_is_no_obstacle(tmp_path):
    with holder(tmp_path):
        (tmp_path / LOCK_FILE).write_text("{")
        with pytest.raises(RunFolderError, match="in use by process of unknown id on an unknown host"):
            refuse_if_held(tmp_path)
    (tmp_path / LOCK_FILE).write_text("\0" * 9)
    with locked(tmp_path):
        assert is_alive(tmp_path)


def test_folder_that_is_not_there(tmp_path):
    assert not is_alive(tmp_path / "absent")
    with (
        pytest.raises(RunFolderError, match=r"run\.lock` cannot be written: No such file") as caught,
        locked(tmp_path / "absent"),
    ):
        pass
    assert caught.value.hint == "make the run folder writable"
