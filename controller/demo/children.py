"""Shell: the demo's child processes. None outlives it: they are ended in order; if it is killed, by the kernel."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

T = TypeVar("T")

PR_SET_CHILD_SUBREAPER = 36
STOP_S = 8.0
POLL_S = 0.02


class ChildError(Exception):
    """A child process ended when it should not have; the message says which one, and its last words."""


class Children:
    """Processes that live as long as the `async with` block. What they say goes to files in `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._not_ours: set[int] = set()

    async def __aenter__(self) -> Self:
        # What a child leaves behind (the controller starts an Envoy) becomes ours, and is ended too.
        self._not_ours = children_of(os.getpid())
        _adopt_orphans(yes=True)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        for process in reversed(self._processes.values()):
            await _end(process)
        await _end_orphans(self._not_ours)
        _adopt_orphans(yes=False)

    async def start(
        self, name: str, module: str, arguments: Sequence[str] = (), *, talks: bool = False
    ) -> asyncio.subprocess.Process:
        """Runs a module of Python, out of reach of the terminal's Ctrl-C: whoever started it ends it.

        `talks`: its standard input and output are ours; else its output goes to the log too.
        """
        command = [sys.executable, "-m", module, *arguments]
        with self.log(name).open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "controller.demo.tether", str(os.getpid()), *command),
                stdin=asyncio.subprocess.PIPE if talks else asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE if talks else log,
                stderr=log,
                start_new_session=True,
                env=_environment(os.environ),
            )
        self._processes[name] = process
        return process

    def log(self, name: str) -> Path:
        return self._directory / f"{name}.log"

    async def while_alive(self, work: Coroutine[None, None, T]) -> T:
        """The work's result. Raises ChildError, and cancels the work, if a child ends before it is done."""
        task = asyncio.ensure_future(work)
        ends = {asyncio.ensure_future(process.wait()): name for name, process in self._processes.items()}
        try:
            await asyncio.wait([task, *ends], return_when=asyncio.FIRST_COMPLETED)
            for end, name in ends.items():
                if end.done() and not task.done():
                    raise ChildError(f"the {name} ended with status {end.result()}; {self.last_words(name)}")
            return await task
        finally:
            for future in (task, *ends):
                future.cancel()
            await asyncio.gather(task, *ends, return_exceptions=True)

    def last_words(self, name: str | None = None) -> str:
        """The end of what the process said; without a name, of what the newest one did."""
        name = name or next(reversed(self._processes), "")
        log = self.log(name)
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return f"{name}: {' | '.join(lines[-3:]) or 'it said nothing'}"


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Without what would change the settings of the controller, or send requests to the loopback through a proxy."""
    foreign = ("SPILLWAY_", "BEAMLIT_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    return {name: value for name, value in environ.items() if not name.upper().startswith(foreign)}


def _adopt_orphans(*, yes: bool) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, int(yes))


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(STOP_S):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _end_orphans(not_ours: set[int]) -> None:
    """Ends what our children left behind, once they have all been waited for."""
    while orphans := children_of(os.getpid()) - not_ours:
        for pid in orphans:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)  # noqa: ASYNC222 - does not wait
        await asyncio.sleep(POLL_S)


def children_of(parent: int) -> set[int]:
    """The processes that `parent` has to wait for."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                # The command's name stands in parentheses and may hold anything; the fields behind it are fixed.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == parent:
                    found.add(int(entry.name))
    return found
