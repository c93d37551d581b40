"""How the program ends as a process; what its commands do is tested beside them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# What stands before the call of `program` in a process of its own, whose command is "{words}".
START = """
import atexit, sys, threading, time
from tunesmith.cli import main as it
sys.argv = ["tunesmith", *{words}]
{more}
it.program()
"""

# Python keeps what is written to a file or a pipe until there is enough of it, unless told otherwise.
KEEPING = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
AT_EXIT = "atexit.register(lambda: print('at exit'))"
FEW_WORDS = "it.app = lambda *words, **how: print('a few words')"


def begun(*words, more="", stdout=subprocess.PIPE, environment=KEEPING):
    command = [sys.executable, "-c", START.format(words=list(words), more=more)]
    return subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, text=True, env=environment)


def ended(*words, **others):
    process = begun(*words, **others)
    said, told = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, said, told)


@pytest.mark.parametrize(("words", "code"), [(["--version"], 0), (["trian"], 2)])
def test_a_process_ends_with_the_code_of_its_command_and_with_all_that_was_to_happen(words, code):
    result = ended(*words, more=AT_EXIT)
    assert result.returncode == code, result.stderr
    assert result.stdout.splitlines()[-1] == "at exit"
    assert (code == 2) == ("hint:" in result.stderr)


def test_a_thread_that_is_at_work_is_waited_for():
    more = AT_EXIT + "\nthreading.Thread(target=lambda: (time.sleep(0.5), print('done'))).start()"
    result = ended("--version", more=more)
    assert result.returncode == 0
    assert result.stdout.splitlines()[-2:] == ["done", "at exit"]


def test_python_takes_nothing_apart_where_nothing_is_to_be_waited_for():
    more = "class Last:\n    def __del__(self): print('taken apart')\nlast = Last()"
    assert "taken apart" not in ended("--version", more=more).stdout
    waiting = more + "\nthreading.Thread(target=time.sleep, args=(0.1,)).start()"
    assert "taken apart" in ended("--version", more=waiting).stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full is here")
@pytest.mark.parametrize("words", [[], ["advise", "--json"]])
def test_what_cannot_be_written_is_a_failure_and_told(words):
    # At the end, where Python keeps a few words until then, and at once.
    more, environment = ("", KEEPING | {"PYTHONUNBUFFERED": "1"}) if words else (FEW_WORDS, KEEPING)
    with open("/dev/full", "w") as full:
        result = ended(*words, more=more, stdout=full, environment=environment)
    assert result.returncode == 1
    assert "error: the output could not be written: No space left on device" in result.stderr
    assert "hint: make room on the disk where it goes, or send it elsewhere" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_disk_that_is_full_is_told_with_the_file():
    full = "OSError(errno.ENOSPC, 'No space left on device', 'runs/a/report.html')"
    more = f"import errno\nfrom unittest import mock\nit.app = mock.Mock(side_effect={full})"
    result = ended("train", more=more)
    assert result.returncode == 1
    assert "error: `runs/a/report.html` could not be written: No space left on device" in result.stderr


def test_a_reader_that_went_away_is_a_failure_without_a_word():
    process = begun(more=FEW_WORDS)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 1
    process.stderr.close()
