"""The run folder: its only reader and writer.

    runs/<name>/
      config.yaml       the resolved configuration, each value with where it came from
      manifest.json     versions, hashes, device, status (running, succeeded, failed, interrupted)
      template.jinja    the prompt template the run was trained with
      metrics.jsonl     one JSON object a line, written as it comes
      rows.jsonl        where asked for: the rows of each step
      checkpoints/      step-000010/ and so on
      adapter/          standard PEFT folder; model/, a whole model, after full fine-tuning
      samples.jsonl     prompt, reference, base output, tuned output
      evaluation.json   base and tuned with intervals
      elsewhere.json    base and tuned beside the task, with a verdict
      report.html       for people

Files other tools read whole are replaced in one rename, so they are never half-written. While a process works
on a run it holds `run.lock`, which `run_lock` explains.
"""

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tunesmith.errors import RunFolderError
from tunesmith.run_lock import LOCK_FILE, is_alive, locked, refuse_if_held

METRICS, ROWS = "metrics.jsonl", "rows.jsonl"
EPOCH_ROUNDING = 1e-4
"""`epoch` in metrics.jsonl has four digits."""
NO_WORD = "its process ended without a word, as when it is killed"
# What stands in a folder whose process was killed before the run was on record.
_BEGINNINGS = {LOCK_FILE, "config.yaml", "template.jinja", ROWS}


