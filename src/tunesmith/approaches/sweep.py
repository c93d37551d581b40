"""A sweep from its flags to the winner: trials that are runs, some at a time, and a search that goes on.

Read next: `sweep_space.py` (what is varied), `sweep_study.py` (what is tried), `sweep_child.py` (a trial's
run), `sweep_result.py` (what came out).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.trial import Trial, TrialState

from tunesmith.approaches.child_run import STOPPED
from tunesmith.approaches.sweep_child import (
    Child,
    Validation,
    environments,
    is_last,
    mark_stopped,
    trained_facts,
    visible_gpus,
)
from tunesmith.approaches.sweep_result import Swept, run_path, trials_of, values_text, write_results
from tunesmith.approaches.sweep_space import Axis, is_within, read_axes, trial_config, values_of
from tunesmith.approaches.sweep_study import ENDED, is_lagging, keep, next_trial, opened_study, unfinished
from tunesmith.config import RunConfig
from tunesmith.errors import ConfigError, RunFailed, RunFolderError
from tunesmith.evaluation.sweep_page import loss_text, short_name, shown_value
from tunesmith.progress import Progress, Silent
from tunesmith.resolve import Resolved, listing, read_yaml
from tunesmith.run_lock import claimed
from tunesmith.runs import RunFolder, check_writable
from tunesmith.training.stop import Signalled, StopRequest, heeded_signals, stop_told

SETTINGS = "sweep.yaml"
POLL_SECONDS = 0.1
EXIT_REFUSED = 2


@dataclass(frozen=True, slots=True)
class Search:
    """What a sweep is.

    Attributes:
        base: the configuration as given, with absolute paths.
        axes: what is varied.
        folder: gets the trials' runs and the results.
        trials: how many, at most.
        places: variables of each of the runs that go on at a time.
    """

    base: Resolved
    axes: tuple[Axis, ...]
    folder: Path
    trials: int
    places: tuple[dict[str, str], ...]


@dataclass(slots=True)
class Running:
    """A trial whose run is at work: which of the places it has, and the validation that condemned it."""

    trial: Trial
    child: Child
    place: int
    lagging: int | None = None


def sweep(
    resolved: Resolved,
    over: Sequence[str],
    *,
    folder: Path,
    trials: int = 12,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Swept:
    """Train the configuration with several values of some fields, and name those with the lowest loss.

    Stopped or killed, the same call goes on: trials that ended are kept, the others resume.

    Args:
        resolved: the configuration as given, which is trial 0.
        over: fields and values, such as `training.learning_rate=1e-5:1e-3:log` or `method.rank=8,16,32`.
        folder: gets a run folder for each trial, `sweep.json`, `sweep.html` and `best.yaml`.
        trials: how many, from 1 up; fewer where there is nothing left to try.
        jobs: runs at a time; by default one for each GPU, else one.
        progress: told what happens.

    Raises:
        ConfigError: before anything runs: lists every problem with `over`, or what the sweep lacks.
        RunFolderError: if the folder holds another sweep, or something else.
        RunFailed: if no trial finished.
        Interrupted: after SIGINT or SIGTERM, with the state of the trials saved.
    """
    progress = progress or Silent()
    axes = read_axes(over, resolved)
    gpus = visible_gpus(resolved.config.model.device)
    count = jobs if jobs is not None else max(1, len(gpus))
    _check(resolved.config, trials=trials, jobs=count, gpus=gpus)
    search = Search(resolved.to_repeat(), axes, folder, trials, tuple(environments(count, gpus)))
    _check_folder(search)
    told = f"the sweep was stopped; its trials so far are in `{folder}`, the running ones with their state"
    with claimed(folder), stop_told(told, folder), heeded_signals() as stop:
        _remember(search)
        with opened_study(folder) as study:
            _run(study, search, progress, stop)
            swept = write_results(study, axes, search.base, folder)
    if swept.best is None:
        raise RunFailed(
            f"none of {len(swept.trials)} trials finished; the first one: {swept.trials[0].why}",
            hint=f"see `{swept.page}` for all of them; try lower learning rates in another folder",
        )
    return swept


def _check(config: RunConfig, *, trials: int, jobs: int, gpus: tuple[str, ...]) -> None:
    """What the search cannot do without; all problems at once."""
    problems = []
    if not (config.data.validation_size or config.data.validation_file):
        problems.append("`validation_size` is 0, and trials are told apart by their validation loss")
    problems += [
        f"--{name} is {value}, and must be at least 1"
        for name, value in (("trials", trials), ("jobs", jobs))
        if value < 1
    ]
    if gpus and jobs > len(gpus):
        problems.append(f"--jobs is {jobs}, and {len(gpus)} GPUs are visible; two runs on one would not fit")
    if problems:
        raise ConfigError(
            listing(problems, what="sweep"),
            hint="give rows to validation with `--validation-size 0.1`, and leave `--jobs` out if unsure",
        )


def _check_folder(search: Search) -> None:
    """A new folder must be empty, an old one must hold the same sweep."""
    path = search.folder / SETTINGS
    if not path.is_file():
        check_writable(search.folder)
        return
    values, _ = read_yaml(path, what="record of the sweep")
    before = {f"--over {key}": str(spec) for key, spec in dict(values.pop("over", None) or {}).items()}
    now = {f"--over {axis.key}": axis.spec for axis in search.axes}
    try:
        before |= _config_texts(RunConfig.model_validate(values))
    except ValueError as error:
        raise RunFolderError(
            f"`{path}` is damaged: {str(error).splitlines()[0]}",
            hint="choose another folder with `--output-dir`; the trials' own folders are unharmed",
        ) from error
    now |= _config_texts(search.base.config)
    changed = [key for key in before | now if before.get(key) != now.get(key)]
    if changed:
        lines = [
            f"{key}: {before.get(key, 'not varied')} before, now {now.get(key, 'not varied')}"
            for key in changed
        ]
        raise RunFolderError(
            f"`{search.folder}` holds a sweep of other settings:\n"
            + "\n".join(f"  {line}" for line in lines),
            hint="choose another folder with `--output-dir`, or give the settings it was started with",
        )


def _config_texts(config: RunConfig) -> dict[str, str]:
    return {key: repr(value) for key, value, _ in Resolved(config, {}).rows() if key != "output_dir"}


def _remember(search: Search) -> None:
    """Say what is searched, so that the folder is never given to another search."""
    if (search.folder / SETTINGS).is_file():
        return
    lines = ["over:", *(f'  {axis.key}: "{axis.spec}"' for axis in search.axes)]
    RunFolder(search.folder).write_text(SETTINGS, search.base.as_yaml() + "\n".join(lines) + "\n")


def _run(study: optuna.Study, search: Search, progress: Progress, stop: StopRequest) -> None:
    """Trials until there are enough; those that an earlier call left unfinished first."""
    left = unfinished(study, search.axes)
    running: list[Running] = []
    progress.begin("trials", search.trials)
    progress.advance(len(study.get_trials(deepcopy=False, states=ENDED)))
    try:
        # A signal waits for the record at hand; the second one does not.
        with stop.heard_between_steps():
            while stop.number is None:
                while len(running) < len(search.places) and (trial := _next(study, search, left)) is not None:
                    running.append(_begun(trial, search, running, progress))
                if not running:
                    break
                for each in list(running):
                    if _has_ended(study, search, each, progress):
                        running.remove(each)
                time.sleep(POLL_SECONDS)
            if stop.number is not None:
                progress.say("stopping: the running trials save their state; once more stops at once")
                _stop_all(running, stop.number)
    finally:
        for each in running:
            each.trial.set_user_attr("spent_seconds", _seconds(each))
            each.child.close()
        progress.end()


def _next(study: optuna.Study, search: Search, left: list[Trial]) -> Trial | None:
    if left:
        return left.pop(0)
    waiting = len(study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))
    if len(study.get_trials(deepcopy=False)) - waiting >= search.trials:
        return None
    base = search.base
    return next_trial(
        study,
        search.axes,
        seed=base.config.training.seed,
        given=values_of(base, search.axes),
        is_given_within=is_within(base, search.axes),
    )


def _begun(trial: Trial, search: Search, running: Sequence[Running], progress: Progress) -> Running:
    place = next(n for n in range(len(search.places)) if n not in [each.place for each in running])
    path = run_path(search.folder, trial.number)
    child = Child(path, _config_of(trial, search), environment=search.places[place])
    each = Running(trial, child, place)
    # What an earlier call left on record may condemn it before it is begun again.
    _judge(each)
    shown = ", ".join(f"{short_name(key)} {shown_value(value)}" for key, value in _values(trial).items())
    progress.say(f"trial {trial.number}: {shown}" + (" (as given)" if trial.number == 0 else ""))
    return each


def _values(trial: Trial) -> dict[str, object]:
    return dict(trial.user_attrs["values"])


def _config_of(trial: Trial, search: Search) -> Resolved:
    """The trial's configuration. It measures the loss of its own rows only, and asks for no answers."""
    base, values = search.base, _values(trial)
    wanted = base if trial.number == 0 else trial_config(base, values, origin=f"sweep: trial {trial.number}")
    silent = wanted.config.evaluation.model_copy(update={"generate_rows": 0, "elsewhere": "skip"})
    return Resolved(wanted.config.model_copy(update={"evaluation": silent}), wanted.origins)


