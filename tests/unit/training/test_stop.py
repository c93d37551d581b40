"""What SIGINT and SIGTERM do to a process that trains, and to one that does not."""

import os
import signal
import threading
from contextlib import suppress

import numpy as np
import pytest

from tiny_run import bits, make_loop, random_rows, timeless, tiny_lora, train, weights
from tunesmith.errors import Interrupted, RunFailed, Terminated
from tunesmith.runs import RunFolder
from tunesmith.training.checkpoint import checkpoints_in
from tunesmith.training.stop import (
    NOTICE,
    Signalled,
    StopRequest,
    heeded_signals,
    interruption,
    interruption_told,
    kept_status,
)

BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


def get(number):
    """The signal, handled when this returns or raises."""
    os.kill(os.getpid(), number)
    for _ in range(1000):
        pass


@BOTH
def test_signal_outside_of_training_ends_at_once(number):
    with pytest.raises(Signalled) as caught, heeded_signals():
        get(number)
    assert (caught.value.number, caught.value.saved_step) == (number, None)


@BOTH
def test_first_signal_waits_and_second_ends_at_once(number, capfd):
    with pytest.raises(Signalled) as caught, heeded_signals(is_told=True) as stop, stop.heard_between_steps():
        assert stop.agreed() is None
        get(signal.SIGTERM)
        assert stop.agreed() == signal.SIGTERM
        assert capfd.readouterr().err == NOTICE
        get(number)
    assert caught.value.number == number


def test_signal_too_late_for_the_loop_is_not_forgotten():
    reached = []
    with pytest.raises(Signalled), heeded_signals() as stop, stop.heard_between_steps():
        get(signal.SIGTERM)
        reached.append("the end")
    assert reached == ["the end"]


def test_error_of_the_loop_is_not_hidden_by_a_signal():
    with pytest.raises(RunFailed), heeded_signals() as stop, stop.heard_between_steps():
        get(signal.SIGTERM)
        raise RunFailed("a", hint="b")


@BOTH
def test_handlers_are_given_back(number):
    before = signal.getsignal(number)
    with heeded_signals() as stop:
        assert signal.getsignal(number) == stop.take
    assert signal.getsignal(number) == before
    with suppress(Signalled), heeded_signals():
        get(number)
    assert signal.getsignal(number) == before


def test_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with heeded_signals():
            get(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_thread_takes_nothing_over():
    found = []

    def work():
        with heeded_signals():
            found.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]


class OtherGotIt:
    """Two processes of which the other one got SIGTERM."""

    def sum(self, values):
        return values + np.array([0, 1])


def test_processes_stop_together():
    assert StopRequest().agreed(OtherGotIt()) == signal.SIGTERM


# 11 rows in windows of 4: three steps an epoch; validated at 2, 4, 6, 8, 9 and saved at 3, 6, 9 and the best.
RUN = {"num_train_epochs": 3, "eval_steps": 2, "save_steps": 3, "validation": random_rows(5, seed=9)}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return train(tmp_path_factory.mktemp("whole"), model=tiny_lora(dropout=0.1), **RUN)


@pytest.mark.parametrize(
    ("during", "step"),
    [*(("loss", step) for step in (1, 2, 3, 4, 8, 9)), *(("eval_loss", step) for step in (2, 4, 8, 9))],
)
def test_stopped_run_saves_the_step_and_ends_in_the_same_bits(tmp_path, uninterrupted, step, during):
    """`loss` is recorded within the step, `eval_loss` within the validation after it."""
    expected, expected_lines, expected_trained = uninterrupted
    lines, stop = [], StopRequest()

    def record(**line):
        lines.append(line)
        if line["step"] == step and during in line:
            stop.take(signal.SIGTERM)

    loop = make_loop(tiny_lora(dropout=0.1), tmp_path, record, **RUN)
    with pytest.raises(Signalled) as caught:
        loop.run(stop=stop)
    assert (caught.value.number, caught.value.saved_step) == (signal.SIGTERM, step)
    assert checkpoints_in(tmp_path)[-1].name == f"step-{step:06d}"
    assert lines[-1]["step"] == step
    model = tiny_lora(dropout=0.1)
    again = make_loop(model, tmp_path, lambda **line: lines.append(line), **RUN)
    again.resume(checkpoints_in(tmp_path)[-1])
    trained = again.run()
    assert bits(weights(model)) == bits(expected)
    assert timeless(lines) == timeless(expected_lines)
    assert (trained.best_step, trained.steps) == (expected_trained.best_step, 9)


def test_stop_saves_once(tmp_path, monkeypatch):
    stop, saved = StopRequest(), []
    loop = make_loop(tiny_lora(), tmp_path, lambda **line: None, max_steps=4, save_steps=1)
    save = loop._save
    monkeypatch.setattr(loop, "_save", lambda: (saved.append(loop.state.step), save()))

    def on_rows(step, rows):
        if step == 2:
            stop.take(signal.SIGINT)

    with pytest.raises(Signalled):
        loop.run(stop=stop, on_rows=on_rows)
    assert saved == [1, 2]


def test_each_row_is_told_once_an_epoch(tmp_path):
    seen = []
    loop = make_loop(tiny_lora(), tmp_path, lambda **line: None, num_train_epochs=2)
    loop.run(on_rows=lambda step, rows: seen.append((step, [row.row.line for row in rows])))
    assert [step for step, _ in seen] == [1, 2, 3, 4, 5, 6]
    for epoch in (seen[:3], seen[3:]):
        assert sorted(line for _, rows in epoch for line in rows) == list(range(1, 12))


@BOTH
def test_status_and_error_say_how_it_ended_and_how_to_go_on(tmp_path, number):
    run = RunFolder(tmp_path)
    with (
        pytest.raises(Interrupted, match="was interrupted after step 7, which is saved") as caught,
        kept_status(run),
    ):
        raise Signalled(number, saved_step=7)
    is_term = number == signal.SIGTERM
    assert type(caught.value) is (Terminated if is_term else Interrupted)
    assert caught.value.exit_code == (143 if is_term else 130)
    assert caught.value.hint == f"go on with `tunesmith train --resume {tmp_path}`"
    why = "interrupted by SIGTERM" if is_term else "interrupted by the user"
    assert run.manifest == {"status": "interrupted", "why": why}


def test_interruption_before_the_run_began_and_before_it_went_on(tmp_path):
    with (
        pytest.raises(Terminated, match="interrupted before the run began") as caught,
        interruption_told(tmp_path),
    ):
        raise Signalled(signal.SIGTERM)
    assert caught.value.hint == "nothing was kept; give the command again"
    for name in ("config.yaml", "manifest.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(Interrupted, match=f"run `{tmp_path}` was interrupted$"), interruption_told(tmp_path):
        raise KeyboardInterrupt
    assert type(interruption(KeyboardInterrupt(), None)) is Interrupted


def test_run_that_cannot_even_say_so_keeps_its_error(tmp_path):
    run = RunFolder(tmp_path / "file")
    (tmp_path / "file").write_text("")
    for error in (Signalled(signal.SIGINT), RunFailed("a", hint="b")):
        expected = Interrupted if isinstance(error, Signalled) else RunFailed
        with pytest.raises(expected), kept_status(run):
            raise error
