"""A JSON file (or stdin) formatted to a file, to stdout, or only checked; whole or not at all."""

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

from tunesmith.errors import DataError
from tunesmith.tools.json_config import check_config, is_config_name
from tunesmith.tools.json_format import Formatted, format_json
from tunesmith.tools.json_show import show_problems
from tunesmith.tools.json_write import Style

SPOOL_BYTES = 8 << 20  # held in memory; more goes to a temporary file
LINES_SUFFIXES = (".jsonl", ".ndjson")
_MAX_CONFIG_BYTES = 4 << 20
_FOREIGN = (
    (b"\x1f\x8b", "compressed with gzip", "unpack it first: `gunzip --stdout FILE | tunesmith data format`"),
    (b"\xff\xfe", "UTF-16 text", "save it as UTF-8: `iconv -f UTF-16 -t UTF-8 OLD > NEW`"),
    (b"\xfe\xff", "UTF-16 text", "save it as UTF-8: `iconv -f UTF-16 -t UTF-8 OLD > NEW`"),
    (b"PAR1", "Parquet", "make JSON lines of it with `tunesmith data convert`"),
    (b"version https://git-lfs", "a git LFS pointer, not the file itself", "fetch it with `git lfs pull`"),
)


@dataclass(frozen=True, slots=True)
class Choices:
    """How to format; see `format_json`."""

    style: Style | None = None
    indent: int = 2
    sort_keys: bool = False
    fix: bool = False


@dataclass(frozen=True, slots=True)
class FileReport:
    """What was found in the file, and whether it is already laid out as chosen."""

    name: str
    formatted: Formatted
    is_unchanged: bool
    warnings: tuple[str, ...]


def format_file(path: Path | None, out: IO[bytes], *, choices: Choices) -> FileReport:
    """Format `path`, or stdin for None, into `out`; of no use there unless `formatted.is_good`.

    Args:
        path: the file; its name decides whether it is expected to be JSON lines, or a config.
        out: takes the text, and is read again for a config.
        choices: the layout, and whether to mend.

    Raises:
        DataError: if the file cannot be read, holds no JSON value, or is no JSON file at all.
    """
    name = str(path) if path else "stdin"
    was, now = hashlib.sha256(), hashlib.sha256()

    def write(data: bytes) -> None:
        now.update(data)
        out.write(data)

    with _opened(path) as file:
        formatted = format_json(
            _reading(file, name, was.update),
            write,
            style=choices.style,
            indent=choices.indent,
            sort_keys=choices.sort_keys,
            fix=choices.fix,
            is_named_lines=path is not None and path.suffix.lower() in LINES_SUFFIXES,
        )
    if not formatted.documents and not formatted.unsafe:
        raise DataError(f"{name}:1: there is no JSON value", hint="give a file that holds JSON or JSON lines")
    is_unchanged = was.digest() == now.digest()
    warnings = _config_warnings(path, formatted, out) if formatted.is_good(fix=choices.fix) else ()
    return FileReport(name, formatted, is_unchanged, warnings)


def format_in_place(path: Path, *, choices: Choices) -> FileReport:
    """Rewrite the file, with its permissions, if no problem is left; a link stays a link.

    Raises:
        DataError: as `format_file`, or if the folder cannot be written to.
    """
    target = path.resolve()
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    except OSError as error:
        raise DataError(
            f"{target.parent}: cannot be written to: {error.strerror}", hint="check the folder's permissions"
        ) from None
    try:
        with os.fdopen(handle, "w+b") as out:
            report = format_file(path, out, choices=choices)
            out.flush()
            os.fsync(out.fileno())
        if report.formatted.is_good(fix=choices.fix) and not report.is_unchanged:
            shutil.copymode(target, temporary)
            os.replace(temporary, target)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return report


def refuse_problems(report: FileReport, *, fix: bool) -> None:
    """Pass if no problem is left.

    Raises:
        DataError: with each problem's place, line and mend.
    """
    found = report.formatted
    if found.is_good(fix=fix):
        return
    problems, total = found.problems, found.safe + found.unsafe
    hint = f"`--fix` mends {'it' if total == 1 else 'them all'}"
    if found.unsafe:
        hint = f"`--fix` mends {found.safe:,} of {total:,}; correct the others by hand"
    if found.unsafe and not found.safe:
        hint = "correct it by hand; no mend is safe here"
    if fix:
        problems, total = tuple(p for p in problems if not p.mend.is_safe), found.unsafe
        hint = "correct it by hand; `--fix` mends only what has one meaning, and nothing was written"
    raise DataError(show_problems(problems, name=report.name, total=total), hint=hint)


@contextmanager
def _opened(path: Path | None) -> Iterator[BinaryIO]:
    if path is None:
        yield sys.stdin.buffer
        return
    try:
        file = path.open("rb")
    except OSError as error:
        hint = "check the path and its permissions"
        raise DataError(f"{path}: cannot be read: {error.strerror}", hint=hint) from None
    with file:
        yield file


def _reading(file: BinaryIO, name: str, note: Callable[[bytes], None]) -> Callable[[int], bytes]:
    """A read function that refuses what is no JSON by its first bytes, and notes what it gives."""
    is_first = True

    def read(size: int) -> bytes:
        nonlocal is_first
        data = file.read(size)
        if is_first:
            _refuse_foreign(name, data)
        is_first = False
        note(data)
        return data

    return read


def _refuse_foreign(name: str, data: bytes) -> None:
    for start, what, hint in _FOREIGN:
        if data.startswith(start):
            raise DataError(f"{name}:1: the file is {what}", hint=hint)


def _config_warnings(path: Path | None, formatted: Formatted, out: IO[bytes]) -> tuple[str, ...]:
    if path is None or not is_config_name(path.name) or formatted.documents != 1:
        return ()
    if out.tell() > _MAX_CONFIG_BYTES:
        return ()
    out.seek(0)
    value = json.loads(out.read())
    places = formatted.root_keys
    return tuple(
        f"{path}:{places.get(warning.key or '', 1)}: {warning.message}"
        for warning in check_config(path.name, value)
    )
