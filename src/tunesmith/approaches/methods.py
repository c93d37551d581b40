"""The same rows and budget for every method, each in a process of its own, and one table of what came out."""

from collections.abc import Mapping
from pathlib import Path

from tunesmith.approaches.child_run import finished_run
from tunesmith.evaluation.method_table import MethodRow, method_row, render_methods
from tunesmith.progress import Progress
from tunesmith.resolve import Resolved
from tunesmith.runs import RunFolder, open_run

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
        Interrupted: if one was stopped; its state is saved.
    """
    for place, (name, resolved) in enumerate(configs.items(), start=1):
        progress.say(f"{place}/{len(configs)} {name}")
        finished_run(folder / name, resolved, progress=progress)
    rows = [method_row(open_run(folder / name)) for name in configs]
    results = RunFolder(folder)
    results.write_json(TABLE, {"methods": [row.as_dict() for row in rows]})
    return rows, results.write_text(PAGE, render_methods(rows, title=folder.name))
