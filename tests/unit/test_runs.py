import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from full_disk import files_at_most
from tunesmith.errors import RunFolderError
from tunesmith.run_lock import LOCK_FILE, locked
from tunesmith.runs import (
    NO_WORD,
    RunFolder,
    check_writable,
    create_run,
    default_run_path,
    finite,
    held,
    is_run_folder,
    open_run,
    whole_or_not,
)


def everything(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def run(tmp_path):
    return create_run(tmp_path / "run")


@pytest.mark.parametrize("name", ["new", "new/deep/er"])
def test_check_leaves_nothing_behind(tmp_path, name):
    check_writable(tmp_path / name)
    assert everything(tmp_path) == []


def test_check_leaves_folders_that_were_there(tmp_path):
    (tmp_path / "old" / "empty").mkdir(parents=True)
    check_writable(tmp_path / "old" / "empty")
    check_writable(tmp_path / "old" / "new" / "run")
    assert everything(tmp_path) == ["old", "old/empty"]


def test_check_of_a_relative_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_writable(Path("runs/a"))
    assert everything(tmp_path) == []


def test_folder_with_files_is_refused_and_untouched(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match=re.escape(f"`{tmp_path}` holds files already")) as caught:
        check_writable(tmp_path)
    assert f"`tunesmith train --resume {tmp_path}`" in caught.value.hint
    assert "`--output-dir`" in caught.value.hint
    assert everything(tmp_path) == ["notes.txt"]


def test_file_in_place_of_the_folder_is_refused(tmp_path):
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(RunFolderError, match=re.escape(f"`{path}` is a file")) as caught:
        check_writable(path)
    assert caught.value.hint == "choose another folder with `--output-dir`"
    assert path.read_text() == "mine"


def test_unwritable_path_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    path = tmp_path / "file" / "run"
    with pytest.raises(RunFolderError, match=re.escape(f"`{path}` cannot be written: Not a")) as caught:
        check_writable(path)
    assert caught.value.hint == "choose another folder with `--output-dir`"
    with pytest.raises(RunFolderError, match="cannot be written"):
        create_run(path)
    assert everything(tmp_path) == ["file"]


def test_created_run_is_an_empty_folder_and_cannot_be_created_twice(tmp_path):
    run = create_run(tmp_path / "runs" / "a")
    assert run == RunFolder(tmp_path / "runs" / "a")
    assert list(run.path.iterdir()) == []
    run.update_manifest(status="running")
    with pytest.raises(RunFolderError, match="holds files already"):
        create_run(run.path)


def test_write_text_replaces_the_file_and_leaves_no_partial_one(run):
    for text in ("first", "second, ünïcode\r\n\u2028"):
        path = run.write_text("adapter/README.md", text)
        assert path == run.adapter / "README.md"
        assert path.read_bytes().decode() == text
        assert everything(run.path) == ["adapter", "adapter/README.md"]


def test_refused_write_keeps_the_old_file_and_leaves_no_partial_one(run):
    run.write_text("report.html", "old")
    with (
        files_at_most(4096),
        pytest.raises(
            RunFolderError, match=re.escape(f"`{run.report}` cannot be written: File too")
        ) as caught,
    ):
        run.write_text("report.html", "x" * 10_000)
    assert "free some disk space" in caught.value.hint
    assert run.report.read_text() == "old"
    assert everything(run.path) == ["report.html"]


def test_text_that_is_no_unicode_keeps_the_old_file_and_leaves_no_partial_one(run):
    run.write_text("report.html", "old")
    with pytest.raises(UnicodeEncodeError, match="surrogates not allowed"):
        run.write_text("report.html", "\ud800")
    assert run.report.read_text() == "old"
    assert everything(run.path) == ["report.html"]


def test_refused_metrics_line(run):
    (run.path / "metrics.jsonl").mkdir()
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl` cannot be written: Is a directory") as caught:
        run.add_metrics(step=1)
    assert "tunesmith train --resume" in caught.value.hint


def test_metrics_are_appended_one_line_each(run):
    assert run.metrics == []
    lines = [{"step": step, "loss": 1 / (step + 1), "note": "a\u2028b"} for step in range(3)]
    for count, line in enumerate(lines, start=1):
        run.add_metrics(**line)
        assert (run.path / "metrics.jsonl").read_text().count("\n") == count
    assert run.metrics == lines


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_number_json_has_no_word_for_is_never_written(run, value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.add_metrics(step=1, loss=value)
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.write_json("evaluation.json", {"loss": value})
    assert everything(run.path) == []
    assert finite(value) is None
    assert finite(0.5) == 0.5


@pytest.mark.parametrize("step", [-1, 0, 1, 2, 9])
def test_forget_after_keeps_steps_up_to_it(run, step):
    lines = [{"step": at, "kind": kind} for at in range(4) for kind in ("loss", "eval_loss")]
    for line in lines:
        run.add_metrics(**line)
    run.forget_after(step)
    assert run.metrics == [line for line in lines if line["step"] <= step]
    assert everything(run.path) == ["metrics.jsonl"]


def test_line_a_crash_cut_off_counts_as_not_written(run):
    run.add_metrics(step=1)
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    assert run.metrics == [{"step": 1}]
    run.forget_after(1)
    run.add_metrics(step=2)
    assert run.metrics == [{"step": 1}, {"step": 2}]


@pytest.mark.parametrize("damage", ["{oops", "[1, 2]", "3"])
def test_damaged_line_within_the_metrics_is_named(run, damage):
    (run.path / "metrics.jsonl").write_text(f'{{"step": 1}}\n{damage}\n{{"step": 2}}\n')
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl:2 is no JSON object") as caught:
        run.forget_after(1)
    assert caught.value.hint == "remove this line"


def test_manifest_keeps_what_it_knew(run):
    run.update_manifest(status="running", seed=3)
    run.update_manifest(status="succeeded", seconds=1.5)
    assert run.manifest == {"status": "succeeded", "seed": 3, "seconds": 1.5}
    assert json.loads((run.path / "manifest.json").read_text()) == run.manifest
    assert everything(run.path) == ["manifest.json"]


def test_new_status_drops_the_reason_of_the_one_before(run):
    run.update_manifest(status="interrupted", why="by the user")
    run.update_manifest(seed=3)
    assert run.manifest["why"] == "by the user"
    run.update_manifest(status="succeeded")
    assert run.manifest == {"status": "succeeded", "seed": 3}


@pytest.mark.parametrize("damage", [b"{", b"\xff\xfe", b"", b"[]"])
def test_damaged_manifest_is_named(run, damage):
    (run.path / "manifest.json").write_bytes(damage)
    with pytest.raises(RunFolderError, match=r"manifest\.json` cannot be read") as caught:
        run.update_manifest(status="failed")
    assert caught.value.hint == "the run folder is damaged; start the run again"
    assert (run.path / "manifest.json").read_bytes() == damage


def test_json_lines_keep_other_scripts_readable(run):
    rows = [{"prompt": "你好"}, {"prompt": "line\nbreak"}]
    text = run.write_lines("samples.jsonl", rows).read_text(encoding="utf-8")
    assert "你好" in text
    assert [json.loads(line) for line in text.splitlines()] == rows
    assert run.read_text("samples.jsonl") == text


def test_file_the_run_does_not_have(run):
    message = re.escape(f"`{run.path}` has no readable `template.jinja` (No such file or directory)")
    with pytest.raises(RunFolderError, match=message) as caught:
        run.read_text("template.jinja")
    assert "give the folder of a run" in caught.value.hint


def test_run_is_opened_only_when_both_its_files_are_there(run):
    with pytest.raises(RunFolderError, match=r"holds no run \(config\.yaml and manifest\.json\)") as caught:
        open_run(run.path)
    assert caught.value.hint == "list yours with `ls runs`"
    run.update_manifest(status="running")
    assert not is_run_folder(run.path)
    run.write_text("config.yaml", "")
    assert is_run_folder(run.path)
    assert open_run(run.path) == run
    assert (run.config, run.checkpoints) == (run.path / "config.yaml", run.path / "checkpoints")


def test_opening_what_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "absent"):
        with pytest.raises(RunFolderError, match=re.escape(f"`{path}` is no folder")):
            open_run(path)


