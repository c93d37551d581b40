"""`tunesmith recommend`: hyperparameters with their reasons, and on request measured ones."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from tunesmith.cli.options import given, with_options
from tunesmith.cli.terminal import (
    TerminalProgress,
    loading_libraries,
    messages,
    output,
    plain_table,
    print_json,
)
from tunesmith.cli.train import Json
from tunesmith.errors import ConfigError
from tunesmith.resolve import Resolved, resolve
from tunesmith.runs import default_run_path

if TYPE_CHECKING:
    from tunesmith.approaches.learning_curve import LearningCurve
    from tunesmith.approaches.range_test import RangeTest
    from tunesmith.approaches.recommend import Recommendation

SHOWN_RATES = 12


@with_options()
def recommend(
    config: Annotated[Path | None, Parameter(help="YAML configuration; flags override it.")] = None,
    /,
    *,
    complexity: Annotated[
        Literal["simple", "medium", "complex"] | None,
        Parameter(help="Of the task; by default told by the answers."),
    ] = None,
    range_test: Annotated[
        bool, Parameter(negative="", help="Measure the learning rate by a short range test.")
    ] = False,
    learning_curve: Annotated[
        bool,
        Parameter(negative="", help="Train on parts of the rows, and say what more of them would give."),
    ] = False,
    output_file: Annotated[
        Path | None, Parameter(name="--output", help="Write the configuration to this YAML file.")
    ] = None,
    json: Json = False,
    **flags: Any,
) -> None:
    """Hyperparameters for your model, rows and machine, each with its reason and source.

    A value given as a flag is kept, and the others are chosen around it; values of the file are compared.
    With `--learning-curve`, `--output-dir` is the folder of its runs; given again, it goes on there.

    Examples:
        tunesmith recommend --data rows.jsonl

        tunesmith recommend config.yaml --method qlora --output better.yaml

        tunesmith recommend --data rows.jsonl --range-test

        tunesmith recommend --data rows.jsonl --learning-curve --num-train-epochs 2
    """
    chosen = given(flags)
    folder = (
        Path(chosen.pop("output-dir", None) or default_run_path("learning-curve")) if learning_curve else None
    )
    resolved = resolve(config, chosen)
    _refuse_taken(output_file)
    with loading_libraries():
        from tunesmith.approaches.recommend import recommend as recommend_for

    progress = TerminalProgress()
    curve: LearningCurve | None = None
    test: RangeTest | None = None
    try:
        found = recommend_for(resolved, complexity=complexity, progress=progress)
        if range_test:
            found, test = _with_measured_rate(found, progress)
        if folder is not None:
            from tunesmith.approaches.learning_curve import learning_curve as measure

            curve = measure(found.resolved, folder, progress=progress)
    finally:
        progress.end()
    if output_file:
        _write(found.resolved, output_file)
    if json:
        print_json(_as_json(found, test, curve, output_file))
        return
    _show(found, test, curve, output_file)


def _refuse_taken(path: Path | None) -> None:
    from tunesmith.data.whole_file import refuse_taken

    if path is None:
        return
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError(
            f"`--output {path}` does not end in `.yaml`", hint=f"`--output {path.with_suffix('.yaml')}`"
        )
    refuse_taken(path)


def _with_measured_rate(
    found: "Recommendation", progress: TerminalProgress
) -> "tuple[Recommendation, RangeTest]":
    from tunesmith.approaches.range_test import SOURCE, measure_rate

    test = measure_rate(found.resolved, progress=progress)
    return found.with_rate(test.rate, test.reason, SOURCE), test


def _write(resolved: Resolved, path: Path) -> None:
    from tunesmith.data.whole_file import whole_file

    with whole_file(path) as file:
        file.write(resolved.to_repeat().as_yaml().encode())


def _as_json(
    found: "Recommendation",
    test: "RangeTest | None",
    curve: "LearningCurve | None",
    written: Path | None,
) -> dict[str, Any]:
    return {
        **found.as_dict(),
        "range_test": test.as_dict() if test else None,
        "learning_curve": curve.as_dict() | {"picture": str(curve.picture)} if curve else None,
        "config": {key: value for key, value, _ in found.resolved.rows()},
        "written": str(written) if written else None,
    }


def _show(
    found: "Recommendation",
    test: "RangeTest | None",
    curve: "LearningCurve | None",
    written: Path | None,
) -> None:
    facts = found.facts
    for line in (
        f"{facts.model}, method {facts.method}, {facts.device}",
        f"{facts.rows:,} training rows of {facts.mean_tokens:.0f} tokens in the mean, "
        f"{facts.validation_rows} to validate; {facts.complexity} task: {facts.why_complexity}",
        f"{facts.steps:,} steps, {facts.peak_bytes / 1e9:.2f} GB of memory planned",
    ):
        output.print(line, markup=False)
    output.print()
    _show_settings(found)
    output.print()
    output.print(f"Data: {found.data_verdict}.", markup=False)
    for note in found.notes:
        messages.print(f"note: {note}", markup=False)
    if test:
        _show_test(test)
    if curve:
        _show_curve(curve)
    output.print()
    begin = (
        f"tunesmith train {written}" if written else "add `--output better.yaml`, then `tunesmith train` it"
    )
    output.print(f"next: {begin}", markup=False)


def _show_settings(found: "Recommendation") -> None:
    from rich.markup import escape

    from tunesmith.evaluation.marks import format_fact

    table = plain_table(gap=2)
    for name in ("setting", "value", "yours", "reason and source"):
        table.add_column(name, overflow="fold", no_wrap=name in ("value", "yours"))
    for each in found.settings:
        value, yours = format_fact(each.value), format_fact(each.yours)
        table.add_row(
            each.key.rpartition(".")[2],
            value if value == yours else f"[bold]{value}[/]",
            yours,
            f"{escape(each.reason)} [dim]({escape(each.source)})[/]",
        )
    output.print(table, soft_wrap=False)


def _show_test(test: "RangeTest") -> None:
    output.print()
    table = plain_table(gap=2)
    table.add_column("learning rate", justify="right")
    table.add_column("loss, share of the base's", justify="right")
    every = max(1, len(test.rates) // SHOWN_RATES)
    for rate, share in list(zip(test.rates, test.smoothed, strict=True))[::every]:
        table.add_row(f"{rate:.1e}", f"{share:.3f}")
    output.print(table)
    output.print(f"Range test: {test.reason}.", markup=False)


def _show_curve(curve: "LearningCurve") -> None:
    output.print()
    table = plain_table(gap=2)
    for name in ("rows", "steps", "held-out loss", ""):
        table.add_column(name, justify="right")
    for size in curve.sizes:
        table.add_row(
            f"{size.rows:,}",
            f"{size.steps:,}",
            f"{size.loss.value:.3f}",
            f"[dim]\\[{size.loss.low:.3f}, {size.loss.high:.3f}][/]",
        )
    output.print(table)
    for sentence in curve.sentences:
        output.print(sentence, markup=False)
    output.print(f"picture: {curve.picture}", markup=False)
