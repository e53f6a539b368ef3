"""A control plane or a client as a child process that is asked in lines of JSON."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

LONGEST_ANSWER = 64 << 20
DEADLINE_S = 120.0


class Child:
    def __init__(self, command: tuple[str | Path, ...], process: asyncio.subprocess.Process) -> None:
        self.command = command
        self._process = process

    async def ask(self, do: str, **arguments: Any) -> Any:
        """What it answers. Raises TimeoutError."""
        stdin = self._process.stdin
        assert stdin
        stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
        return await self.answer()

    async def answer(self) -> Any:
        stdout = self._process.stdout
        assert stdout
        async with asyncio.timeout(DEADLINE_S):
            line = await stdout.readline()
        assert line, f"it has ended: {self._process}"
        return json.loads(line)

    def rss(self) -> int:
        """Resident memory, in bytes."""
        pages = Path(f"/proc/{self._process.pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


@asynccontextmanager
async def running(*command: str | Path, log: Path | None = None) -> AsyncIterator[Child]:
    """Ends it by closing its input, or else kills it. `log`: takes its standard error, which is ours otherwise."""
    pipe = asyncio.subprocess.PIPE
    with ExitStack() as files:
        errors = files.enter_context(log.open("wb")) if log else None
        process = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, stderr=errors, limit=LONGEST_ANSWER
        )
    try:
        yield Child(command, process)
    finally:
        assert process.stdin
        process.stdin.close()
        try:
            async with asyncio.timeout(10):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def module(name: str, *arguments: str | Path) -> tuple[str | Path, ...]:
    """The command that runs a module of this package."""
    return (sys.executable, "-m", f"benchmarks.streams.{name}", *arguments)
