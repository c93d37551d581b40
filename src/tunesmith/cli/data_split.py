"""`tunesmith data split`: training, validation and test files that share no prompt and no near copy."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.markup import escape
from rich.table import Table

from tunesmith.cli.options import Columns, RowFormat
from tunesmith.cli.terminal import TerminalProgress, plain_table, print_json
from tunesmith.cli.terminal import output as results
from tunesmith.cli.train import Json
from tunesmith.data.columns import read_columns
from tunesmith.data.split import PARTS
from tunesmith.data.split_file import SplitFiles, SplitRequest, split_file

MOST_STRATA_SHOWN = 20
LARGE_GROUP = 0.1  # of the rows; sizes are hard to meet then


def split(
    file: Annotated[Path, Parameter(help="JSON, JSON lines, CSV or Parquet; text also as `.gz`.")],
    output_dir: Annotated[Path, Parameter(help="Folder for train, validation and test.")],
    /,
    *,
    validation_size: Annotated[
        float, Parameter(validator=Number(gte=0), help="A fraction, or a number of rows; 0 for none.")
    ] = 0.1,
    test_size: Annotated[
        float, Parameter(validator=Number(gte=0), help="A fraction, or a number of rows; 0 for none.")
    ] = 0.1,
    stratify: Annotated[str | None, Parameter(help="Key whose values get their share in each part.")] = None,
    near_duplicates: Annotated[bool, Parameter(help="Keep near copies of a prompt on one side.")] = True,
    seed: Annotated[int, Parameter(validator=Number(gte=0), help="Decides which rows go where.")] = 17,
    columns: Columns = None,
    format: RowFormat = "auto",
    json: Json = False,
) -> None:
    """Split a data file by prompt: no prompt, and no near copy of one, is on two sides.

    Records stay as they are, in their order, in the container of FILE.

    Examples:
        tunesmith data split rows.jsonl parts

        tunesmith data split tickets.csv parts --stratify category --test-size 500 --validation-size 0
    """
    request = SplitRequest(
        file,
        validation_size=validation_size,
        test_size=test_size,
        seed=seed,
        stratify=stratify,
        is_near=near_duplicates,
        columns=read_columns(columns or ()),
        format=format,
    )
    done = split_file(request, output_dir, progress=TerminalProgress())
    if json:
        print_json({"input": file, "seed": seed, "stratify": stratify, **done.as_dict()})
        return
    results.print(_parts_table(done))
    for line in _groups(done, is_near=near_duplicates):
        results.print(line, markup=False)
    if stratify:
        results.print()
        results.print(_strata_table(done, stratify))


def _parts_table(done: SplitFiles) -> Table:
    table = _table("part", "rows", "share", "file")
    total = sum(done.rows.values())
    for part in PARTS:
        rows = done.rows[part]
        table.add_row(part, f"{rows:,}", f"{rows / total:.1%}", escape(done.files.get(part, "none")))
    return table


def _groups(done: SplitFiles, *, is_near: bool) -> Iterator[str]:
    total = sum(done.rows.values())
    near = f", {done.groups:,} groups with their near copies" if is_near else ""
    yield f"{total:,} rows have {done.prompts:,} prompts{near}; the largest group has {done.largest_group:,}"
    if done.largest_group > LARGE_GROUP * total and is_near and done.groups < done.prompts:
        yield "a group this large makes sizes inexact: `--no-near-duplicates` splits by exact prompts only"


def _strata_table(done: SplitFiles, key: str) -> Table:
    table = _table(key, "rows", *PARTS)
    for value, counts in list(done.strata.items())[:MOST_STRATA_SHOWN]:
        rows = sum(counts.values())
        cells = (f"{counts[part]:,} ({counts[part] / rows:.1%})" for part in PARTS)
        table.add_row(escape(value), f"{rows:,}", *cells)
    if len(done.strata) > MOST_STRATA_SHOWN:
        table.add_row(f"and {len(done.strata) - MOST_STRATA_SHOWN:,} more", "", "", "", "")
    return table


def _table(first: str, *others: str) -> Table:
    table = plain_table(gap=2)
    table.add_column(escape(first))
    for name in others:
        table.add_column(name, justify="left" if name == "file" else "right")
    return table
