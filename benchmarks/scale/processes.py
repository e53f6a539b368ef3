"""What a process takes, read from the kernel: its CPU clock and its memory."""

from __future__ import annotations

import time
from pathlib import Path


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far, all threads, user and kernel, to the nanosecond."""
    return time.clock_gettime(~pid << 3 | 2)  # what clock_getcpuclockid(3) returns for a pid


def memory_mib(pid: int, field: str = "VmRSS") -> float:
    """Resident memory in MiB. `field`: VmHWM for its peak."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))
