"""Memory beside what tensors hold: Python and its libraries, and the heap."""

from tunesmith.planning.heap import LOOSE_HEAP

# Resident before a model is there, in a process that trains: torch, transformers, peft and accelerate,
# their shared libraries, the tokenizer. Measured here with torch 2.15 (CPU build), Python 3.11.
RUNTIME_BYTES = 925_000_000


def runtime_bytes(device: str) -> int:
    """Python and its libraries in main memory; on an accelerator, which holds none of it, 0."""
    return 0 if device == "cuda" else RUNTIME_BYTES


def heap_bytes(peak: int, *, device: str, has_small_heap: bool) -> int:
    """What `peak` bytes of tensors cost beyond themselves: on CPU, the heap that they leave behind."""
    if device != "cpu" or has_small_heap:
        return 0
    return round(peak * (LOOSE_HEAP - 1))
