"""`tunesmith methods`: every method on the same rows and budget, in one table."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from tunesmith.cli.options import given, with_options
from tunesmith.cli.terminal import TerminalProgress, messages, output, plain_table, print_json
from tunesmith.cli.train import Json, demo_files
from tunesmith.config import METHOD_NAMES, METHODS_WITH
from tunesmith.resolve import options, resolve
from tunesmith.runs import default_run_path

if TYPE_CHECKING:
    from tunesmith.evaluation.method_table import MethodRow

KEYS = [option.key for option in options() if option.key != "method.name"]
# On the demo's rows: enough for every method to move, little enough for a coffee.
DEMO_FLAGS = {
    "max-steps": 30,
    "gradient-accumulation-steps": 1,
    "validation-size": 24,
    "generate-rows": 24,
}


@with_options(KEYS)
def methods(
    config: Annotated[Path | None, Parameter(help="YAML configuration; flags override it.")] = None,
    /,
    *,
    json: Json = False,
    **flags: Any,
) -> None:
    """Train full, LoRA, QLoRA, prefix and adapter on the same rows and budget, and compare what came out.

    Without data it takes the demo's rows and 30 steps. Each method keeps its own defaults, the learning rate
    among them. Given the `--output-dir` of an earlier call, it goes on where that one stopped.

    Examples:
        tunesmith methods --model smollm2-135m

        tunesmith methods --data rows.jsonl --max-steps 200
    """
    chosen = given(flags)
    folder = Path(chosen.pop("output-dir", None) or default_run_path("methods"))
    if config is None and "data" not in chosen:
        chosen = demo_files(folder) | DEMO_FLAGS | chosen
    configs = {name: resolve(config, _flags_of(name, chosen)) for name in METHOD_NAMES}
    from tunesmith.approaches.methods import train_methods

    rows, page = train_methods(configs, folder, progress=TerminalProgress())
    if json:
        print_json({"folder": str(folder), "page": str(page), "methods": [row.as_dict() for row in rows]})
        return
    _show(rows)
    output.print()
    for name, place in (("page:", page), ("try one:", f"tunesmith chat {folder / rows[0].method}")):
        output.print(f"{name:<9}{place}", markup=False)


def _flags_of(method: str, flags: dict[str, Any]) -> dict[str, Any]:
    """The flags that mean something to `method`: `--rank 8` is for LoRA and QLoRA."""
    foreign = {name.replace("_", "-") for name, users in METHODS_WITH.items() if method not in users}
    return {name: value for name, value in flags.items() if name not in foreign} | {"method": method}


def _show(rows: "list[MethodRow]") -> None:
    from rich.markup import escape

    from tunesmith.evaluation.method_table import base_cells, cells, columns

    table = plain_table()
    for name in columns(rows[0]):
        table.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
    for line in (base_cells(rows[0]), *map(cells, rows)):
        table.add_row(*map(escape, line))
    messages.print()
    output.print(table)
