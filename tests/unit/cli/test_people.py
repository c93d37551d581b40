"""`tunesmith ab` and `rate` as a user runs them: page, Ctrl-C, results, export, and what is refused."""

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from cyclopts import App

from tunesmith.cli.people import ab, rate
from tunesmith.errors import ConfigError, DataError, TunesmithError, UserError

COMMANDS = {"ab": ab, "rate": rate}
SCORES = {"accuracy": 5, "relevance": 4, "fluency": 3, "format_compliance": 2}
PROGRAM = """
import sys
from cyclopts import App
from tunesmith.cli.people import ab, rate
app = App(result_action="return_value")
app.command(ab)
app.command(rate)
app(sys.argv[1:], exit_on_error=False)
"""


def run(*words: object) -> None:
    app = App(result_action="return_value")
    for command in COMMANDS.values():
        app.command(command)
    app(list(map(str, words)), exit_on_error=False)


def as_json(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    capsys.readouterr()
    run(*words, "--json")
    return dict(json.loads(capsys.readouterr().out))


@pytest.fixture
def outputs(tmp_path: Path) -> tuple[Path, Path]:
    """Two systems' answers to 10 prompts."""
    files = (tmp_path / "sys-zebra-7.jsonl", tmp_path / "sys-quokka-9.jsonl")
    for file, word in zip(files, ("One", "Another"), strict=True):
        rows = [{"prompt": f"Question {n}?", "answer": f"{word} {n}", "reference": "r"} for n in range(10)]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return files


class Page:
    """The command in a process of its own, and a browser let in by its link."""

    def __init__(self, *words: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *map(str, words), "--no-browser"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.link = self.process.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{32}", self.link), (
            self.process.communicate()
        )
        self.client = httpx.Client(base_url=self.link.partition("/?")[0], follow_redirects=True)
        assert self.client.get(self.link).status_code == 200

    def vote(self, number: int, wanted: str) -> None:
        """`number` times for the answer that begins with a word."""
        for _ in range(number):
            item = self.client.get("/api/state", params={"rater": "Ada"}).json()["item"]
            choice = "left" if item["left"].startswith(wanted) else "right"
            body = {"rater": "Ada", "item": item["id"], "act_id": str(uuid4()), "choice": choice, "note": ""}
            assert self.client.post("/api/act", json=body).status_code == 200

    def rate(self, number: int) -> None:
        for _ in range(number):
            item = self.client.get("/api/state", params={"rater": "Ada"}).json()["item"]
            scores = {"accuracy": 5 if item["answer"].startswith("Another") else 2}
            body = {"rater": "Ada", "item": item["id"], "act_id": str(uuid4()), "note": ""}
            assert self.client.post("/api/act", json=body | {"scores": SCORES | scores}).status_code == 200

    def end(self, how: signal.Signals = signal.SIGINT) -> tuple[int, str, str]:
        self.client.close()
        self.process.send_signal(how)
        out, error = self.process.communicate(timeout=60)
        return self.process.returncode, out, error


def test_votes_survive_a_kill_and_ctrl_c_shows_what_they_add_up_to(
    outputs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = tmp_path / "rules.txt"
    rules.write_text("Short is good. <b>", encoding="utf-8")
    page = Page("ab", *outputs, "--guidelines", rules)
    state = page.client.get("/api/state", params={"rater": "x"}).json()
    assert state["guidelines"] == "Short is good. <b>"
    page.vote(5, "Another")
    port = page.link.partition("/?")[0].rpartition(":")[2]
    with pytest.raises(UserError, match=f"port {port} of 127.0.0.1 cannot be had"):
        run("ab", *outputs, "--port", port, "--no-browser")
    page.end(signal.SIGKILL)
    again = Page("ab", *outputs)
    # Pages still open find the server where it was.
    assert again.link.partition("/?")[0] == page.link.partition("/?")[0]
    assert again.link != page.link
    again.vote(4, "Another")
    code, out, error = again.end()
    assert (code, "Traceback" in error) == (0, False), error
    assert "people: 9 votes by Ada, 0 skipped, 10 items" in out
    assert "stop, sys-quokka-9 is better (found after 8 decided items" in out
    assert "wins are sys-quokka-9 over sys-zebra-7" in out
    assert re.search(r"^all +9 +0 +0 +1\.000 \[0\.701, 1\.000\] 0\.004 9", out, re.MULTILINE)
    assert f"go on:    tunesmith ab {outputs[0]} {outputs[1]}\n" in error
    file = tmp_path / "sys-zebra-7-sys-quokka-9-votes.sqlite"
    found = as_json(capsys, "ab", *outputs, "--results")
    assert found["votes"] == str(file)
    assert file.is_file()
    (people,) = found["results"]["groups"]
    assert (people["rate"]["wins"], people["rate"]["n"], people["stop"]["word"]) == (9, 9, "winner")
    assert people["rate"]["signature"].startswith("ties:half|wilson")
    export = tmp_path / "votes.csv"
    found = as_json(capsys, "ab", *outputs, "--export", export)
    assert (found["export"], found["exported"]) == (str(export), 9)
    assert len(export.read_text(encoding="utf-8").splitlines()) == 10


def test_a_rating_ends_in_means_by_scale(
    outputs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    votes = tmp_path / "mine.sqlite"
    page = Page("rate", *outputs, "--votes", votes)
    page.rate(20)
    code, out, error = page.end()
    assert code == 0, error
    assert "20 ratings by Ada, 0 skipped, 10 items" in out
    assert f"--votes {votes} --results" in error
    (accuracy, *_) = as_json(capsys, "rate", *outputs, "--votes", votes, "--results")["results"]["scales"]
    assert {name: mean["value"] for name, mean in accuracy["means"].items()} == {
        "sys-zebra-7": 2.0,
        "sys-quokka-9": 5.0,
    }
    assert accuracy["differences"]["sys-quokka-9"]["difference"] == 3.0
    run("rate", *outputs, "--votes", votes, "--results")
    shown = capsys.readouterr().out
    assert "differences are to sys-zebra-7" in shown
    assert re.search(r"^accuracy +2\.00 \[2\.00, 2\.00\] +10 sys-zebra-7", shown, re.MULTILINE)
    assert re.search(
        r"^accuracy +5\.00 \[5\.00, 5\.00\] +\+3\.00 \[\+3\.00, \+3\.00\] 0\.\d+ +10 sys-q",
        shown,
        re.MULTILINE,
    )


def test_for_machines_stdout_is_one_object(outputs: tuple[Path, Path]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "ab", *map(str, outputs), "--no-browser", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert process.stdout is not None
    assert "answers go to" in process.stderr.readline()
    assert "/?token=" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert json.loads(out)["results"]["kind"] == "ab"
    assert process.returncode == 0


def test_rows_without_a_partner_are_told(
    outputs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with outputs[0].open("a", encoding="utf-8") as file:
        file.write('{"prompt": "alone", "answer": "a"}\n')
    with pytest.raises(DataError, match="there are no answers yet"):
        run("ab", *outputs, "--results")
    assert f"{outputs[0]}: 1 rows are left out, for not all sources have them" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "error", "message", "hint"),
    [
        (
            ["--systems", "sys-zebra-8", "sys-quokka-9"],
            ConfigError,
            "no system `sys-zebra-8`",
            "`sys-zebra-7`",
        ),
        (["--systems", "sys-zebra-7"], ConfigError, "compares two systems, and there are 1", "second file"),
        (["--systems", "sys-zebra-7", "sys-zebra-7"], ConfigError, "names one twice", "each once"),
        (
            ["--judge", "http://127.0.0.1:9/v1"],
            ConfigError,
            "go together, and one of them",
            "--judge-model NAME",
        ),
        (["--judge-model", "x"], ConfigError, "go together, and one of them", "--judge-model NAME"),
        (["--results"], DataError, "there are no answers yet", "to collect some"),
        (["--export", "votes.xlsx"], DataError, "an export ends in", "votes.jsonl"),
        (["--guidelines", "none.txt"], DataError, "the guidelines cannot be read", "UTF-8"),
    ],
)
def test_what_cannot_be_done_is_said(
    outputs: tuple[Path, Path],
    tmp_path: Path,
    words: list[str],
    error: type[UserError],
    message: str,
    hint: str,
) -> None:
    with pytest.raises(error, match=message) as refused:
        run("ab", *outputs, *words)
    assert hint in refused.value.hint
    # Nothing was begun.
    assert not list(tmp_path.glob("*.sqlite*"))


def test_three_systems_need_a_choice_and_each_pair_has_its_own_file(
    outputs: tuple[Path, Path], tmp_path: Path
) -> None:
    third = tmp_path / "third.jsonl"
    shutil.copy(outputs[0], third)
    with pytest.raises(ConfigError, match="compares two systems, and there are 3") as refused:
        run("ab", *outputs, third)
    assert "--systems A B" in refused.value.hint
    chosen = ["--systems", "third", "sys-zebra-7", "--results"]
    with pytest.raises(DataError, match=r"9-third-third-sys-zebra-7-votes\.sqlite: there"):
        run("ab", *outputs, third, *chosen)


def test_a_run_keeps_its_votes_in_its_folder(tmp_path: Path) -> None:
    row = {"place": "rows.jsonl:1", "prompt": "p", "reference": "r", "base": "b", "tuned": "t"}
    (tmp_path / "samples.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    for command, name in (("ab", "votes"), ("rate", "ratings")):
        with pytest.raises(DataError, match=f"{tmp_path}/{name}.sqlite: there are no answers yet"):
            run(command, tmp_path, "--results")


def test_a_judge_without_an_address_is_refused(outputs: tuple[Path, Path]) -> None:
    with pytest.raises(TunesmithError, match="is no address of a judge"):
        run("ab", *outputs, "--judge", "nowhere", "--judge-model", "x")