@dataclass(frozen=True, slots=True)
class RunFolder:
    """One run's files.

    Attributes:
        path: the folder.
        is_writer: whether this process writes it; of several that train together one does.
    """

    path: Path
    is_writer: bool = True

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        """Standard PEFT folder of the best weights."""
        return self.path / "adapter"

    @property
    def model(self) -> Path:
        """Standard Hugging Face folder of the best weights, where all of them were trained."""
        return self.path / "model"

    @property
    def result(self) -> Path:
        """What the run made: `model` after full fine-tuning, else `adapter`."""
        return self.model if self.model.is_dir() else self.adapter

    @property
    def report(self) -> Path:
        """The page for people."""
        return self.path / "report.html"

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """All lines of metrics.jsonl."""
        return self._lines(METRICS)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """All lines of rows.jsonl: which rows each step saw; none where it was not asked for."""
        return self._lines(ROWS)

    @property
    def has_row_log(self) -> bool:
        """Whether the rows of each step are on record."""
        return (self.path / ROWS).is_file()

    @property
    def manifest(self) -> dict[str, Any]:
        """What the run is and how it stands; where no process works on it, it is not `running`."""
        found = self._manifest_as_written()
        if found.get("status") == "running" and not is_alive(self.path):
            return found | {"status": "interrupted", "why": NO_WORD}
        return found

    def _manifest_as_written(self) -> dict[str, Any]:
        return _read_object(self.path / "manifest.json")

    @property
    def evaluation(self) -> dict[str, Any]:
        """Base and tuned with intervals, as measured at the end."""
        return _read_object(self.path / "evaluation.json")

    def update_manifest(self, **changes: Any) -> None:
        """Add or replace entries of manifest.json; a new `status` drops the `why` of the one before."""
        if not self.is_writer:
            return
        known = self._manifest_as_written() if (self.path / "manifest.json").exists() else {}
        if "status" in changes:
            known.pop("why", None)
        self.write_json("manifest.json", known | changes)

    def add_metrics(self, **values: Any) -> None:
        """Append one line to metrics.jsonl; it is in the file when this returns.

        Raises:
            RunFolderError: if the disk refuses.
        """
        self._add_line(METRICS, values)

    def add_rows(self, step: int, places: Iterable[str]) -> None:
        """Append to rows.jsonl which rows a step saw, each as `file:line`.

        Raises:
            RunFolderError: if the disk refuses.
        """
        self._add_line(ROWS, {"step": step, "rows": list(places)})

    def _add_line(self, name: str, values: Mapping[str, Any]) -> None:
        if not self.is_writer:
            return
        path = self.path / name
        line = json.dumps(values, allow_nan=False) + "\n"
        with _refusal_named(path), path.open("a", encoding="utf-8") as file:
            file.write(line)

    def forget_after(self, step: int) -> None:
        """Drop lines of steps that a resumed run does again."""
        for name in (METRICS, ROWS):
            if self.is_writer and (self.path / name).exists():
                self.write_lines(name, [line for line in self._lines(name) if line["step"] <= step])

    def write_text(self, name: str, text: str) -> Path:
        """Write a whole file in one rename.

        Raises:
            RunFolderError: if the disk refuses; the file stays as it was.
        """
        path = self.path / name
        if not self.is_writer:
            return path
        content = text.encode()
        staging = path.with_name(f".{path.name}.partial")
        with _refusal_named(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with staging.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(staging, path)
            finally:
                staging.unlink(missing_ok=True)
        return path

    def write_json(self, name: str, value: Any) -> Path:
        """Write one JSON file in one rename."""
        return self.write_text(name, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    def write_lines(self, name: str, values: Iterable[Mapping[str, Any]]) -> Path:
        """Write a JSONL file in one rename."""
        lines = (json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n" for value in values)
        return self.write_text(name, "".join(lines))

    def read_text(self, name: str) -> str:
        """A file's text.

        Raises:
            RunFolderError: if the run has no such file.
        """
        try:
            return (self.path / name).read_text(encoding="utf-8")
        except OSError as error:
            raise RunFolderError(
                f"`{self.path}` has no readable `{name}` ({error.strerror})",
                hint="give the folder of a run, such as one under `runs/`",
            ) from error

    def _lines(self, name: str) -> list[dict[str, Any]]:
        """All whole lines; one that a crash cut off counts as not written."""
        path = self.path / name
        if not path.exists():
            return []
        lines = path.read_text(encoding="utf-8").split("\n")
        whole = [(number, line) for number, line in enumerate(lines[:-1], start=1) if line]
        return [_parsed(line, f"{path}:{number}") for number, line in whole]


def is_run_folder(path: Path) -> bool:
    """Whether `path` holds a run."""
    return (path / "manifest.json").is_file() and (path / "config.yaml").is_file()


def default_run_path(data_path: str) -> Path:
    """`runs/<data file>-<date>-<time>`, new each second."""
    return Path("runs") / f"{Path(data_path).stem}-{datetime.now().strftime('%Y%m%d-%H%M%S')}"


def check_writable(path: Path) -> None:
    """Find out before the work whether a run can be written to `path`; leaves nothing behind.

    A folder where a process was killed before its run was on record counts as empty.

    Raises:
        RunFolderError: if the folder is in use, holds files already, or cannot be made or written.
    """
    if path.exists() and not path.is_dir():
        raise RunFolderError(f"`{path}` is a file, so it cannot be a run folder", hint=_OTHER_FOLDER)
    refuse_if_held(path)
    if path.is_dir() and any(path.iterdir()) and not _is_stillborn(path):
        raise RunFolderError(
            f"`{path}` holds files already, and a run never writes over another",
            hint=f"{_OTHER_FOLDER}, or continue that run with `tunesmith train --resume {path}`",
        )
    first_new = next((part for part in reversed([path, *path.parents]) if not part.exists()), None)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise RunFolderError(f"`{path}` cannot be written: {error.strerror}", hint=_OTHER_FOLDER) from error
    finally:
        if first_new is not None:
            _remove_empty(path, up_to=first_new)


def _is_stillborn(path: Path) -> bool:
    """Whether all there is was begun by a run of ours that went no further: its lock file shows it."""
    names = {file.name for file in path.iterdir()}
    staged = {name for name in names if name.startswith(".") and name.endswith(".partial")}
    return LOCK_FILE in names and names - staged <= _BEGINNINGS


_OTHER_FOLDER = "choose another folder with `--output-dir`"


def _remove_empty(path: Path, *, up_to: Path) -> None:
    """Remove folders from `path` up to `up_to`, but none that another run has begun to fill."""
    for folder in (path, *path.parents):
        with suppress(OSError):
            folder.rmdir()
        if folder == up_to:
            return


def create_run(path: Path, *, is_writer: bool = True) -> RunFolder:
    """A new, empty run folder; a process that does not write leaves it to the one that does."""
    if is_writer:
        check_writable(path)
        path.mkdir(parents=True, exist_ok=True)
    return RunFolder(path, is_writer)


@contextmanager
def held(run: RunFolder, *, is_new: bool = False) -> Iterator[None]:
    """Keep other processes off a run's folder; only the one that writes does.

    Args:
        run: the run.
        is_new: whether it was created just now, so nothing may be on record yet.

    Raises:
        RunFolderError: if another process holds it, or began a run in it at the same moment.
    """
    if not run.is_writer:
        yield
        return
    with locked(run.path):
        if is_new and is_run_folder(run.path):
            raise RunFolderError(f"another run was just begun in `{run.path}`", hint=_OTHER_FOLDER)
        yield


def open_run(path: Path, *, is_writer: bool = True) -> RunFolder:
    """An existing run.

    Raises:
        RunFolderError: if `path` holds none.
    """
    if not is_run_folder(path):
        what = "holds no run (config.yaml and manifest.json)" if path.is_dir() else "is no folder"
        raise RunFolderError(f"`{path}` {what}", hint="list yours with `ls runs`")
    return RunFolder(path, is_writer)


@contextmanager
def whole_or_not(folder: Path) -> Iterator[Path]:
    """Where to write a folder's files, which then take its place at once and for good.

    Raises:
        RunFolderError: if the disk refuses.
    """
    staging = folder.with_name(f".{folder.name}.partial")
    with _refusal_named(folder):
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
    yield staging
    with _refusal_named(folder):
        for file in staging.rglob("*"):
            if file.is_file():
                with file.open("rb+") as written:
                    os.fsync(written.fileno())
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(staging, folder)


def finite(value: float) -> float | None:
    """The value, or None where JSON has no word for it."""
    return value if math.isfinite(value) else None


@contextmanager
def _refusal_named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunFolderError(
            f"`{path}` cannot be written: {error.strerror or error}",
            hint="free some disk space, then go on with `tunesmith train --resume`",
        ) from error


def _parsed(line: str, place: str) -> dict[str, Any]:
    try:
        return _object(line)
    except ValueError as error:
        raise RunFolderError(f"{place} is no JSON object: {error}", hint="remove this line") from error


def _read_object(path: Path) -> dict[str, Any]:
    try:
        return _object(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunFolderError(
            f"`{path}` cannot be read: {error}", hint="the run folder is damaged; start the run again"
        ) from error


def _object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"it holds {type(value).__name__}")
    return value
