"""What more data would give: the same training on a part of the rows, on more of them, and on all.

Each size is a run of its own in a process of its own, so a stop loses little and the same call goes on.
Subsets are nested, all models are measured on the same held-out rows, and epochs are equal: fewer rows have
fewer steps.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.approaches.child_run import finished_run
from tunesmith.approaches.learning_curve_fit import Fitted, Forecast, fit
from tunesmith.config import RunConfig
from tunesmith.data.prepare import Prepared
from tunesmith.data.read import read_records
from tunesmith.data.render import Rendered
from tunesmith.errors import ConfigError, DataError, RunFolderError
from tunesmith.evaluation.forecast_picture import draw_learning_curve
from tunesmith.evaluation.marks import ENOUGH_ROWS
from tunesmith.evaluation.metrics import loss_metric
from tunesmith.evaluation.scores import Score
from tunesmith.evaluation.significance import score
from tunesmith.models.find import find_model
from tunesmith.pipeline import read_data
from tunesmith.progress import Progress, Silent
from tunesmith.resolve import Resolved
from tunesmith.run_lock import claimed
from tunesmith.runs import RunFolder, check_writable
from tunesmith.training.loss import held_out_losses
from tunesmith.use import open_session

Array = NDArray[np.float64]

SHARES = (0.125, 0.25, 0.5, 1.0)
RESULT, PICTURE, ROWS = "learning-curve.json", "learning-curve.svg", "rows"
# Fewer rows leave the smallest subset without a step worth the name.
FEWEST_ROWS = 32


@dataclass(frozen=True, slots=True)
class Size:
    """One run of the curve.

    Attributes:
        rows: training rows.
        steps: optimizer steps it took.
        loss: on the held-out rows, with its interval.
        run: its folder.
        statistics: nats and scored tokens of each held-out row, shape (R, 2).
    """

    rows: int
    steps: int
    loss: Score
    run: Path
    statistics: Array

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"rows": self.rows, "steps": self.steps, "loss": asdict(self.loss), "run": str(self.run)}


@dataclass(frozen=True, slots=True)
class LearningCurve:
    """The runs and what they promise.

    Attributes:
        folder: with the runs, `learning-curve.json` and `learning-curve.svg`.
        sizes: growing.
        twice: what twice the rows would give.
        half_rows: rows that reach half of the remaining gain, with interval; infinite where no end is seen.
        sentences: the same in words.
    """

    folder: Path
    sizes: tuple[Size, ...]
    twice: Forecast
    half_rows: tuple[float, float, float]
    sentences: tuple[str, ...]

    @property
    def picture(self) -> Path:
        """The curve as SVG."""
        return self.folder / PICTURE

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; an infinite number of rows is null."""
        half = [each if np.isfinite(each) else None for each in self.half_rows]
        return {
            "sizes": [size.as_dict() for size in self.sizes],
            "held_out_rows": self.sizes[-1].loss.n,
            "twice_the_rows": self.twice.as_dict(),
            "rows_to_half_of_the_gain": dict(zip(("rows", "low", "high"), half, strict=True)),
            "sentences": list(self.sentences),
        }


def learning_curve(resolved: Resolved, folder: Path, *, progress: Progress | None = None) -> LearningCurve:
    """Train on an eighth, a quarter, half and all of the rows, and say what more would give.

    Args:
        resolved: configuration of the run on all rows.
        folder: gets the runs, the result and a picture; given again, finished runs are kept.
        progress: told what happens.

    Raises:
        UserError: if data, model or folder cannot be used, or rows are too few.
        RunFailed: if a training failed.
        Interrupted: if one was stopped; the same call goes on.
    """
    progress, config = progress or Silent(), resolved.config
    if not (folder / ROWS).is_dir():
        check_writable(folder)
    with claimed(folder):
        sizes = trained_sizes(resolved, folder, shares=SHARES, progress=progress)
        curves = fitted(sizes, seed=config.training.seed)
        confidence = config.evaluation.confidence
        twice = curves.forecast(2 * sizes[-1].rows, seed=config.training.seed, confidence=confidence)
        half = curves.rows_to_half(confidence=confidence)
        found = LearningCurve(folder, sizes, twice, half, tuple(_sentences(sizes, twice, half)))
        _write(found, curves)
    return found


def fitted(sizes: Sequence[Size], *, seed: int) -> Fitted:
    """The curves that the sizes allow."""
    return fit([size.rows for size in sizes], [size.statistics for size in sizes], seed=seed)


def trained_sizes(
    resolved: Resolved, folder: Path, *, shares: Sequence[float], progress: Progress
) -> tuple[Size, ...]:
    """A finished run for each share of the training rows, measured on the same held-out rows.

    Args:
        resolved: configuration of the run on all rows.
        folder: gets `rows/` with the subsets, and a run `rows-N` for each.
        shares: of the training rows, growing, the last one 1.
        progress: told which begins.

    Raises:
        ConfigError: for `max_steps`, which would give all sizes the same steps.
        DataError: if there are too few rows to train on or to measure.
        RunFolderError: if the folder was begun with other rows or settings.
    """
    config = resolved.config
    if config.training.max_steps is not None:
        raise ConfigError(
            f"`max_steps` is {config.training.max_steps}, and would give few rows as many steps as all",
            hint="leave `max_steps` out, and give `--num-train-epochs`: sizes are compared at equal epochs",
        )
    source = find_model(config.model.name, revision=config.model.revision)
    _, data = read_data(config, source, progress)
    _check_rows(data, config)
    counts = [max(1, round(share * len(data.train))) for share in shares]
    order = np.random.default_rng(config.training.seed).permutation(len(data.train))
    validation = _subset(folder, "validation", data.validation, config) if data.validation else None
    found = []
    for place, count in enumerate(counts, start=1):
        progress.say(f"{place}/{len(counts)}: {count} training rows")
        kept = [data.train[at] for at in sorted(order[:count])]
        train = _subset(folder, f"train-{count:06d}", kept, config)
        run = finished_run(
            folder / f"rows-{count:06d}", _child(resolved, train, validation), progress=progress
        )
        found.append(measured(run, count, data.test, config))
    return tuple(found)


