"""Several methods on the same rows and budget: what each run measured, as rows and as a page.

Read next: `templates/methods.html.j2`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import RunFolderError
from tunesmith.evaluation.curves import Points, draw_validations, series
from tunesmith.evaluation.marks import format_interval, format_value, metric_name
from tunesmith.evaluation.report import page_template
from tunesmith.runs import RunFolder

# The first one that the rows allow is the score of the task.
TASK_SCORES = ("field_accuracy", "exact_match", "rougeL", "chrf")


@dataclass(frozen=True, slots=True)
class MethodRow:
    """One method's run in figures.

    Attributes:
        method: its name.
        trainable: parameters that learned.
        share: `trainable` by all parameters of the base model, 0 to 1.
        peak_memory_bytes: peak of the process (of the device, where it keeps count) while training.
        tokens_per_second: tokens trained a second, validations and checkpoints not counted.
        first_loss: validation loss before the first step, in nats a token.
        best_loss: the lowest validation loss.
        base: held-out loss and task score of the base model, as in evaluation.json.
        tuned: the same of the tuned one.
        size_bytes: weights to keep or send.
        seconds: the whole run, loading and evaluation included.
        run: its folder.
    """

    method: str
    trainable: int
    share: float
    peak_memory_bytes: int
    tokens_per_second: float
    first_loss: float
    best_loss: float
    base: dict[str, dict[str, Any]]
    tuned: dict[str, dict[str, Any]]
    size_bytes: int
    seconds: float
    run: str

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)

    @property
    def score(self) -> str:
        """Name of the task's score."""
        return next(name for name in self.tuned if name != "loss")


def method_row(run: RunFolder) -> MethodRow:
    """What a finished run has to say of its method.

    Raises:
        RunFolderError: if the run has no validation or held-out rows, or has not finished.
    """
    manifest, evaluation = run.manifest, run.path / "evaluation.json"
    training = manifest.get("training") or {}
    if not evaluation.is_file() or training.get("first_loss") is None:
        raise RunFolderError(
            f"run `{run.path}` lacks what a comparison needs: validation and held-out rows, and an end",
            hint="give rows to both: `--validation-size`, `--test-size`",
        )
    parameters = manifest["parameters"]
    base, tuned = (_figures(run.evaluation[part]) for part in ("base", "tuned"))
    peaks = [line["peak_memory_bytes"] for line in run.metrics if "peak_memory_bytes" in line]
    return MethodRow(
        method=manifest["method"],
        trainable=parameters["trainable"],
        share=parameters["trainable"] / parameters["base"],
        peak_memory_bytes=max(peaks, default=0),
        tokens_per_second=training["tokens"] / training["seconds"],
        first_loss=training["first_loss"],
        best_loss=training["best_loss"],
        base=base,
        tuned=tuned,
        size_bytes=sum(file.stat().st_size for file in run.result.glob("*.safetensors")),
        seconds=manifest["seconds"],
        run=str(run.path),
    )


def _figures(scores: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Loss and task score, by name."""
    known = {score["metric"]: dict(score) for score in scores}
    task = next((name for name in TASK_SCORES if name in known), None)
    if task is None:
        raise RunFolderError("no row was answered, so there is no task score", hint="raise `--generate-rows`")
    return {name: known[name] for name in ("loss", task)}


def cells(row: MethodRow) -> list[str]:
    """The row for people, in the order of `COLUMNS`."""
    return [
        row.method,
        _counted(row.trainable),
        f"{100 * row.share:.3g}%",
        f"{row.peak_memory_bytes / 1e9:.2f} GB",
        f"{row.tokens_per_second:.0f}",
        _shown(row.tuned["loss"]),
        _shown(row.tuned[row.score]),
        megabytes(row.size_bytes),
    ]


def columns(row: MethodRow) -> list[str]:
    """Headings of `cells`."""
    score = metric_name(row.score)
    return ["method", "trainable", "share", "peak", "tokens/s", "held-out loss", score, "on disk"]


def base_cells(row: MethodRow) -> list[str]:
    """The model nothing was done to, in the same columns."""
    return ["(base)", "", "", "", "", _shown(row.base["loss"]), _shown(row.base[row.score]), ""]


def _counted(parameters: int) -> str:
    """Parameters to four digits, for people."""
    millions = parameters / 1e6
    return f"{millions:.1f} M" if millions >= 1 else f"{1000 * millions:.1f} k"


def megabytes(size_bytes: int) -> str:
    """Size in the unit people compare files in."""
    return f"{size_bytes / 1e6:.1f} MB"


def _shown(score: Mapping[str, Any]) -> str:
    value = format_value(score["value"], unit=score["unit"])
    return f"{value}\n{format_interval(score['low'], score['high'], unit=score['unit'])}"


def render_methods(rows: Sequence[MethodRow], *, title: str) -> str:
    """A self-contained page: the table and each method's validation loss over steps."""
    points: dict[str, Points] = {
        row.method: series(RunFolder(Path(row.run)).metrics, key="eval_loss") for row in rows
    }
    return page_template("methods.html.j2").render(
        title=title,
        columns=columns(rows[0]),
        rows=[base_cells(rows[0]), *map(cells, rows)],
        curve=draw_validations(points),
        n=rows[0].tuned["loss"]["n"],
    )
