"""`tunesmith data clean`: named steps over a file, and every row they change or remove kept beside it."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.markup import escape
from rich.table import Table

from tunesmith.cli.options import Columns
from tunesmith.cli.rendering import renderer_of
from tunesmith.cli.terminal import TerminalProgress, messages, plain_table, print_json
from tunesmith.cli.terminal import output as results
from tunesmith.cli.train import Json
from tunesmith.data.clean.guide import GuideCosts
from tunesmith.data.clean.lengths import token_counter
from tunesmith.data.clean.records import READING, Cleaned
from tunesmith.data.clean.run import Account, clean_file
from tunesmith.data.clean.steps import STEPS, Settings, Step, choose
from tunesmith.data.columns import read_columns
from tunesmith.errors import ConfigError, ModelError

DEFAULT_MODEL = "smollm2-135m"
DEFAULT_MAX_LENGTH = 1024  # as in training
_NAMES = ", ".join(step.name for step in STEPS)


@dataclass(frozen=True, slots=True)
class Cleaning:
    """Which steps are on; each field is a flag."""

    preset: Annotated[
        Literal["default", "guide", "none"], Parameter(help="Steps to start from; `guide` is the usual five.")
    ] = "default"
    with_: Annotated[
        list[str] | None,
        Parameter(
            name="--with", consume_multiple=True, negative="", help=f"Steps to switch on. Known: {_NAMES}."
        ),
    ] = None
    without: Annotated[
        list[str] | None, Parameter(consume_multiple=True, negative="", help="Steps to switch off.")
    ] = None
    fill: Annotated[
        list[str] | None,
        Parameter(consume_multiple=True, negative="", help="Texts for `{{name}}`: name=value."),
    ] = None
    max_length: Annotated[
        int | None, Parameter(validator=Number(gte=1), help="Most tokens of a row [default: 1024].")
    ] = None
    model: Annotated[
        str | None, Parameter(help="Whose tokenizer and template count them [default: smollm2-135m].")
    ] = None


CleaningFlags = Annotated[Cleaning, Parameter(name="*")]


def clean(
    file: Annotated[Path, Parameter(help="JSON, JSON lines, CSV or Parquet; text also as `.gz`.")],
    output: Annotated[
        Path | None, Parameter(help="File to make; its suffix decides the container. None with `--dry-run`.")
    ] = None,
    /,
    *,
    cleaning: CleaningFlags = Cleaning(),  # frozen
    columns: Columns = None,
    skip_bad: Annotated[
        bool, Parameter(negative="", help="Remove rows that cannot be read, or break a rule of their shape.")
    ] = False,
    dry_run: Annotated[bool, Parameter(negative="", help="Count only; write nothing.")] = False,
    json: Json = False,
) -> None:
    """Clean a data file by named steps; removed and changed rows go to files of their own, with reasons.

    OUTPUT-stem.removed.jsonl and OUTPUT-stem.changed.jsonl hold every row as it was. Cleaning twice changes
    nothing more.

    Examples:
        tunesmith data clean rows.jsonl rows.clean.jsonl

        tunesmith data clean rows.jsonl --dry-run --with refusals emails --without near_duplicates

        tunesmith data clean identity.json mine.json --fill name=Ada author="the Ada team"
    """
    if output is None and not dry_run:
        raise ConfigError("there is no output", hint="name a file to make, or count only: `--dry-run`")
    named = read_columns(columns or ())
    settings = Settings(columns=named, fill=_filling(cleaning.fill or ()))
    steps = _steps(cleaning, skip_bad=skip_bad)
    steps, settings = _with_length(steps, settings, cleaning)
    costs = GuideCosts() if cleaning.preset == "guide" else None
    account = clean_file(
        file,
        None if dry_run else output,
        steps,
        settings,
        skip_bad=skip_bad,
        observe=_observer(costs, file, named),
        progress=TerminalProgress(),
    )
    warnings = [*(costs.lines() if costs else ()), *_useless_filling(account, settings)]
    if json:
        figures = account.as_dict() | {"warnings": warnings, "guide_costs": costs and costs.as_dict()}
        print_json({"input": file, "dry_run": dry_run, "preset": cleaning.preset, **figures})
        return
    results.print(_table(account, steps))
    for line in _summary(account, dry_run):
        results.print(line, markup=False)
    for warning in warnings:
        messages.print(f"warning: {warning}", markup=False, style="yellow")


def _steps(cleaning: Cleaning, *, skip_bad: bool) -> tuple[Step, ...]:
    """The preset's steps with those that flags switch on: who gives a value wants its step."""
    wanted = list(cleaning.with_ or ())
    without = list(cleaning.without or ())
    for name, is_asked in (
        ("fill", cleaning.fill),
        ("length", cleaning.max_length or cleaning.model),
        ("unusable", skip_bad and "unusable" not in without),
    ):
        if is_asked:
            wanted.append(name)
    steps = choose(cleaning.preset, with_=wanted, without=without)
    return tuple(step for step in steps if step.name != "fill" or cleaning.fill)


