"""`tunesmith data convert`: another shape, another container, and what neither could hold."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from tunesmith.cli.options import Columns, RowFormat
from tunesmith.cli.terminal import TerminalProgress, messages, print_json
from tunesmith.cli.terminal import output as results
from tunesmith.cli.train import Json
from tunesmith.data.columns import read_columns
from tunesmith.data.convert import Conversion, Request, convert_file
from tunesmith.data.losses import Loss

Shape = Literal["instruction", "conversations", "messages", "prompt_completion"]


def convert(
    file: Annotated[Path, Parameter(help="JSON, JSON lines, CSV or Parquet; text also as `.gz`.")],
    output: Annotated[Path, Parameter(help="File to make; its suffix decides the container.")],
    /,
    *,
    to: Annotated[
        Shape | None, Parameter(help="Shape of the new rows; without it rows stay as they are.")
    ] = None,
    format: RowFormat = "auto",
    columns: Columns = None,
    skip_bad: Annotated[bool, Parameter(negative="", help="Leave out rows that cannot be used.")] = False,
    json: Json = False,
) -> None:
    """Write a data file in another shape or container, and list what could not be kept.

    Other keys of a row stay. Converting back gives the same rows, except for what is listed.

    Examples:
        tunesmith data convert alpaca.json rows.jsonl --to messages

        tunesmith data convert rows.jsonl.gz rows.parquet

        tunesmith data convert quiz.csv rows.jsonl --to messages --columns instruction=question output=answer
    """
    named = read_columns(columns or ())
    request = Request(file, to=to, format=format, columns=named, skip_bad=skip_bad)
    done = convert_file(request, output, progress=TerminalProgress())
    if json:
        print_json({"input": file, "output": output, "to": to, **done.as_dict()})
        return
    for line in _skipped(done):
        messages.print(line, markup=False)
    for line in (_summary(done, output, to), *_lost(done.losses)):
        results.print(line, markup=False)


def _summary(done: Conversion, output: Path, to: str | None) -> str:
    shapes = ", ".join(f"{count} {shape}" for shape, count in done.shapes.items())
    return f"{output}: {done.rows} rows" + (f", {shapes} -> {to}" if to else "")


def _skipped(done: Conversion) -> Iterator[str]:
    if done.skipped:
        yield f"{done.skipped} rows left out:"
        yield from (f"  {place}" for place in done.skipped_places)
        if done.skipped > len(done.skipped_places):
            yield f"  and {done.skipped - len(done.skipped_places)} more"


def _lost(losses: Sequence[Loss]) -> Iterator[str]:
    if not losses:
        yield "nothing is lost: converting back gives the same rows (keys may stand in another order)"
    for effect, title in (("lost", "lost:"), ("rewritten", "the same, written in another way:")):
        chosen = [loss for loss in losses if loss.effect == effect]
        if chosen:
            yield title
        for loss in chosen:
            yield f"  {loss.what}: {loss.done} in {loss.rows} rows"
            yield f"    {', '.join(loss.places)}{' ...' if loss.rows > len(loss.places) else ''}"
