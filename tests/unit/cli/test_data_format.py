import io
import json
import os
import stat
import sys

import pytest
from cyclopts import App

from tunesmith.cli.data_format import format_
from tunesmith.errors import ConfigError, DataError


@pytest.fixture
def run(monkeypatch):
    """The command with arguments as on a command line, and bytes on stdin."""

    def call(*arguments, stdin=b""):
        app = App()
        app.command(format_, name="format")
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        app(
            ["format", *map(str, arguments)],
            exit_on_error=False,
            print_error=False,
            result_action="return_value",
        )

    return call


@pytest.fixture
def file(tmp_path):
    def make(content, name="rows.json"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


@pytest.mark.parametrize("arguments", [(), ("-",)])
def test_stdin_to_stdout(run, capfd, arguments):
    run(*arguments, stdin='{"b": 1.0, "a": "é"}'.encode())
    assert capfd.readouterr().out == '{\n  "b": 1.0,\n  "a": "é"\n}\n'


def test_flags_choose_the_layout(run, capfd, file):
    path = file('[{"b": 1, "a": 2}]')
    run(path, "--style", "lines", "--sort-keys")
    assert capfd.readouterr().out == '{"a":2,"b":1}\n'
    run(path, "--indent", "1")
    assert capfd.readouterr().out == '[\n {\n  "b": 1,\n  "a": 2\n }\n]\n'


def test_json_lines_stay_json_lines(run, capfd, file):
    run(file('{"a": 1}\n', "rows.jsonl"))
    run(stdin=b'{"a": 1}\n{"a": 2}\n')
    assert capfd.readouterr().out == '{"a":1}\n{"a":1}\n{"a":2}\n'


def test_problems_are_an_error_with_a_caret_and_nothing_on_stdout(run, capfd, file):
    path = file('{\n  "a": 1,\n  "b": True,\n}')
    with pytest.raises(DataError) as caught:
        run(path)
    assert str(caught.value) == (
        f"{path}: 2 problems\n\n"
        f"{path}:3:8: `True` is Python, not JSON\n"
        '      "b": True,\n           ^\n  write `true` (`--fix` does it)\n\n'
        f"{path}:3:12: a comma stands before the closing `}}`\n"
        '      "b": True,\n               ^\n  take the comma out (`--fix` does it)'
    )
    assert caught.value.hint == "`--fix` mends them all"
    assert caught.value.exit_code == 2
    assert capfd.readouterr().out == ""


def test_the_hint_counts_what_a_person_must_do(run, file):
    with pytest.raises(DataError) as caught:
        run(file('{"a": None, "a": 1}'))
    assert caught.value.hint == "`--fix` mends 1 of 2; correct the others by hand"
    with pytest.raises(DataError) as caught:
        run(file('{"a": 2, "a": 1}'))
    assert caught.value.hint == "correct it by hand; no mend is safe here"


def test_fix_mends_and_shows_a_diff(run, capfd, file):
    run(file("{'a': [1,],}"), "--fix", "--style", "compact")
    shown = capfd.readouterr()
    assert shown.out == '{"a":[1]}\n'
    assert "-{'a': [1,],}\n+{\"a\": [1]}\n" in shown.err


def test_fix_refuses_what_is_left_and_names_only_that(run, capfd, file):
    path = file('{"a": None, "a": 1}')
    with pytest.raises(DataError, match="1 problem\n") as caught:
        run(path, "--fix")
    assert 'the key "a" is there twice, first at 1:2' in str(caught.value)
    assert "Python" not in str(caught.value)
    assert "nothing was written" in caught.value.hint
    assert capfd.readouterr().out == ""


def test_check_says_yes_or_no(run, capfd, file):
    path = file('{\n  "a": 1\n}\n')
    run(path, "--check")
    assert capfd.readouterr().out == f"{path}: valid and formatted\n"
    with pytest.raises(DataError, match="valid, but not laid out in style `compact`"):
        run(path, "--check", "--style", "compact")
    with pytest.raises(DataError, match=r"rows.json:1:5: not valid: .*`True` is Python") as caught:
        run(file("[1, True]"), "--check")
    assert "without `--check`" in caught.value.hint
    assert capfd.readouterr().out == ""


def test_in_place_rewrites_whole_keeps_permissions_and_links(run, capfd, file, tmp_path):
    path = file("{'a': 1}")
    path.chmod(0o640)
    link = tmp_path / "link.json"
    link.symlink_to(path)
    run(link, "--in-place", "--fix")
    assert path.read_text() == '{\n  "a": 1\n}\n'
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert f"{link}: rewritten, 1 document\n" in capfd.readouterr().out
    before = path.stat().st_mtime_ns, path.stat().st_ino
    run(path, "--in-place")
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == before
    assert "already formatted" in capfd.readouterr().out
    assert sorted(os.listdir(tmp_path)) == ["link.json", "rows.json"]


@pytest.mark.parametrize("flags", [("--in-place",), ("--in-place", "--fix"), ("--in-place", "--json")])
def test_in_place_changes_nothing_if_a_problem_is_left(run, file, tmp_path, flags):
    path = file('{"a": 1, "a": 2')
    with pytest.raises((DataError, SystemExit)):
        run(path, *flags)
    assert path.read_text() == '{"a": 1, "a": 2'
    assert os.listdir(tmp_path) == ["rows.json"]


def test_json_reports_all_and_exits_2(run, capfd, file):
    with pytest.raises(SystemExit) as caught:
        run(file('{"a": None,\n "a": 1}'), "--json")
    assert caught.value.code == 2
    report = json.loads(capfd.readouterr().out)
    assert (report["valid"], report["documents"], report["problem_count"]) == (False, 1, 2)
    assert report["problems"] == [
        {
            "line": 1,
            "column": 7,
            "kind": "python_literal",
            "message": "`None` is Python, not JSON",
            "mend": "write `null`",
            "fixed": False,
        },
        {
            "line": 2,
            "column": 2,
            "kind": "duplicate_key",
            "message": 'the key "a" is there twice, first at 1:2',
            "mend": "keep one of them, or rename one",
            "fixed": False,
        },
    ]


def test_json_says_what_was_fixed(run, capfd, file):
    path = file("[None]")
    run(path, "--json", "--fix", "--in-place")
    report = json.loads(capfd.readouterr().out)
    assert (report["valid"], report["problems"][0]["fixed"]) == (True, True)
    assert path.read_text() == "[\n  null\n]\n"


def test_a_config_is_checked_for_its_loader(run, capfd, file):
    path = file('{"peft_type": "LORA",\n "base_model_name_or_path": "m",\n "rank": 8}', "adapter_config.json")
    run(path)
    shown = capfd.readouterr()
    assert f"warning: {path}:3:2: no loader reads `rank`; the key is called `r`" in shown.err
    assert f"warning: {path}:1: the key `lora_alpha` is missing" in shown.err
    assert json.loads(shown.out)["rank"] == 8
    run(path, "--json")
    assert len(json.loads(capfd.readouterr().out)["warnings"]) == 3


@pytest.mark.parametrize(
    ("content", "says", "hint"),
    [
        (b"", "there is no JSON value", "give a file"),
        (b" \n\t\n", "there is no JSON value", "give a file"),
        (b"\x1f\x8b\x08\x00", "compressed with gzip", "gunzip"),
        ('{"a": 1}'.encode("utf-16"), "UTF-16 text", "iconv"),
        (b"PAR1....", "the file is Parquet", "data convert"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a git LFS pointer", "git lfs pull"),
    ],
)
def test_what_is_no_json_file_is_named(run, file, content, says, hint):
    with pytest.raises(DataError, match=says) as caught:
        run(file(content))
    assert hint in caught.value.hint


def test_a_file_that_cannot_be_read_or_written(run, tmp_path):
    with pytest.raises(DataError, match=r"none.json: cannot be read: No such file"):
        run(tmp_path / "none.json")
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        run(tmp_path)
    with pytest.raises(DataError, match="cannot be written to: No such file"):
        run(tmp_path / "none" / "rows.json", "--in-place")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--check", "--fix", "x.json"), "`--check` changes nothing, so `--fix` has no effect"),
        (("--check", "--in-place", "x.json"), "so `--in-place` has no effect"),
        (("--in-place", "-"), "`--in-place` has no file to rewrite"),
    ],
)
def test_flags_that_do_not_go_together(run, arguments, says):
    with pytest.raises(ConfigError, match=says):
        run(*arguments)


def test_a_terminal_on_stdin_is_no_source(monkeypatch):
    parent, child = os.openpty()
    with os.fdopen(child, "r") as terminal, os.fdopen(parent, "rb"):
        monkeypatch.setattr(sys, "stdin", terminal)
        with pytest.raises(ConfigError, match="there is nothing to format"):
            format_()
