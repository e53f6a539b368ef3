"""A number that no other test run on this machine holds, and a folder that goes with it: addresses and names made from
the number never collide, and what a killed run left under it is swept before it is used again.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_SLOTS = range(1, 200)
_MEMORY = Path("/dev/shm")
_ROOMY_BYTES = 4 << 30


@dataclass(frozen=True)
class Slot:
    """`number`: 1 to 199. `folder`: empty, in memory where there is room, so that no disk slows etcd down."""

    number: int
    folder: Path

    @property
    def name(self) -> str:
        """For links, control groups and the like; at most 15 characters, as the kernel wants it."""
        return f"spillway-{self.number}"


@contextmanager
def take_slot() -> Iterator[Slot]:
    """Holds a slot, and removes its folder at last."""
    for number in _SLOTS:
        # An abstract socket is a lock without a file: the kernel drops it with the process.
        with socket.socket(socket.AF_UNIX) as lock:
            try:
                lock.bind(f"\0spillway-tests-{number}")
            except OSError:
                continue
            folder = _base() / f"spillway-tests-{number}"
            shutil.rmtree(folder, ignore_errors=True)
            try:
                folder.mkdir(mode=0o700)
            except FileExistsError:
                continue  # somebody else's, of a run that was killed
            try:
                yield Slot(number, folder)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            return
    raise RuntimeError(f"all {len(_SLOTS)} slots for test clusters are taken")


def _base() -> Path:
    if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free >= _ROOMY_BYTES:
        return _MEMORY
    return Path(tempfile.gettempdir())
