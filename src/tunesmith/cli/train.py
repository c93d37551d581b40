"""`tunesmith train` and `tunesmith demo`: the main job, and the main job on data of our own."""

import json as json_text
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from tunesmith.cli.options import given, with_options
from tunesmith.cli.terminal import (
    TerminalProgress,
    loading_libraries,
    messages,
    output,
    print_json,
    results_table,
)
from tunesmith.errors import ConfigError
from tunesmith.resolve import Resolved, resolve
from tunesmith.runs import default_run_path, open_run

if TYPE_CHECKING:
    from tunesmith.pipeline import Finished

Json = Annotated[bool, Parameter(name="--json", negative="", help="One JSON object on stdout, for machines.")]
DEMO_TRAIN_ROWS, DEMO_TEST_ROWS, DEMO_SEED = 624, 60, 17
DEMO_FLAGS = {
    "num-train-epochs": 1,
    "learning-rate": 1e-3,
    "gradient-accumulation-steps": 1,
    "validation-size": 24,
    "generate-rows": DEMO_TEST_ROWS,
}


@with_options()
def train(
    config: Annotated[Path | None, Parameter(help="YAML configuration; flags override it.")] = None,
    /,
    *,
    resume: Annotated[Path | None, Parameter(help="Go on with the unfinished run in this folder.")] = None,
    accept_drift: Annotated[
        bool,
        Parameter(
            negative="", help="With --resume: go on although data, settings or versions are others now."
        ),
    ] = False,
    log_rows: Annotated[
        bool, Parameter(negative="", help="Write which rows each step saw into rows.jsonl of the run.")
    ] = False,
    dry_run: Annotated[
        bool, Parameter(negative="", help="Show the resolved configuration and where each value is from.")
    ] = False,
    json: Json = False,
    **flags: Any,
) -> None:
    """Fine-tune a model on a data file, and prove the result on held-out rows.

    Examples:
        tunesmith train --model smollm2-135m --data rows.jsonl

        tunesmith train config.yaml --learning-rate 1e-4

        tunesmith train runs/rows-20260102-030405/config.yaml

        tunesmith train --resume runs/rows-20260102-030405
    """
    chosen = given(flags)
    _check_resume(resume, config, chosen, accept_drift=accept_drift)
    resolved = resolve(open_run(resume).config if resume else config, chosen)
    if dry_run:
        _show(resolved, json=json)
        return
    finished = _finetune(resolved, resume, accept_drift=accept_drift, log_rows=log_rows)
    _conclude(finished, json=json)


def _check_resume(
    resume: Path | None, config: Path | None, flags: dict[str, Any], *, accept_drift: bool
) -> None:
    """What goes together with `--resume`; whether values still fit the run is checked when it is read."""
    if resume is None:
        if accept_drift:
            raise ConfigError(
                "`--accept-drift` has no effect without `--resume`", hint="leave it out, or name the run"
            )
        return
    if config is not None:
        raise ConfigError(
            f"`--resume` takes the configuration of its run, and `{config}` is a second one",
            hint=f"give `--resume {resume}` alone, or start a new run from `{config}`",
        )
    if "output-dir" in flags:
        raise ConfigError(
            f"`--resume` goes on in `{resume}`, so `--output-dir` has no effect",
            hint=f"leave it out, or start a new run from `{resume / 'config.yaml'}`",
        )


def demo(
    *,
    output_dir: Annotated[
        Path | None, Parameter(help="Run folder; by default runs/demo-<date>-<time>.")
    ] = None,
    json: Json = False,
) -> None:
    """The whole story on the embedded model: support messages become JSON tickets. Minutes on a CPU."""
    path = output_dir or default_run_path("demo")
    flags = demo_files(path) | {"output-dir": str(path)} | DEMO_FLAGS
    finished = _finetune(resolve(None, flags))
    from tunesmith.use import merge

    merged = merge(str(path))
    messages.print(f"merged model: {merged.path}, logits at most {merged.max_logit_difference:.1g} away")
    _conclude(finished, json=json)


def demo_files(run: Path) -> dict[str, Any]:
    """Write the demo's rows beside the folder `run` and return the flags that name them."""
    from tunesmith.data.tickets import generate_tickets

    rows, test_rows = generate_tickets(seed=DEMO_SEED, train_rows=DEMO_TRAIN_ROWS, test_rows=DEMO_TEST_ROWS)
    folder = run.parent / f"{run.name}-data"
    folder.mkdir(parents=True, exist_ok=True)
    files = {"data": folder / "train.jsonl", "test-file": folder / "test.jsonl"}
    for file, examples in zip(files.values(), (rows, test_rows), strict=True):
        lines = [json_text.dumps(row, ensure_ascii=False) + "\n" for row in examples]
        file.write_text("".join(lines), encoding="utf-8")
    messages.print(f"wrote {len(rows)} training and {len(test_rows)} test rows to {folder}")
    return {name: str(file) for name, file in files.items()}


def _finetune(
    resolved: Resolved, resume: Path | None = None, *, accept_drift: bool = False, log_rows: bool = False
) -> "Finished":
    with loading_libraries():
        from tunesmith.pipeline import finetune

    progress = TerminalProgress()
    try:
        return finetune(
            resolved, resume=resume, progress=progress, accept_drift=accept_drift, log_rows=log_rows
        )
    finally:
        progress.end()


def _show(resolved: Resolved, *, json: bool) -> None:
    if json:
        print_json({key: {"value": value, "origin": origin} for key, value, origin in resolved.rows()})
    else:
        output.print(resolved.as_yaml(), markup=False, end="")


def _conclude(finished: "Finished", *, json: bool) -> None:
    run, evaluation = finished.run, finished.evaluation
    if not run.is_writer:  # of several processes one talks
        return
    if json:
        print_json(
            {
                "run": str(run.path),
                run.result.name: str(run.result),
                "report": str(run.report),
                "training": asdict(finished.trained),
                "evaluation": evaluation.as_dict() if evaluation else None,
                "elsewhere": finished.elsewhere.as_dict() if finished.elsewhere else None,
            }
        )
        return
    if evaluation:
        output.print()
        output.print(results_table(evaluation.as_dict()))
    places = {"report": run.report, run.result.name: run.result, "try it": f"tunesmith chat {run.path}"}
    output.print()
    for name, place in places.items():
        output.print(f"{name + ':':<9}{place}", markup=False)
