"""One process of a test cluster: it logs to a file, is ended by its pid, and dies with the tests, however those end."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Self

_LOG_TAIL_LINES = 20
_LOG_LINE_CHARACTERS = 300


class Process:
    """Start it from the main thread: the kernel ends it when the thread that started it does."""

    def __init__(self, name: str, command: Sequence[str | Path], log: Path) -> None:
        assert threading.current_thread() is threading.main_thread(), f"{name} would end with this thread"
        self.name = name
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for the tests, which then end this in order
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def check(self) -> None:
        """Raises RuntimeError, with the end of the log, if it does not run any more."""
        if (status := self._process.poll()) is not None:
            raise RuntimeError(f"{self.name} ended with {status}:\n{self.last_words()}")

    def last_words(self) -> str:
        """The end of its log."""
        lines = self.log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
        return "\n".join(line[:_LOG_LINE_CHARACTERS] for line in lines)

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """Ends it at once, as a crash would."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
