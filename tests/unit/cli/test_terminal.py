"""What a person sees without a terminal: lines, and a table that fits 80 columns."""

import io

import pytest
from rich.console import Console

from tunesmith.cli import terminal
from tunesmith.evaluation.metrics import loss_metric
from tunesmith.evaluation.significance import evaluate


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Where messages go, without a terminal."""
    stream = io.StringIO()
    monkeypatch.setattr(terminal, "messages", Console(file=stream, width=80, soft_wrap=True))
    return stream


def test_without_a_terminal_a_line_at_each_tenth(written: io.StringIO) -> None:
    progress = terminal.TerminalProgress()
    progress.begin("training", 40)
    for step in range(40):
        progress.advance(1, f"loss {step}")
    progress.end()
    lines = written.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[0] == "training 4/40  loss 3"
    assert lines[-1] == "training 40/40  loss 39"


def test_said_text_is_never_markup(written: io.StringIO) -> None:
    terminal.TerminalProgress().say("a [bold]row[/bold] at rows[1]")
    assert written.getvalue() == "a [bold]row[/bold] at rows[1]\n"


def test_results_table_shows_intervals_within_80_columns() -> None:
    import numpy as np

    rows = np.array([[20.0, 10.0], [30.0, 10.0], [25.0, 10.0]])
    evaluation = evaluate([(loss_metric(), rows, rows / np.array([2.0, 1.0]))], seed=1, resamples=100)
    stream = io.StringIO()
    Console(file=stream, width=80).print(terminal.results_table(evaluation.as_dict()))
    text = stream.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    for shown in ("Loss", "2.500", "1.250", "−1.250", "[−1."):
        assert shown in text
