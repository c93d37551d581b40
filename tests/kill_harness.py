"""Runs that die: a nursery imports everything once, each run is a fork of it that is killed or left alone.

The nursery never computes, since autograd's threads do not survive a fork. It takes one JSON line and
answers with one. A child runs the pipeline unchanged; what kills it comes from outside of it, or from an
audit hook of the interpreter, which stops the process *before* a chosen step in the file system.
"""

import gc
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

LONGEST_SECONDS = 120.0
# Where safetensors opens and writes its files there is no event; the ones before and after it are.
DISK_EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link"}
TORN = -signal.SIGXFSZ
KILLED = -signal.SIGKILL


@dataclass(frozen=True, slots=True)
class Job:
    """One run in a child.

    Attributes:
        flags: as on the command line, without the folder.
        run: the run folder.
        resume: go on with it.
        die_at: SIGKILL before this file-system step below `within`, counted from 1.
        within: folder inside the run folder whose steps count; empty for all of it.
        most_bytes: a file that grows beyond this is torn there, and the process dies of it.
    """

    flags: dict[str, Any]
    run: str
    resume: bool = False
    die_at: int | None = None
    within: str = "checkpoints"
    most_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended.

    Attributes:
        code: exit status; negative, the signal that ended it.
        seconds: from its start.
        disk_steps: the file-system steps that counted, if it ended by itself.
        log: what it wrote to stdout and stderr.
    """

    code: int
    seconds: float
    disk_steps: list[str] = field(default_factory=list)
    log: str = ""


class Nursery:
    """Starts, kills and buries children, by way of a process of its own."""

    def __init__(self) -> None:
        clean = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        command = [sys.executable, "-W", "ignore", __file__]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen(command, env=os.environ | clean, **pipes)

    def close(self) -> None:
        """End it; a child that still runs is killed."""
        self._process.communicate()

    def start(self, job: Job) -> int:
        """Process id of a new child, which stays its own until `end`."""
        return int(self._ask({"start": asdict(job)}))

    def end(self, child: int, *, after_seconds: float | None = None, by: int = signal.SIGKILL) -> Ended:
        """Wait for a child; `after_seconds` from now it gets the signal `by`."""
        return Ended(**self._ask({"end": child, "after_seconds": after_seconds, "by": int(by)}))

    def run(self, job: Job, *, after_seconds: float | None = None) -> Ended:
        """Start and end."""
        return self.end(self.start(job), after_seconds=after_seconds)

    def _ask(self, question: dict[str, Any]) -> Any:
        assert self._process.stdin and self._process.stdout
        print(json.dumps(question), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())


@dataclass(frozen=True, slots=True)
class _Child:
    started: float
    log: Path
    steps: Path
    modules: Path


def _serve() -> None:
    """Answer questions until there are no more."""
    import tunesmith.pipeline  # noqa: F401  forks share what is imported here

    children: dict[int, _Child] = {}
    for line in sys.stdin:
        question = json.loads(line)
        if "start" in question:
            answer: Any = _start(Job(**question["start"]), children)
        else:
            answer = asdict(_end(question, children))
        print(json.dumps(answer), flush=True)
    for child in children:
        os.kill(child, signal.SIGKILL)


def _start(job: Job, children: dict[int, _Child]) -> int:
    run = Path(job.run)
    child = _Child(
        time.monotonic(), *(run.with_name(f"{run.name}.{kind}") for kind in ("log", "steps", "py"))
    )
    for file in (child.steps, child.modules):
        file.unlink(missing_ok=True)
    number = os.fork()
    if number == 0:
        _live(job, child)
    children[number] = child
    return number


def _end(question: dict[str, Any], children: dict[int, _Child]) -> Ended:
    number, after = question["end"], question["after_seconds"]
    child = children[number]
    now = time.monotonic()
    due = now + LONGEST_SECONDS if after is None else now + after
    # The child is not buried before this is over, so its number cannot be another's.
    while os.waitid(os.P_PID, number, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        if time.monotonic() >= due:
            os.kill(number, question["by"])
            due = time.monotonic() + LONGEST_SECONDS
        time.sleep(0.0005)
    code = os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
    children.pop(number)
    steps = json.loads(child.steps.read_text()) if child.steps.exists() else []
    _learn(child.modules)
    return Ended(code, time.monotonic() - child.started, steps, child.log.read_text(errors="replace"))


def _learn(modules: Path) -> None:
    """Import what a child had to, so that the next ones need not."""
    names = json.loads(modules.read_text()) if modules.exists() else []
    for name in names:
        if name not in sys.modules:
            with suppress(Exception):
                importlib.import_module(name)


def _live(job: Job, child: _Child) -> None:
    """A child's whole life; never returns."""
    gc.freeze()
    log = os.open(child.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    steps: list[str] = []
    _watch_disk(Path(job.run) / job.within, steps, die_at=job.die_at)
    if job.most_bytes is not None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (job.most_bytes, resource.RLIM_INFINITY))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    code = 1
    try:
        code = _finetune(job)
        child.steps.write_text(json.dumps(steps))
        child.modules.write_text(json.dumps(list(sys.modules)))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _finetune(job: Job) -> int:
    """The exit code that the command would have."""
    import torch

    from tunesmith.errors import TunesmithError
    from tunesmith.pipeline import finetune
    from tunesmith.resolve import resolve

    torch.set_num_threads(1)
    run = Path(job.run)
    try:
        if job.resume:
            resolved = resolve(run / "config.yaml", {})
        else:
            resolved = resolve(None, job.flags | {"output-dir": job.run})
        # Not asked for again: a run that began with it goes on so.
        finetune(resolved, resume=run if job.resume else None, progress=_Said(), log_rows=not job.resume)
    except TunesmithError as error:
        print(f"{type(error).__name__}: {error}\n{error.hint}")
        return error.exit_code
    return 0


class _Said:
    """A progress whose every word is in the log."""

    def begin(self, what: str, total: int) -> None:
        """Nothing."""

    def advance(self, amount: int = 1, figures: str = "") -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Say it."""
        print(text, flush=True)


def _watch_disk(folder: Path, steps: list[str], *, die_at: int | None) -> None:
    """Note each step below `folder`; before step `die_at` the process is no more."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in DISK_EVENTS:
            return
        path = _path_of(event, arguments)
        if str(folder) not in path:
            return
        steps.append(_told(event, path, arguments))
        if len(steps) == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def _told(event: str, path: str, arguments: tuple[Any, ...]) -> str:
    """A step in words, such as `os.rename .step-000001.partial -> step-000001`."""
    to = f" -> {os.path.basename(os.fsdecode(arguments[1]))}" if event == "os.rename" else ""
    return f"{event} {os.path.basename(path)}{to}"


def _path_of(event: str, arguments: tuple[Any, ...]) -> str:
    """The path an event is about, from its root even where it was given beside an open folder."""
    path = arguments[0]
    if isinstance(path, int):
        return ""
    path = os.fsdecode(path)
    inside = arguments[-1] if event in ("os.remove", "os.rmdir", "os.mkdir") else -1
    if inside >= 0 and not os.path.isabs(path):
        with suppress(OSError):
            return os.path.join(os.readlink(f"/proc/self/fd/{inside}"), path)
    return path


if __name__ == "__main__":
    _serve()
