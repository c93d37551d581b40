"""A run in a process of its own: kept where it is finished, resumed where it was begun, else trained.

A process of its own gives all its memory back, and its peak is its own.
"""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from tunesmith.config import RunConfig
from tunesmith.errors import Interrupted, RunFailed, RunFolderError, Terminated
from tunesmith.progress import Progress
from tunesmith.resolve import Resolved, resolve
from tunesmith.runs import RunFolder, is_run_folder, open_run
from tunesmith.training.stop import Signalled, heeded_signals

STOPPED = {each.exit_code: each for each in (Interrupted, Terminated)}
"""The error that an exit code of a stopped command stands for."""


def finished_run(path: Path, resolved: Resolved, *, progress: Progress, ignored: str = "") -> RunFolder:
    """The run in `path`, trained to its end if need be.

    Args:
        path: of the run; its settings are written beside it.
        resolved: its configuration.
        progress: told whether it was kept.
        ignored: section whose settings may be others than those that a run there began with.

    Raises:
        RunFolderError: if the folder holds a run of other settings.
        RunFailed: if training failed.
        Interrupted: if it was stopped; repeated, the same call goes on.
    """
    command = train_command(path, resolved, ignored=ignored)
    if is_finished(path):
        progress.say(f"`{path}` was finished before, kept")
        return open_run(path)
    code = _tunesmith(command)
    if code in STOPPED:
        raise STOPPED[code](
            f"training was stopped; its state is in `{path}`",
            hint=f"repeat the command with `--output-dir {path.parent}` to go on",
        )
    if code:
        raise RunFailed(
            f"training in `{path}` failed (exit code {code}); what it said stands above",
            hint=f"mend it and repeat the command with `--output-dir {path.parent}`: finished runs are kept",
        )
    return open_run(path)


def is_finished(path: Path) -> bool:
    """Whether `path` holds a run that went to its end."""
    return is_run_folder(path) and open_run(path).manifest.get("status") == "succeeded"


def train_command(path: Path, resolved: Resolved, *, ignored: str = "") -> tuple[str, ...]:
    """The words of our command line that train the run in `path`, or go on with it where it was begun.

    Args:
        path: of the run; the settings of a new one are written beside it.
        resolved: its configuration.
        ignored: section whose settings may be others than those that a run there began with.

    Raises:
        RunFolderError: if the folder holds a run of other settings.
    """
    wanted = resolved.to_repeat()
    if is_run_folder(path):
        _check_same(path, wanted.config, ignored=ignored)
        return ("train", "--resume", str(path), "--json")
    settings = RunFolder(path.parent).write_text(f"{path.name}.yaml", wanted.as_yaml())
    return ("train", str(settings), "--output-dir", str(path), "--json")


def started(
    command: tuple[str, ...],
    *,
    stdout: int | IO[bytes] = subprocess.DEVNULL,
    stderr: int | IO[bytes] | None = None,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Our own command line in a new process.

    Args:
        command: its words, as `train_command` makes them.
        stdout: where its result goes.
        stderr: where its messages go; by default to people.
        environment: all of its variables; by default ours.
    """
    # A group of its own, or the terminal and we would both tell it of one Ctrl-C.
    group = 0 if sys.platform != "win32" else None
    # -P: a Python file that lies beside the data is not imported.
    words = (sys.executable, "-P", "-m", "tunesmith", *command)
    return subprocess.Popen(words, stdout=stdout, stderr=stderr, env=environment, process_group=group)  # noqa: S603 (own program)


def _check_same(path: Path, wanted: RunConfig, *, ignored: str) -> None:
    """A run of other settings must not slip in."""
    before, now = (
        {key: value for key, value, _ in Resolved(config, {}).to_repeat().rows() if key != "output_dir"}
        for config in (resolve(open_run(path).config).config, wanted)
    )
    changed = sorted(key for key in now if before.get(key) != now[key] and key.partition(".")[0] != ignored)
    if changed:
        raise RunFolderError(
            f"`{path}` was trained with another {', '.join(changed)}",
            hint="choose another folder with `--output-dir`, or give the settings it was started with",
        )


def _tunesmith(command: tuple[str, ...]) -> int:
    """Exit code of our own command line; what it says reaches people, and each signal reaches it."""
    with heeded_signals():
        process = started(command)
        try:
            while True:
                try:
                    return process.wait()
                except Signalled as stop:
                    process.send_signal(stop.number)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
