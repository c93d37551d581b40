"""What a sweep found: its trials as data, what they allow to say, and the files that hold it."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from tunesmith.approaches.sweep_child import validations_of
from tunesmith.approaches.sweep_space import Axis, trial_config
from tunesmith.config import RunConfig
from tunesmith.evaluation.sweep_page import (
    SweptField,
    SweptTrial,
    TrialWord,
    loss_text,
    ranked,
    render_sweep,
    short_name,
    shown_value,
)
from tunesmith.resolve import Resolved
from tunesmith.runs import RunFolder

RESULT, PAGE, BEST = "sweep.json", "sweep.html", "best.yaml"
_WORDS: dict[TrialState, TrialWord] = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


@dataclass(frozen=True, slots=True)
class Swept:
    """A sweep at its end.

    Attributes:
        folder: its folder.
        fields: what was varied.
        trials: the best first.
        sentences: what came out, the most important one first.
        page: for people.
        best: configuration of the winner; None where no trial finished.
    """

    folder: Path
    fields: tuple[SweptField, ...]
    trials: tuple[SweptTrial, ...]
    sentences: tuple[str, ...]
    page: Path
    best: Path | None

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "folder": str(self.folder),
            "page": str(self.page),
            "best": str(self.best) if self.best else None,
            "fields": [asdict(field) for field in self.fields],
            "trials": [trial.as_dict() for trial in self.trials],
            "sentences": list(self.sentences),
        }


def run_path(folder: Path, number: int) -> Path:
    """The run of trial `number`."""
    return folder / f"trial-{number:03d}"


def trials_of(study: optuna.Study, folder: Path) -> list[SweptTrial]:
    """Every trial with what is on record of it, the best first."""
    return ranked([_trial(each, folder) for each in study.get_trials(deepcopy=False)])


def _trial(found: FrozenTrial, folder: Path) -> SweptTrial:
    facts, path = found.user_attrs, run_path(folder, found.number)
    seen = validations_of(path)[: facts.get("judged")]
    return SweptTrial(
        number=found.number,
        values=facts["values"],
        state=_WORDS.get(found.state, "unfinished"),
        loss=facts.get("loss"),
        step=facts.get("step"),
        seconds=round(facts.get("seconds", 0.0), 1),
        why=facts.get("why", ""),
        validations=tuple((each.step, each.loss) for each in seen),
        run=str(path),
    )


def field_of(axis: Axis) -> SweptField:
    """The axis as tables and pictures need it."""
    return SweptField(axis.key, axis.spec, is_range=not axis.choices, is_log=axis.is_log)


def sentences_of(trials: Sequence[SweptTrial], axes: Sequence[Axis]) -> tuple[str, ...]:
    """What the trials allow to say, and what they do not.

    Args:
        trials: the best first.
        axes: what was varied.
    """
    done = [trial for trial in trials if trial.state == "finished"]
    if not done or done[0].loss is None:
        return ("No trial finished, so there is no best one.",)
    best, *others = done
    values = values_text(best, axes)
    found = [
        f"Trial {best.number} has the lowest validation loss: {loss_text(done[0].loss)} nats/token "
        f"at step {best.step}, with {values}."
    ]
    if others:
        found.append(
            f"The runner-up, trial {others[0].number}, is {_gap(others[0], best)} nats/token behind."
        )
    given = next((trial for trial in trials if trial.number == 0), None)
    if best.number == 0:
        found.append("That is the configuration as given: no trial beat it.")
    elif given is not None and given.state == "finished" and given is not (others[0] if others else None):
        found.append(f"The configuration as given, trial 0, is {_gap(given, best)} nats/token behind.")
    if others:
        looks = sum(trial.loss is not None for trial in trials)
        found.append(
            f"The lowest of {looks} looks at the same validation rows flatters the winner, and whether the "
            "gap would hold on other rows was not measured: train `best.yaml` and read its held-out scores."
        )
    return tuple(found)


def values_text(trial: SweptTrial, axes: Sequence[Axis]) -> str:
    """The values of a trial in words, such as `learning_rate 0.0003, rank 8`."""
    return ", ".join(f"{short_name(axis.key)} {shown_value(trial.values[axis.key])}" for axis in axes)


def _gap(trial: SweptTrial, best: SweptTrial) -> str:
    """How much more loss the trial has; four digits, since runners-up are close."""
    return f"{(trial.loss or 0.0) - (best.loss or 0.0):.4f}"


def write_results(study: optuna.Study, axes: Sequence[Axis], base: Resolved, folder: Path) -> Swept:
    """Write sweep.json, sweep.html and best.yaml, each whole.

    Args:
        study: all trials.
        axes: what was varied.
        base: the configuration as given, its evaluation included, which the winner's file keeps.
        folder: of the sweep.
    """
    trials, store = trials_of(study, folder), RunFolder(folder)
    fields = tuple(field_of(axis) for axis in axes)
    sentences = sentences_of(trials, axes)
    best = None
    if trials and trials[0].state == "finished":
        best = store.write_text(BEST, best_config(base, axes, trials).as_yaml())
    page = store.write_text(
        PAGE,
        render_sweep(
            trials, fields, title=folder.name, sentences=sentences, facts=_facts(base.config, len(trials))
        ),
    )
    swept = Swept(folder, fields, tuple(trials), sentences, page, best)
    record = swept.as_dict() | {"seed": base.config.training.seed, "unit": "nats/token"}
    store.write_text(RESULT, json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return swept


def best_config(base: Resolved, axes: Sequence[Axis], trials: Sequence[SweptTrial]) -> Resolved:
    """The winner as a configuration for `tunesmith train`.

    Args:
        base: the configuration as given.
        axes: what was varied.
        trials: the best first.
    """
    best = trials[0]
    origin = f"sweep: trial {best.number} of {len(trials)}"
    if best.number == 0:
        return Resolved(base.config, base.origins | {axis.key: origin for axis in axes})
    return trial_config(base, best.values, origin=origin)


def _facts(config: RunConfig, trials: int) -> tuple[tuple[str, str], ...]:
    return (
        ("Base model", config.model.name),
        ("Data", Path(config.data.path).name),
        ("Method", config.method.name),
        ("Trials", str(trials)),
    )
