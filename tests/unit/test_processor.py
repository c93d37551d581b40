import subprocess
import sys

import pytest

from tunesmith.processor import is_intel


@pytest.mark.parametrize(
    ("system", "machine", "told", "named", "expected"),
    [
        ("linux", "x86_64", "processor : 0\nvendor_id\t: GenuineIntel\n", "", True),
        ("linux", "x86_64", "processor : 0\nvendor_id\t: AuthenticAMD\n", "", False),
        ("win32", "AMD64", None, "Intel64 Family 6 Model 143 Stepping 8, GenuineIntel", True),
        ("win32", "AMD64", None, "AMD64 Family 25 Model 17 Stepping 1, AuthenticAMD", False),
        ("darwin", "x86_64", None, "i386", True),
        ("darwin", "arm64", None, "arm", False),
    ],
)
def test_the_maker_of_the_processor(monkeypatch, tmp_path, system, machine, told, named, expected):
    if told is not None:
        (tmp_path / "cpuinfo").write_text(told)
    monkeypatch.setattr("tunesmith.processor.CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr("sys.platform", system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("platform.processor", lambda: named)
    assert is_intel() is expected


@pytest.mark.parametrize("given", [None, "0"])
def test_large_pages_are_asked_for_on_intel_alone_and_never_against_a_word_of_the_user(given, monkeypatch):
    if given is None:
        monkeypatch.delenv("THP_MEM_ALLOC_ENABLE", raising=False)
    else:
        monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", given)
    asked = subprocess.run(
        [sys.executable, "-c", "import os, tunesmith; print(os.environ.get('THP_MEM_ALLOC_ENABLE'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert asked.stdout.strip() == str(given or ("1" if is_intel() else None))
