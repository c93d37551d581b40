"""The whole story of a run, top to bottom: the only place that knows the order. Read this first."""

import platform
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch

from tunesmith.config import RunConfig
from tunesmith.data.prepare import Prepared, read_with
from tunesmith.data.render import Rendered, Renderer
from tunesmith.doctor.live import Bedside, Watch, at_bedside, examined
from tunesmith.evaluation.answer_checks import checks_of
from tunesmith.evaluation.elsewhere import Elsewhere
from tunesmith.evaluation.evidence import Evidence, write_measured, write_pages
from tunesmith.evaluation.measure import evaluate_model
from tunesmith.evaluation.measure_elsewhere import measure_elsewhere
from tunesmith.evaluation.scores import Evaluation
from tunesmith.hardware import DTYPES, Hardware, choose_hardware, free_memory_bytes
from tunesmith.identity import LIBRARIES, check_identity, drifts, identity_of
from tunesmith.methods import METHODS, prepared, trainable
from tunesmith.models.adapter import save_adapter, save_whole
from tunesmith.models.checkpointing import enable_checkpointing
from tunesmith.models.find import ModelSource, find_model
from tunesmith.models.load import LoadedModel, load_model
from tunesmith.models.tokenizer import load_tokenizer
from tunesmith.planning.heap import keep_heap_small
from tunesmith.planning.launch import Launch, first_peak_told, plan_launch
from tunesmith.planning.setups import Place
from tunesmith.planning.shapes import architecture
from tunesmith.planning.workload import workload_of
from tunesmith.progress import Progress, Silent
from tunesmith.resolve import Resolved, resolve
from tunesmith.runs import (
    RunFolder,
    check_writable,
    create_run,
    default_run_path,
    held,
    open_run,
    whole_or_not,
)
from tunesmith.training.going_on import checkpoint_to_go_on_from
from tunesmith.training.loop import Loop
from tunesmith.training.loss import held_out_losses
from tunesmith.training.ranks import Ranks, loading_device, this_process
from tunesmith.training.schedule import plan_steps
from tunesmith.training.shards import whole_weights
from tunesmith.training.state import Trained
from tunesmith.training.stop import heeded_signals, interruption_told, kept_status


@dataclass(frozen=True, slots=True)
class Finished:
    """A finished run.

    Attributes:
        run: its folder.
        trained: what training did.
        evaluation: base and tuned on the held-out rows, or None where no rows were held out.
        elsewhere: base and tuned beside the task, or None likewise.
    """

    run: RunFolder
    trained: Trained
    evaluation: Evaluation | None
    elsewhere: Elsewhere | None


