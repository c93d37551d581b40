"""The whole story of a run, top to bottom: the only place that knows the order. Read this first."""

import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch

from tunesmith.config import RunConfig
from tunesmith.data.prepare import Prepared, prepare_data
from tunesmith.data.render import Renderer, make_renderer
from tunesmith.errors import Interrupted, RunFolderError
from tunesmith.evaluation.card import render_card
from tunesmith.evaluation.measure import Proof, evaluate_model
from tunesmith.evaluation.report import RunFacts, render_report
from tunesmith.evaluation.scores import Evaluation
from tunesmith.hardware import DTYPES, Hardware, choose_hardware, free_memory_bytes
from tunesmith.methods import METHODS, trainable
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
from tunesmith.resolve import Resolved
from tunesmith.runs import RunFolder, check_writable, create_run, default_run_path, open_run
from tunesmith.training.checkpoint import checkpoints_in
from tunesmith.training.loop import Loop, Trained
from tunesmith.training.loss import held_out_losses
from tunesmith.training.ranks import Ranks, loading_device, this_process
from tunesmith.training.shards import whole_weights

LIBRARIES = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "bitsandbytes",
    "tokenizers",
    "sacrebleu",
    "rouge-score",
)


@dataclass(frozen=True, slots=True)
class Finished:
    """A finished run.

    Attributes:
        run: its folder.
        trained: what training did.
        evaluation: base and tuned on the held-out rows, or None where no rows were held out.
    """

    run: RunFolder
    trained: Trained
    evaluation: Evaluation | None


def finetune(resolved: Resolved, *, resume: Path | None = None, progress: Progress | None = None) -> Finished:
    """Data and a pretrained model in; an adapter and the evidence out.

    Args:
        resolved: configuration with the origin of each value.
        resume: folder of an unfinished run to go on with, whose configuration `resolved` is.
        progress: told what happens.

    Raises:
        UserError: before anything is written, if data, model or folder cannot be used.
        RunFailed: if training went wrong; the run folder says where and why.
    """
    config, ranks = resolved.config, this_process()
    progress = progress if progress and ranks.is_main else Silent()
    started = time.perf_counter()
    path = Path(ranks.share(str(resume or config.output_dir or default_run_path(config.data.path))))
    if resume is None and ranks.is_main:
        check_writable(path)
    hardware = choose_hardware(device=config.model.device, dtype=config.model.dtype)
    source = find_model(config.model.name, revision=config.model.revision)
    renderer, data = read_data(config, source, progress)
    progress.say(f"computing in {hardware.reason}")
    launch = plan(config, source, hardware, data, ranks)
    for note in launch.notes:
        progress.say(note)
    if launch.is_heap_small:
        keep_heap_small()
    tuned, parameters = prepare_model(source, config, hardware, launch)
    if resume:
        run = reopen_run(path, data, renderer, ranks=ranks)
    else:
        run = create_run(path, is_writer=ranks.is_main)
        begin_record(run, resolved, source, renderer, hardware, data, parameters=parameters, launch=launch)
    with kept_status(run):
        loop = Loop(
            tuned.model,
            data.train,
            data.validation,
            settings=launch.training,
            hardware=hardware,
            pad_id=tuned.pad_id,
            eval_batch_rows=config.evaluation.per_device_eval_batch_size,
            checkpoints=run.checkpoints,
            record=first_peak_told(launch, run.add_metrics, progress.say),
            progress=progress,
        )
        if resume:
            resume_from_newest(loop, run, progress)
        trained = loop.run()
        tuned.model.eval()
        save_result(run, tuned, config, renderer, system=data.system, ranks=ranks)
        proof = prove(tuned, renderer, data, config, progress) if data.test else None
        if ranks.is_main:
            conclude(run, resolved, trained, proof, seconds=time.perf_counter() - started, source=source)
        ranks.wait()
    return Finished(run, trained, proof.evaluation if proof else None)


def plan(config: RunConfig, source: ModelSource, hardware: Hardware, data: Prepared, ranks: Ranks) -> Launch:
    """The run's memory, rehearsed; all processes settle the same."""
    free = ranks.share(free_memory_bytes(hardware.device))
    place = Place(hardware.device, hardware.dtype, is_here=True, free_bytes=free, reason=hardware.reason)
    workload = workload_of(data.train, config, has_validation=bool(data.validation), has_test=bool(data.test))
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
    model = cast(Any, method.prepare(loaded.model, config.method))
    if launch.is_checkpointed:
        enable_checkpointing(model)
    tuned_from = source if method.base == "trained" else None
    tuned = LoadedModel(model, loaded.tokenizer, source, tuned_from=tuned_from)
    return tuned, {"trainable": trainable(model), "base": base_parameters}


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
            save_whole(tuned.model, run.model, tokenizer=tokenizer, note=note)
        elif ranks.is_main:
            save_adapter(cast(Any, tuned.model), run.adapter, tokenizer=tokenizer, note=note)


