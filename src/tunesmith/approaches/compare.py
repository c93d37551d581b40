"""Prompting, retrieval and fine-tuning on the same held-out inputs, from the data to the verdict.

One model is in memory: the base, on which the adapter is switched off for the approaches without training.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tunesmith.approaches.answers import Answered, costs_of
from tunesmith.approaches.asking import Asking, answer_all, held_out_inputs, room_tokens
from tunesmith.approaches.comparison_table import page_of
from tunesmith.approaches.costs import Training, break_evens, request_price, training_of
from tunesmith.approaches.requests import Plan, plan_requests
from tunesmith.approaches.results import ApproachResult, Findings, Measured, measure
from tunesmith.approaches.settings import FINE_TUNED, TUNED, CompareSettings, check_settings
from tunesmith.approaches.training_run import given_run, trained_run
from tunesmith.approaches.verdict import PROMPTED, Verdict, verdict_of
from tunesmith.data.prepare import Prepared
from tunesmith.evaluation.comparison_page import render_comparison
from tunesmith.evaluation.measure import group_references
from tunesmith.hardware import choose_hardware
from tunesmith.methods import METHODS
from tunesmith.models.find import find_model
from tunesmith.models.generate import Decoding
from tunesmith.pipeline import read_data
from tunesmith.progress import Progress, Silent
from tunesmith.resolve import Resolved
from tunesmith.run_lock import claimed
from tunesmith.runs import RunFolder, check_writable
from tunesmith.training.stop import heeded_signals, stop_told

RESULT, PAGE, ANSWERS, SETTINGS = "compare.json", "compare.html", "answers.jsonl", "settings.json"


@dataclass(frozen=True, slots=True)
class Compared:
    """A finished comparison.

    Attributes:
        folder: its folder.
        page: for people.
        findings: all numbers.
        verdict: what they allow to say.
        notes: anything out of the ordinary.
        seconds: of this call.
    """

    folder: Path
    page: Path
    findings: Findings
    verdict: Verdict
    notes: tuple[str, ...]
    seconds: float


def compare(
    resolved: Resolved, settings: CompareSettings, *, folder: Path, progress: Progress | None = None
) -> Compared:
    """Ask every approach the same held-out inputs and say which is worth its cost.

    Stopped in the middle, the same call goes on: a finished run and given answers are kept.

    Args:
        resolved: configuration of the fine-tuned model; its data, seed and evaluation count for all.
        settings: approaches and prices.
        folder: gets the run, the answers, `compare.json` and `compare.html`.
        progress: told what happens.

    Raises:
        UserError: if settings, data, model or folder cannot be used.
        RunFailed: if training failed, or no approach is possible.
        Interrupted: after SIGINT or SIGTERM, with what was answered kept.
    """
    progress, began = progress or Silent(), time.perf_counter()
    check_settings(settings)
    _check_folder(folder)
    config = resolved.config
    hardware = choose_hardware(device=config.model.device, dtype=config.model.dtype)
    source = find_model(config.model.name, revision=config.model.revision)
    renderer, data = read_data(config, source, progress)
    inputs, limit = held_out_inputs(data, config)
    asking = Asking(config, source, hardware, renderer, inputs, Decoding(max_new_tokens=limit), None)
    if settings.run is not None:
        asking = replace(asking, run=given_run(settings.run, asking, data))
    told = f"the comparison was stopped; its run and answers so far are in `{folder}`"
    with claimed(folder), stop_told(told, folder), heeded_signals():
        _remember(folder, resolved, settings)
        if settings.needs_run and asking.run is None:
            asking = replace(asking, run=trained_run(resolved, folder, progress))
        plans = plan_requests(
            inputs,
            [rendered.row for rendered in data.train],
            settings,
            renderer,
            seed=config.training.seed,
            room_tokens=room_tokens(asking),
            progress=progress,
        )
        answered = answer_all(asking, plans, folder, progress)
        findings = _findings(asking, plans, answered, settings)
        notes = _notes(asking, data, findings)
        for note in notes:
            progress.say(f"note: {note}")
        verdict = verdict_of(findings, settings.prices)
        page = _write(folder, asking, settings, findings, verdict, answered, notes)
    return Compared(folder, page, findings, verdict, notes, time.perf_counter() - began)


def _check_folder(folder: Path) -> None:
    """A new folder must be empty, an old one a comparison's."""
    if not (folder / SETTINGS).is_file():
        check_writable(folder)


def _remember(folder: Path, resolved: Resolved, settings: CompareSettings) -> None:
    """Say what is compared before the long work starts."""
    chosen = {name: value for name, value, _ in resolved.to_repeat().rows()}
    RunFolder(folder).write_json(SETTINGS, {"comparison": _plain(settings), "config": chosen})


