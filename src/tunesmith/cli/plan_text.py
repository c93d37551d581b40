"""A memory plan in a terminal: a table of terms, a bar for each method, and what would fit."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from tunesmith.cli.terminal import plain_table

if TYPE_CHECKING:
    from tunesmith.planning.fit import Fit, Proposal
    from tunesmith.planning.rate import Duration
    from tunesmith.planning.setups import Place
    from tunesmith.planning.table import Column, Planned

BAR_WIDTH = 48
# Parts of a bar: what they stand for, glyph, colour, terms.
PARTS = (
    ("weights", "█", "blue", ("weights", "quantization", "adapter")),
    ("learning", "▓", "magenta", ("gradients", "optimizer")),
    ("computing", "▒", "green", ("activations", "logits", "workspace")),
    ("runtime", "░", "bright_black", ("runtime",)),
)
STATES = {
    "adamw_torch": "32 bit",
    "adamw_8bit": "8 bit",
    "paged_adamw_32bit": "32, paged",
    "paged_adamw_8bit": "8, paged",
}
SAYS = {True: Text("yes", style="green"), False: Text("no", style="red"), None: Text("")}


def gigabytes(size_bytes: int) -> str:
    """In GB of 10^9 bytes, in MB where that reads better; `-` for nothing. A correction may be below 0."""
    if not size_bytes:
        return "-"
    if size_bytes < 0:
        return f"-{gigabytes(-size_bytes)}"
    if size_bytes < 10**9:
        return f"{max(1, round(size_bytes / 1e6))} MB"
    return f"{size_bytes / 1e9:.2f} GB" if size_bytes < 10**10 else f"{size_bytes / 1e9:.1f} GB"


def head_lines(
    about: str, place: "Place", columns: Sequence["Column"], *, chosen: str, has_data: bool
) -> Iterator[str]:
    """What is planned, in three lines."""
    planned = next(column.planned for column in columns if column.method == chosen)
    assert planned is not None  # noqa: S101  # the chosen method is planned, or an error was raised
    setup = planned.setup
    yield f"model    {about}"
    yield f"device   {place.reason}"
    yield (
        f"batch    {setup.rows} x {setup.length_tokens:,} tokens, {setup.scored_tokens:,} scored: "
        + ("the largest of your data" if has_data else "every row of `max_length`, as no data are given")
    )


def plan_table(columns: Sequence["Column"], *, chosen: str) -> Table:
    """A row for each term, a column for each method; the chosen one is marked."""
    from tunesmith.planning.launch import loose_bytes
    from tunesmith.planning.table import TERMS

    table = plain_table(gap=2)
    table.add_column("", no_wrap=True)
    for column in columns:
        mark = "▸ " if column.method == chosen else ""
        style = "bold" if column.method == chosen else ""
        table.add_column(f"{mark}{column.method}", justify="right", no_wrap=True, style=style)
    plans = [column.planned for column in columns]

    def add(label: str, cells: list[str | Text], style: str = "") -> None:
        table.add_row(label, *cells, style=style)

    for label, field in TERMS.items():
        add(label, [gigabytes(getattr(plan.memory, field)) if plan else "" for plan in plans])
    add("loading peak", [gigabytes(plan.memory.loading_bytes) if plan else "" for plan in plans])
    add("training peak", [gigabytes(plan.memory.training_peak_bytes) if plan else "" for plan in plans])
    add("evaluation peak", [gigabytes(plan.memory.evaluation_peak_bytes) if plan else "" for plan in plans])
    add("peak", [gigabytes(plan.memory.peak_bytes) if plan else "cannot" for plan in plans], "bold")
    if any(plan and plan.setup.device == "cpu" for plan in plans):
        add("loose heap", [gigabytes(loose_bytes(plan.memory)) if plan else "" for plan in plans], "dim")
    if any(plan and plan.limit_bytes is not None for plan in plans):
        add(_limit_label(plans), [SAYS[plan.fits] if plan else "" for plan in plans])
    add("trainable", [_counted(plan.memory.trainable_parameters) if plan else "" for plan in plans])
    add("of all", [_share(plan) if plan else "" for plan in plans])
    add("checkpointing", [_switch(plan) if plan else "" for plan in plans])
    add("AdamW's states", [_states(plan) if plan else "" for plan in plans])
    if any(plan and plan.duration for plan in plans):
        add("time a step", [_seconds(plan.duration) if plan else "" for plan in plans])
        add("training time", [_whole(plan.duration) if plan else "" for plan in plans])
    return table


def _states(plan: "Planned") -> str:
    """Torch's AdamW keeps its states in the type of the weights."""
    setup = plan.setup
    is_short = setup.optim == "adamw_torch" and setup.method.name == "full" and setup.dtype == "bfloat16"
    return "16 bit" if is_short else STATES[setup.optim]