def _with_length(
    steps: tuple[Step, ...], settings: Settings, cleaning: Cleaning
) -> tuple[tuple[Step, ...], Settings]:
    """Load what counts tokens; without the default model the step is left out with a word.

    Raises:
        ModelError: if the model cannot be loaded and length was asked for.
    """
    if all(step.name != "length" for step in steps):
        return steps, settings
    limit = cleaning.max_length or DEFAULT_MAX_LENGTH
    try:
        renderer = renderer_of(cleaning.model or DEFAULT_MODEL)
    except ModelError as error:
        if cleaning.model or cleaning.max_length or "length" in (cleaning.with_ or ()):
            raise
        messages.print(f"the step `length` is left out: {error}", markup=False, style="yellow")
        return tuple(step for step in steps if step.name != "length"), settings
    count = token_counter(renderer, max_length=limit, columns=settings.columns)
    return steps, replace(settings, max_length=limit, count_tokens=count)


def _filling(pairs: Sequence[str]) -> dict[str, str]:
    """`name=value` pairs as a mapping.

    Raises:
        ConfigError: for what is no pair, no name, or a value that holds a placeholder itself.
    """
    filling = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][\w.]*", name):
            raise ConfigError(f"`--fill {pair}` is no name and value", hint="write it as `name=Ada`")
        if "{{" in value:
            raise ConfigError(f"`--fill {pair}` puts in a placeholder again", hint="give the text itself")
        filling[name] = value
    return filling


def _observer(costs: GuideCosts | None, file: Path, columns: Mapping[str, str]) -> Callable[[Cleaned], None]:
    def observe(cleaned: Cleaned) -> None:
        if costs is not None:
            costs.add(cleaned, place=f"{file}:{cleaned.line}", columns=columns)

    return observe


def _useless_filling(account: Account, settings: Settings) -> Iterator[str]:
    if settings.fill and not account.steps["fill"]["changed"]:
        names = ", ".join(f"{{{{{name}}}}}" for name in settings.fill)
        yield f"`--fill` changed nothing: no row that is kept holds {names}"


def _table(account: Account, steps: Sequence[Step]) -> Table:
    table = plain_table(gap=2)
    table.add_column("step", no_wrap=True)
    table.add_column("changed", justify="right")
    table.add_column("removed", justify="right")
    table.add_column("what it does", style="dim")
    does = {READING: "rows removed that cannot be read"} | {step.name: step.does for step in steps}
    for name in does:
        if name in account.steps:
            counts = account.steps[name]
            table.add_row(name, f"{counts['changed']:,}", f"{counts['removed']:,}", escape(does[name]))
    return table


def _summary(account: Account, is_dry_run: bool) -> Iterator[str]:
    yield (
        f"{account.rows:,} rows: {account.kept:,} kept ({account.changed:,} of them changed), "
        f"{account.removed:,} removed"
    )
    if is_dry_run:
        yield "dry run: nothing was written"
    yield from (f"{kind + ':':9}{path}" for kind, path in account.files.items())
