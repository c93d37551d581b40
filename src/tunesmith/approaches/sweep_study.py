"""The search behind a sweep: optuna's study in `sweep.db`, one trial after the other.

What trial n tries follows from the seed, n and the trials that ended before it, and from nothing else. So a
sweep that was killed goes on as if it had not been. The file is SQLite with JSON in it, and nothing in it is
ever unpickled.

The search is a tree-structured Parzen estimator (Bergstra et al. 2011, "Algorithms for Hyper-Parameter
Optimization", section 4), and trials that lag are stopped by the median rule (Golovin et al. 2017, "Google
Vizier", section 3.2.2).
"""

import json
import math
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import DatabaseError

from tunesmith.approaches.sweep_space import (
    MOST_POINTS,
    Axis,
    Values,
    all_points,
    point_count,
    rounded,
)
from tunesmith.errors import RunFolderError

STUDY_FILE, STUDY = "sweep.db", "sweep"
# Points drawn at random before the estimator takes over; optuna's own 10 would be most of a small sweep.
RANDOM_TRIALS = 5
# The median rule waits for this many trials, and never looks at a trial's first validation, which the
# warm-up decides.
FULL_TRIALS, FIRST_JUDGED_VALIDATION = 4, 2
# Draws until a point that was not tried yet; then one is picked from those left.
MOST_DRAWS = 32

ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@contextmanager
def opened_study(folder: Path) -> Iterator[optuna.Study]:
    """The study in `folder`, made where there is none.

    Raises:
        RunFolderError: if the file is no study of ours.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path = folder / STUDY_FILE
    if not path.exists():
        _make(path)
    try:
        storage = _storage(path)
        study = optuna.load_study(study_name=STUDY, storage=storage, pruner=_pruner())
    except (DatabaseError, KeyError, RuntimeError, optuna.exceptions.OptunaError) as error:
        raise RunFolderError(
            f"`{path}` cannot be read as the record of a sweep: {str(error).splitlines()[0]}",
            hint="choose another folder with `--output-dir`; the trials' own folders are unharmed",
        ) from error
    try:
        yield study
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _make(path: Path) -> None:
    """A study that is there as a whole or not at all."""
    staging = path.with_name(f".{path.name}.partial")
    staging.unlink(missing_ok=True)
    storage = _storage(staging)
    optuna.create_study(study_name=STUDY, storage=storage, direction="minimize")
    storage.remove_session()
    storage.engine.dispose()
    os.replace(staging, path)


def _storage(path: Path) -> optuna.storages.RDBStorage:
    """The file behind a connection of our own, since `?`, `%` and braces mean something in an address."""
    return optuna.storages.RDBStorage(
        "sqlite:///sweep.db", engine_kwargs={"creator": partial(sqlite3.connect, path.resolve())}
    )


def _pruner() -> optuna.pruners.BasePruner:
    return optuna.pruners.MedianPruner(n_startup_trials=FULL_TRIALS, n_warmup_steps=FIRST_JUDGED_VALIDATION)


def unfinished(study: optuna.Study, axes: Sequence[Axis]) -> list[Trial]:
    """Trials that were begun and did not end, in order, ready to go on."""
    begun = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    trials = [Trial(study, each._trial_id) for each in begun]
    for trial in trials:
        _settle(trial, axes)
    return trials


def next_trial(
    study: optuna.Study, axes: Sequence[Axis], *, seed: int, given: Values, is_given_within: bool
) -> Trial | None:
    """Begin the next trial.

    Args:
        study: all trials so far.
        axes: what is varied.
        seed: of the search.
        given: what the configuration has in the fields that are varied: the values of trial 0.
        is_given_within: whether these values are among those that the sweep could try.

    Returns:
        The trial, or None where nothing is left to try.
    """
    if not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        number = len(study.get_trials(deepcopy=False))
        values = dict(given) if number == 0 else _proposed(study, axes, seed=seed, number=number)
        if values is None:
            return None
        # Values outside what is varied would mislead the estimator, so it is not told of them.
        told = values if number > 0 or is_given_within else {}
        study.enqueue_trial(told, user_attrs={"values": values, "is_told": bool(told)})
    trial = study.ask()
    _settle(trial, axes)
    return trial


def _settle(trial: Trial, axes: Sequence[Axis]) -> None:
    """Let the study know the trial's values; they were decided when it was enqueued."""
    if trial.user_attrs["is_told"]:
        for axis in axes:
            _drawn(trial, axis)


