"""`tunesmith advise` as typed: flags, questions on a terminal, and one JSON object."""

import io
import json
import os
import sys

import pytest
from cyclopts import App, CycloptsError

from tunesmith.approaches.advise_rules import FACTS, TITLES
from tunesmith.cli.advise import advise

ALL = ("--goal", "format", "--rows", "600", "--updates", "never", "--no-citations", "--private")
REST = ("--budget", "medium", "--requests-per-day", "2000")


@pytest.fixture
def run(capsys, monkeypatch):
    """Stdout and stderr of the command with these arguments; stdin is a terminal where something is typed."""

    def call(*arguments: str, typed: str | None = None) -> tuple[str, str]:
        app = App()
        app.command(advise)

        def start() -> None:
            app(
                ["advise", *arguments],
                exit_on_error=False,
                print_error=False,
                result_action="return_value",
            )

        if typed is None:
            monkeypatch.setattr(sys, "stdin", io.StringIO())
            start()
        else:
            parent, child = os.openpty()
            with os.fdopen(child, "r") as terminal, os.fdopen(parent, "wb", buffering=0) as keyboard:
                monkeypatch.setattr(sys, "stdin", terminal)
                keyboard.write(typed.encode())
                start()
        told = capsys.readouterr()
        return told.out, told.err

    return call


def test_flags_alone_ask_nothing(run) -> None:
    out, err = run(*ALL, *REST)
    assert err == ""
    assert out.startswith("Start with fine-tuning.")
    assert "1. fine-tuning  +" in out
    assert "   +3  a trained model keeps to a format nearly always\n" in out
    assert "−1  it takes rows, a training run and a test of the result" in out
    for name in TITLES.values():
        assert name in out
    rows = {line[:20].strip(): line[20:].split() for line in out.splitlines() if line[:1].isalpha()}
    assert rows["customization"] == ["shallow", "shallow", "medium", "deep", "deep"]
    assert "…" not in out
    assert "at risk: where the model is hosted by others" in out
    assert "If the knowledge changed daily, fine-tuning + RAG would come first." in out


def test_nothing_known_without_a_terminal(run) -> None:
    out, err = run()
    assert err == ""
    assert out.startswith("Nothing is known yet, so start with a prompt")


def test_questions_on_a_terminal_in_place_of_flags(run) -> None:
    # goal, rows, updates, citations, private, budget, requests a day
    by_dialog, err = run(typed="format\n600\nnev\nno\nyes\n\n2000\n")
    by_flags, _ = run(*ALL, "--requests-per-day", "2000")
    assert by_dialog == by_flags
    for fact in FACTS:
        assert fact.question in err


def test_only_what_is_missing_is_asked_and_a_slip_is_asked_again(run) -> None:
    _, err = run(*ALL, typed="cheap\nlow\n\n")
    assert "How often does the knowledge change" not in err
    assert "`cheap` is no answer to this; type one of `low`, `medium`, `high`" in err
    assert err.count("How much work and computing") == 2


def test_the_end_of_input_leaves_the_rest_open(run) -> None:
    out, err = run(typed="knowledge\n\x04")
    by_flags, _ = run("--goal", "knowledge")
    assert out == by_flags
    assert FACTS[1].question in err
    assert FACTS[2].question not in err


def test_json_is_one_object_and_asks_nothing(run) -> None:
    out, err = run("--updates", "daily", "--citations", "--json", typed="")
    told = json.loads(out)
    assert err == ""
    assert told["ranking"][0]["approach"] == "rag"
    assert told["facts"]["updates"] == "daily"
    assert told["facts"]["private"] is None


def test_no_other_answer_would_help_is_said(run) -> None:
    out, _ = run("--goal", "knowledge", "--updates", "daily", "--citations", "--rows", "0", "--private")
    assert "No single other answer would change the first place." in out


@pytest.mark.parametrize("arguments", [("--rows", "-1"), ("--updates", "dayly"), ("--goal", "fun")])
def test_bad_flags_are_refused(run, arguments) -> None:
    with pytest.raises(CycloptsError, match=arguments[0]):
        run(*arguments)
