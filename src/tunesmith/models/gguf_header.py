"""The head of a GGUF file, walked through against the file's size before any library maps it.

A head that counts more than there is made readers hand out memory that was never the file's. Here each count,
length and place must lie within the file. Source of the format: github.com/ggml-org/ggml, docs/gguf.md.
"""

import math
import struct
from pathlib import Path
from typing import BinaryIO

MAGIC, VERSIONS = b"GGUF", (2, 3)
MOST_ENTRIES = 100_000
_MOST_DIMENSIONS, _MOST_NESTING, _ALIGNMENT = 8, 2, 32
_NUMBER_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_UINT32, _TEXT, _LIST = 4, 8, 9


class _Lie(ValueError):
    """What does not hold of a head."""


def header_problem(path: Path) -> str | None:
    """What is wrong with the file's head, or None.

    Raises:
        OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        try:
            _walk(_Reader(file, path.stat().st_size))
        except _Lie as lie:
            return str(lie)
    return None


class _Reader:
    """A place in the file; nothing is read that lies behind its end."""

    def __init__(self, file: BinaryIO, file_bytes: int) -> None:
        self._file = file
        self.file_bytes = file_bytes
        self.at = 0

    def take(self, count: int) -> bytes:
        """The next bytes."""
        if count > self.file_bytes - self.at:
            raise _Lie(
                f"at byte {self.at} it announces {count} bytes, and {self.file_bytes - self.at} are left"
            )
        self.at += count
        return self._file.read(count)

    def skip(self, count: int) -> None:
        """Pass over bytes that must be there."""
        if count > self.file_bytes - self.at:
            self.take(count)
        self.at += count
        self._file.seek(self.at)

    def number(self, size_bytes: int) -> int:
        """An unsigned number."""
        return int.from_bytes(self.take(size_bytes), "little")

    def text(self) -> bytes:
        """A text with its length before it."""
        return self.take(self.number(8))


def _walk(reader: _Reader) -> None:
    if reader.file_bytes < 24 or reader.take(4) != MAGIC:
        raise _Lie("it does not begin as a GGUF file does")
    version, tensors, entries = struct.unpack("<IQQ", reader.take(20))
    if version not in VERSIONS:
        raise _Lie(f"it is of version {version}, and {' and '.join(map(str, VERSIONS))} are read")
    if max(tensors, entries) > MOST_ENTRIES:
        raise _Lie(f"it announces {tensors} tensors and {entries} entries, and {MOST_ENTRIES} are the most")
    alignment = _ALIGNMENT
    for _ in range(entries):
        name, kind = reader.text(), reader.number(4)
        if name == b"general.alignment" and kind == _UINT32:
            alignment = reader.number(4)
        else:
            _pass_value(reader, kind)
    ends = [_tensor_end(reader) for _ in range(tensors)]
    if not 0 < alignment < 1 << 20:
        raise _Lie(f"it is aligned to {alignment} bytes")
    data = -(-reader.at // alignment) * alignment
    for name_text, end in ends:
        if data + end > reader.file_bytes:
            raise _Lie(
                f"tensor `{name_text}` ends at byte {data + end}, and the file has {reader.file_bytes} bytes"
            )


def _pass_value(reader: _Reader, kind: int, nesting: int = 0) -> None:
    if kind in _NUMBER_BYTES:
        reader.skip(_NUMBER_BYTES[kind])
    elif kind == _TEXT:
        reader.text()
    elif kind == _LIST and nesting < _MOST_NESTING:
        inner, count = reader.number(4), reader.number(8)
        if inner in _NUMBER_BYTES:
            reader.skip(_NUMBER_BYTES[inner] * count)
            return
        if count > reader.file_bytes - reader.at:
            raise _Lie(f"at byte {reader.at} it announces a list of {count}, longer than the file")
        for _ in range(count):
            _pass_value(reader, inner, nesting + 1)
    else:
        raise _Lie(f"at byte {reader.at} it holds a value of the unknown type {kind}")


def _tensor_end(reader: _Reader) -> tuple[str, int]:
    """A tensor's name, and where it ends behind the start of the numbers."""
    # Loaded here because a file that is converted already needs none of it.
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    name, dimensions = reader.text().decode(errors="replace"), reader.number(4)
    if dimensions > _MOST_DIMENSIONS:
        raise _Lie(f"tensor `{name[:80]}` has {dimensions} dimensions")
    shape = [reader.number(8) for _ in range(dimensions)]
    kind, offset = reader.number(4), reader.number(8)
    try:
        block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    except (ValueError, KeyError):
        raise _Lie(f"tensor `{name[:80]}` is of the unknown type {kind}") from None
    return name[:80], offset + math.ceil(math.prod(shape) / block) * block_bytes
