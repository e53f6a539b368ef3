"""Processes of a test cluster: each logs to a file, is ended by its pid, and dies with the tests, however those end."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.cluster.harness.api import wait_until

START_S = 120.0  # half a minute was seen on a machine with much else to do
_ROOT = Path(__file__).parents[3]
_LOG_TAIL_LINES = 20
_LOG_LINE_CHARACTERS = 300
# The shell is for a parent that ended before setpriv could ask to be told.
_ENDS_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL", "--", "sh", "-c", '[ "$PPID" = "$0" ] && exec "$@"')

Command = Sequence[str | Path]


class Process:
    """Start it from the main thread: the kernel ends it when the thread that started it does. It runs in the checkout.
    `environment`: changes to ours.
    """

    def __init__(self, name: str, command: Command, log: Path, environment: Mapping[str, str] | None = None) -> None:
        assert threading.current_thread() is threading.main_thread(), f"{name} would end with this thread"
        self.name = name
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*_ENDS_WITH_PARENT, str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **(environment or {})},
                cwd=_ROOT,
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
        lines = self._log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
        return "\n".join(line[:_LOG_LINE_CHARACTERS] for line in lines)

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """Ends it at once, as a crash would."""
        self._process.kill()
        self._process.wait()


class Processes:
    """Some of them, by name, with their logs in one folder, which is made."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: dict[str, Process] = {}
        logs.mkdir()

    def __getitem__(self, name: str) -> Process:
        return self._running[name]

    def run(self, name: str, command: Command, environment: Mapping[str, str] | None = None) -> None:
        self._running[name] = Process(name, command, self._logs / f"{name}.log", environment)

    def kill(self, name: str) -> None:
        self._running.pop(name).kill()

    def stop(self) -> None:
        """Kills them all, the last one first."""
        for name in reversed(list(self._running)):
            self.kill(name)

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Blocks until it holds. Raises RuntimeError when one ends; with a TimeoutError prints what all said last."""

        def holds() -> bool:
            for process in self._running.values():
                process.check()
            return condition()

        def said() -> str:
            return "\n".join(f"--- {process.name}\n{process.last_words()}" for process in self._running.values())

        wait_until(holds, START_S, what, said)
