"""What a process takes, read from the kernel: its CPU clock and its memory; and a place for its files."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

CACHE = Path(__file__).parents[2] / ".cache"


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far, all threads, user and kernel, to the nanosecond."""
    return time.clock_gettime(~pid << 3 | 2)  # what clock_getcpuclockid(3) returns for a pid


def memory_mib(pid: int, field: str = "VmRSS") -> float:
    """Resident memory in MiB. `field`: VmHWM for its peak."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A directory on the disk of this checkout. What stands for temporary files may be memory, or much slower."""
    CACHE.mkdir(exist_ok=True)
    return tempfile.TemporaryDirectory(dir=CACHE)
