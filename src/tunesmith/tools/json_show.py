"""Problems of a JSON text as a person reads them: the line with a caret under the column, and a diff.

Text for a terminal of fixed-width cells, without colours.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from itertools import groupby

from tunesmith.tools.json_problems import Edit, Excerpt, Problem

MAX_SHOWN = 20
_SIDE_CELLS = 46  # shown of a long line on each side of the caret
_DIFF_CONTEXT = 40  # characters shown on each side of a change


def show_problems(problems: Sequence[Problem], *, name: str, total: int) -> str:
    """The first problems, each with its place, its line and its mend; the rest counted.

    Args:
        problems: in the order of the file.
        name: of the file.
        total: number of problems, also those not in `problems`.
    """
    word = "problem" if total == 1 else "problems"
    blocks = [f"{name}: {total:,} {word}", *(_block(name, problem) for problem in problems[:MAX_SHOWN])]
    if total > MAX_SHOWN:
        blocks.append(f"and {total - MAX_SHOWN:,} more")
    return "\n\n".join(blocks)


def show_mends(problems: Sequence[Problem], *, name: str, total: int) -> str:
    """What was mended, as a unified diff of the lines; the first `MAX_SHOWN` places, the rest counted."""
    mended = [problem for problem in problems if problem.mend.is_safe]
    lines = [f"--- {name}", f"+++ {name} (mended)"]
    for (line, excerpt), group in groupby(
        mended[:MAX_SHOWN], key=lambda problem: (problem.line, problem.excerpt)
    ):
        edits = [edit for problem in group for edit in problem.mend.edits]
        before, after = _around_change(excerpt.text, apply_edits(excerpt, edits))
        lines += [f"@@ -{line} +{line} @@", f"-{visible(before)}"]
        if after.strip():
            lines.append(f"+{visible(after)}")
    if total > MAX_SHOWN:
        lines.append(f"and {total - MAX_SHOWN:,} more places")
    return "\n".join(lines)


def caret_lines(problem: Problem) -> tuple[str, str]:
    """The line around the problem, and a caret under its column; a long line is cut on both sides."""
    excerpt, at = problem.excerpt, problem.column - problem.excerpt.column
    before, after = excerpt.text[: max(at, 0)], excerpt.text[max(at, 0) :]
    left = visible(_last_cells(before))
    right = visible(_last_cells(after[::-1])[::-1])
    is_cut_left = excerpt.column > 1 or len(_last_cells(before)) < len(before)
    is_cut_right = len(_last_cells(after[::-1])) < len(after)
    left = f"…{left}" if is_cut_left else left
    return f"{left}{right}{'…' if is_cut_right else ''}".rstrip(), " " * cells(left) + "^"


def apply_edits(excerpt: Excerpt, edits: Iterable[Edit]) -> str:
    """The excerpt with the edits made; an edit that starts outside of it is left out."""
    text = excerpt.text
    for edit in sorted(edits, key=lambda edit: edit.column, reverse=True):
        start = edit.column - excerpt.column
        if 0 <= start <= len(excerpt.text):
            text = text[:start] + edit.text + text[start + edit.length :]
    return text


def visible(text: str) -> str:
    """The text on one line: tabs as blanks, other control characters as signs, zero-width ones gone."""
    return "".join(map(_visible_character, text))


def cells(text: str) -> int:
    """Width in terminal cells: wide East Asian characters and emoji count two, combining marks none."""
    return sum(map(_cells_of, text))


def _block(name: str, problem: Problem) -> str:
    line, caret = caret_lines(problem)
    mend = problem.mend.words + (" (`--fix` does it)" if problem.mend.is_safe else "")
    place = f"{name}:{problem.line}:{problem.column}"
    return f"{place}: {visible(problem.message)}\n    {line}\n    {caret}\n  {mend}"


def _visible_character(character: str) -> str:
    if character == "\t":
        return " "
    if character < " ":
        return chr(0x2400 + ord(character))
    category = unicodedata.category(character)
    if category == "Cf":
        return ""
    return "\ufffd" if category in ("Cc", "Cs", "Zl", "Zp") else character


def _cells_of(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _last_cells(text: str) -> str:
    """The end of the text that fits into `_SIDE_CELLS`."""
    used, start = 0, len(text)
    while start and (used := used + _cells_of(text[start - 1])) <= _SIDE_CELLS:
        start -= 1
    return text[start:]


def _around_change(before: str, after: str) -> tuple[str, str]:
    """Both texts with what they share at the ends cut to `_DIFF_CONTEXT` characters."""
    shorter = min(len(before), len(after))
    head = next((at for at in range(shorter) if before[at] != after[at]), shorter)
    tail = next((at for at in range(shorter - head) if before[-1 - at] != after[-1 - at]), shorter - head)
    start, end = max(0, head - _DIFF_CONTEXT), max(0, tail - _DIFF_CONTEXT)
    left, right = "…" if start else "", "…" if end else ""
    return (
        f"{left}{before[start : len(before) - end]}{right}",
        f"{left}{after[start : len(after) - end]}{right}",
    )
