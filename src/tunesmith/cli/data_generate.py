"""`tunesmith data generate`: made data, planted faults, and sets that test how far a model generalises."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from tunesmith.cli.terminal import TerminalProgress, print_json
from tunesmith.cli.terminal import output as results
from tunesmith.cli.train import Json
from tunesmith.errors import ConfigError

if TYPE_CHECKING:
    from tunesmith.data.generate.produce import Made


def generate(
    source: Annotated[
        str | None,
        Parameter(help="A ready task, a YAML file that describes one, or a data file to dirty or perturb."),
    ] = None,
    output: Annotated[Path | None, Parameter(help="File to make; its suffix decides the container.")] = None,
    /,
    *,
    rows: Annotated[
        int | None,
        Parameter(
            validator=Number(gte=1),
            help="Rows to make, 1000 by default; of a data file the first so many, by default all.",
        ),
    ] = None,
    seed: Annotated[int, Parameter(validator=Number(gte=0), help="Decides every row and every change.")] = 17,
    dirt: Annotated[
        float | None,
        Parameter(help="Plant known faults, each kind in this share of the rows; writes a key beside them."),
    ] = None,
    perturb: Annotated[
        bool, Parameter(negative="", help="Write each row with typos, other case, order, names, context.")
    ] = False,
    kinds: Annotated[
        list[str] | None,
        Parameter(help="Kinds of faults or perturbations.", consume_multiple=True, negative=""),
    ] = None,
    list_tasks: Annotated[
        bool, Parameter(name="--list", negative="", help="Show the ready tasks with an example.")
    ] = False,
    json: Json = False,
) -> None:
    """Make data without a model: the same seed gives the same bytes, and more rows keep the first ones.

    Examples:
        tunesmith data generate --list

        tunesmith data generate dates dates.jsonl --rows 5000

        tunesmith data generate examples/tasks/reviews.yaml reviews.jsonl --seed 3

        tunesmith data generate tickets dirty.jsonl --dirt 0.02

        tunesmith data generate test.jsonl harder.jsonl --perturb --kinds typos case
    """
    if list_tasks:
        _list(seed, json=json)
        return
    if source is None or output is None:
        raise ConfigError(
            "a task and an output are needed", hint="such as `dates dates.jsonl`; `--list` shows the tasks"
        )
    _check_flags(source, dirt, is_perturbed=perturb, kinds=kinds)
    from tunesmith.data.generate import produce

    if dirt is not None:
        made = produce.make_dirty(source, output, rows=rows, seed=seed, share=dirt, kinds=kinds)
    elif perturb:
        made = produce.make_perturbed(source, output, rows=rows, seed=seed, kinds=kinds)
    else:
        made = produce.make_rows(source, output, rows=rows, seed=seed, progress=TerminalProgress())
    _report(made, source, seed, json=json)


def _check_flags(source: str, dirt: float | None, *, is_perturbed: bool, kinds: list[str] | None) -> None:
    if dirt is not None and is_perturbed:
        raise ConfigError(
            "`--dirt` and `--perturb` are both given", hint="make one file, and the other file from it"
        )
    if kinds is not None and dirt is None and not is_perturbed:
        raise ConfigError(
            f"`--kinds {' '.join(kinds)}` says nothing about plain rows of `{source}`",
            hint="give it with `--dirt` or `--perturb`",
        )


def _list(seed: int, *, json: bool) -> None:
    from tunesmith.data.generate.tasks import TASKS

    shown = {name: (task.what, next(task.rows(seed, 1))) for name, task in TASKS.items()}
    if json:
        tasks = [{"task": name, "what": what, "example": row} for name, (what, row) in shown.items()]
        print_json({"tasks": tasks})
        return
    for name, (what, row) in shown.items():
        results.print(f"[bold]{name}[/]  {what}")
        for part in ("prompt", "completion"):
            text = row[part].replace("\n", "\n              ")
            results.print(f"  {part:10}  {text}", markup=False, style="dim")


def _report(made: "Made", source: str, seed: int, *, json: bool) -> None:
    if json:
        found = {"source": source, "seed": seed, "output": made.output, "rows": made.rows}
        print_json(found | {"kinds": made.kinds, "key": made.key})
        return
    unit = "rows" if made.key is None else "lines"
    results.print(f"{made.output}: {made.rows:,} {unit}", markup=False)
    for kind, count in sorted(made.kinds.items()):
        results.print(f"  {kind:18} {count:>7,}", markup=False)
    if made.key is not None:
        results.print(f"{made.key}: where the faults are", markup=False)
