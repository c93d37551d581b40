"""Results of people's votes and ratings as tables for a terminal."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from tunesmith.cli.terminal import plain_table
from tunesmith.evaluation.blind_ab import StopRule, WinRate
from tunesmith.evaluation.marks import format_difference, format_interval, format_p, format_value
from tunesmith.evaluation.scores import Comparison, Score
from tunesmith.people.votes import PEOPLE, AbGroup, AbResults, RateResults

_UNIT = "fraction"


def ab_tables(results: AbResults) -> RenderableType:
    """Win rates of people and of each judge, the stop rule's word below."""
    return Group(*(part for group in results.groups for part in _ab_parts(results, group)))


def _ab_parts(results: AbResults, group: AbGroup) -> Iterator[RenderableType]:
    raters = f" by {', '.join(group.raters)}" if group.who == PEOPLE and group.raters else ""
    yield Text(f"{group.who}: {group.votes} votes{raters}, {group.skipped} skipped, {results.items} items")
    if group.rate is None:
        yield Text("no votes yet\n")
        return
    yield Text(f"wins are {results.system} over {results.against}")
    table = _table("items", "wins", "ties", "losses", "win rate", "", "p", "n")
    table.add_row(*_rate_cells("all", group.rate, group.rate.p_value))
    for part in group.slices:
        table.add_row(*_rate_cells(f"{part.slice}: {part.value}", part.rate, part.adjusted_p_value))
    yield table
    if group.slices:
        yield Text("p of slices is adjusted for looking at all of them (Holm)")
    yield Text(f"stop rule: {stop_words(group.stop, results)}")
    if group.agreement:
        alpha = group.agreement
        yield Text(f"agreement (Krippendorff's alpha): {_plain(alpha)} on {alpha.n} items that several rated")
    yield Text("")


def _rate_cells(name: str, rate: WinRate, p_value: float) -> list[str]:
    return [
        escape(name),
        str(rate.wins),
        str(rate.ties),
        str(rate.losses),
        format_value(rate.value, unit=_UNIT),
        escape(format_interval(rate.low, rate.high, unit=_UNIT)),
        escape(format_p(p_value)),
        str(rate.n),
    ]


def stop_words(stop: StopRule, results: AbResults) -> str:
    """The stop rule's word as a sentence."""
    p_value = format_p(stop.p_value)
    share = f"wins of {results.system} are {stop.low:.2f} to {stop.high:.2f} of the decided items"
    if stop.word == "winner":
        winner = results.system if stop.is_ahead else results.against
        return f"stop, {winner} is better (found after {stop.stopped_at} decided items, p {p_value})"
    if stop.word == "about equal":
        return f"stop, they are about equal: {share}"
    return f"go on, no winner yet after {stop.n} decided items (p {p_value}; {share})"


def rate_tables(results: RateResults) -> RenderableType:
    """Means of each system by scale, differences to the first system, and agreement."""
    first = results.systems[0]
    raters = ", ".join(results.raters) or "nobody yet"
    head = f"{results.rated} ratings by {raters}, {results.skipped} skipped, {results.items} items"
    table = _table("scale", "mean", "", "difference", "", "p", "n", "system")
    for scale in results.scales:
        for system, mean in scale.means.items():
            name = escape(scale.scale.replace("_", " "))
            table.add_row(name, *_mean_cells(mean, scale.differences.get(system)), escape(system))
    lines = [
        f"agreement on {scale.scale.replace('_', ' ')} (Krippendorff's alpha): "
        f"{_plain(scale.agreement)} on {scale.agreement.n} answers that several rated"
        for scale in results.scales
        if scale.agreement
    ]
    note = f"means are over items, from 1 to 5; differences are to {first}"
    return Group(Text(head), table, *map(Text, [note, *lines]))


def _mean_cells(mean: Score, change: Comparison | None) -> list[str]:
    cells = [format_value(mean.value, unit=""), format_interval(mean.low, mean.high, unit="")]
    if change is None:
        cells += ["", "", ""]
    else:
        cells += [
            format_difference(change.difference, unit=""),
            format_interval(change.low, change.high, unit="", signed=True),
            format_p(change.p_value),
        ]
    return [*map(escape, cells), str(mean.n)]


def _plain(score: Score) -> str:
    interval = format_interval(score.low, score.high, unit=score.unit)
    return f"{format_value(score.value, unit=score.unit)} {interval}"


def _table(first: str, *others: str) -> Table:
    table = plain_table()
    # What people named may be long: it is folded, never cut.
    table.add_column(first, overflow="fold")
    for name in others:
        is_name = name == "system"
        table.add_column(name, justify="left" if is_name else "right", no_wrap=not is_name, overflow="fold")
    return table
