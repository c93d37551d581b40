"""Two answers in the terminal: what only one has stands in signs, and in colour where there is colour."""

from rich.table import Table
from rich.text import Text

from tunesmith.cli.terminal import plain_table
from tunesmith.data.preview import visible
from tunesmith.evaluation.side_by_side import DiffRow, SideBySide, row_facts
from tunesmith.tools.text_diff import Kind

# Opening sign, closing sign, style.
_MARKS: dict[Kind, tuple[str, str, str]] = {
    "equal": ("", "", ""),
    "delete": ("[-", "-]", "red"),
    "insert": ("{+", "+}", "green"),
}
SHOWN_PROMPT_CHARACTERS = 400
SHOWN_REFERENCES = 3
# Longer stretches that both have are cut in the middle, to so much at either end.
_SHOWN_EQUAL_CHARACTERS = 200
_EMPTY = "(empty)"


def legend(systems: tuple[str, str]) -> Text:
    """What the signs mean."""
    line = Text("only in ", "dim")
    before, after, style = _MARKS["delete"]
    line.append(f"{before}{visible(systems[0])}{after}", style)
    line.append("  only in ", "dim")
    before, after, style = _MARKS["insert"]
    line.append(f"{before}{visible(systems[1])}{after}", style)
    return line


def row_text(row: DiffRow, systems: tuple[str, str]) -> Text:
    """One row: figures, prompt, both answers in one where they share enough, else one after the other."""
    text = Text()
    text.append(f"row {row.number}  {visible(row.item.place)}  {'  '.join(row_facts(row))}\n", "bold")
    text.append(f"> {_cut(visible(row.item.prompt))}\n", "dim")
    if row.is_identical:
        text.append(visible(row.first) or _EMPTY)
    elif row.is_marked:
        for span in row.spans:
            before, after, style = _MARKS[span.kind]
            shown = visible(span.text)
            text.append(f"{before}{_cut_middle(shown) if span.kind == 'equal' else shown}{after}", style)
    else:
        _append_whole(text, "-", systems[0], row.first, _MARKS["delete"][2])
        text.append("\n")
        _append_whole(text, "+", systems[1], row.second, _MARKS["insert"][2])
    references = row.item.references
    for reference in references[:SHOWN_REFERENCES]:
        text.append("\n")
        text.append(f"reference: {visible(reference)}", "dim")
    if len(references) > SHOWN_REFERENCES:
        text.append(f"\n({len(references) - SHOWN_REFERENCES} more references)", "dim")
    return text


def scores_table(side: SideBySide) -> Table:
    """Both systems over all rows with references, each interval below its number."""
    table = plain_table()
    names = ("metric", *map(visible, side.systems), "difference", "p", "n", f"{visible(side.systems[1])} is")
    for index, name in enumerate(names):
        is_word = index in (0, len(names) - 1)
        table.add_column(Text(name), justify="left" if is_word else "right", overflow="fold")
    for pair in side.scores:
        table.add_row(*map(Text, pair.cells))
    return table


def _append_whole(text: Text, sign: str, system: str, answer: str, style: str) -> None:
    lines = (visible(answer) or _EMPTY).split("\n")
    text.append(f"{sign} {visible(system)}:", style)
    for line in lines:
        text.append("\n")
        text.append(f"{sign} {line}", style)


def _cut(text: str) -> str:
    left_out = len(text) - SHOWN_PROMPT_CHARACTERS
    return text if left_out <= 0 else f"{text[:SHOWN_PROMPT_CHARACTERS]} … ({left_out:,} more characters)"


def _cut_middle(text: str) -> str:
    left_out = len(text) - 2 * _SHOWN_EQUAL_CHARACTERS
    if left_out <= 0:
        return text
    start, end = text[:_SHOWN_EQUAL_CHARACTERS], text[-_SHOWN_EQUAL_CHARACTERS:]
    return f"{start} … ({left_out:,} equal characters) … {end}"
