"""The run folder: its only reader and writer.

    runs/<name>/
      config.yaml       the resolved configuration, each value with where it came from
      manifest.json     versions, hashes, device, status (running, succeeded, failed, interrupted)
      template.jinja    the prompt template the run was trained with
      metrics.jsonl     one JSON object a line, written as it comes
      checkpoints/      step-000010/ and so on
      adapter/          standard PEFT folder; model/, a whole model, after full fine-tuning
      samples.jsonl     prompt, reference, base output, tuned output
      evaluation.json   base and tuned with intervals
      report.html       for people

Files other tools read whole are replaced in one rename, so they are never half-written.
"""

import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tunesmith.errors import RunFolderError


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
        return self._lines("metrics.jsonl")

    @property
    def manifest(self) -> dict[str, Any]:
        """What the run is and how it stands."""
        return _read_object(self.path / "manifest.json")

    @property
    def evaluation(self) -> dict[str, Any]:
        """Base and tuned with intervals, as measured at the end."""
        return _read_object(self.path / "evaluation.json")

    def update_manifest(self, **changes: Any) -> None:
        """Add or replace entries of manifest.json; a new `status` drops the `why` of the one before."""
        if not self.is_writer:
            return
        known = self.manifest if (self.path / "manifest.json").exists() else {}
        if "status" in changes:
            known.pop("why", None)
        self.write_json("manifest.json", known | changes)

    def add_metrics(self, **values: Any) -> None:
        """Append one line to metrics.jsonl; it is in the file when this returns.

        Raises:
            RunFolderError: if the disk refuses.
        """
        if not self.is_writer:
            return
        path = self.path / "metrics.jsonl"
        line = json.dumps(values, allow_nan=False) + "\n"
        with _refusal_named(path), path.open("a", encoding="utf-8") as file:
            file.write(line)

    def forget_metrics_after(self, step: int) -> None:
        """Drop lines of steps that a resumed run does again."""
        if not self.is_writer:
            return
        kept = [line for line in self.metrics if line["step"] <= step]
        self.write_lines("metrics.jsonl", kept)

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
                staging.write_bytes(content)
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

    Raises:
        RunFolderError: if the folder holds files already, or cannot be made or written.
    """
    if path.exists() and not path.is_dir():
        raise RunFolderError(f"`{path}` is a file, so it cannot be a run folder", hint=_OTHER_FOLDER)
    if path.is_dir() and any(path.iterdir()):
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


def open_run(path: Path, *, is_writer: bool = True) -> RunFolder:
    """An existing run.

    Raises:
        RunFolderError: if `path` holds none.
    """
    if not is_run_folder(path):
        what = "holds no run (config.yaml and manifest.json)" if path.is_dir() else "is no folder"
        raise RunFolderError(f"`{path}` {what}", hint="list yours with `ls runs`")
    return RunFolder(path, is_writer)


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
