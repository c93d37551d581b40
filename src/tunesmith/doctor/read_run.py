"""Signs of one of our runs, from its folder: finished, failed, killed, or still going on."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.data.read import read_records
from tunesmith.data.records import kind_of
from tunesmith.doctor.lines import Curves, last_epoch
from tunesmith.doctor.signs import Signs
from tunesmith.errors import RunFolderError
from tunesmith.resolve import resolve
from tunesmith.runs import EPOCH_ROUNDING, RunFolder


def read_run(run: RunFolder, *, outcome: Mapping[str, Any] | None = None) -> Signs:
    """What the folder tells.

    Args:
        run: its folder; what was not written yet is taken as not known.
        outcome: what the manifest will say of the end, for a run that is just ending.

    Raises:
        RunFolderError: if a file of the run is damaged.
        ConfigError: if its configuration no longer holds.
        DataError: if its samples are damaged.
    """
    manifest, lines = {**run.manifest, **(outcome or {})}, run.metrics
    settings = {key: value for key, value, _ in resolve(run.config).rows()}
    data = manifest.pop("data", {})
    steps_per_epoch = _steps_per_epoch(lines, settings, data)
    return Signs(
        name=str(run.path),
        kind="run",
        curves=Curves(lines).as_curves(),
        settings=settings,
        total_steps=_total_steps(settings, steps_per_epoch),
        steps_per_epoch=steps_per_epoch,
        status=str(manifest.get("status", "")),
        why=str(manifest.get("why", "")),
        halvings=tuple(
            (int(line["step"]), int(line["micro_batch_rows"])) for line in lines if "micro_batch_rows" in line
        ),
        data=data,
        facts={name: value for name, value in manifest.items() if name not in ("status", "why", "findings")},
        evaluation=_object(run, "evaluation.json"),
        elsewhere=_object(run, "elsewhere.json"),
        samples=_samples(run.path / "samples.jsonl"),
    )


def _samples(file: Path) -> tuple[Mapping[str, Any], ...]:
    # A run whose held-out rows were not answered leaves an empty file.
    if not file.is_file() or not file.stat().st_size:
        return ()
    return tuple(record.value for record in read_records(file))


def _object(run: RunFolder, name: str) -> dict[str, Any]:
    """What a JSON file of the run holds; nothing where the run wrote none."""
    if not (run.path / name).is_file():
        return {}
    try:
        value = json.loads(run.read_text(name))
    except (ValueError, RecursionError) as error:
        raise RunFolderError(f"`{run.path / name}` is no JSON: {error}", hint=_DAMAGED) from error
    if not isinstance(value, dict):
        raise RunFolderError(f"`{run.path / name}` holds {kind_of(value)}, not an object", hint=_DAMAGED)
    return value


_DAMAGED = "remove this file to have the rest of the run looked at"


def _steps_per_epoch(
    lines: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], data: Mapping[str, Any]
) -> float | None:
    """Steps of one pass over the rows: as planned for one process, unless the lines tell otherwise."""
    rows, logged = data.get("rows", {}).get("train"), last_epoch(lines)
    at_once = settings["training.per_device_train_batch_size"]
    window_rows = at_once * settings["training.gradient_accumulation_steps"]
    planned = float(math.ceil(rows / window_rows)) if rows else None
    if logged is None:
        return planned
    step, epoch = logged
    if planned and abs(step / planned - epoch) <= EPOCH_ROUNDING:
        return planned
    return float(max(1, round(step / epoch)))


def _total_steps(settings: Mapping[str, Any], steps_per_epoch: float | None) -> int | None:
    if settings["training.max_steps"]:
        return int(settings["training.max_steps"])
    if steps_per_epoch is None:
        return None
    return math.ceil(float(settings["training.num_train_epochs"]) * steps_per_epoch)
