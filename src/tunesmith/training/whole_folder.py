"""A folder of files that is there whole or not at all, whatever moment a crash chooses.

It is written beside its place under a hidden name, each file forced to the disk, its manifest last, and put
in place by one rename. The manifest says bytes and sha256 of each file and the sha256 of itself, so a reader
finds every damage before it uses anything. Of a folder that is replaced, the old one is set aside first and
removed last: at each moment one of the two is whole, and `clear_leftovers` finds it.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tunesmith.tools.digest import file_sha256

MANIFEST = "MANIFEST.json"

_STAGED, _REPLACED, _REMOVED = "partial", "replaced", "removed"

Writer = Callable[[Path], None]


def write_folder(final: Path, files: Mapping[str, Writer]) -> None:
    """Put a folder with these files in place, on the disk when this returns.

    Args:
        final: where it appears. A folder that is there already is replaced.
        files: name to what writes that file at the path it is given.

    Raises:
        OSError: if the disk refuses, or whatever a writer raises; what was at `final` can be had back by
            `clear_leftovers`.
    """
    staged, replaced = _aside(final, _STAGED), _aside(final, _REPLACED)
    _make_parent(final.parent)
    staged.mkdir()
    listed = {name: _written(staged / name, write) for name, write in files.items()}
    _written(staged / MANIFEST, lambda path: write_bytes(path, _manifest(listed)))
    _sync(staged)
    if final.exists():
        os.replace(final, replaced)
    os.replace(staged, final)
    _sync(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def write_bytes(path: Path, content: bytes) -> None:
    """A `Writer` but for the content.

    Raises:
        OSError: if the disk refuses.
    """
    path.write_bytes(content)


def damage(folder: Path, *, names: Collection[str]) -> str | None:
    """What is wrong with a folder that `write_folder` wrote: names the file; None if it is whole.

    Args:
        folder: it is read, never changed.
        names: files it must hold beside its manifest.
    """
    try:
        listed = _listed(folder / MANIFEST, names)
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except OSError as error:
        return f"{MANIFEST} cannot be read: {error.strerror}"
    except (ValueError, LookupError, TypeError, AttributeError):
        return f"{MANIFEST} changed: it is not as it was written"
    found = (_file_damage(folder / name, **of) for name, of in listed.items())
    return ", ".join(text for text in found if text) or None


def remove_folder(folder: Path) -> None:
    """Delete it; a crash meanwhile leaves no half of it under its name."""
    removed = _aside(folder, _REMOVED)
    with suppress(OSError):
        shutil.rmtree(removed, ignore_errors=True)
        os.replace(folder, removed)
    shutil.rmtree(removed, ignore_errors=True)


def clear_leftovers(parent: Path, *, names: Collection[str]) -> None:
    """Finish a replacement that was cut short, and delete all that a crash left beside the folders.

    Only the process that writes there may call it.

    Args:
        parent: where the folders are.
        names: files that a whole one holds beside its manifest.

    Raises:
        OSError: if the disk refuses.
    """
    for replaced in parent.glob(f".*.{_REPLACED}"):
        final = parent / replaced.stem[1:]
        if not final.exists():
            staged = _aside(final, _STAGED)
            os.replace(replaced if damage(staged, names=names) else staged, final)
            _sync(parent)
    for kind in (_STAGED, _REPLACED, _REMOVED):
        for leftover in parent.glob(f".*.{kind}"):
            shutil.rmtree(leftover, ignore_errors=True)


def _make_parent(parent: Path) -> None:
    if not parent.exists():
        parent.mkdir(parents=True)
        _sync(parent.parent)


def _aside(folder: Path, kind: str) -> Path:
    return folder.with_name(f".{folder.name}.{kind}")


def _written(path: Path, write: Writer) -> dict[str, Any]:
    """Write the file and force it to the disk; what the manifest says of it."""
    write(path)
    _sync(path)
    return {"bytes": path.stat().st_size, "sha256": file_sha256(path)}


def _sync(path: Path) -> None:
    """Force a file, or the names in a folder, to the disk."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folders, and orders renames itself
        return
    descriptor = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _manifest(listed: Mapping[str, Mapping[str, Any]]) -> bytes:
    """The manifest's one right text, with its own sha256."""
    own = hashlib.sha256(json.dumps(listed, sort_keys=True).encode()).hexdigest()
    return (json.dumps({"files": listed, "sha256": own}, indent=2, sort_keys=True) + "\n").encode()


def _listed(path: Path, names: Collection[str]) -> dict[str, dict[str, Any]]:
    content = path.read_bytes()
    listed: dict[str, dict[str, Any]] = json.loads(content)["files"]
    if content != _manifest(listed) or listed.keys() != set(names):
        raise ValueError("not the text this list of files has")
    return {name: {"size_bytes": listed[name]["bytes"], "sha256": listed[name]["sha256"]} for name in names}


def _file_damage(path: Path, *, size_bytes: int, sha256: str) -> str | None:
    try:
        now_bytes = path.stat().st_size
        if now_bytes < size_bytes:
            return f"{path.name} is truncated ({now_bytes} of {size_bytes} bytes)"
        if now_bytes > size_bytes:
            return f"{path.name} changed ({now_bytes} bytes, not {size_bytes})"
        return None if file_sha256(path) == sha256 else f"{path.name} changed (another sha256)"
    except FileNotFoundError:
        return f"{path.name} is missing"
    except OSError as error:
        return f"{path.name} cannot be read: {error.strerror}"
