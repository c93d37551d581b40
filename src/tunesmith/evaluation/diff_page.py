"""Two systems side by side as a page: every row, where the answers differ, and the figures beside.

Self-contained and without scripts, as the report is; what models wrote is text there, never markup.
Read next: `templates/diff.html.j2`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith.evaluation.marks import ENOUGH_ROWS
from tunesmith.evaluation.report import page_template
from tunesmith.evaluation.side_by_side import DiffRow, SideBySide, row_facts, summary_lines
from tunesmith.tools.text_diff import Span

LITTLE_SHARED = "little shared: differences are not marked"


@dataclass(frozen=True, slots=True)
class RowView:
    """One row ready to show; of each answer the system's name and its spans, none where it is empty."""

    number: int
    place: str
    facts: tuple[str, ...]
    prompt: str
    answers: tuple[tuple[str, tuple[Span, ...]], ...]
    references: tuple[str, ...]


def render_diff(side: SideBySide, *, notes: Sequence[str] = ()) -> str:
    """The whole page as HTML text; equal comparisons give equal bytes.

    Args:
        side: the comparison, all of whose rows are shown in their order.
        notes: sentences on what was left out.
    """
    return page_template("diff.html.j2").render(
        first=side.systems[0],
        second=side.systems[1],
        lines=summary_lines(side),
        notes=list(notes),
        scores=[pair.cells for pair in side.scores],
        signatures=[
            (pair.cells[0], name, signature)
            for pair in side.scores
            for name, signature in (
                (side.systems[0], pair.first.signature),
                (side.systems[1], pair.second.signature),
                ("difference", pair.comparison.signature),
            )
        ],
        share_signature=side.equal_share.signature,
        enough_rows=ENOUGH_ROWS,
        rows=[view_row(row, side.systems) for row in side.rows],
    )


def view_row(row: DiffRow, systems: tuple[str, str]) -> RowView:
    """The row with what is only in one answer marked there, where both share enough for that."""
    is_plain = row.is_identical or not row.is_marked
    answers = []
    for name, text, kind in ((systems[0], row.first, "delete"), (systems[1], row.second, "insert")):
        marked = tuple(span for span in row.spans if span.kind in ("equal", kind))
        shown = (Span("equal", text),) if is_plain else marked
        answers.append((name, shown if text else ()))
    facts = row_facts(row)
    if not row.is_marked and row.first and row.second:
        facts.append(LITTLE_SHARED)
    return RowView(
        row.number, row.item.place, tuple(facts), row.item.prompt, tuple(answers), row.item.references
    )