def finetune(
    resolved: Resolved,
    *,
    resume: Path | None = None,
    progress: Progress | None = None,
    accept_drift: bool = False,
    log_rows: bool = False,
) -> Finished:
    """Data and a pretrained model in; an adapter and the evidence out.

    Args:
        resolved: configuration with the origin of each value.
        resume: folder of an unfinished run to go on with, whose configuration `resolved` is.
        progress: told what happens.
        accept_drift: go on although data, configuration or versions are not what the run began with.
        log_rows: write the rows of each step into `rows.jsonl`; a run that began so goes on so.

    Raises:
        UserError: before anything is written, if data, model or folder cannot be used.
        RunFailed: if training went wrong; the run folder says where and why.
        Interrupted: after SIGINT or SIGTERM; while training with the state saved.
    """
    config, ranks = resolved.config, this_process()
    progress = progress if progress and ranks.is_main else Silent()
    started = time.perf_counter()
    path = Path(ranks.share(str(resume or config.output_dir or default_run_path(config.data.path))))
    with heeded_signals(is_told=ranks.is_main) as stop, interruption_told(path), ExitStack() as until_end:
        run = open_run(path, is_writer=ranks.is_main) if resume else None
        if run:
            until_end.enter_context(held(run))
        elif ranks.is_main:
            check_writable(path)
        hardware = choose_hardware(device=config.model.device, dtype=config.model.dtype)
        source = find_model(config.model.name, revision=config.model.revision)
        checks_of(config.evaluation)  # a schema that cannot be read must not cost a training
        renderer, data = read_data(config, source, progress)
        facts = facts_of(config, source, renderer, hardware, data)
        accepted = check_same(run, config, facts, data, accept_drift, progress) if run else ()
        progress.say(f"computing in {hardware.reason}")
        launch = plan(config, source, hardware, data, ranks)
        for note in launch.notes:
            progress.say(note)
        if launch.is_heap_small:
            keep_heap_small()
        tuned, parameters = prepare_model(source, config, hardware, launch)
        facts |= {"parameters": parameters, "plan": launch.as_dict()}
        if run:
            continue_record(run, resolved, renderer, facts, accepted)
        else:
            run = create_run(path, is_writer=ranks.is_main)
            until_end.enter_context(held(run, is_new=True))
            begin_record(run, resolved, renderer, facts, log_rows=log_rows)
        with at_bedside(run, progress.say) as doctor, kept_status(run):
            loop = Loop(
                tuned.model,
                data.train,
                data.validation,
                settings=launch.training,
                hardware=hardware,
                pad_id=tuned.pad_id,
                eval_batch_rows=config.evaluation.per_device_eval_batch_size,
                checkpoints=run.checkpoints,
                record=recorder(run, resolved, facts, data, launch, doctor, progress),
                progress=progress,
            )
            if resume:
                resume_from_newest(loop, run, progress, ranks=ranks)
            trained = loop.run(stop=stop, on_rows=row_log(run, is_wanted=log_rows))
            tuned.model.eval()
            save_result(run, tuned, config, renderer, system=data.system, ranks=ranks)
            found = prove(tuned, renderer, data, config, progress) if data.test else Evidence()
            if ranks.is_main:
                conclude(run, resolved, trained, found, seconds=time.perf_counter() - started, source=source)
            ranks.wait()
    return Finished(run, trained, found.evaluation, found.elsewhere)


def plan(config: RunConfig, source: ModelSource, hardware: Hardware, data: Prepared, ranks: Ranks) -> Launch:
    """The run's memory, rehearsed; all processes settle the same."""
    free = ranks.share(free_memory_bytes(hardware.device))
    place = Place(hardware.device, hardware.dtype, is_here=True, free_bytes=free, reason=hardware.reason)
    workload = workload_of(
        data.train,
        config,
        has_validation=bool(data.validation),
        has_test=bool(data.test),
        device=hardware.device,
        processes=ranks.count,
    )
    return plan_launch(config, architecture(source), place, workload)


def prepare_model(
    source: ModelSource, config: RunConfig, hardware: Hardware, launch: Launch
) -> tuple[LoadedModel, dict[str, int]]:
    """The pretrained model, ready to learn, and its numbers of parameters."""
    method = METHODS[config.method.name]
    loaded = load_model(
        source,
        dtype=DTYPES[launch.dtype],
        device=loading_device(hardware.device),
        four_bit=method.base == "four_bit",
    )
    base_parameters = loaded.model.num_parameters()
    torch.manual_seed(config.training.seed)
    # A PeftModel forwards whatever it lacks to the model inside.
    model = cast(Any, prepared(loaded.model, config.method))
    if launch.is_checkpointed:
        enable_checkpointing(model)
    tuned_from = source if method.base == "trained" else None
    tuned = LoadedModel(model, loaded.tokenizer, source, tuned_from=tuned_from)
    return tuned, {"trainable": trainable(model), "base": base_parameters}


