"""What attackers would send: pickles that write a file, weights and models whose heads lie, odd files."""

import json
import pickle
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tunesmith.cli.main import main

SECONDS, MEMORY_BYTES = 2.0, 200_000_000


class Payload:
    """Whoever unpickles it opens a file for writing."""

    def __init__(self, canary: Path) -> None:
        self.canary = str(canary)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.canary, "w")


def write_pickles(folder: Path, canary: Path, *names: str) -> None:
    """Each name twice over: as torch writes them, and as a bare pickle beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        torch.save({"weight": Payload(canary)}, folder / name)
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(Payload(canary)))


def write_code(folder: Path, canary: Path, *names: str) -> None:
    """Python files that open a file for writing when they are imported."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"open({str(canary)!r}, 'w')\n", encoding="utf-8")


def edit_json(path: Path, **changes: Any) -> None:
    """Add or replace keys of a JSON object."""
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), encoding="utf-8")


def safetensors_bytes(head: Any, numbers: bytes = b"") -> bytes:
    """A safetensors file with this head, as text or as what JSON writes of it."""
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return struct.pack("<Q", len(text)) + text + numbers


def tensor(start: int, end: int, *, shape: Any = None, dtype: str = "F32") -> dict[str, Any]:
    """What a head says of one tensor."""
    return {
        "dtype": dtype,
        "shape": [(end - start) // 4] if shape is None else shape,
        "data_offsets": [start, end],
    }


def gguf_bytes(
    *, version: int = 3, tensors: int = 0, entries: int = 0, rest: bytes = b"", magic: bytes = b"GGUF"
) -> bytes:
    """The start of a GGUF file that counts what it likes."""
    return magic + struct.pack("<IQQ", version, tensors, entries) + rest


def gguf_text(text: bytes) -> bytes:
    """A text with its length."""
    return struct.pack("<Q", len(text)) + text


def refused(capsys: pytest.CaptureFixture[str], *words: object, code: int = 2) -> str:
    """What the command says on stderr; it must end with `code` and without a traceback."""
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    printed = capsys.readouterr()
    assert stopped.value.code == code, printed.err
    assert "Traceback" not in printed.err
    return printed.err


def fails_cheaply(work: Callable[[], object], kind: type[Exception], *, match: str) -> Exception:
    """The error of `work`, which takes at most two seconds of the processor and 200 MB of Python's memory."""
    started = time.process_time()
    with pytest.raises(kind, match=match) as caught:
        work()
    assert time.process_time() - started < SECONDS
    # Again, because counting memory takes time.
    tracemalloc.start()
    try:
        with pytest.raises(kind, match=match):
            work()
        assert tracemalloc.get_traced_memory()[1] < MEMORY_BYTES
    finally:
        tracemalloc.stop()
    return caught.value