def _judge(each: Running) -> list[Validation]:
    """Look at a run's validations; one that lags is told to stop."""
    seen = each.child.validations()
    if each.lagging is None:
        is_ended = is_last(seen, each.child.resolved.config.training)
        each.lagging = is_lagging(each.trial, [one.loss for one in seen], is_ended=is_ended)
        if each.lagging is not None:
            each.child.stop()
    return seen


def _has_ended(study: optuna.Study, search: Search, each: Running, progress: Progress) -> bool:
    """Look at a run; where it has ended, put on record how."""
    code = each.child.poll()
    if code is None:
        if each.child.is_due():
            _judge(each)
        return False
    seen = _judge(each)
    if each.lagging is not None:
        _keep_pruned(study, each, seen[: each.lagging])
    elif code == 0:
        _keep_finished(study, each)
    elif code in STOPPED:
        raise STOPPED[code](
            f"trial {each.trial.number} was stopped; its state is in `{each.child.path}`",
            hint=f"repeat the command with `--output-dir {search.folder}` to go on",
        )
    else:
        _keep_failed(study, each, code, seen)
    each.child.close()
    _tell(study, search, each, progress)
    return True


def _seconds(each: Running) -> float:
    return float(each.trial.user_attrs.get("spent_seconds", 0.0)) + each.child.seconds