def test_default_path_names_the_data_file():
    assert re.fullmatch(r"runs/rows-\d{8}-\d{6}", str(default_run_path("/some/where/rows.jsonl")))


def test_a_process_that_does_not_write_leaves_the_folder_alone(tmp_path):
    create_run(tmp_path / "run").update_manifest(status="running")
    (tmp_path / "run" / "config.yaml").write_text("data: {path: a.json}\n")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    other = open_run(tmp_path / "run", is_writer=False)
    other.update_manifest(status="failed")
    other.add_metrics(step=1, loss=2.0)
    other.forget_after(0)
    other.write_json("evaluation.json", {})
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    assert other.manifest["status"] == "interrupted"
    assert not create_run(tmp_path / "new", is_writer=False).path.exists()


def test_run_reads_as_running_only_while_its_process_lives(run):
    run.write_text("config.yaml", "")
    with held(run, is_new=True):
        run.update_manifest(status="running", seed=3)
        assert run.manifest == {"status": "running", "seed": 3}
    assert run.manifest == {"status": "interrupted", "why": NO_WORD, "seed": 3}
    with held(run):
        assert open_run(run.path).manifest["status"] == "running"
        run.update_manifest(status="succeeded")
    assert run.manifest == {"status": "succeeded", "seed": 3}


