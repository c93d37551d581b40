"""`tunesmith sweep`: the same training with other values of a few fields, and the best of them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from tunesmith.cli.options import given, with_options
from tunesmith.cli.terminal import TerminalProgress, messages, output, plain_table, print_json
from tunesmith.cli.train import Json
from tunesmith.resolve import resolve
from tunesmith.runs import default_run_path

if TYPE_CHECKING:
    from tunesmith.approaches.sweep_result import Swept


@with_options()
def sweep(
    config: Annotated[Path | None, Parameter(help="YAML configuration; flags override it.")] = None,
    /,
    *,
    over: Annotated[
        list[str] | None,
        Parameter(help="KEY=LOW:HIGH, KEY=LOW:HIGH:log or KEY=A,B,C; give it once a field.", negative=""),
    ] = None,
    trials: Annotated[
        int, Parameter(help="Trainings at most; the first is the configuration as given.")
    ] = 12,
    jobs: Annotated[
        int | None, Parameter(help="Trainings at a time; by default one for each GPU, else one.")
    ] = None,
    json: Json = False,
    **flags: Any,
) -> None:
    """Train with other values of a few fields, and write the best ones as a configuration.

    The best is the one with the lowest validation loss; trials that lag are stopped early. Given the
    `--output-dir` of an earlier call, it goes on where that one stopped.

    Examples:
        tunesmith sweep config.yaml --over training.learning_rate=1e-5:1e-3:log

        tunesmith sweep config.yaml --over method.rank=8,16,32 --over training.warmup_ratio=0.03,0.1

        tunesmith train runs/sweep-20260102-030405/best.yaml
    """
    chosen = given(flags)
    folder = Path(chosen.pop("output-dir", None) or default_run_path("sweep"))
    resolved = resolve(config, chosen)
    from tunesmith.approaches.sweep import sweep as sweep_fields

    progress = TerminalProgress()
    try:
        swept = sweep_fields(resolved, over or [], folder=folder, trials=trials, jobs=jobs, progress=progress)
    finally:
        progress.end()
    if json:
        print_json(swept.as_dict())
        return
    _show(swept)


def _show(swept: "Swept") -> None:
    from rich.markup import escape

    from tunesmith.evaluation.sweep_page import cells, columns

    table = plain_table(gap=2)
    names = columns(swept.fields)
    for name in names:
        table.add_column(escape(name), justify="left" if name == names[-1] else "right", no_wrap=True)
    for trial in swept.trials:
        table.add_row(*map(escape, cells(trial, swept.fields)))
    messages.print()
    output.print(table)
    output.print()
    for sentence in swept.sentences:
        output.print(sentence, markup=False)
    output.print()
    for name, place in (("page", str(swept.page)), ("train it", f"tunesmith train {swept.best}")):
        output.print(f"{name + ':':<10}{place}", markup=False)
