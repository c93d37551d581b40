"""A folder is whole or not there, at whatever operation on files the process dies.

A child really dies by SIGKILL, before its first, second, ... operation on files (Python's audit events tell
when one is due), until one gets through. The laws are checked on what each of them left.
"""

import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tunesmith.training.whole_folder import (
    MANIFEST,
    clear_leftovers,
    damage,
    remove_folder,
    write_bytes,
    write_folder,
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="children are forked")

NAMES = ("a", "b")

DYING = """
import os, shutil, signal, sys
from functools import partial
from pathlib import Path
from tunesmith.training.whole_folder import clear_leftovers, remove_folder, write_bytes, write_folder

before, folder, action = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]


def act(final):
    if action == "write":
        content = b"new " * 9
        write_folder(final, {name: partial(write_bytes, content=content) for name in "ab"})
    elif action == "remove":
        remove_folder(final)
    else:
        clear_leftovers(final.parent, names="ab")


def die_at(number):
    left = number

    def count(event, arguments):
        nonlocal left
        if event == "open" or event.startswith(("os.", "shutil.")) and event != "os.kill":
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


for number in range(200):
    parent = shutil.copytree(before, folder / f"{number:03d}")
    child = os.fork()
    if not child:
        die_at(number)
        act(parent / "step-000003")
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if status != signal.SIGKILL:
        sys.exit(status)
"""


def files(word):
    return {name: partial(write_bytes, content=f"{word} {name}".encode()) for name in NAMES}


def deaths(before, tmp_path, action):
    """What each child left behind; the last one got through."""
    folder = tmp_path / action
    subprocess.run([sys.executable, "-c", DYING, before, folder, action], check=True)
    found = sorted(folder.iterdir())
    assert 5 < len(found) < 200
    return found


def word_in(final):
    """`old` or `new` of a whole folder, None of an absent one; a damaged one fails the test."""
    if not final.exists():
        return None
    assert damage(final, names=NAMES) is None
    (word,) = {(final / name).read_text().split()[0] for name in NAMES}
    return word


def names_in(parent):
    return [path.name for path in parent.iterdir()]


@pytest.fixture
def before(tmp_path):
    """A folder that holds the old one."""
    parent = tmp_path / "before"
    parent.mkdir()
    write_folder(parent / "step-000003", files("old"))
    return parent


def test_death_while_writing_leaves_a_whole_folder_or_none(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    words = []
    for parent in deaths(empty, tmp_path, "write"):
        words.append(word_in(parent / "step-000003"))
        clear_leftovers(parent, names=NAMES)
        assert word_in(parent / "step-000003") == words[-1]
        assert names_in(parent) == (["step-000003"] if words[-1] else [])
        write_folder(parent / "step-000003", files("newer"))
        assert word_in(parent / "step-000003") == "newer"
    assert words[0] is None
    assert words[-1] == "new"
    assert words == sorted(words, key=lambda word: word is not None)


def test_death_while_replacing_leaves_the_old_or_the_new_one_whole(before, tmp_path):
    words = []
    seen = set()
    for parent in deaths(before, tmp_path, "write"):
        seen.add(word_in(parent / "step-000003"))
        clear_leftovers(parent, names=NAMES)
        words.append(word_in(parent / "step-000003"))
        assert names_in(parent) == ["step-000003"]
    assert set(words) == {"old", "new"}
    assert words == sorted(words, reverse=True)
    assert seen == {"old", None, "new"}


def test_death_while_tidying_is_tidied_by_the_next_one(before, tmp_path):
    (halfway,) = [
        parent
        for parent in deaths(before, tmp_path, "write")
        if not (parent / "step-000003").exists() and (parent / ".step-000003.replaced").exists()
    ]
    for parent in deaths(halfway, tmp_path, "tidy"):
        clear_leftovers(parent, names=NAMES)
        assert word_in(parent / "step-000003") == "new"
        assert names_in(parent) == ["step-000003"]


def test_death_while_removing_leaves_a_whole_folder_or_none(before, tmp_path):
    words = []
    for parent in deaths(before, tmp_path, "remove"):
        words.append(word_in(parent / "step-000003"))
        clear_leftovers(parent, names=NAMES)
        assert word_in(parent / "step-000003") == words[-1]
        assert names_in(parent) == (["step-000003"] if words[-1] else [])
    assert set(words) == {"old", None}


def test_old_one_comes_back_where_the_new_one_is_not_whole(before):
    final, replaced = before / "step-000003", before / ".step-000003.replaced"
    final.rename(replaced)
    shutil.copytree(replaced, before / ".step-000003.partial")
    (before / ".step-000003.partial" / "b").write_text("half")
    clear_leftovers(before, names=NAMES)
    assert word_in(final) == "old"
    assert names_in(before) == ["step-000003"]


def test_tidying_touches_nothing_that_is_not_its_own(before):
    others = ["notes.partial", ".hidden", "step-000009.replaced"]
    for name in others:
        (before / name).mkdir()
    clear_leftovers(before, names=NAMES)
    assert sorted(names_in(before)) == sorted([*others, "step-000003"])


def test_removing_what_is_not_there_is_no_error(tmp_path):
    remove_folder(tmp_path / "absent")
    assert names_in(tmp_path) == []


def test_writer_that_fails_leaves_the_old_one(before):
    def fail(path: Path) -> None:
        path.write_text("ha")
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        write_folder(before / "step-000003", files("new") | {"b": fail})
    assert word_in(before / "step-000003") == "old"
    clear_leftovers(before, names=NAMES)
    assert names_in(before) == ["step-000003"]


def test_folder_with_another_list_of_files_is_not_whole(before):
    assert damage(before / "step-000003", names=("a", "b", "c")) == (
        f"{MANIFEST} changed: it is not as it was written"
    )
