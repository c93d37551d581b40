"""The maker of the processor, by which libraries differ in speed. Starts without torch."""

import platform
import sys
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")


def is_intel() -> bool:
    """Whether the processor is one of Intel's."""
    if sys.platform == "darwin":
        return platform.machine() == "x86_64"
    return "GenuineIntel" in (_told_of_first_core() or platform.processor())


def _told_of_first_core() -> str:
    """What Linux says of it; of many cores the whole file takes its time."""
    if not CPU_INFO.is_file():
        return ""
    with CPU_INFO.open(encoding="utf-8", errors="replace") as told:
        return told.read(1024)