def test_what_a_reader_is_told_is_not_written(run):
    with held(run):
        run.update_manifest(status="running")
    run.update_manifest(seed=3)
    assert json.loads((run.path / "manifest.json").read_text()) == {"status": "running", "seed": 3}


KILLED = """
import os, signal, sys
from pathlib import Path
from tunesmith.runs import RunFolder, held
run = RunFolder(Path(sys.argv[1]))
with held(run):
    for name in sys.argv[2:]:
        run.write_text(name, "{}")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_in(run, *names):
    killed = subprocess.run([sys.executable, "-c", KILLED, str(run.path), *names], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert {file.name for file in run.path.iterdir()} == {LOCK_FILE, *names}


@pytest.mark.parametrize(
    "names", [(), ("config.yaml",), ("config.yaml", "template.jinja", ".m.json.partial")]
)
def test_folder_of_a_process_killed_before_its_run_was_on_record_counts_as_empty(run, names):
    killed_in(run, *names)
    assert create_run(run.path) == run


@pytest.mark.parametrize("names", [("manifest.json", "config.yaml"), ("notes.txt",)])
def test_folder_of_a_killed_process_with_more_in_it_is_refused(run, names):
    killed_in(run, *names)
    with pytest.raises(RunFolderError, match="holds files already"):
        create_run(run.path)


def test_configuration_beside_no_lock_is_somebodys_own(run):
    run.write_text("config.yaml", "mine")
    with pytest.raises(RunFolderError, match="holds files already"):
        create_run(run.path)


def test_folder_in_use_is_refused_by_its_holder(run):
    with locked(run.path), pytest.raises(RunFolderError, match=f"is in use by process {os.getpid()} on"):
        check_writable(run.path)


def test_run_begun_by_another_process_meanwhile_is_not_overwritten(run):
    run.write_text("config.yaml", "")
    run.update_manifest(status="succeeded")
    message = "another run was just begun in"
    with pytest.raises(RunFolderError, match=message), held(run, is_new=True):
        pass
    assert not (run.path / LOCK_FILE).exists()


def test_process_that_does_not_write_holds_nothing(run):
    with held(open_or_plain(run)), locked(run.path):
        pass


def open_or_plain(run):
    return RunFolder(run.path, is_writer=False)


def test_rows_of_a_step_are_appended_and_forgotten_with_its_metrics(run):
    assert not run.has_row_log
    for step in (1, 2, 3):
        run.add_rows(step, (f"rows.jsonl:{line}" for line in (step, step + 1)))
        run.add_metrics(step=step)
    assert run.has_row_log
    run.forget_after(2)
    assert run.rows == [{"step": s, "rows": [f"rows.jsonl:{s}", f"rows.jsonl:{s + 1}"]} for s in (1, 2)]
    assert run.metrics == [{"step": 1}, {"step": 2}]


def test_folder_appears_whole_or_stays_as_it_was(run):
    for text in ("one", "two"):
        with whole_or_not(run.adapter) as folder:
            (folder / "weights").write_text(text)
            (folder / "deeper").mkdir()
            (folder / "deeper" / "file").write_text(text)
        assert everything(run.path) == ["adapter", "adapter/deeper", "adapter/deeper/file", "adapter/weights"]
        assert (run.adapter / "weights").read_text() == text
    with pytest.raises(KeyError), whole_or_not(run.adapter) as folder:
        (folder / "weights").write_text("half")
        raise KeyError
    assert (run.adapter / "weights").read_text() == "two"
    with whole_or_not(run.adapter) as folder:
        assert list(folder.iterdir()) == []
