"""`tunesmith advise`: which approach fits, before anything is run."""

import sys
from dataclasses import replace
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.markup import escape
from rich.table import Table

from tunesmith.approaches.advise import Advice, Facts, read_answer
from tunesmith.approaches.advise import advise as advise_on
from tunesmith.approaches.advise_rules import (
    APPROACHES,
    AT_RISK_NOTE,
    DIMENSIONS,
    FACTS,
    HEADINGS,
    PROFILES,
    TITLES,
    Fact,
)
from tunesmith.cli.terminal import messages, output, plain_table, print_json
from tunesmith.cli.train import Json
from tunesmith.errors import ConfigError


def advise(
    *,
    goal: Annotated[
        Literal["style", "format", "knowledge", "task"] | None,
        Parameter(help="What the model should gain; a task is one narrow skill."),
    ] = None,
    rows: Annotated[
        int | None, Parameter(validator=Number(gte=0), help="Rows of a prompt with the wanted answer.")
    ] = None,
    updates: Annotated[
        Literal["never", "monthly", "daily"] | None,
        Parameter(help="How often the knowledge changes that answers rest on."),
    ] = None,
    citations: Annotated[bool | None, Parameter(help="Whether answers must name their sources.")] = None,
    private: Annotated[bool | None, Parameter(help="Whether there is data that must not leave.")] = None,
    budget: Annotated[
        Literal["low", "medium", "high"] | None, Parameter(help="Work and computing it may take to build.")
    ] = None,
    requests_per_day: Annotated[
        int | None, Parameter(validator=Number(gte=0), help="Requests it will answer.")
    ] = None,
    json: Json = False,
) -> None:
    """Say which of prompt, few-shot, RAG, fine-tuning or both fits, why, and what would change it.

    What no flag says is asked on a terminal; Enter is "I don't know". The answer comes from rules of thumb;
    `tunesmith compare` measures.

    Examples:
        tunesmith advise

        tunesmith advise --goal format --rows 600 --updates never --private
    """
    facts = Facts(goal, rows, updates, citations, private, budget, requests_per_day)
    if sys.stdin.isatty() and not json:
        facts = _asked(facts)
    advice = advise_on(facts)
    if json:
        print_json(advice.as_dict())
    else:
        _show(advice)


def _asked(facts: Facts) -> Facts:
    """The facts with those filled in that a person knows; end of input leaves the rest open."""
    missing = [fact for fact in FACTS if getattr(facts, fact.name) is None]
    if missing:
        messages.print("Enter is: I don't know.", style="dim")
    for fact in missing:
        try:
            answer: dict[str, Any] = {fact.name: _ask(fact)}
        except EOFError:
            messages.print()
            break
        facts = replace(facts, **answer)
    return facts


def _ask(fact: Fact) -> Any:
    while True:
        messages.print(f"{fact.question} [{fact.answers}] ", markup=False, end="")
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        try:
            return read_answer(fact, line)
        except ConfigError as error:
            messages.print(f"{error}; {error.hint}", style="dim", markup=False)


def _show(advice: Advice) -> None:
    output.print(f"[bold]{escape(advice.summary)}[/]\n")
    for rank, one in enumerate(advice.ranking, start=1):
        output.print(f"[bold]{rank}. {escape(TITLES[one.approach])}[/]  {_signed(one.points)}")
        for reason in one.reasons:
            output.print(f"   {_signed(reason.points)}  {reason.text}", markup=False)
    output.print()
    output.print(_profiles())
    output.print(f"{AT_RISK_NOTE}\n", style="dim", markup=False)
    for change in advice.changes:
        output.print(change.text, markup=False)
    if not advice.changes:
        output.print("No single other answer would change the first place.")


def _profiles() -> Table:
    table = plain_table(gap=2)
    table.add_column("")
    for approach in APPROACHES:
        table.add_column(HEADINGS[approach], no_wrap=True)
    for name, *cells in zip(DIMENSIONS, *(PROFILES[approach] for approach in APPROACHES), strict=True):
        table.add_row(name, *map(escape, cells))
    return table


def _signed(points: int) -> str:
    """With a sign, as the reports write it."""
    return f"{points:+d}".replace("-", "−")
