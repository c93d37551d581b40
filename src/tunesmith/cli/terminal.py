"""What a person sees: progress, tables and errors on stderr; results on stdout."""

import atexit
import gc
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichBar
from rich.table import Table

from tunesmith.errors import TunesmithError

messages = Console(stderr=True, highlight=False, soft_wrap=True)
output = Console(highlight=False, soft_wrap=True)
LINES_WITHOUT_TERMINAL = 10


class TerminalProgress:
    """Bars on a terminal; without one, a line at each tenth of the way."""

    def __init__(self) -> None:
        self._bar: RichBar | None = None
        self._task: TaskID | None = None
        self._label, self._total, self._done = "", 0, 0

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        (self._bar.console if self._bar else messages).print(escape(text))

    def begin(self, label: str, total: int) -> None:
        """Show a new bar."""
        self.end()
        self._label, self._total, self._done = label, total, 0
        if not messages.is_terminal:
            return
        self._bar = RichBar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=messages,
        )
        self._task = self._bar.add_task(label, total=total, figures="")
        self._bar.start()

    def advance(self, amount: int = 1, figures: str = "") -> None:
        """Move the bar, or print a line where a tenth is passed."""
        before, self._done = self._done, self._done + amount
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=amount, figures=figures)
            return
        tenth = max(1, self._total // LINES_WITHOUT_TERMINAL)
        if before // tenth != self._done // tenth:
            messages.print(escape(f"{self._label} {self._done}/{self._total}  {figures}".rstrip()))

    def end(self) -> None:
        """Leave the finished bar on the screen."""
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._task = None


@contextmanager
def loading_libraries() -> Iterator[None]:
    """For the import of heavy modules: bars and notices of the libraries stay off the screen from here on.

    Their errors still arrive as exceptions. Python does not look for garbage meanwhile, nor ever among the
    million objects that came in: they stay, and to look through them was a seventh of the time to load them.
    """
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning)
    # The second one tells of a faster kernel it would like to fetch.
    for name in ("huggingface_hub", "bitsandbytes"):
        logging.getLogger(name).setLevel(logging.ERROR)
    is_collecting = gc.isenabled()
    gc.disable()
    try:
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
        yield
    finally:
        gc.freeze()
        # A process that ends by itself frees them after all, or some libraries complain of leaks.
        atexit.register(gc.unfreeze)
        if is_collecting:
            gc.enable()


def print_json(value: Any) -> None:
    """One JSON object on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def print_error(error: TunesmithError) -> None:
    """Fact and cause, then the remedy."""
    messages.print(f"[bold red]error:[/] {escape(str(error))}")
    messages.print(f"\n[bold]hint:[/] {escape(error.hint)}")


def plain_table(*, gap: int = 1) -> Table:
    """A table without lines, whose columns stand `gap` blanks apart."""
    return Table(box=None, pad_edge=False, header_style="bold", padding=(0, gap, 0, 0))


def results_table(evaluation: Mapping[str, Any]) -> Table:
    """Base, tuned and difference, each with its interval below; base alone where nothing was tuned."""
    from tunesmith.evaluation.marks import format_p, metric_name

    has_tuned = bool(evaluation["tuned"])
    columns = ("metric", "base", "tuned", "difference", "p", "n") if has_tuned else ("metric", "score", "n")
    table = plain_table()
    for name in columns:
        table.add_column(name, justify="left" if name == "metric" else "right", no_wrap=True)
    for index, base in enumerate(evaluation["base"]):
        cells = [escape(metric_name(base["metric"])), _cell(base, base["value"], base["unit"])]
        if has_tuned:
            tuned, change = evaluation["tuned"][index], evaluation["comparisons"][index]
            cells.append(_cell(tuned, tuned["value"], base["unit"]))
            cells.append(_cell(change, change["difference"], base["unit"], signed=True))
            cells.append(escape(format_p(change["p_value"])))
        table.add_row(*cells, str(base["n"]))
    return table


def _cell(score: Mapping[str, Any], value: float, unit: str, *, signed: bool = False) -> str:
    from tunesmith.evaluation.marks import format_difference, format_interval, format_value

    shown = format_difference(value, unit=unit) if signed else format_value(value, unit=unit)
    interval = format_interval(score["low"], score["high"], unit=unit, signed=signed)
    return f"{escape(shown)}\n[dim]{escape(interval)}[/]"
