"""SIGINT and SIGTERM: heeded after the step while training, at once elsewhere; the second is at once."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import numpy as np

from tunesmith.errors import Interrupted, RunFolderError, Terminated
from tunesmith.runs import RunFolder, is_run_folder
from tunesmith.training.ranks import ALONE, Ranks

SIGNALS = (signal.SIGINT, signal.SIGTERM)
NOTICE = "\nstopping after this step, with its state saved; once more stops at once\n"


class Signalled(KeyboardInterrupt):
    """A signal ends the run.

    A `KeyboardInterrupt`, since those are the ones that libraries let through.

    Args:
        number: of the signal.
        saved_step: step whose state was saved for it, or None where nothing was.
    """

    def __init__(self, number: int, *, saved_step: int | None = None) -> None:
        super().__init__(number, saved_step)
        self.number, self.saved_step = number, saved_step


class StopRequest:
    """Whether a signal has asked the run to end.

    Args:
        is_told: whether the first signal is answered with a line on stderr.
    """

    def __init__(self, *, is_told: bool = False) -> None:
        self.number: int | None = None
        self.is_told = is_told
        self._is_patient = False

    def take(self, number: int, frame: FrameType | None = None) -> None:
        """What a signal does: a wish that the loop looks for, or the end.

        Raises:
            Signalled: where no step is under way, or at the second signal.
        """
        if not self._is_patient or self.number is not None:
            raise Signalled(number)
        self.number = number
        if self.is_told:
            # Written past Python's buffers, which a signal may have caught in the middle of a write.
            os.write(2, NOTICE.encode())

    @contextmanager
    def heard_between_steps(self) -> Iterator[None]:
        """Inside, the first signal waits until the loop asks for it.

        Raises:
            Signalled: at the end, if a signal came too late for the loop.
        """
        self._is_patient = True
        try:
            yield
        finally:
            self._is_patient = False
        if self.number is not None:
            raise Signalled(self.number)

    def agreed(self, ranks: Ranks = ALONE) -> int | None:
        """The signal that any of the processes got, the same for all; they must ask together."""
        got = ranks.sum(np.array([self.number == number for number in SIGNALS], dtype=np.float64))
        return next((int(number) for number, count in zip(SIGNALS, got, strict=True) if count), None)


@contextmanager
def heeded_signals(*, is_told: bool = False) -> Iterator[StopRequest]:
    """Take SIGINT and SIGTERM over, and give them back at the end.

    Only a program's main thread gets signals; in another one nothing is taken over. A signal that whoever
    started the program ignores (as `nohup` and shells do for jobs behind) stays ignored.
    """
    request = StopRequest(is_told=is_told)
    before = {}
    if threading.current_thread() is threading.main_thread():
        taken = [number for number in SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
        before = {number: signal.signal(number, request.take) for number in taken}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def kept_status(run: RunFolder) -> Iterator[None]:
    """Whatever ends the run, manifest.json says how.

    Raises:
        Interrupted: after SIGINT, or `Terminated` after SIGTERM; says how to go on.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        with suppress(RunFolderError):
            run.update_manifest(status="interrupted", why=_why(stop))
        raise interruption(stop, run.path) from None
    except BaseException as error:
        # The disk may be full, which is then told by the error that found it first.
        with suppress(RunFolderError):
            run.update_manifest(status="failed", why=f"{type(error).__name__}: {error}")
        raise


@contextmanager
def interruption_told(path: Path) -> Iterator[None]:
    """Before a run is on record, or before it goes on, an interruption changes nothing; it says so.

    Raises:
        Interrupted: after SIGINT, or `Terminated` after SIGTERM.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        raise interruption(stop, path if is_run_folder(path) else None) from None


def interruption(stop: KeyboardInterrupt, run: Path | None) -> Interrupted:
    """The error that tells of it.

    Args:
        stop: a signal, or Python's own.
        run: folder of the run; None where it had not begun.
    """
    kind = kind_of(stop)
    if run is None:
        return kind("interrupted before the run began", hint="nothing was kept; give the command again")
    saved_step = getattr(stop, "saved_step", None)
    after = f" after step {saved_step}, which is saved" if saved_step is not None else ""
    return kind(f"run `{run}` was interrupted{after}", hint=f"go on with `tunesmith train --resume {run}`")


@contextmanager
def stop_told(told: str, folder: Path) -> Iterator[None]:
    """What an interruption means for a command of several steps that goes on in its folder.

    Args:
        told: that it was stopped, and what is kept.
        folder: of the command.

    Raises:
        Interrupted: after SIGINT, or `Terminated` after SIGTERM.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        hint = f"repeat the command with `--output-dir {folder}` to go on"
        raise kind_of(stop)(told, hint=hint) from stop


def kind_of(stop: KeyboardInterrupt) -> type[Interrupted]:
    """`Terminated` after SIGTERM, `Interrupted` after anything else."""
    return Terminated if getattr(stop, "number", signal.SIGINT) == signal.SIGTERM else Interrupted


def _why(stop: KeyboardInterrupt) -> str:
    return "interrupted by SIGTERM" if kind_of(stop) is Terminated else "interrupted by the user"
