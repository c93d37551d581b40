"""The sha256 of a file, read in pieces: what manifests, caches and checkpoints know a file by."""

import hashlib
from pathlib import Path


def file_sha256(path: Path) -> str:
    """Hexadecimal sha256 of the file's bytes; memory stays bounded.

    Raises:
        OSError: if the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
