"""The maker of the processor, by which libraries differ in speed. Starts without torch."""

import platform
import sys
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")


def is_intel() -> bool:
    """Whether the processor is one of Intel's."""
    if sys.platform == "darwin":
        return platform.machine() == "x86_64"
    told = CPU_INFO.read_text(encoding="utf-8", errors="replace") if CPU_INFO.is_file() else ""
    return "GenuineIntel" in (told or platform.processor())