def recorder(
    run: RunFolder,
    resolved: Resolved,
    facts: dict[str, Any],
    data: Prepared,
    launch: Launch,
    doctor: Bedside,
    progress: Progress,
) -> Callable[..., None]:
    """What takes each line of metrics; on the way the first peak of memory and what ails the run are told."""
    settings = {key: value for key, value, _ in resolved.rows()}
    planned = plan_steps(launch.training, rows=len(data.train), processes=this_process().count)
    watch = Watch(settings, facts, planned.total_steps, planned.steps_per_epoch)
    return doctor.watching(watch, first_peak_told(launch, run.add_metrics, progress.say))


def save_result(
    run: RunFolder,
    tuned: LoadedModel,
    config: RunConfig,
    renderer: Renderer,
    *,
    system: str | None,
    ranks: Ranks,
) -> None:
    """The best weights as a standard folder: `adapter`, or `model` where all of them were trained."""
    method = METHODS[config.method.name]
    note = {
        "base_model": tuned.source.name,
        "revision": tuned.source.revision,
        "system": system,
        "method": config.method.name,
        "four_bit": method.base == "four_bit",
    }
    tokenizer = with_template(tuned, renderer)
    with whole_weights(tuned.model, ranks):
        if ranks.is_main and method.base == "trained":
            with whole_or_not(run.model) as folder:
                save_whole(tuned.model, folder, tokenizer=tokenizer, note=note)
        elif ranks.is_main:
            with whole_or_not(run.adapter) as folder:
                save_adapter(cast(Any, tuned.model), folder, tokenizer=tokenizer, note=note)


def prove(
    tuned: LoadedModel, renderer: Renderer, data: Prepared, config: RunConfig, progress: Progress
) -> Evidence:
    """Base and tuned on the held-out rows, and beside the task."""
    losses_of = partial(held_out_losses, tuned)
    proof = evaluate_model(
        tuned,
        renderer,
        data.test,
        settings=config.evaluation,
        seed=config.training.seed,
        losses_of=losses_of,
        progress=progress,
    )
    if config.evaluation.elsewhere == "skip":
        return Evidence(proof)
    elsewhere = measure_elsewhere(
        tuned,
        renderer,
        [row.row for row in data.test],
        max_length=config.data.max_length,
        settings=config.evaluation,
        seed=config.training.seed,
        losses_of=losses_of,
        progress=progress,
    )
    if elsewhere:
        progress.say(elsewhere.verdict)
    return Evidence(proof, elsewhere)


def conclude(
    run: RunFolder,
    resolved: Resolved,
    trained: Trained,
    found: Evidence,
    *,
    seconds: float,
    source: ModelSource,
) -> None:
    """Close the record of a run that went well, and write its evidence."""
    proof = found.proof
    answers = {"rows": proof.asked_rows, "max_new_tokens": proof.max_new_tokens} if proof else None
    outcome = {
        "training": asdict(trained),
        "answers": answers,
        "status": "succeeded",
        "seconds": round(seconds, 1),
    }
    write_measured(run, found)
    outcome |= examined(run, outcome)
    write_pages(run, resolved, found, outcome=outcome, source_is_local=source.kind == "folder")
    # Last, so that a run that says it succeeded has all its files.
    run.update_manifest(**outcome)


def read_data(config: RunConfig, source: ModelSource, progress: Progress) -> tuple[Renderer, Prepared]:
    """Rows that are checked, split, rendered and fitted, and what rendered them."""
    renderer, data = read_with(config.data, load_tokenizer(source), seed=config.training.seed)
    say_data(data, renderer, progress)
    return renderer, data


def say_data(data: Prepared, renderer: Renderer, progress: Progress) -> None:
    """Tell what was read before the long work starts."""
    shapes = ", ".join(f"{count} {name}" for name, count in data.account["formats"].items())
    counts = data.account["rows"]
    progress.say(f"read {shapes} rows; rendered with {renderer.template.name}")
    progress.say(f"{counts['train']} to train, {counts['validation']} to validate, {counts['test']} held out")
    for note in data.notes:
        progress.say(f"note: {note}")


