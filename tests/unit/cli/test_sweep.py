"""`tunesmith sweep` where it ends before any trial; whole sweeps are in `journeys/test_sweep.py`."""

import subprocess
import sys

import pytest

from tunesmith.cli.sweep import sweep
from tunesmith.errors import ConfigError, RunFolderError


def test_help_is_light():
    code = (
        "from cyclopts import App; from tunesmith.cli.sweep import sweep; app = App(); "
        "app.command(sweep); app(['sweep', '--help'])"
    )
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, check=True
    )
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "--over" in result.stdout and "--learning-rate" in result.stdout
    assert imported & {"torch", "optuna", "transformers", "matplotlib", "sqlalchemy"} == set()


def test_problems_are_told_before_anything_is_written(tmp_path):
    flags = {"data": "rows.jsonl", "output_dir": str(tmp_path / "out")}
    with pytest.raises(ConfigError, match="no field is varied"):
        sweep(**flags)
    with pytest.raises(ConfigError, match=r"nearest: method.rank"):
        sweep(over=["method.rnk=1,2"], **flags)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(RunFolderError, match="holds files already"):
        sweep(over=["method.rank=8,16"], data="rows.jsonl", device="cpu", output_dir=str(tmp_path))
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]