def _plain(settings: CompareSettings) -> dict[str, Any]:
    """JSON-ready settings."""
    paths = {
        name: str(value) if (value := getattr(settings, name)) else None for name in ("documents", "run")
    }
    return asdict(settings) | {"approaches": list(settings.ordered)} | paths


def _findings(
    asking: Asking,
    plans: Sequence[Plan],
    answered: Mapping[str, Sequence[Answered]],
    settings: CompareSettings,
) -> Findings:
    texts = {name: [each.answer for each in those] for name, those in answered.items()}
    measured = measure(
        texts,
        [held.references for held in asking.inputs],
        settings=asking.config.evaluation,
        seed=asking.config.training.seed,
    )
    training = training_of(asking.run) if asking.run else None
    results = [_result(name, those, measured, training, settings) for name, those in answered.items()]
    findings = Findings(
        task_score=measured.task_score,
        results=tuple(results),
        pairs=measured.pairs,
        tuned_against=(),
        best_prompted=None,
        break_evens=tuple(
            break_evens(
                [(each.name, each.costs) for each in results if each.name in FINE_TUNED],
                [(each.name, each.costs) for each in results if each.name in PROMPTED],
                settings.prices,
            )
        ),
        impossible={plan.approach: plan.impossible for plan in plans if plan.impossible},
        slices=measured.by_slice([held.slices for held in asking.inputs]),
    )
    best = findings.best_of(PROMPTED)
    against = measured.against(TUNED, best) if best and TUNED in answered else ()
    return replace(findings, best_prompted=best, tuned_against=against)


def _result(
    name: str,
    answered: Sequence[Answered],
    measured: Measured,
    training: Training | None,
    settings: CompareSettings,
) -> ApproachResult:
    costs = costs_of(answered, training if name in FINE_TUNED else None)
    return ApproachResult(
        name=name,
        scores=measured.scores[name],
        differences=measured.differences[name],
        costs=costs,
        left_out=sum(each.left_out for each in answered),
        price=request_price(costs, settings.prices),
    )


def _notes(asking: Asking, data: Prepared, findings: Findings) -> tuple[str, ...]:
    notes = []
    there = len(group_references(data.test))
    if there > len(asking.inputs):
        notes.append(
            f"{len(asking.inputs)} of {there} held-out inputs were asked; `--generate-rows {there}` asks all"
        )
    notes += [
        f"{result.name}: {result.left_out} examples or passages were left out so that prompts fit"
        for result in findings.results
        if result.left_out
    ]
    notes += [f"{name} was not possible: {reason}" for name, reason in findings.impossible.items()]
    if METHODS[asking.config.method.name].base == "four_bit":
        notes.append("the base is held in 4 bit for all approaches, as the fine-tuned model needs it")
    return tuple(notes)


def _write(
    folder: Path,
    asking: Asking,
    settings: CompareSettings,
    findings: Findings,
    verdict: Verdict,
    answered: Mapping[str, Sequence[Answered]],
    notes: Sequence[str],
) -> Path:
    """Answers, numbers and page; the numbers last but one, so that a page is never older than they."""
    store = RunFolder(folder)
    texts = {name: [each.answer for each in those] for name, those in answered.items()}
    lines = [
        {
            "id": held.id,
            "place": held.row.place,
            "prompt": held.prompt,
            "references": list(held.references),
            "answers": {name: those[place] for name, those in texts.items()},
            "slices": held.slices,
        }
        for place, held in enumerate(asking.inputs)
    ]
    store.write_lines(ANSWERS, lines)
    config = asking.config
    facts = (
        ("Base model", config.model.name),
        ("Method", config.method.name if asking.run else "none"),
        ("Held-out inputs", str(len(asking.inputs))),
        ("Longest answer", f"{asking.decoding.max_new_tokens} tokens"),
        ("Computed in", asking.hardware.reason),
        ("Rows in a batch", str(asking.batch_rows)),
    )
    record = findings.as_dict() | {
        "verdict": asdict(verdict),
        "notes": list(notes),
        "how": {name: value for name, value in facts},
        "settings": _plain(settings),
        "run": str(asking.run.path) if asking.run else None,
        "decoding": asdict(asking.decoding),
        "seed": config.training.seed,
    }
    # Whatever cannot be JSON would be found here, before the page claims it.
    store.write_text(RESULT, json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    page = page_of(
        findings,
        verdict,
        settings.prices,
        title=folder.name,
        facts=facts,
        inputs=asking.inputs,
        answers=texts,
    )
    return store.write_text(PAGE, render_comparison(page))
