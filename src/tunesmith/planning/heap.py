"""The C library's heap: why a process may hold twice what its tensors need, and how to stop it.

Tensors on CPU come from the C library. glibc takes large blocks from the system and gives them back when
they are freed, "large" beginning at 128 KiB; but with each such block freed that limit rises, up to 32 MiB,
and what lies below it comes from a heap. There a freed block seldom fits the next aligned request of the
same size, so in training the heap grows to about twice what is live.
"""

import ctypes
import sys

# From glibc's malloc.h.
M_MMAP_THRESHOLD = -3
LARGE_BYTES = 128 * 1024

# What the heap of a training takes for each byte that is live in it, where the limit may rise. Measured
# with LoRA on smollm2-135m, glibc 2.36: 2.0 at 1 x 128 tokens, 2.4 at 2 x 256, 2.2 at 4 x 512.
LOOSE_HEAP = 2.2


def keep_heap_small() -> bool:
    """Hold glibc's limit where it begins, for this process: freed tensors go back to the system at once.

    Call it before tensors are made. It costs time: the system hands out pages filled with zeros.

    Returns:
        Whether the limit is held; False where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and mallopt(M_MMAP_THRESHOLD, LARGE_BYTES) == 1
