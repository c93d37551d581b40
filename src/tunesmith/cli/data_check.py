"""`tunesmith data check`: what a data file holds, in a minute of reading."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.text import Text

from tunesmith.cli.options import Columns, RowFormat
from tunesmith.cli.rendering import renderer_of
from tunesmith.cli.terminal import TerminalProgress, messages, output, print_json
from tunesmith.cli.train import Json
from tunesmith.data.audit.kinds import KINDS
from tunesmith.data.columns import read_columns
from tunesmith.data.pages import write_page
from tunesmith.data.preview import visible
from tunesmith.data.whole_file import refuse_taken
from tunesmith.errors import RunFailed

if TYPE_CHECKING:
    from tunesmith.data.audit.check import FileAudit, Report
    from tunesmith.data.audit.findings import Finding
    from tunesmith.data.audit.leakage import Leak
    from tunesmith.data.audit.tokens import Tokens

_COLOURS = {"error": "bold red", "warning": "yellow", "note": "cyan"}
_INDENT = " " * 9
_BARS = " ▁▂▃▄▅▆▇█"
# A file of one of these names is compared with those of the others that lie beside it.
_PART_NAMES = ("train", "training", "validation", "valid", "val", "dev", "test")


def check(
    files: Annotated[list[Path], Parameter(help="Data files: the training file first, held-out ones after.")],
    /,
    *,
    model: Annotated[
        str, Parameter(help="Whose tokenizer and template count the tokens; `none` to skip that.")
    ] = "smollm2-135m",
    template: Annotated[str, Parameter(help="As in training: auto, instruction, or a Jinja file.")] = "auto",
    format: RowFormat = "auto",
    columns: Columns = None,
    max_length: Annotated[int, Parameter(help="Longest row in tokens.")] = 1024,
    near_duplicates: Annotated[
        bool | None, Parameter(help="Look for near duplicates; by default up to 200,000 rows.")
    ] = None,
    html: Annotated[Path | None, Parameter(help="Also write the report as one HTML page.")] = None,
    strict: Annotated[bool, Parameter(negative="", help="Exit with 1 if there is an error.")] = False,
    json: Json = False,
) -> None:
    """Look at data before training: quantity, quality, diversity, consistency, length; leaks and secrets.

    Examples:
        tunesmith data check rows.jsonl

        tunesmith data check train.jsonl test.jsonl --html report.html

        tunesmith data check questions.jsonl --columns instruction=question output=answer --json
    """
    from tunesmith.data.audit.check import check_files
    from tunesmith.data.audit.facts import Reading
    from tunesmith.data.audit.tokens import measure_with

    if html is not None:
        refuse_taken(html)
    reading = Reading(format, read_columns(columns or ()))
    measure = None
    if model != "none":
        renderer = renderer_of(model, template)
        reading = replace(reading, control_tokens=tuple(renderer.tokenizer.all_special_tokens))
        measure = measure_with(renderer, max_length=max_length)
    report = check_files(
        files,
        against=siblings(files),
        reading=reading,
        measure=measure,
        max_length=max_length,
        near=near_duplicates,
        progress=TerminalProgress(),
    )
    if html is not None:
        from tunesmith.data.audit.page import render_page

        write_page(html, render_page(report, model=model))
        messages.print(f"wrote {html}")
    if json:
        print_json(report.as_dict() | {"model": None if model == "none" else model})
    else:
        for line in shown(report):
            output.print(line)
    errors = sum(finding.count for finding in report.findings if finding.severity == "error")
    if strict and errors:
        raise RunFailed(f"{errors} places have errors", hint="the report names them and what mends them")


def siblings(files: list[Path]) -> list[Path]:
    """The held-out files that lie beside a lone training file under their usual names."""
    if len(files) != 1 or files[0].name.split(".")[0] not in ("train", "training"):
        return []
    stem, dot, suffix = files[0].name.partition(".")
    beside = (files[0].with_name(f"{name}{dot}{suffix}") for name in _PART_NAMES if name != stem)
    return [path for path in beside if path.is_file()]


def shown(report: "Report") -> Iterator[Text]:
    """The report for a terminal, line by line."""
    for file in report.files:
        yield Text(file.path, style="bold")
        for name, value in _file_lines(file, report.max_length):
            yield Text.assemble((f"  {name:14}", "dim"), value)
        yield Text()
    yield _summary(report)
    for finding in report.findings:
        yield Text()
        yield from _finding_lines(finding)
    for leak in report.leakage:
        yield Text()
        yield from _leak_lines(leak)


def _file_lines(file: "FileAudit", max_length: int) -> Iterator[tuple[str, str]]:
    shapes = ", ".join(f"{name} {count:,}" for name, count in file.shapes.items()) or "no known shape"
    yield "rows", f"{file.rows:,} read, {file.usable_rows:,} can be trained on ({shapes})"
    if len(file.key_sets) > 1:
        yield "keys", "; ".join(f"{count:,} with {keys}" for keys, count in file.key_sets.items())
    if file.tokens:
        yield "tokens", _tokens_line(file.tokens, max_length)
        yield "row length", _histogram(file.tokens.row)
        yield "answer length", _histogram(file.tokens.answer)
    if spread := file.spread["n"]:
        prompts, pairs = file.spread["distinct_prompts"], file.spread["distinct_word_pairs"] or 0
        sample = f" (sample of {spread:,})" if spread < file.rows else ""
        yield "variety", f"{prompts:.0%} of prompts and {pairs:.0%} of their word pairs are distinct{sample}"


def _tokens_line(tokens: "Tokens", max_length: int) -> str:
    share, low, high = tokens.over_max_length
    about = "about " if tokens.is_sample else ""
    interval = f" [{low:.1%}, {high:.1%}], sample of {tokens.n:,}" if tokens.is_sample else ""
    return f"{about}{tokens.total:,} in all; {share:.1%} of rows above {max_length:,}{interval}"


def _histogram(figures: dict[str, Any]) -> str:
    counts, edges = figures["histogram"]["counts"], figures["histogram"]["edges"]
    bars = "".join(_BARS[-(-count * 8 // (max(counts) or 1))] for count in counts)
    quantiles = f"median {figures['p50']:,.0f}, 95 % up to {figures['p95']:,.0f}, longest {figures['max']:,}"
    return f"0 {bars} {edges[-1]:,.0f}   {quantiles}"


def _summary(report: "Report") -> Text:
    severities = [finding.severity for finding in report.findings]
    if not severities:
        return Text("nothing to mend", style="bold green")
    words = [
        (f"{severities.count(name)} x {name}", _COLOURS[name]) for name in _COLOURS if name in severities
    ]
    return Text("found: ").append(Text(", ").join(Text(*word) for word in words))


def _finding_lines(finding: "Finding") -> Iterator[Text]:
    about = KINDS[finding.kind]
    number, _, title = about.titled(finding.count).partition(" ")
    head = Text.assemble((f"{about.severity:9}", _COLOURS[about.severity]), (f"{number} ", "bold"), title)
    yield head.append(f" ({finding.note})", style="dim") if finding.note else head
    yield Text(_INDENT + about.why)
    if len(finding.by_part) > 1:
        yield _dim(", ".join(f"{count:,} in {name}" for name, count in finding.by_part.items()))
    if finding.by_form:
        yield _dim(", ".join(f"{form} {count:,}" for form, count in list(finding.by_form.items())[:6]))
    for place, excerpt in finding.rows:
        yield _dim(f"{place}  {visible(excerpt)}".rstrip())
    yield Text(f"{_INDENT}mend: {finding.mend}", style="green")


def _leak_lines(leak: "Leak") -> Iterator[Text]:
    if leak.exact is None:
        yield Text(f"leakage  {leak.held_out} is not compared with {leak.train}: no prompts could be told")
        return
    near = "near copies not looked for" if leak.near is None else f"{leak.near:,} more are near copies"
    label = Text("leakage  ", style="bold red" if leak.exact or leak.near else "green")
    yield label.append(
        f"{leak.exact:,} prompts of {leak.held_out} are also in {leak.train}, {near}", style="none"
    )
    for place, copied in leak.rows:
        yield _dim(f"{place}  copies {copied}")


def _dim(line: str) -> Text:
    return Text(_INDENT + line, style="dim")
