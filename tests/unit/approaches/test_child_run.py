"""A run in a process of its own, where it goes wrong; where it goes well is in the tests of `compare`."""

import pytest

from tunesmith.approaches.child_run import finished_run
from tunesmith.errors import RunFailed
from tunesmith.progress import Silent
from tunesmith.resolve import resolve


def test_a_run_that_fails_is_told_with_its_folder_and_what_to_do(tmp_path, capfd):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a", "completion": "b"}\n', encoding="utf-8")
    resolved = resolve(None, {"data": str(rows), "model": str(tmp_path / "no-model")})
    with pytest.raises(RunFailed, match=r"training in `.*run` failed \(exit code 2\)") as failed:
        finished_run(tmp_path / "run", resolved, progress=Silent())
    assert f"--output-dir {tmp_path}" in failed.value.hint
    assert "no-model" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()