def bars(columns: Sequence["Column"]) -> Iterator[Text]:
    """The training peaks to one scale, and what the glyphs mean."""
    from tunesmith.planning.table import TERMS

    planned = [(column.method, column.planned.memory) for column in columns if column.planned]
    largest = max(memory.training_peak_bytes for _, memory in planned)
    for method, memory in planned:
        line = Text(f"{method:<9}")
        done, drawn = 0, 0
        for _, glyph, colour, terms in PARTS:
            done += sum(getattr(memory, TERMS[term]) for term in terms)
            end = round(BAR_WIDTH * done / largest)
            line.append(glyph * (end - drawn), style=colour)
            drawn = end
        yield line.append(f" {gigabytes(memory.training_peak_bytes)}")
    legend = Text(" " * 9)
    for name, glyph, colour, terms in PARTS:
        said = name if terms == (name,) else " + ".join(terms)
        legend.append(glyph, style=colour).append(f" {said}  ", style="dim")
    yield legend


def note_lines(columns: Sequence["Column"]) -> Iterator[str]:
    """What is out of the ordinary, and what would tell more."""
    lasting = [column.planned.duration for column in columns if column.planned]
    if any(one and one.seconds is None for one in lasting):
        yield "the time of a whole run needs its steps: give `--data` or `--max-steps`"
    if not any(lasting):
        yield "no time is told: nothing was measured on this device; `--probe` measures where it will train"
    for column in columns:
        if column.problem:
            yield f"{column.method} cannot be had: {column.problem}"
        yield from (f"{column.method}: {note}" for note in column.notes)


def fit_lines(found: "Fit") -> Iterator[str]:
    """What would fit, what it costs, and the lines to paste."""
    limit = gigabytes(found.limit_bytes)
    proposal, shorter = found.proposal, found.shorter
    if proposal is not None and not proposal.changes:
        yield f"fits into {limit} as it is: {gigabytes(proposal.memory.peak_bytes)}"
    elif proposal is not None:
        yield from _proposal_lines(f"fits into {limit}", proposal)
    else:
        yield (
            f"nothing fits into {limit} with these rows; "
            f"the least is {gigabytes(found.smallest.memory.peak_bytes)}"
        )
        yield from _changes(found.smallest)
    if shorter is not None:
        yield ""
        kept = f"or keep `{shorter.setup.method.name}` with shorter rows"
        yield from _proposal_lines(f"{kept}, which changes the data", shorter)


def _proposal_lines(head: str, proposal: "Proposal") -> Iterator[str]:
    yield f"{head}: {gigabytes(proposal.memory.peak_bytes)} with these changes"
    yield from _changes(proposal)
    for cost in proposal.costs:
        yield f"  · {cost}"


def _changes(proposal: "Proposal") -> Iterator[str]:
    from tunesmith.planning.fit import as_flags, as_yaml

    yield ""
    yield from (f"    {line}" for line in as_yaml(proposal.changes).splitlines())
    yield ""
    yield f"    {as_flags(proposal.changes)}"
    yield ""


def _limit_label(plans: Sequence["Planned | None"]) -> str:
    limits = [plan.limit_bytes for plan in plans if plan and plan.limit_bytes is not None]
    return f"fits into {gigabytes(min(limits))}"


def _share(plan: "Planned") -> str:
    share = plan.memory.trainable_parameters / plan.memory.parameters
    return f"{share:.0%}" if share >= 0.1 else f"{share:.2%}"


def _counted(number: int) -> str:
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return str(number)


def _switch(plan: "Planned") -> str:
    return "on" if plan.setup.is_checkpointed else "off"


def _seconds(lasting: "Duration | None") -> str:
    if lasting is None:
        return "?"
    about = "" if lasting.is_measured else "~"
    return about + shown_seconds(lasting.seconds_per_step)


def _whole(lasting: "Duration | None") -> str:
    if lasting is None or lasting.seconds is None:
        return "?"
    about = "" if lasting.is_measured else "~"
    return f"{about}{shown_seconds(lasting.seconds)}"


def shown_seconds(seconds: float) -> str:
    """Two figures that a person can use: `0.42 s`, `38 s`, `12 min`, `3.4 h`."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
