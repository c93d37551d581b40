"""What AdamW holds for each weight that learns, and what its step takes besides. Arithmetic only."""

from collections.abc import Sequence

# bitsandbytes keeps 32-bit states for smaller tensors, and one scale of 32 bits for each 256 numbers.
SMALLEST_IN_8_BIT, SCALED_TOGETHER = 4096, 256


def states_bytes(sizes: Sequence[int], *, optim: str, number_bytes: int = 4) -> int:
    """Both moments of tensors with so many numbers each; paged ones live in main memory and count 0.

    Args:
        sizes: numbers in each tensor that learns.
        optim: kind of the optimizer.
        number_bytes: bytes of one of these numbers; torch's AdamW keeps its moments in their type.
    """
    if optim.startswith("paged"):
        return 0
    if optim == "adamw_8bit":
        return sum(2 * _in_8_bit(size) for size in sizes)
    return 2 * number_bytes * sum(sizes)


def _in_8_bit(size: int) -> int:
    if size < SMALLEST_IN_8_BIT:
        return 4 * size
    return size + 4 * -(-size // SCALED_TOGETHER)


def step_bytes(sizes: Sequence[int], *, optim: str, device: str, number_bytes: int = 4) -> int:
    """Temporary tensors of a step: torch's AdamW takes all tensors at once on a GPU, and is fused on CPU."""
    return number_bytes * sum(sizes) if optim == "adamw_torch" and device != "cpu" else 0