def _proposed(study: optuna.Study, axes: Sequence[Axis], *, seed: int, number: int) -> dict[str, Any] | None:
    """Values that no trial has had; None where there are none left."""
    trials = study.get_trials(deepcopy=False)
    tried = {_point(trial.user_attrs["values"]) for trial in trials}
    told = [trial for trial in trials if trial.user_attrs["is_told"]]
    if len({_point(trial.user_attrs["values"]) for trial in told}) >= point_count(axes):
        return None
    for attempt in range(MOST_DRAWS):
        values = _draw(told, axes, seed=_mixed(seed, number, attempt))
        if _point(values) not in tried:
            return values
    if point_count(axes) > MOST_POINTS:
        return None
    left = [values for values in all_points(axes) if _point(values) not in tried]
    return left[_mixed(seed, number, MOST_DRAWS) % len(left)] if left else None


def _draw(told: Sequence[FrozenTrial], axes: Sequence[Axis], *, seed: int) -> dict[str, Any]:
    """What the estimator would try next, asked in memory, so that a point it had before leaves no trace."""
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=RANDOM_TRIALS)
    drawing = optuna.create_study(sampler=sampler, direction="minimize")
    drawing.add_trials(_as_seen(told))
    trial = drawing.ask()
    return {axis.key: rounded(axis, _drawn(trial, axis)) for axis in axes}


def _as_seen(told: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Trials for the estimator: one that failed counts as bad as the worst, for it would else come again."""
    losses = [trial.value for trial in told if trial.state is TrialState.COMPLETE and trial.value is not None]
    worst = max(losses, default=0.0)
    return [
        optuna.create_trial(params=trial.params, distributions=trial.distributions, value=worst)
        if trial.state is TrialState.FAIL
        else trial
        for trial in told
        if trial.state in ENDED
    ]


def _drawn(trial: Trial, axis: Axis) -> Any:
    if axis.choices:
        return trial.suggest_categorical(axis.key, axis.choices)
    if axis.is_whole:
        return trial.suggest_int(axis.key, int(axis.low), int(axis.high), log=axis.is_log)
    return trial.suggest_float(axis.key, axis.low, axis.high, log=axis.is_log)


def _point(values: Values) -> str:
    return json.dumps(dict(values), sort_keys=True)


def _mixed(*numbers: int) -> int:
    """A seed that has nothing in common with that of other numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def is_lagging(trial: Trial, losses: Sequence[float], *, is_ended: bool) -> int | None:
    """Tell the study a trial's validations, and ask whether it is worth going on.

    The answer for a validation does not depend on when it is asked, unless another trial ends meanwhile.

    Args:
        trial: that runs.
        losses: of its validations so far, the one before the first step not counted; nats a token.
        is_ended: whether the last of them is the run's last, after which there is nothing to save.

    Returns:
        The validation, from 1 up, after which its best loss is above the median of the finished trials at
        that point; None where it keeps up.
    """
    told = len(trial.storage.get_trial(trial._trial_id).intermediate_values)
    # The last one told is asked about again: a sweep may have been killed before it heard the answer.
    for number, loss in enumerate(losses[max(0, told - 1) :], start=max(1, told)):
        if number > told:
            trial.report(loss, number)
        if not (is_ended and number == len(losses)) and trial.should_prune():
            return number
    return None


def keep(study: optuna.Study, trial: Trial, state: TrialState, *, loss: float | None, **facts: Any) -> None:
    """Put on record how a trial ended.

    Args:
        study: all trials.
        trial: the one that ended.
        state: how.
        loss: its best validation loss in nats a token, where it has one.
        facts: more to keep with it, each JSON-ready.
    """
    for name, value in {"loss": loss, **facts}.items():
        trial.set_user_attr(name, value)
    is_complete = state is TrialState.COMPLETE and loss is not None and math.isfinite(loss)
    study.tell(trial.number, loss if is_complete else None, state=state)
