"""One trial of a sweep as a run in a process of its own: begun, looked at, stopped.

A sweep that was killed leaves its runs at work. The next one finds them by their locks and waits for them.
"""

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tunesmith.approaches.child_run import is_finished, started, train_command
from tunesmith.config import TrainingConfig
from tunesmith.resolve import Resolved
from tunesmith.run_lock import is_alive
from tunesmith.runs import EPOCH_ROUNDING, RunFolder, is_run_folder, open_run

EXIT_STOPPED = 128 + signal.SIGTERM
# A long run's metrics are not read more often than that.
LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Validation:
    """One validation of a run: its step, its epoch, and the loss in nats a token."""

    step: int
    epoch: float
    loss: float


class Child:
    """A trial's run.

    Args:
        path: its folder; what it says goes into `<folder>.log` beside it.
        resolved: its configuration.
        environment: variables that are its own.
    """

    def __init__(self, path: Path, resolved: Resolved, *, environment: Mapping[str, str]) -> None:
        self.path, self.resolved, self.environment = path, resolved, environment
        self.is_stopping = False
        self.began = time.monotonic()
        self._process: subprocess.Popen[bytes] | None = None
        self._result = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`)
        self._looked = 0.0

    @property
    def seconds(self) -> float:
        """Wall time since this sweep took it up."""
        return time.monotonic() - self.began

    def poll(self) -> int | None:
        """The exit code where the run has ended; it is begun, or gone on with, where nobody is at it."""
        if self._process is None:
            if is_alive(self.path):
                return None
            if self.is_stopping:
                return EXIT_STOPPED
            if is_finished(self.path):
                return 0
            self._start()
            return None
        code = self._process.poll()
        if code and is_alive(self.path):
            # A run that an earlier sweep left was still loading when ours began, and had the folder first.
            self._process = None
            return None
        return code

    def _start(self) -> None:
        command = train_command(self.path, self.resolved)
        self._result.seek(0)
        self._result.truncate()
        with self.path.with_name(f"{self.path.name}.log").open("ab") as log:
            self._process = started(
                command, stdout=self._result, stderr=log, environment=os.environ | dict(self.environment)
            )

    def is_due(self) -> bool:
        """Whether it is time to look at the metrics again."""
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return False
        self._looked = now
        return True

    def validations(self) -> list[Validation]:
        """All validations after a step, in order."""
        return validations_of(self.path)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Ask the run to save its state and end; `poll` says when it has."""
        self.is_stopping = True
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def wait(self) -> None:
        """Until our own process has ended."""
        if self._process is not None:
            self._process.wait()

    def close(self) -> None:
        """End whatever is left, without waiting for anything to be saved but the step at hand."""
        self.stop()
        self.wait()
        self._result.close()

    def refusal(self) -> tuple[str, str]:
        """What an unsuccessful run said: the error and the hint."""
        self._result.seek(0)
        try:
            told = json.loads(self._result.read())
            return str(told["error"]), str(told["hint"])
        except (ValueError, KeyError, TypeError):
            code = self._process.returncode if self._process else None
            how = f"ended by signal {-code}" if code and code < 0 else f"exit code {code}"
            return f"its process said nothing ({how})", f"see `{self.path}.log`"


def validations_of(path: Path) -> list[Validation]:
    """All validations of the run in `path` after a step, in order; none where nothing is on record yet."""
    if not is_run_folder(path):
        return []
    return [
        Validation(line["step"], line["epoch"], line["eval_loss"])
        for line in RunFolder(path).metrics
        if "eval_loss" in line and line["step"] > 0
    ]


def is_last(validations: list[Validation], settings: TrainingConfig) -> bool:
    """Whether the run ends with the last of these, as planned or out of patience."""
    if not validations:
        return False
    last = validations[-1]
    if settings.max_steps is not None:
        is_planned = last.step >= settings.max_steps
    else:
        is_planned = last.epoch >= settings.num_train_epochs - EPOCH_ROUNDING
    losses = [each.loss for each in validations]
    stale = len(losses) - 1 - losses.index(min(losses))
    return is_planned or bool(settings.early_stopping_patience and stale >= settings.early_stopping_patience)


def mark_stopped(path: Path, why: str) -> None:
    """Say in the run's own record why it ended early; a run that finished meanwhile keeps its own."""
    run = open_run(path)
    if run.manifest.get("status") != "succeeded":
        run.update_manifest(status="interrupted", why=why)


def trained_facts(path: Path) -> dict[str, Any]:
    """What manifest.json says of the training of a finished run."""
    return dict(open_run(path).manifest.get("training") or {})


def visible_gpus(device: str) -> tuple[str, ...]:
    """The GPUs that runs may use, as CUDA_VISIBLE_DEVICES names them; none where `device` is another.

    Args:
        device: as in the configuration: `auto`, `cuda`, `cpu` or `mps`.
    """
    if device not in ("auto", "cuda"):
        return ()
    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = named.split(",") if named else [str(number) for number in range(count)]
    return tuple(name.strip() for name in names[:count])


def environments(jobs: int, gpus: tuple[str, ...]) -> list[dict[str, str]]:
    """For each of the runs at a time, variables that give it a GPU, or a share of the processor's threads."""
    if gpus:
        return [{"CUDA_VISIBLE_DEVICES": name} for name in gpus[:jobs]]
    if jobs == 1:
        return [{}]
    threads = max(1, torch.get_num_threads() // jobs)
    return [{"OMP_NUM_THREADS": str(threads)} for _ in range(jobs)]
