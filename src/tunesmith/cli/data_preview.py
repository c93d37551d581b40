"""`tunesmith data preview`: rows of a file as the model will see them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from tunesmith.cli.options import Columns, RowFormat
from tunesmith.cli.preview_text import coloured_preview, plain_preview
from tunesmith.cli.rendering import renderer_of
from tunesmith.cli.terminal import messages, output, print_json
from tunesmith.cli.train import Json
from tunesmith.data.columns import read_columns
from tunesmith.data.conversation import Row
from tunesmith.data.formats import to_row
from tunesmith.data.pages import write_page
from tunesmith.data.preview import RowView, view_row
from tunesmith.data.preview_page import render_page
from tunesmith.data.read import scan
from tunesmith.data.records import BadLine, Record
from tunesmith.data.whole_file import refuse_taken
from tunesmith.errors import DataError, UserError


@dataclass(frozen=True, slots=True)
class Reading:
    """How a record becomes a row."""

    format: RowFormat = "auto"
    columns: Columns = None
    system: Annotated[str | None, Parameter(help="System message for rows that have none.")] = None


@dataclass(frozen=True, slots=True)
class Rendering:
    """How a row becomes tokens."""

    model: Annotated[str, Parameter(help="Whose tokenizer and template: as `train --model` takes it.")] = (
        "smollm2-135m"
    )
    template: Annotated[str, Parameter(help="`auto`, `instruction`, or the path of a Jinja file.")] = "auto"
    max_length: Annotated[int, Parameter(validator=Number(gte=1), help="Longest row in tokens.")] = 1024


def preview(
    file: Annotated[Path, Parameter(help="JSON, JSON lines, CSV or Parquet file.")],
    /,
    *,
    rows: Annotated[int, Parameter(validator=Number(gte=1), help="Show so many, from the first on.")] = 3,
    row: Annotated[
        list[int] | None,
        Parameter(
            consume_multiple=True,
            negative="",
            validator=Number(gte=1),
            help="Show these instead, by number; the first is 1.",
        ),
    ] = None,
    rendering: Annotated[Rendering, Parameter(name="*")] = Rendering(),  # frozen
    reading: Annotated[Reading, Parameter(name="*")] = Reading(),  # frozen
    html: Annotated[Path | None, Parameter(help="Write the rows as a page to this new file too.")] = None,
    json: Json = False,
) -> None:
    """Show rows as the model will see them: template, tokens, and what the loss counts.

    Examples:
        tunesmith data preview rows.jsonl

        tunesmith data preview rows.jsonl --row 17 52 --html rows.html

        tunesmith data preview table.csv --columns instruction=question output=answer
    """
    if html is not None:
        refuse_taken(html)
    as_row = _row_maker(file, reading)
    places = list(_chosen(file, rows=rows, numbers=row))
    renderer = renderer_of(rendering.model, rendering.template)

    def view(number: int, place: Record | BadLine) -> RowView:
        where = f"{file}:{place.line}"
        if isinstance(place, BadLine):
            return RowView(number, where, error=place.what, hint=place.hint)
        try:
            rendered = renderer.render(as_row(place))
        except UserError as error:
            return RowView(number, where, error=str(error).removeprefix(f"{where}: "), hint=error.hint)
        return view_row(
            rendered, number=number, tokenizer=renderer.tokenizer, max_length=rendering.max_length
        )

    views = [view(number, place) for number, place in places]
    if html is not None:
        write_page(html, render_page(views, title=file.name, facts=_facts(rendering, renderer.template.name)))
        messages.print(f"page: {html}", markup=False)
    if json:
        print_json(
            {
                "file": str(file),
                "model": rendering.model,
                "template": renderer.template.name,
                "max_length": rendering.max_length,
                "html": None if html is None else str(html),
                "rows": [_as_json(view) for view in views],
            }
        )
        return
    _show(views, rendering, renderer.template.name)


def _row_maker(file: Path, reading: Reading) -> Callable[[Record], Row]:
    """What makes rows of this file.

    Raises:
        ConfigError: if a pair of `--columns` is none, or names no field of ours.
    """
    columns = read_columns(reading.columns or ())
    return lambda record: to_row(
        record, path=file, format=reading.format, columns=columns, system=reading.system
    )


def _chosen(
    file: Path, *, rows: int, numbers: Sequence[int] | None
) -> Iterator[tuple[int, Record | BadLine]]:
    """Numbers and places to show; of the file no more is read than they need.

    Raises:
        DataError: if a row that was asked for is not there, or none is.
    """
    wanted = set(numbers or range(1, rows + 1))
    last = 0
    for last, place in enumerate(islice(scan(file), max(wanted)), start=1):
        if last in wanted:
            yield last, place
    missing = [number for number in sorted(wanted) if number > last] if numbers else []
    if last == 0 or missing:
        what = f"there is no row {missing[0]}; it holds {last:,}" if missing else "the file holds no rows"
        raise DataError(f"{file}: {what}", hint="name a row that is there, or another file")


def _facts(rendering: Rendering, template: str) -> list[tuple[str, str]]:
    longest = f"{rendering.max_length:,} tokens"
    return [("Model", rendering.model), ("Template", template), ("Longest row", longest)]


def _as_json(view: RowView) -> dict[str, Any]:
    return {
        "row": view.number,
        "place": view.place,
        "tokens": view.token_count,
        "scored_tokens": view.scored_tokens,
        "is_too_long": view.is_too_long,
        "lookalike": view.lookalike or None,
        "error": view.error or None,
        "hint": view.hint or None,
        "pieces": [
            {
                "text": token.text,
                "ids": token.ids,
                "scored": token.is_scored,
                "control": token.is_control,
                "cut": token.is_cut,
            }
            for token in view.tokens
        ],
    }


def _show(views: Sequence[RowView], rendering: Rendering, template: str) -> None:
    messages.print(f"{rendering.model}, {template}", style="dim", markup=False)
    if output.color_system is not None and not output.no_color:
        output.print(coloured_preview(views, max_length=rendering.max_length))
    else:
        output.print(plain_preview(views, max_length=rendering.max_length), markup=False, emoji=False)
