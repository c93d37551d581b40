"""The head of a safetensors file, checked against the file before any library maps it.

The format is one JSON object, then numbers. Readers differ in what they make of a head that lies, so a head
must be plain: every tensor inside the file, one behind the other, each named once, and nothing behind the
last one. Light: no torch. Source of the format: github.com/huggingface/safetensors, README.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MOST_HEADER_BYTES = 16 << 20
"""A tensor takes about 150 bytes, so this is room for 100,000; the library's own limit of 100 MB takes a
gigabyte of memory to parse."""
MOST_TENSORS = 100_000
_LENGTH_BYTES = 8
_BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
    **{"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6},
}


class _Lie(ValueError):
    """What does not hold of a head."""


def header_problem(path: Path) -> str | None:
    """What is wrong with the file's head, or None.

    Args:
        path: a safetensors file; its head is read, none of its numbers.

    Raises:
        OSError: if it cannot be read.
    """
    file_bytes = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if file_bytes < _LENGTH_BYTES or length > file_bytes - _LENGTH_BYTES:
            return f"it is cut off: {file_bytes} bytes, and its head alone says {length}"
        if length > MOST_HEADER_BYTES:
            return f"its head takes {length} bytes, and at most {MOST_HEADER_BYTES} are read"
        head = file.read(length)
    try:
        _check(json.loads(head.decode(), object_pairs_hook=_distinct), file_bytes - _LENGTH_BYTES - length)
    except _Lie as lie:
        return str(lie)
    except (ValueError, RecursionError) as error:
        return f"its head is no JSON: {error}"
    return None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise _Lie("its head names something twice, which readers take in different ways")
    return value


def _check(head: Any, data_bytes: int) -> None:
    if not isinstance(head, dict):
        raise _Lie("its head is no JSON object")
    notes = head.get("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(note, str) for note in notes.values()):
        raise _Lie("its `__metadata__` holds more than texts")
    tensors = {name: of for name, of in head.items() if name != "__metadata__"}
    if len(tensors) > MOST_TENSORS:
        raise _Lie(f"its head names {len(tensors)} tensors, and at most {MOST_TENSORS} are read")
    spans = sorted((*_span(name, of), name) for name, of in tensors.items())
    at = 0
    for start, end, name in spans:
        if start != at:
            raise _Lie(f"`{name}` begins at byte {start} of the numbers, where byte {at} is next")
        at = end
    if at != data_bytes:
        raise _Lie(f"its tensors take {at} bytes, and {data_bytes} follow the head")


def _span(name: str, of: Any) -> tuple[int, int]:
    """Where a tensor lies among the numbers."""
    shape, offsets, kind = _parts(of)
    if not (_are_counts(shape) and _are_counts(offsets) and len(offsets) == 2 and isinstance(kind, str)):
        raise _Lie(f"`{name[:80]}` has no type, shape and place as the format wants them")
    start, end = offsets
    if kind not in _BITS:
        raise _Lie(f"`{name}` is of the type {kind[:20]}, which the format does not have")
    if end < start or math.prod(shape) * _BITS[kind] != 8 * (end - start):
        raise _Lie(f"`{name}` is of {kind} and shape {str(shape)[:60]}, and lies from {start} to {end}")
    return start, end


def _parts(of: Any) -> tuple[Any, Any, Any]:
    found: Mapping[str, Any] = of if isinstance(of, dict) else {}
    return found.get("shape"), found.get("data_offsets"), found.get("dtype")


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)