def _check_rows(data: Prepared, config: RunConfig) -> None:
    if len(data.train) < FEWEST_ROWS:
        raise DataError(
            f"{len(data.train)} training rows of `{config.data.path}` are too few to be cut into eighths; "
            f"{FEWEST_ROWS} are needed",
            hint="add rows, or hold fewer out with `--validation-size` and `--test-size`",
        )
    if len(data.test) < ENOUGH_ROWS:
        raise DataError(
            f"{len(data.test)} held-out rows are too few to tell sizes apart; {ENOUGH_ROWS} are needed",
            hint=f"`--test-size {ENOUGH_ROWS}`, or rows of their own with `--test-file`",
        )


def _subset(folder: Path, name: str, rows: Sequence[Rendered], config: RunConfig) -> Path:
    """The records of these rows as they stand in their file, in a file of their own."""
    path = folder / ROWS / f"{name}.jsonl"
    lines = {row.row.line for row in rows}
    records = (each.value for each in read_records(Path(rows[0].row.path), skipped=[]) if each.line in lines)
    text = "".join(json.dumps(record, ensure_ascii=False, default=str) + "\n" for record in records)
    if not path.is_file():
        return RunFolder(path.parent).write_text(path.name, text)
    if path.read_text(encoding="utf-8") != text:
        raise RunFolderError(
            f"`{path}` holds other rows than `{config.data.path}` gives now",
            hint="choose another folder with `--output-dir`, or give the data it was started with",
        )
    return path


def _child(resolved: Resolved, train: Path, validation: Path | None) -> Resolved:
    """The configuration on one subset; nothing is held out, since all are measured here."""
    config = resolved.config
    data = config.data.model_copy(
        update={
            "path": str(train),
            "validation_file": str(validation) if validation else None,
            "validation_size": 0,
            "test_file": None,
            "test_size": 0,
        }
    )
    # Steps between validations that suit all rows might never come with few.
    training = config.training.model_copy(update={"eval_steps": None, "save_steps": None})
    changed = config.model_copy(update={"data": data, "training": training})
    return Resolved(changed, resolved.origins)


def measured(run: RunFolder, count: int, rows: Sequence[Rendered], config: RunConfig) -> Size:
    """Held-out losses of a finished run.

    Args:
        run: trained on `count` rows.
        count: training rows.
        rows: held-out rows.
        config: whose device, batches and resamples count.
    """
    session = open_session(str(run.path), device=config.model.device, dtype=config.model.dtype)
    statistics = held_out_losses(
        session.loaded, rows, config.evaluation.per_device_eval_batch_size, lambda done: None
    )
    loss = score(
        loss_metric(),
        statistics,
        seed=config.training.seed,
        resamples=config.evaluation.bootstrap_resamples,
        confidence=config.evaluation.confidence,
    )
    return Size(count, int(run.manifest["training"]["steps"]), loss, run.path, statistics)


def _sentences(sizes: Sequence[Size], twice: Forecast, half: tuple[float, float, float]) -> list[str]:
    now, percent = sizes[-1], round(100 * twice.confidence)
    steps = f"{sizes[0].steps} to {now.steps} steps"
    said = [
        f"Held-out loss with all {now.rows:,} rows: {now.loss.value:.3f} nats/token on {now.loss.n} rows.",
        f"Twice the data, {twice.rows:,} rows, would give about {twice.loss:.3f} "
        f"[{twice.low:.3f}, {twice.high:.3f}], {percent} % interval: a gain of {twice.gain:.3f} "
        f"[{twice.gain_low:.3f}, {twice.gain_high:.3f}].".replace("-", "−"),
    ]
    if twice.gain_low <= 0:
        said.append("The interval of the gain holds 0: more data like these may not help.")
    said.append(half_text(*half))
    said.append(f"Epochs were equal, so fewer rows also had fewer steps: {steps}.")
    return said


def half_text(middle: float, low: float, high: float) -> str:
    """Rows to half of the remaining gain, or that no end is in sight."""
    if not np.isfinite(middle):
        return "The curve does not show yet where it ends, so how many rows half of the gain takes is open."
    upper = f"{high:,.0f}" if np.isfinite(high) else "open"
    return f"To reach half of the remaining gain you need about {middle:,.0f} rows [{low:,.0f}, {upper}]."


def _write(found: LearningCurve, curves: Fitted) -> None:
    results = RunFolder(found.folder)
    results.write_json(RESULT, found.as_dict())
    grid = np.geomspace(found.sizes[0].rows, found.twice.rows, 40)
    tail = (1 - found.twice.confidence) / 2
    band = [(float(rows), *_ends(curves.curve(rows), tail)) for rows in grid]
    points = [(size.rows, size.loss.value, size.loss.low, size.loss.high) for size in found.sizes]
    ahead = (found.twice.rows, found.twice.loss, found.twice.low, found.twice.high)
    results.write_text(PICTURE, draw_learning_curve(points, band, ahead))


def _ends(values: Array, tail: float) -> tuple[float, float, float]:
    """Middle, low and high of the draws."""
    low, middle, high = np.quantile(values, (tail, 0.5, 1 - tail))
    return float(middle), float(low), float(high)
