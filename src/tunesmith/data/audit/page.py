"""The check as one HTML page: self-contained, no script, every text from the data escaped."""

from dataclasses import dataclass
from typing import Any

from tunesmith.data.audit.check import FileAudit, Report
from tunesmith.data.audit.kinds import DIMENSIONS, KINDS, SEVERITIES
from tunesmith.data.audit.tokens import Tokens
from tunesmith.data.pages import page_template
from tunesmith.data.preview import visible

_ABOUT = {
    "reading": "Every line is a row that can be read.",
    "quantity": "Enough rows for the task.",
    "quality": "Texts are whole, clean and meant.",
    "diversity": "Rows differ, and do not contradict each other.",
    "consistency": "One shape, one order of turns, one language, one format.",
    "length": "Rows fit into the model's window.",
    "leakage": "Held-out rows are unknown to training.",
    "privacy": "No keys and no personal data.",
}
_LEAST_SHARE, _MOST_SHARES = 0.01, 4
_WIDTH, _HEIGHT = 520, 130


@dataclass(frozen=True, slots=True)
class Card:
    """One dimension at a glance: its worst severity, or `good`, or `open` where nothing was looked at."""

    name: str
    about: str
    status: str
    summary: str


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of a histogram in the coordinates of its picture, and what it stands for."""

    x: float
    y: float
    width: float
    height: float
    title: str
    is_over: bool


def render_page(report: Report, *, model: str) -> str:
    """The page.

    Args:
        report: from `check_files`.
        model: whose tokenizer counted, or `none`.
    """
    template = page_template("check.html.j2", {"visible": visible, "shares": shares})
    return template.render(
        report=report,
        kinds=KINDS,
        verdict=verdict(report),
        cards=cards(report),
        histograms=[(file, histograms(file, report.max_length)) for file in report.files if file.tokens],
        model=model,
        width=_WIDTH,
        height=_HEIGHT,
    )


def verdict(report: Report) -> str:
    """One sentence: how many rows can be trained on, and what stands against it."""
    rows = sum(file.rows for file in report.files)
    usable = sum(file.usable_rows for file in report.files)
    counts = {name: sum(f.severity == name for f in report.findings) for name in SEVERITIES}
    found = [f"{count} of {name}" for name, count in counts.items() if count]
    start = f"{usable:,} of {rows:,} rows can be trained on"
    return (
        f"{start}; kinds of finding: {', '.join(found)}." if found else f"{start}; nothing to mend was found."
    )


def cards(report: Report) -> list[Card]:
    """The dimensions in order."""
    made = []
    for name in DIMENSIONS:
        found = [finding for finding in report.findings if KINDS[finding.kind].dimension == name]
        status = min((finding.severity for finding in found), key=SEVERITIES.index, default="good")
        summary = "; ".join(KINDS[finding.kind].titled(finding.count) for finding in found[:2])
        summary += f"; {len(found) - 2} more" if len(found) > 2 else ""
        if name == "leakage":
            status, summary = _leak_card(report)
        elif name == "length" and not any(file.tokens for file in report.files):
            status, summary = "open", "not measured: no tokenizer"
        made.append(Card(name, _ABOUT[name], status, summary or _good(name, report)))
    return made


def _good(name: str, report: Report) -> str:
    if name == "quantity":
        return f"{sum(file.usable_rows for file in report.files):,} usable rows"
    return "nothing found"


def _leak_card(report: Report) -> tuple[str, str]:
    if not report.leakage:
        return "open", "one file: nothing to compare with"
    if all(leak.exact is None for leak in report.leakage):
        return "open", "no prompts to compare"
    exact = sum(leak.exact or 0 for leak in report.leakage)
    near = sum(leak.near or 0 for leak in report.leakage)
    status = "error" if exact else "warning" if near else "good"
    return status, f"{exact:,} held-out prompts occur in training, {near:,} more nearly"


def histograms(file: FileAudit, max_length: int) -> list[tuple[str, list[Bar], dict[str, Any]]]:
    """Pictures of a file's token lengths: title, bars, and the figures they come from."""
    tokens: Tokens | None = file.tokens
    if tokens is None:
        return []
    parts = (("Tokens of a row", tokens.row), ("Tokens of its answers", tokens.answer))
    return [(title, _bars(figures, max_length), figures) for title, figures in parts]


def _bars(figures: dict[str, Any], max_length: int) -> list[Bar]:
    counts, edges = figures["histogram"]["counts"], figures["histogram"]["edges"]
    top, step = max(counts) or 1, _WIDTH / len(counts)
    bars = []
    for at, count in enumerate(counts):
        height = count / top * _HEIGHT
        upper = "longer" if at == len(counts) - 1 else f"{edges[at + 1]:g}"
        title = f"{count:,} rows of {edges[at]:g} to {upper} tokens"
        bars.append(Bar(at * step, _HEIGHT - height, step - 2, height, title, edges[at] >= max_length))
    return bars


def shares(parts: dict[str, float]) -> str:
    """The largest shares in words: `en 97 %, de 2 %, 3 more`."""
    shown = [
        f"{name} {share:.0%}" if share >= _LEAST_SHARE else f"{name} < 1%" for name, share in parts.items()
    ]
    more = [f"{len(shown) - _MOST_SHARES} more"] if len(shown) > _MOST_SHARES else []
    return ", ".join(shown[:_MOST_SHARES] + more)
