"""`tunesmith compare`: prompting, retrieval and fine-tuning on the same held-out inputs."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from tunesmith.approaches.settings import APPROACHES, CompareSettings, Prices, check_settings
from tunesmith.cli.options import given, with_options
from tunesmith.cli.terminal import (
    TerminalProgress,
    loading_libraries,
    messages,
    output,
    plain_table,
    print_json,
)
from tunesmith.cli.train import DEMO_FLAGS, Json, demo_files
from tunesmith.resolve import resolve
from tunesmith.runs import default_run_path, open_run

if TYPE_CHECKING:
    from rich.table import Table

    from tunesmith.approaches.compare import Compared
    from tunesmith.evaluation.comparison_page import Grid


@dataclass(frozen=True, slots=True)
class Comparing:
    """What `compare` takes beyond the configuration; each field is a flag."""

    approaches: Annotated[
        list[str] | None,
        Parameter(
            help=f"Some of {', '.join(APPROACHES)}; by default all.", consume_multiple=True, negative=""
        ),
    ] = None
    shots: Annotated[int, Parameter(help="Training rows that few-shot shows.")] = 4
    passages: Annotated[int, Parameter(help="Passages that RAG retrieves for each request.")] = 3
    documents: Annotated[
        Path | None, Parameter(help="Folder that RAG searches; by default the training rows.")
    ] = None
    embeddings: Annotated[
        str | None,
        Parameter(help="sentence-transformers model to search by meaning; by default words are matched."),
    ] = None
    run: Annotated[
        Path | None, Parameter(help="Finished run to take as the fine-tuned model; else one is trained.")
    ] = None
    price_prompt: Annotated[float | None, Parameter(help="Price of a million prompt tokens.")] = None
    price_answer: Annotated[float | None, Parameter(help="Price of a million answer tokens.")] = None
    price_hour: Annotated[float | None, Parameter(help="Price of an hour of this machine.")] = None
    currency: Annotated[str, Parameter(help="What prices are in, such as EUR.")] = ""

    def settings(self) -> CompareSettings:
        """The same, as the comparison takes it."""
        names: tuple[str, ...] = APPROACHES
        if self.approaches is not None:
            names = tuple(name for part in self.approaches for name in part.split(",") if name)
        return CompareSettings(
            approaches=names,
            shots=self.shots,
            passages=self.passages,
            documents=self.documents,
            embeddings=self.embeddings,
            run=self.run,
            prices=Prices(self.price_prompt, self.price_answer, self.price_hour, self.currency),
        )


ComparingFlags = Annotated[Comparing, Parameter(name="*", group="Comparison")]


@with_options()
def compare(
    config: Annotated[Path | None, Parameter(help="YAML configuration; flags override it.")] = None,
    /,
    *,
    comparing: ComparingFlags = Comparing(),  # frozen
    json: Json = False,
    **flags: Any,
) -> None:
    """Ask zero-shot, few-shot, RAG, fine-tuned and fine-tuned + RAG the same held-out inputs.

    Ends with a verdict: who is best, who is cheapest, and from how many requests on training pays. Without
    data it takes the demo's rows. Given the `--output-dir` of an earlier call, it goes on where that one
    stopped.

    Examples:
        tunesmith compare

        tunesmith compare --data rows.jsonl --generate-rows 100

        tunesmith compare --run runs/rows-20260102-030405

        tunesmith compare config.yaml --documents handbook --price-hour 0.8 --currency EUR
    """
    settings = comparing.settings()
    check_settings(settings)
    chosen = given(flags)
    folder = Path(chosen.pop("output-dir", None) or default_run_path("compare"))
    if config is None and "data" not in chosen:
        if settings.run is not None:
            config = open_run(settings.run).config
        else:
            chosen = demo_files(folder) | DEMO_FLAGS | chosen
    resolved = resolve(config, chosen)
    with loading_libraries():
        from tunesmith.approaches.compare import compare as compare_approaches

    progress = TerminalProgress()
    try:
        compared = compare_approaches(resolved, settings, folder=folder, progress=progress)
    finally:
        progress.end()
    if json:
        print_json(_as_json(compared))
        return
    _show(compared, settings.prices)


def _as_json(compared: "Compared") -> dict[str, Any]:
    return {
        "folder": str(compared.folder),
        "page": str(compared.page),
        **compared.findings.as_dict(),
        "verdict": asdict(compared.verdict),
        "notes": list(compared.notes),
        "seconds": round(compared.seconds, 1),
    }


def _show(compared: "Compared", prices: Prices) -> None:
    from tunesmith.approaches.comparison_table import cost_grid, overview, score_grid

    messages.print()
    # Two tables, because one is wider than many terminals.
    for grid in (score_grid(compared.findings), cost_grid(compared.findings, prices)):
        output.print(_table(grid))
        output.print()
    output.print(overview(compared.findings, prices).lead, markup=False, style="dim")
    output.print()
    for sentence in compared.verdict.sentences:
        output.print(sentence, markup=False)
    output.print()
    places = {"page": str(compared.page), "took": f"{compared.seconds / 60:.1f} min"}
    best = compared.verdict.best
    others = [name for name in compared.findings.names if name != best]
    if others:
        places["see also"] = f"tunesmith diff {compared.folder} --systems {others[0]} {best}"
    for name, place in places.items():
        output.print(f"{name + ':':<10}{place}", markup=False)


def _table(grid: "Grid") -> "Table":
    from rich.markup import escape

    table = plain_table()
    for heading in grid.columns:
        is_first = heading == grid.columns[0]
        table.add_column(escape(heading), justify="left" if is_first else "right", no_wrap=True)
    for row in grid.rows:
        table.add_row(*(_cell(escape(text)) for text in row))
    return table


def _cell(text: str) -> str:
    """The first line as it is, the small print dim."""
    first, *small = text.split("\n")
    return "\n".join([first, *(f"[dim]{line}[/]" for line in small)])
