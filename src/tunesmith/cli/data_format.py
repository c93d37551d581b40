"""`tunesmith data format`: lay JSON out, say what is wrong with it, and mend what has one meaning."""

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.markup import escape

from tunesmith.cli.terminal import messages, output, print_json
from tunesmith.cli.train import Json
from tunesmith.errors import ConfigError, DataError
from tunesmith.tools.json_file import (
    SPOOL_BYTES,
    Choices,
    FileReport,
    format_file,
    format_in_place,
    refuse_problems,
)
from tunesmith.tools.json_show import show_mends


def format_(
    file: Annotated[
        Path | None,
        Parameter(help="JSON or JSON lines; stdin if it is `-` or not given.", allow_leading_hyphen=True),
    ] = None,
    /,
    *,
    style: Annotated[
        Literal["pretty", "compact", "lines"] | None,
        Parameter(
            help="`lines` makes an array of objects JSON lines. By default `lines` for those, else `pretty`."
        ),
    ] = None,
    indent: Annotated[
        int, Parameter(validator=Number(gte=0, lte=16), help="Blanks a level, for `pretty`.")
    ] = 2,
    sort_keys: Annotated[bool, Parameter(negative="", help="Order the keys of each object.")] = False,
    fix: Annotated[bool, Parameter(negative="", help="Mend what has one meaning; a diff says what.")] = False,
    check: Annotated[
        bool, Parameter(negative="", help="Only say whether the file is valid and laid out so (exit 0 or 2).")
    ] = False,
    in_place: Annotated[bool, Parameter(negative="", help="Rewrite the file.")] = False,
    json: Json = False,
) -> None:
    """Lay JSON or JSON lines out, and say what is wrong: each problem with its line, column and mend.

    Numbers and strings stay as they are written. Nothing is written if a problem is left. `--json` gives the
    problems in place of the text.

    Examples:
        tunesmith data format rows.json

        tunesmith data format rows.json --style lines > rows.jsonl

        tunesmith data format adapter_config.json --fix --in-place

        cat rows.jsonl | tunesmith data format --check
    """
    path = None if file is None or str(file) == "-" else file
    _refuse_combination(path, fix=fix, check=check, in_place=in_place)
    choices = Choices(style, indent, sort_keys, fix)
    if path is not None and in_place:
        report = format_in_place(path, choices=choices)
        _tell(report, fix=fix, check=check, json=json)
        _tell_written(report, json=json)
        return
    with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as out:
        report = format_file(path, out, choices=choices)
        _tell(report, fix=fix, check=check, json=json)
        if not json and not check:
            out.seek(0)
            sys.stdout.flush()
            shutil.copyfileobj(out, sys.stdout.buffer)
            sys.stdout.buffer.flush()


def _refuse_combination(path: Path | None, *, fix: bool, check: bool, in_place: bool) -> None:
    if check and (fix or in_place):
        other = "--fix" if fix else "--in-place"
        raise ConfigError(
            f"`--check` changes nothing, so `{other}` has no effect", hint="leave one of them out"
        )
    if path is None and in_place:
        raise ConfigError("`--in-place` has no file to rewrite", hint="name the file")
    if path is None and sys.stdin.isatty():
        raise ConfigError("there is nothing to format", hint="name a file, or pipe JSON into the command")


def _tell(report: FileReport, *, fix: bool, check: bool, json: bool) -> None:
    """Warnings, mends, and what is left; ends the command if something is.

    Raises:
        DataError: if problems are left, or with `check` if the layout is another.
        SystemExit: the same with `json`, where the report on stdout says it all.
    """
    is_good = report.formatted.is_good(fix=fix)
    if json:
        print_json(_as_dict(report, fix=fix))
        if not is_good or (check and not report.is_unchanged):
            raise SystemExit(DataError.exit_code)
        return
    for warning in report.warnings:
        messages.print(f"[bold yellow]warning:[/] {escape(warning)}")
    if check:
        _tell_check(report, is_good=is_good)
        return
    refuse_problems(report, fix=fix)
    if report.formatted.safe:
        found = report.formatted
        messages.print(show_mends(found.problems, name=report.name, total=found.safe), markup=False)


def _tell_check(report: FileReport, *, is_good: bool) -> None:
    if not is_good:
        first = report.formatted.problems[0]
        what = f"{report.name}:{first.line}:{first.column}: not valid: {first.message}"
        raise DataError(what, hint="run it without `--check` to see all problems and their mends")
    if not report.is_unchanged:
        what = f"{report.name}: valid, but not laid out in style `{report.formatted.style}`"
        raise DataError(what, hint="`--in-place` in place of `--check` rewrites it")
    output.print(f"{report.name}: valid and formatted", markup=False)


def _tell_written(report: FileReport, *, json: bool) -> None:
    if json:
        return
    what = "already formatted" if report.is_unchanged else "rewritten"
    count = report.formatted.documents
    output.print(f"{report.name}: {what}, {count:,} document{'s' * (count > 1)}", markup=False)


def _as_dict(report: FileReport, *, fix: bool) -> dict[str, object]:
    found = report.formatted
    is_good = found.is_good(fix=fix)
    return {
        "valid": is_good,
        "formatted": is_good and report.is_unchanged,
        "documents": found.documents,
        "style": found.style,
        "problem_count": found.safe + found.unsafe,
        "problems": [
            problem.as_dict(fixed=fix and is_good and problem.mend.is_safe) for problem in found.problems
        ],
        "warnings": list(report.warnings),
    }
