"""A new file appears whole or not at all, and none is written over."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from tunesmith.errors import DataError


def refuse_taken(path: Path) -> None:
    """Say before long work why a new file could not be made.

    Raises:
        DataError: if the file exists, or its folder does not.
    """
    if os.path.lexists(path):
        raise DataError(f"{path}: the output exists already", hint="name another output, or remove this one")
    if not path.parent.is_dir():
        raise DataError(f"{path}: there is no folder `{path.parent}`", hint=f"`mkdir -p {path.parent}`")


def unwritten(path: Path, error: OSError) -> DataError:
    """What to raise when the disk refuses."""
    return DataError(
        f"{path}: cannot be written: {error.strerror or error}",
        hint="check the folder's permissions and the space on its disk",
    )


def staging_of(path: Path) -> Path:
    """Where to write what will be renamed to `path`: beside it, under a name nobody has."""
    return path.with_name(f".{secrets.token_hex(8)}.partial")


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """The file to write to; it gets its name when the block ends well, and is gone after an error.

    Raises:
        DataError: if the disk refuses.
    """
    staging = staging_of(path)
    try:
        with staging.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(staging, path)
    except OSError as error:
        raise unwritten(path, error) from None
    finally:
        with suppress(OSError):
            staging.unlink(missing_ok=True)
