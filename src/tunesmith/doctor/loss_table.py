"""A table of losses as signs: a CSV by any usual names of its columns, or one column of numbers."""

import csv
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tunesmith.data.records import listed, nearest
from tunesmith.doctor.lines import Curves, last_epoch, peak_rate
from tunesmith.doctor.signs import Signs
from tunesmith.errors import DataError

# Usual spellings of each figure, lower case with `_` for blanks, slashes, points and hyphens; the first
# that a table has counts.
SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "step": ("step", "global_step", "train_global_step", "trainer_global_step", "steps", "iteration", "iter"),
    "epoch": ("epoch", "train_epoch", "epochs"),
    "loss": ("loss", "train_loss", "training_loss", "loss_train", "value"),
    "eval_loss": ("eval_loss", "val_loss", "valid_loss", "validation_loss", "dev_loss", "loss_val"),
    "learning_rate": ("learning_rate", "lr", "train_learning_rate", "train_lr"),
    "grad_norm": ("grad_norm", "train_grad_norm", "gradient_norm", "gnorm"),
    "tokens_per_second": ("tokens_per_second", "train_tokens_per_second", "tokens_s", "tok_s"),
    "input_seconds": ("input_seconds", "data_time", "data_seconds"),
    "step_seconds": ("step_seconds", "step_time", "batch_time", "iter_time"),
}
_FIGURES = ("loss", "eval_loss", "learning_rate", "grad_norm")
_WORDS = {
    "nan": math.nan,
    "inf": math.inf,
    "+inf": math.inf,
    "infinity": math.inf,
    "-inf": -math.inf,
    "-infinity": -math.inf,
}
_EMPTY = {"", "none", "null", "na", "n/a", "-"}
_SIGNS = re.compile(r"[^a-z0-9]+")
_NAMES_HINT = "name the columns in the first line, such as `step,loss,eval_loss,learning_rate`"


def read_loss_table(path: Path, text: str) -> Signs:
    """What the table tells; steps are counted from 1 where it has no column of them.

    Args:
        path: its name for messages.
        text: the whole file; separated by commas, semicolons or tabs. A comma inside a number, where it is
            not the separator, is a decimal point.

    Raises:
        DataError: if no column is known, or a cell is no number; names the line.
    """
    rows = _rows(path, text)
    if not rows:
        raise DataError(f"{path}:1: the file holds no row", hint=_NAMES_HINT)
    first_line, first = rows[0]
    separates_by_comma = _separator(text) == ","
    if all(_number(cell, separates_by_comma) is not None or cell.lower() in _EMPTY for cell in first):
        columns = _column_without_a_name(path, first)
    else:
        columns = _columns(path, first_line, first)
        rows = rows[1:]
    lines = list(_lines(path, rows, columns, separates_by_comma, width=len(first)))
    curves = Curves(lines).as_curves()
    if not any(len(curves[name]) for name in _FIGURES if name in curves):
        raise DataError(f"{path}: the columns {listed(columns)} hold no figure", hint=_NAMES_HINT)
    pair = last_epoch(lines)
    return Signs(
        name=str(path),
        kind="csv",
        curves=curves,
        settings=peak_rate(curves),
        steps_per_epoch=pair[0] / pair[1] if pair else None,
    )


def _rows(path: Path, text: str) -> list[tuple[int, list[str]]]:
    """Line number and cells of each row that is not empty."""
    reader = csv.reader(text.splitlines(), delimiter=_separator(text), strict=True)
    found = []
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                found.append((reader.line_num, [cell.strip() for cell in cells]))
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not CSV: {error}", hint="mend that line") from None
    return found


def _separator(text: str) -> str:
    """The sign that separates cells: the first of tab, semicolon and comma that the first line has."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    return next((sign for sign in "\t;" if sign in first), ",")


def _column_without_a_name(path: Path, first: Sequence[str]) -> dict[str, int]:
    if len(first) == 1:
        return {"loss": 0}
    what = f"{len(first)} columns of numbers without names, so which is the loss cannot be told"
    raise DataError(f"{path}:1: {what}", hint=_NAMES_HINT)


def _columns(path: Path, line: int, header: Sequence[str]) -> dict[str, int]:
    """Position of each figure that the header names."""
    names = [_plain(name) for name in header]
    columns = {
        figure: names.index(found)
        for figure, spellings in SPELLINGS.items()
        if (found := next((name for name in spellings if name in names), None)) is not None
    }
    if any(figure in columns for figure in _FIGURES):
        return columns
    known = [spelling for figure in _FIGURES for spelling in SPELLINGS[figure]]
    near = next((f"; `{name}` looks like `{found}`" for name in names if (found := nearest(name, known))), "")
    what = f"no column is a loss, a learning rate or a gradient norm: {listed(header[:8])}{near}"
    raise DataError(f"{path}:{line}: {what}", hint=_NAMES_HINT)


def _plain(name: str) -> str:
    """In lower case with `_` between words; of `run - train/loss`, as W&B exports it, the last part."""
    return _SIGNS.sub("_", name.rpartition(" - ")[2].lower()).strip("_")


def _lines(
    path: Path,
    rows: Sequence[tuple[int, list[str]]],
    columns: Mapping[str, int],
    separates_by_comma: bool,
    *,
    width: int,
) -> Iterator[dict[str, float]]:
    """Each row's figures by our names, with its step."""
    has_epoch_zero = False
    for count, (line, cells) in enumerate(rows, start=1):
        if len(cells) != width:
            what = f"{len(cells)} cells, but the first row has {width}"
            raise DataError(f"{path}:{line}: {what}", hint="mend that line, or remove it")
        found: dict[str, float] = {}
        for figure, column in columns.items():
            if cells[column].lower() in _EMPTY:
                continue
            value = _number(cells[column], separates_by_comma)
            if value is None:
                raise DataError(
                    f"{path}:{line}: `{cells[column][:40]}` in the column of `{figure}` is no number",
                    hint="mend that line, or leave the cell empty",
                )
            found[figure] = value
        if "step" not in columns:
            # Programs that log once an epoch count from 0 or from 1; what they log is the epoch's end.
            has_epoch_zero = has_epoch_zero or (count == 1 and found.get("epoch") == 0)
            found["step"] = found["epoch"] + has_epoch_zero if "epoch" in found else float(count)
            if "epoch" in found:
                found["epoch"] = found["step"]
        yield found


def _number(cell: str, separates_by_comma: bool) -> float | None:
    word = _WORDS.get(cell.lower())
    if word is not None:
        return word
    try:
        # `1_000` is a number to Python only.
        return None if "_" in cell else float(cell if separates_by_comma else cell.replace(",", "."))
    except ValueError:
        return None
