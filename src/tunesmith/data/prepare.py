"""From files to rendered, fitted splits, with an account of every row."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.config import DataConfig
from tunesmith.data.audit.check import check_files
from tunesmith.data.audit.facts import Reading
from tunesmith.data.audit.findings import Finding
from tunesmith.data.audit.kinds import KINDS
from tunesmith.data.batches import NAMED_ROWS, Fitted, fit_length
from tunesmith.data.clues import copied_answers, copied_rows, template_clues
from tunesmith.data.conversation import Row
from tunesmith.data.formats import count_formats, load_rows
from tunesmith.data.near import near_leaks
from tunesmith.data.render import Rendered, Renderer, make_renderer
from tunesmith.data.split import overlap, prompt_key, with_given
from tunesmith.errors import DataError
from tunesmith.tools.digest import file_sha256

NAMED_KINDS = 3
NEAR_ROWS = 50_000  # comparing all of them nearly takes seconds


@dataclass(frozen=True, slots=True)
class Prepared:
    """Three splits ready for the model, and what the run should remember of them.

    Attributes:
        train: rows that are learned; never empty.
        validation: rows that choose the checkpoint; may be empty.
        test: held-out rows for the evaluation; may be empty.
        account: JSON-ready: files and hashes, formats, row counts, overlaps, what the length policy did, and
            what `clues.py` tells.
        notes: sentences for the user about anything out of the ordinary.
        system: the system message all training rows share, or None.
    """

    train: tuple[Rendered, ...]
    validation: tuple[Rendered, ...]
    test: tuple[Rendered, ...]
    account: dict[str, Any]
    notes: tuple[str, ...]
    system: str | None


def read_with(settings: DataConfig, tokenizer: Any, *, seed: int) -> tuple[Renderer, Prepared]:
    """What renders the rows of a configuration with this (fast) tokenizer, and the rows.

    Raises:
        DataError: names file and line of what cannot be used.
        TemplateError: if the template cannot be used with the tokenizer, or a row cannot be rendered safely.
    """
    renderer = make_renderer(tokenizer, settings.template, score_all=settings.score == "all")
    return renderer, prepare_data(settings, renderer, seed=seed)


def prepare_data(settings: DataConfig, renderer: Renderer, *, seed: int) -> Prepared:
    """Read, split, render and fit all rows before anything expensive starts.

    Raises:
        DataError: names file and line of what cannot be used.
        TemplateError: if a row cannot be rendered safely.
    """
    skipped: list[DataError] = []
    rows = read_rows(settings, settings.path, skipped)
    validation = read_rows(settings, settings.validation_file, skipped) if settings.validation_file else None
    test = read_rows(settings, settings.test_file, skipped) if settings.test_file else None
    split = with_given(
        rows,
        validation=validation,
        test=test,
        validation_size=settings.validation_size,
        test_size=settings.test_size,
        seed=seed,
    )
    parts = {"train": split.train, "validation": split.validation, "test": split.test}
    fitted = fit_parts(parts, renderer, max_length=settings.max_length, overlong=settings.overlong)
    if not fitted["train"].rows:
        raise DataError(
            f"no training row of `{settings.path}` is left under `max_length` {settings.max_length}",
            hint="raise `--max-length`, or choose `--overlong truncate`",
        )
    overlaps = {name: overlap(split.train, parts[name]) for name in ("validation", "test")}
    near = {name: near_overlap(split.train, parts[name]) for name in ("validation", "test")}
    files = [path for path in (settings.path, settings.validation_file, settings.test_file) if path]
    found = _check(settings, files)
    account = {
        "files": {path: file_sha256(Path(path)) for path in files},
        "formats": count_formats([*rows, *(validation or ()), *(test or ())]),
        "rows": {name: len(part.rows) for name, part in fitted.items()},
        "tokens": {name: sum(len(row.ids) for row in part.rows) for name, part in fitted.items()},
        "scored_tokens": {name: sum(row.scored_tokens for row in p.rows) for name, p in fitted.items()},
        "dropped_overlong": {name: len(part.dropped) for name, part in fitted.items()},
        "truncated": {name: part.truncated for name, part in fitted.items()},
        "prompts_also_in_train": overlaps,
        "prompts_nearly_in_train": near,
        "skipped": dict(Counter(error.kind for error in skipped)),
        "check": {finding.kind: finding.count for finding in found},
        "template": template_clues(renderer, fitted["train"].rows),
        "copied_answers": copied_answers(split.train),
        "duplicates": copied_rows(split.train),
    }
    return Prepared(
        fitted["train"].rows,
        fitted["validation"].rows,
        fitted["test"].rows,
        account,
        (*skip_notes(skipped), *_notes(fitted, overlaps, near), *_check_notes(found, settings.path)),
        shared_system(split.train),
    )


def fit_parts(
    parts: dict[str, Sequence[Row]] | dict[str, tuple[Row, ...]],
    renderer: Renderer,
    *,
    max_length: int,
    overlong: str,
) -> dict[str, Fitted]:
    """Render the rows of each split and apply one length policy to all of them together."""
    # What is held out is judged by its answers, whatever the training loss counts.
    answers_only = Renderer(renderer.tokenizer, renderer.template) if renderer.score_all else renderer
    rendered = {
        name: [(answers_only if name == "test" else renderer).render(row) for row in rows]
        for name, rows in parts.items()
    }
    if overlong == "refuse":
        fit_length(
            [row for rows in rendered.values() for row in rows], max_length=max_length, overlong=overlong
        )
    return {
        name: fit_length(rows, max_length=max_length, overlong=overlong) for name, rows in rendered.items()
    }


def shared_system(rows: Sequence[Row]) -> str | None:
    """The system message that all rows begin with, if it is one and the same."""
    first = {row.messages[0].content if row.messages[0].role == "system" else None for row in rows}
    return first.pop() if len(first) == 1 else None


def near_overlap(train: Sequence[Row], other: Sequence[Row]) -> int | None:
    """Rows of `other` whose prompt is nearly, but not exactly, one of `train`; None if there are too many."""
    if not other or len(train) + len(other) > NEAR_ROWS:
        return None if other else 0
    exact = {prompt_key(row) for row in train}
    others = [row.asked for row in other if prompt_key(row) not in exact]
    return len(near_leaks([row.asked for row in train], others))


def read_rows(
    settings: DataConfig, path: str, skipped: list[DataError], *, system: str | None = None
) -> tuple[Row, ...]:
    """Rows of a file as the settings want them read.

    Args:
        settings: shape, columns, what to do with bad rows.
        path: data file.
        skipped: gets the errors of bad rows where the settings skip them.
        system: system message for rows that have none, if the settings name none.

    Raises:
        DataError: as `load_rows` does.
    """
    return load_rows(
        Path(path),
        format=settings.format,
        columns=settings.columns,
        system=settings.system or system,
        skipped=skipped if settings.bad_rows == "skip" else None,
    )


def skip_notes(skipped: Sequence[DataError]) -> list[str]:
    """A sentence about rows that were left out, if there are any."""
    if not skipped:
        return []
    named = "; ".join(str(error) for error in skipped[:NAMED_ROWS])
    return [f"{len(skipped)} bad rows skipped: {named}"]


def _check(settings: DataConfig, files: Sequence[str]) -> tuple[Finding, ...]:
    """What `tunesmith data check` would say about the files, lengths and leaks aside."""
    reading = Reading(settings.format, settings.columns, settings.system)
    return check_files(files, reading=reading, near=False).findings


def _check_notes(found: Sequence[Finding], path: str) -> list[str]:
    grave = [KINDS[finding.kind].titled(finding.count) for finding in found if finding.severity != "note"]
    if not grave:
        return []
    more = f" and {len(grave) - NAMED_KINDS} kinds more" if len(grave) > NAMED_KINDS else ""
    return [f"data check: {'; '.join(grave[:NAMED_KINDS])}{more}; see `tunesmith data check {path}`"]


def _notes(fitted: dict[str, Fitted], overlaps: dict[str, int], near: dict[str, int | None]) -> list[str]:
    notes = []
    for name, part in fitted.items():
        if part.dropped:
            named = ", ".join(row.row.place for row in part.dropped[:NAMED_ROWS])
            notes.append(f"{len(part.dropped)} {name} rows dropped as too long: {named}")
        if part.truncated:
            notes.append(f"{part.truncated} {name} rows truncated; their answers end without an end of turn")
    for name, count in overlaps.items():
        if count:
            notes.append(
                f"{count} {name} prompts are also in the training rows; their scores flatter the model"
            )
    for name, nearly in near.items():
        if nearly:
            notes.append(f"{nearly} {name} prompts are near copies of training prompts")
    return notes
