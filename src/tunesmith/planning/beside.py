"""Memory beside what tensors hold: Python and its libraries, scratch of kernels, the heap, and loading."""

from tunesmith.planning.heap import LOOSE_HEAP

# Resident before a model is there, in a process that trains: torch, transformers, peft and accelerate,
# their shared libraries, the tokenizer. Measured here with torch 2.15 (CPU build), Python 3.11.
RUNTIME_BYTES = 925_000_000


def runtime_bytes(device: str) -> int:
    """Python and its libraries in main memory; on an accelerator, which holds none of it, 0."""
    return 0 if device == "cuda" else RUNTIME_BYTES


def workspace_bytes(peak: int, *, device: str, has_small_heap: bool) -> int:
    """What `peak` bytes of tensors cost beyond themselves: on CPU, the heap that they leave behind."""
    if device != "cpu" or has_small_heap:
        return 0
    return round(peak * (LOOSE_HEAP - 1))


def loading_bytes(*, whole: int, held: int, is_four_bit: bool, device: str) -> int:
    """Peak of the process while weights are read: a file is mapped, and counts as far as it was read."""
    return runtime_bytes(device) + (whole + held if is_four_bit and device == "cpu" else held)
