"""The machine: device and number type, chosen and explained. Knows nothing of models."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from tunesmith.errors import ConfigError

CGROUP = Path("/sys/fs/cgroup")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Hardware:
    """Where and in which number type to compute.

    Attributes:
        device: `cpu`, `cuda` or `mps`.
        dtype: type of the frozen weights; adapters are always float32.
        reason: one sentence for the user.
    """

    device: str
    dtype: str
    reason: str

    @property
    def torch_dtype(self) -> torch.dtype:
        """The torch type behind `dtype`."""
        return DTYPES[self.dtype]

    @property
    def mixed_precision(self) -> str:
        """What accelerate calls it."""
        return {"float32": "no", "bfloat16": "bf16"}[self.dtype]


def choose_hardware(*, device: str = "auto", dtype: str = "auto") -> Hardware:
    """Device and number type for a run.

    `auto` takes CUDA, then MPS, then the CPU, and bfloat16 only on a GPU that computes in it; on a CPU that
    does, it is said, since there float32 is what others reach to the digit. float16 is not offered: its range
    is too small for gradients without scaling.

    Raises:
        ConfigError: if the device is not there.
    """
    chosen = _best_device() if device == "auto" else device
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("`device` is cuda, and no CUDA device is visible", hint="use `--device auto`")
    if device == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("`device` is mps, and this machine has none", hint="use `--device auto`")
    has_bfloat16 = chosen == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    auto_dtype = "bfloat16" if has_bfloat16 else "float32"
    final = auto_dtype if dtype == "auto" else dtype
    asked = [f"{name} as asked" for name, value in (("device", device), ("dtype", dtype)) if value != "auto"]
    why = " and ".join(asked) if asked else "the safe choice here"
    if chosen == "cpu" and dtype == "auto" and multiplies_in_bfloat16():
        why += "; `--dtype bfloat16` takes less time here, and rounds more coarsely"
    return Hardware(chosen, final, f"{final} on {describe_device(chosen)} ({why})")


def multiplies_in_bfloat16() -> bool:
    """Whether the processor itself does, so that it is faster than in float32 and not emulated."""
    return bool(torch.cpu._is_avx512_bf16_supported())


def describe_device(device: str) -> str:
    """A name a person knows the device by."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"cpu, {torch.get_num_threads()} threads" if device == "cpu" else device


def peak_memory_bytes(device: str) -> int:
    """Largest memory held so far: of the device where it keeps count, else of this process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    if os.name == "nt":
        return 0
    if sys.platform == "linux":
        # `getrusage` would begin with what the process had that started this one.
        return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def free_memory_bytes(device: str) -> int:
    """Memory a run could take now: of the device, or what this process may still take of the machine's.

    A container's limit counts, where there is one; `MemAvailable` alone would promise the host's memory.
    """
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    available = int(psutil.virtual_memory().available)
    limit, used = (_number(CGROUP / name) for name in ("memory.max", "memory.current"))
    return available if limit is None else min(available, max(0, limit - (used or 0)))


def _number(path: Path) -> int | None:
    """The number in a file of the kernel's; None where there is none, or it says `max`."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