def _keep_finished(study: optuna.Study, each: Running) -> None:
    trained = trained_facts(each.child.path)
    if trained.get("best_loss") is None:
        raise ConfigError(
            f"trial {each.trial.number} had no validation rows, and which tell trials apart",
            hint="give more rows to validation with `--validation-size`, in another folder",
        )
    loss, step = trained["best_loss"], trained["best_step"]
    keep(study, each.trial, TrialState.COMPLETE, loss=loss, step=step, seconds=_seconds(each))


def _keep_pruned(study: optuna.Study, each: Running, seen: Sequence[Validation]) -> None:
    best = min(seen, key=lambda one: (one.loss, one.step))
    why = (
        f"stopped by the sweep after validation {len(seen)} (step {seen[-1].step}): its best loss, "
        f"{loss_text(best.loss)} nats/token, was above the median of the finished trials there"
    )
    mark_stopped(each.child.path, why)
    facts = {"step": best.step, "seconds": _seconds(each), "why": why, "judged": len(seen)}
    keep(study, each.trial, TrialState.PRUNED, loss=best.loss, **facts)


def _keep_failed(study: optuna.Study, each: Running, code: int, seen: Sequence[Validation]) -> None:
    """A trial that fails does not end the sweep: a rate that is too high is an answer too."""
    said, hint = each.child.refusal()
    if code == EXIT_REFUSED and not study.get_trials(deepcopy=False, states=ENDED):
        raise ConfigError(f"trial {each.trial.number}: {said}", hint=hint)
    best = min(seen, key=lambda one: (one.loss, one.step), default=None)
    keep(
        study,
        each.trial,
        TrialState.FAIL,
        loss=best.loss if best else None,
        step=best.step if best else None,
        seconds=_seconds(each),
        why=said,
    )


def _tell(study: optuna.Study, search: Search, each: Running, progress: Progress) -> None:
    """What became of the trial, and who leads."""
    trials = trials_of(study, search.folder)
    this = next(trial for trial in trials if trial.number == each.trial.number)
    loss = "no loss" if this.loss is None else f"validation loss {loss_text(this.loss)}"
    progress.say(f"trial {this.number} {this.state}: {loss}" + (f"; {this.why}" if this.why else ""))
    first = trials[0]
    leads = first.state == "finished" and first.loss is not None
    figures = f"best {loss_text(first.loss or 0.0)} · {values_text(first, search.axes)}" if leads else ""
    progress.advance(1, figures)


def _stop_all(running: Sequence[Running], number: int) -> None:
    """Pass a signal on and wait until the runs have saved their state; another signal is passed on too."""
    while True:
        try:
            for each in running:
                each.child.stop(number)
            for each in running:
                each.child.wait()
            return
        except Signalled as again:
            number = again.number
