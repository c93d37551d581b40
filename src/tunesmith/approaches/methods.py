"""The same rows and budget for every method, each in a process of its own, and one table of what came out."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.config import RunConfig
from tunesmith.errors import RunFailed, RunFolderError
from tunesmith.evaluation.method_table import MethodRow, method_row, render_methods
from tunesmith.progress import Progress
from tunesmith.resolve import Resolved, resolve
from tunesmith.runs import RunFolder, is_run_folder, open_run

TABLE, PAGE = "methods.json", "methods.html"


def train_methods(
    configs: Mapping[str, Resolved], folder: Path, *, progress: Progress
) -> tuple[list[MethodRow], Path]:
    """Train every method that is not finished yet, then compare them.

    A process each, because the peak of memory belongs to a process, and one method's would hide the next
    one's. Stopped in the middle, the same call goes on: finished runs are kept, an unfinished one resumes.

    Args:
        configs: the configuration of each method, equal but for the method.
        folder: gets a run folder for each method, `methods.json` and `methods.html`.
        progress: told which method begins.

    Returns:
        One row a method, in the order of `configs`, and the page.

    Raises:
        RunFolderError: if `folder` holds runs of another configuration.
        RunFailed: if a run failed; the others are kept.
    """
    for place, (name, resolved) in enumerate(configs.items(), start=1):
        run = folder / name
        _check_same(run, resolved.config)
        if is_run_folder(run) and open_run(run).manifest.get("status") == "succeeded":
            progress.say(f"{place}/{len(configs)} {name}: finished before, kept")
            continue
        progress.say(f"{place}/{len(configs)} {name}")
        _train(name, resolved, run)
    rows = [method_row(open_run(folder / name)) for name in configs]
    results = RunFolder(folder)
    results.write_json(TABLE, {"methods": [row.as_dict() for row in rows]})
    return rows, results.write_text(PAGE, render_methods(rows, title=folder.name))


def _train(name: str, resolved: Resolved, run: Path) -> None:
    if is_run_folder(run):
        arguments = ["--resume", str(run)]
    else:
        settings = RunFolder(run.parent).write_text(f"{name}.yaml", resolved.to_repeat().as_yaml())
        arguments = [str(settings), "--output-dir", str(run)]
    if _tunesmith("train", *arguments, "--json"):
        raise RunFailed(
            f"the run with method `{name}` failed; what it said stands above",
            hint=f"mend it and repeat the command with `--output-dir {run.parent}`: finished runs are kept",
        )


def _tunesmith(*arguments: str) -> int:
    """Run our own command line in a new process; what it says to people reaches them."""
    command: Sequence[str] = (sys.executable, "-m", "tunesmith", *arguments)
    return subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode  # noqa: S603 (own program)


def _check_same(run: Path, config: RunConfig) -> None:
    """A finished run of other settings must not slip into the table."""
    if not is_run_folder(run):
        return
    before, now = (_comparable(part) for part in (resolve(open_run(run).config).config, config))
    changed = sorted(key for key in now if before.get(key) != now[key])
    if changed:
        raise RunFolderError(
            f"`{run}` was trained with another {', '.join(changed)}",
            hint="choose another folder with `--output-dir`, or give the settings it was started with",
        )


def _comparable(config: RunConfig) -> dict[str, Any]:
    whole = Resolved(config, {}).to_repeat()
    return {key: value for key, value, _ in whole.rows() if key != "output_dir"}
