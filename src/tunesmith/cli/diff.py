"""`tunesmith diff`: what two models answered, row by row."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from tunesmith.cli.options import Columns, RowFormat
from tunesmith.cli.terminal import TerminalProgress, loading_libraries, messages, output, print_json
from tunesmith.cli.train import Json
from tunesmith.cli.use import Asking
from tunesmith.data.columns import read_columns
from tunesmith.data.whole_file import refuse_taken
from tunesmith.errors import ConfigError, DataError

if TYPE_CHECKING:
    from tunesmith.evaluation.outputs import Outputs
    from tunesmith.evaluation.side_by_side import SideBySide


ASKED = Asking()
LONG_WORK_ROWS = 500  # fewer are compared before a bar could be read


@dataclass(frozen=True, slots=True)
class Questions:
    """What two models are asked."""

    data: Annotated[
        Path | None,
        Parameter(help="Let the two models A and B answer rows of this file, one after the other."),
    ] = None
    format: RowFormat = "auto"
    columns: Columns = None
    generate_rows: Annotated[
        int, Parameter(validator=Number(gte=1), help="Prompts of --data to ask, drawn by --seed.")
    ] = 32
    batch_size: Annotated[int, Parameter(validator=Number(gte=1), help="Prompts answered together.")] = 16


@dataclass(frozen=True, slots=True)
class Showing:
    """What is shown of the comparison."""

    order: Annotated[
        Literal["difference", "file"], Parameter(help="Rows that differ most first, or as the file has them.")
    ] = "difference"
    rows: Annotated[
        int, Parameter(validator=Number(gte=0), help="Rows in the terminal; --html and --json have all.")
    ] = 10
    html: Annotated[Path | None, Parameter(help="Write all rows as a page to this new file too.")] = None


def diff(
    *sources: Annotated[
        str, Parameter(help="Two files of outputs, the folder of a run or a comparison, or two models.")
    ],
    systems: Annotated[
        list[str] | None,
        Parameter(help="Which two, where there are more.", consume_multiple=True, negative=""),
    ] = None,
    showing: Annotated[Showing, Parameter(name="*")] = Showing(),  # frozen
    questions: Annotated[Questions, Parameter(name="*")] = Questions(),  # frozen
    asking: Annotated[Asking, Parameter(name="*")] = ASKED,
    json: Json = False,
) -> None:
    """Read what two models answered side by side: words and lines that differ, and metrics beside each row.

    A row of a file of outputs has `prompt`, `answer` and perhaps `reference`. Without files, give two models
    and `--data`, and they answer first.

    Examples:
        tunesmith diff before.jsonl after.jsonl

        tunesmith diff runs/rows-20260102-030405 --html diff.html

        tunesmith diff runs/comparison --systems few-shot fine-tuned

        tunesmith diff smollm2-135m runs/rows-20260102-030405 --data test.jsonl
    """
    _check(sources, systems, questions, asking)
    if showing.html is not None:
        refuse_taken(showing.html)
    outputs = _answered(sources, questions, asking) if questions.data else _read(sources)
    from tunesmith.evaluation.side_by_side import choose_systems, compare_items

    side = compare_items(
        outputs.items,
        choose_systems(outputs, systems),
        seed=asking.seed,
        by_difference=showing.order == "difference",
        progress=TerminalProgress() if len(outputs.items) >= LONG_WORK_ROWS else None,
    )
    notes = _left_out_notes(outputs)
    if showing.html is not None:
        _write_page(showing.html, side, notes)
    if json:
        found = {"sources": list(sources), "left_out": dict(outputs.left_out)} | side.as_dict()
        if questions.data:
            found["decoding"] = asdict(asking) | {"data": str(questions.data)}
        print_json(found | {"html": str(showing.html) if showing.html else None})
        return
    for note in notes:
        messages.print(note, style="dim", markup=False)
    _show(side, rows=showing.rows)


def _check(
    sources: Sequence[str], systems: Sequence[str] | None, questions: Questions, asking: Asking
) -> None:
    """Refuse what cannot be meant.

    Raises:
        ConfigError: for no source, for flags without effect, or for other than two models.
    """
    if not sources:
        raise ConfigError(
            "there is nothing to compare",
            hint="give two files of outputs, a run, or two models with `--data FILE`",
        )
    if questions.data is None:
        given = asdict(asking) | asdict(questions)
        defaults = asdict(ASKED) | asdict(Questions())
        # The seed decides the intervals too.
        idle = [
            f"`--{name.replace('_', '-')}`"
            for name, default in defaults.items()
            if name != "seed" and given[name] != default
        ]
        if idle:
            raise ConfigError(
                f"{', '.join(idle)}: no effect where no model answers",
                hint="leave it out, or give two models and `--data FILE`",
            )
        return
    if len(sources) != 2 or sources[0] == sources[1]:
        raise ConfigError(
            f"`--data` asks two different models, not {' and '.join(f'`{source}`' for source in sources)}",
            hint="as in `tunesmith diff smollm2-135m runs/tickets --data test.jsonl`",
        )
    if systems:
        raise ConfigError(
            "`--systems` has no effect with `--data`: the two models are compared", hint="leave it out"
        )


def _read(sources: Sequence[str]) -> "Outputs":
    missing = next((source for source in sources if not Path(source).exists()), None)
    # A path that has an ending is that of a file; its reader names the nearest one.
    if missing is not None and Path(missing).suffix not in (".json", ".jsonl", ".ndjson", ".csv", ".parquet"):
        raise DataError(
            f"{missing}: there is no such file or folder",
            hint=f"if it is a model, let it answer: `tunesmith diff {' '.join(sources)} --data FILE`",
        )
    from tunesmith.evaluation.outputs import join_outputs

    return join_outputs(sources)


def _answered(sources: Sequence[str], questions: Questions, asking: Asking) -> "Outputs":
    """Both models' answers to the same rows; one model is in memory at a time.

    Raises:
        UserError: if a model or the file cannot be read.
    """
    from tunesmith.data.formats import load_rows
    from tunesmith.evaluation.outputs import Outputs, answered_items, asked_once

    columns = read_columns(questions.columns or ())
    rows = load_rows(questions.data or "", format=questions.format, columns=columns)
    asked = asked_once(rows, most=questions.generate_rows, seed=asking.seed)
    with loading_libraries():
        from tunesmith.models.generate import Decoding
        from tunesmith.use import adapter_name, answer, open_session

    decoding = Decoding(asking.max_new_tokens, asking.temperature, asking.top_p, asking.seed)
    short = [adapter_name(source) for source in sources]
    names = short if short[0] != short[1] else list(sources)
    answers = {}
    for name, source in zip(names, sources, strict=True):
        messages.print(f"{name} answers {len(asked)} prompts", style="dim", markup=False)
        session = open_session(source, device=asking.device, dtype=asking.dtype, system=asking.system)
        answers[name] = answer(
            session,
            [row.prompt for row, _ in asked],
            decoding=decoding,
            batch_rows=questions.batch_size,
            progress=TerminalProgress(),
        )
        del session
    by_source = {name: (name,) for name in names}
    return Outputs(tuple(answered_items(asked, answers)), tuple(names), {}, by_source)


def _left_out_notes(outputs: "Outputs") -> list[str]:
    return [
        f"{count:,} row{'s' if count > 1 else ''} of {source} left out: not all sources have the prompt"
        for source, count in outputs.left_out.items()
        if count
    ]


def _write_page(path: Path, side: "SideBySide", notes: Sequence[str]) -> None:
    from tunesmith.data.pages import write_page
    from tunesmith.evaluation.diff_page import render_diff

    write_page(path, render_diff(side, notes=notes))
    messages.print(f"page: {path}", markup=False)


def _show(side: "SideBySide", *, rows: int) -> None:
    from tunesmith.cli.diff_text import legend, row_text, scores_table
    from tunesmith.evaluation.side_by_side import summary_lines

    shown = side.rows[:rows]
    if side.identical < len(side.rows):
        if shown:
            output.print(legend(side.systems))
        for row in shown:
            output.print()
            output.print(row_text(row, side.systems))
        if len(shown) < len(side.rows):
            more = f"{len(side.rows) - len(shown):,} more: `--rows {len(side.rows)}`, or `--html FILE`"
            output.print(f"\n{more}", style="dim", markup=False)
        output.print()
    for line in summary_lines(side):
        output.print(line, markup=False)
    if side.scores:
        output.print(scores_table(side))