def prove(
    tuned: LoadedModel, renderer: Renderer, data: Prepared, config: RunConfig, progress: Progress
) -> Proof:
    """Base and tuned on the held-out rows."""
    return evaluate_model(
        tuned,
        renderer,
        data.test,
        settings=config.evaluation,
        seed=config.training.seed,
        losses_of=partial(held_out_losses, tuned),
        progress=progress,
    )


def conclude(
    run: RunFolder,
    resolved: Resolved,
    trained: Trained,
    proof: Proof | None,
    *,
    seconds: float,
    source: ModelSource,
) -> None:
    """Close the record of a run that went well, and write its evidence."""
    answers = {"rows": proof.asked_rows, "max_new_tokens": proof.max_new_tokens} if proof else None
    run.update_manifest(
        training=asdict(trained), answers=answers, status="succeeded", seconds=round(seconds, 1)
    )
    write_evidence(run, resolved, proof, source_is_local=source.kind == "folder")


def read_data(config: RunConfig, source: ModelSource, progress: Progress) -> tuple[Renderer, Prepared]:
    """Rows that are checked, split, rendered and fitted, and what rendered them."""
    tokenizer = load_tokenizer(source)
    renderer = make_renderer(tokenizer, config.data.template, score_all=config.data.score == "all")
    data = prepare_data(config.data, renderer, seed=config.training.seed)
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


def begin_record(
    run: RunFolder,
    resolved: Resolved,
    source: ModelSource,
    renderer: Renderer,
    hardware: Hardware,
    data: Prepared,
    *,
    parameters: dict[str, int],
    launch: Launch,
) -> None:
    """Write what the run is before it starts; a run that dies still says what it was."""
    run.write_text("config.yaml", resolved.to_repeat().as_yaml())
    run.write_text("template.jinja", renderer.template.text)
    run.update_manifest(
        status="running",
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        model={"name": source.name, "kind": source.kind, "fingerprint": source.fingerprint},
        method=resolved.config.method.name,
        template={"name": renderer.template.name, "sha256": renderer.template.sha256},
        data=data.account,
        parameters=parameters,
        plan=launch.as_dict(),
        seed=resolved.config.training.seed,
        hardware={"device": hardware.device, "dtype": hardware.dtype, "threads": torch.get_num_threads()},
        versions={name: version(name) for name in ("tunesmith", *LIBRARIES)}
        | {"python": platform.python_version()},
    )


@contextmanager
def kept_status(run: RunFolder) -> Iterator[None]:
    """Whatever ends the run, manifest.json says how."""
    try:
        yield
    except KeyboardInterrupt:
        run.update_manifest(status="interrupted", why="interrupted by the user")
        raise Interrupted(
            f"run `{run.path}` was interrupted", hint=f"go on with `tunesmith train --resume {run.path}`"
        ) from None
    except BaseException as error:
        run.update_manifest(status="failed", why=f"{type(error).__name__}: {error}")
        raise


def reopen_run(path: Path, data: Prepared, renderer: Renderer, *, ranks: Ranks) -> RunFolder:
    """An unfinished run whose data and template are still what it began with.

    Raises:
        RunFolderError: names the file or template that changed.
    """
    run = open_run(path, is_writer=ranks.is_main)
    before = run.manifest
    changed = [
        file for file, sha in data.account["files"].items() if sha not in before["data"]["files"].values()
    ]
    if before["template"]["sha256"] != renderer.template.sha256:
        changed.append(renderer.template.name)
    if changed:
        raise RunFolderError(
            f"run `{path}` began with other contents of {', '.join(changed)}",
            hint=f"put them back, or start a new run from `{run.config}`",
        )
    run.update_manifest(status="running")
    return run


def resume_from_newest(loop: Loop, run: RunFolder, progress: Progress) -> None:
    """Put the loop where the newest whole checkpoint stands; lines of later steps are done again."""
    found = checkpoints_in(run.checkpoints)
    if not found:
        progress.say("no checkpoint yet: starting from the first step")
        run.forget_metrics_after(-1)
        return
    loop.resume(found[-1])
    run.forget_metrics_after(loop.state.step)
    progress.say(f"going on after step {loop.state.step}")


def with_template(loaded: LoadedModel, renderer: Renderer) -> Any:
    """The tokenizer, carrying the template of the rows, so that every tool asks the same way."""
    loaded.tokenizer.chat_template = renderer.template.text
    return loaded.tokenizer


def write_evidence(run: RunFolder, resolved: Resolved, proof: Proof | None, *, source_is_local: bool) -> None:
    """Evaluation, samples, report and model card."""
    if proof is not None:
        run.write_json("evaluation.json", proof.evaluation.as_dict())
        run.write_lines("samples.jsonl", map(asdict, proof.samples))
    facts = RunFacts(
        title=run.path.name,
        base_model=resolved.config.model.name,
        base_is_local=source_is_local,
        method=resolved.config.method.name,
        evaluation=proof.evaluation if proof else None,
        samples=proof.samples if proof else (),
        metrics=run.metrics,
        config=resolved.rows(),
        manifest=run.manifest,
    )
    run.write_text("report.html", render_report(facts))
    run.write_text(f"{run.result.name}/README.md", render_card(facts))