def facts_of(
    config: RunConfig, source: ModelSource, renderer: Renderer, hardware: Hardware, data: Prepared
) -> dict[str, Any]:
    """What a run is, for manifest.json, as far as it is known before the model is loaded."""
    template = renderer.template
    return {
        "model": {"name": source.name, "kind": source.kind, "fingerprint": source.fingerprint},
        "method": config.method.name,
        "template": {"name": template.name, "sha256": template.sha256},
        "data": data.account,
        "seed": config.training.seed,
        "hardware": {"device": hardware.device, "dtype": hardware.dtype, "threads": torch.get_num_threads()},
        "versions": {name: version(name) for name in (*LIBRARIES, "sacrebleu")}
        | {"python": platform.python_version()},
        "identity": identity_of(config, data=data, template=template, source=source, hardware=hardware),
    }


def begin_record(
    run: RunFolder, resolved: Resolved, renderer: Renderer, facts: dict[str, Any], *, log_rows: bool
) -> None:
    """Write what the run is before it starts; a run that dies still says what it was and what it logs."""
    run.write_text("config.yaml", resolved.to_repeat().as_yaml())
    run.write_text("template.jinja", renderer.template.text)
    if log_rows:
        run.write_lines("rows.jsonl", [])
    started = datetime.now(UTC).isoformat(timespec="seconds")
    run.update_manifest(status="running", started=started, **facts)


def check_same(
    run: RunFolder,
    config: RunConfig,
    facts: dict[str, Any],
    data: Prepared,
    accept_drift: bool,
    progress: Progress,
) -> tuple[str, ...]:
    """Whether all that decides the run's result is what it began with; the drifts that are accepted.

    Raises:
        RunFolderError: lists each field that differs, with both values.
    """
    found = drifts(run.manifest.get("identity", {}), facts["identity"], data=data, config=config)
    for note in check_identity(found, run.path, accept_drift=accept_drift):
        progress.say(note)
    return tuple(str(drift) for drift in found if not drift.is_warning)


def continue_record(
    run: RunFolder, resolved: Resolved, renderer: Renderer, facts: dict[str, Any], accepted: Sequence[str]
) -> None:
    """Say that the run goes on; what was accepted to be otherwise is on record from here on."""
    if resolve(run.config).config != resolved.to_repeat().config:
        run.write_text("config.yaml", resolved.to_repeat().as_yaml())
    if not accepted:
        run.update_manifest(status="running")
        return
    before = run.manifest.get("accepted_drift", [])
    run.write_text("template.jinja", renderer.template.text)
    run.update_manifest(status="running", accepted_drift=[*before, *accepted], **facts)


def resume_from_newest(loop: Loop, run: RunFolder, progress: Progress, *, ranks: Ranks) -> None:
    """Put the loop where the newest whole checkpoint stands; lines of later steps are done again."""
    found, passed = checkpoint_to_go_on_from(run.checkpoints, ranks=ranks)
    for sentence in passed:
        progress.say(f"note: {sentence}")
    if found is None:
        progress.say("no whole checkpoint: starting from the first step")
        run.forget_after(-1)
        return
    loop.resume(found)
    run.forget_after(loop.state.step)
    progress.say(f"going on after step {loop.state.step}")


def row_log(run: RunFolder, *, is_wanted: bool) -> Callable[[int, Sequence[Rendered]], None]:
    """What tells rows.jsonl which rows each step saw; a run that began to log goes on with it."""
    if not (is_wanted or run.has_row_log):
        return lambda step, rows: None
    if not run.has_row_log:
        run.write_lines("rows.jsonl", [])
    # Absolute, since a run that goes on knows its files by absolute paths.
    return lambda step, rows: run.add_rows(step, (f"{Path(r.row.path).resolve()}:{r.row.line}" for r in rows))


def with_template(loaded: LoadedModel, renderer: Renderer) -> Any:
    """The tokenizer, carrying the template of the rows, so that every tool asks the same way."""
    loaded.tokenizer.chat_template = renderer.template.text
    return loaded.tokenizer
