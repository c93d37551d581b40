"""One process a run folder: a lock that the system lets go of, however its holder ends.

The lock is on an open file and not in its text, so a process that was killed leaves nothing to clean up: its
file is free by itself. The text is for people: who holds the folder.
"""

import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from tunesmith.errors import RunFolderError

if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[bytes], *, is_shared: bool) -> None:
        # Windows also refuses to read what is locked, so the lock is on a byte behind all text.
        file.seek(_FAR_BYTE)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError from error

    def _unlock(file: IO[bytes]) -> None:
        file.seek(_FAR_BYTE)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)
else:
    import fcntl

    def _lock(file: IO[bytes], *, is_shared: bool) -> None:
        fcntl.flock(file, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)

    def _unlock(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)


LOCK_FILE = "run.lock"

# A reader that asks whether a run lives holds the lock for an instant; the run itself waits that long.
_PATIENCE_SECONDS = 1.0
_PAUSE_SECONDS = 0.02
_FAR_BYTE = 1 << 30


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process; the lock file is gone afterwards.

    Raises:
        RunFolderError: if another process holds it (names its id and host), or the file system has no locks.
    """
    file = _acquired(folder / LOCK_FILE)
    try:
        yield
    finally:
        # Still held, so nobody else can have taken this file; Windows deletes no open one.
        if sys.platform != "win32":
            _remove(folder / LOCK_FILE)
        _unlock(file)
        file.close()
        if sys.platform == "win32":
            _remove(folder / LOCK_FILE)


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """As `locked`, of a folder that is made where there is none.

    Raises:
        RunFolderError: as `locked` does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        yield


def is_alive(folder: Path) -> bool:
    """Whether a process holds `folder`, on any host that shares it; changes nothing."""
    try:
        with (folder / LOCK_FILE).open("rb") as file:
            _lock(file, is_shared=True)
            _unlock(file)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def refuse_if_held(folder: Path) -> None:
    """Say who is at work in `folder`, if somebody is.

    Raises:
        RunFolderError: names process id, host and since when.
    """
    if is_alive(folder):
        raise _held(folder / LOCK_FILE)


def _acquired(path: Path) -> IO[bytes]:
    """The lock file, open and locked, with our name in it."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        file = _opened(path)
        try:
            _lock(file, is_shared=False)
            if _is_still(path, file):
                return _named(file)
        except BlockingIOError:
            if time.monotonic() > deadline:
                file.close()
                raise _held(path) from None
        except OSError as error:
            file.close()
            raise RunFolderError(
                f"`{path}` cannot be locked: {error.strerror or error}",
                hint="choose a folder on a file system with locks, such as a local disk, with `--output-dir`",
            ) from error
        file.close()
        time.sleep(_PAUSE_SECONDS)


def _opened(path: Path) -> IO[bytes]:
    try:
        # Not truncated: what stands in it belongs to whoever holds it.
        return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b")
    except OSError as error:
        raise RunFolderError(
            f"`{path}` cannot be written: {error.strerror}", hint="make the run folder writable"
        ) from error


def _is_still(path: Path, file: IO[bytes]) -> bool:
    """Whether the file we locked is the one that others find; its last holder may just have removed it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _named(file: IO[bytes]) -> IO[bytes]:
    holder = {
        "process": os.getpid(),
        "host": platform.node(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    file.truncate(0)
    file.seek(0)
    file.write(json.dumps(holder).encode())
    file.flush()
    return file


def _held(path: Path) -> RunFolderError:
    holder: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        holder = json.loads(path.read_bytes())
    who = "process {process} on {host}, since {since}".format_map(
        {"process": "of unknown id", "host": "an unknown host", "since": "an unknown time"} | holder
    )
    return RunFolderError(
        f"`{path.parent}` is in use by {who}",
        hint="wait until it ends, or stop it: it then saves its state; or choose another folder",
    )


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
