"""The demo as a user runs it: real Envoy, real controller, real processes, which must all be gone afterwards."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MARK = "DEMO_TEST_MARK"
PATIENCE_S = 100.0

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@dataclass(frozen=True, slots=True)
class Demo:
    """A running demo. Everything it starts inherits `mark` in its environment, so that it can be found."""

    process: subprocess.Popen[str]
    mark: str
    output: Path
    said: Path

    def family(self) -> dict[int, str]:
        """Command lines of the demo and of all that came from it, by process id."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with contextlib.suppress(OSError):
                    if f"{MARK}={self.mark}".encode() in (entry / "environ").read_bytes():
                        found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
        return found

    def text(self) -> str:
        return self.said.read_text()

    def pid_of(self, pattern: str) -> int:
        return next(pid for pid, command in self.family().items() if re.search(pattern, command))


Start = Callable[[], Demo]


def wait_until(reached: Callable[[], bool], demo: Demo) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not reached():
        assert time.monotonic() < deadline, f"{demo.text()}\n{demo.family()}"
        time.sleep(0.05)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts `spillway demo --short` with its output in a file."""
    demos: list[Demo] = []

    def started() -> Demo:
        mark = uuid.uuid4().hex
        folder = tmp_path / mark
        folder.mkdir()
        (folder / "temporary").mkdir()
        environ = {**os.environ, MARK: mark, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder / "temporary")}
        with (folder / "said.txt").open("w") as said:
            process = subprocess.Popen(
                [sys.executable, "-m", "controller", "demo", "--short", "--output", str(folder / "timeline.png")],
                cwd=folder,
                env=environ,
                stdout=said,
                stderr=subprocess.STDOUT,
                text=True,
            )
        demos.append(Demo(process, mark, folder / "timeline.png", folder / "said.txt"))
        return demos[-1]

    yield started
    for demo in demos:
        for pid in demo.family():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        demo.process.wait()


def wait_until_it_plays(demo: Demo, words: str = "Try in another terminal") -> None:
    """Until the demo has said `words`, or has ended."""
    wait_until(lambda: words in demo.text() or demo.process.poll() is not None, demo)


def assert_nothing_is_left(demo: Demo) -> None:
    wait_until(lambda: demo.family() == {}, demo)


def test_demos_side_by_side_overflow_return_and_leave_a_picture_and_no_process(start: Start) -> None:
    demos = [start(), start()]

    for demo in demos:
        status = demo.process.wait(PATIENCE_S)

        text = demo.text()
        assert status == 0, text
        assert re.search(r"^\d+ requests, 0 client errors$", text, re.MULTILINE)
        assert "local overflowed once and is back in Standby" in text
        assert "ThresholdReached" in text
        found = re.search(r"served by local, (\d+) by the remote", text)
        assert found is not None
        assert int(found[1]) > 10
        assert demo.output.read_bytes().startswith(b"\x89PNG")
        assert_nothing_is_left(demo)
        assert list((demo.output.parent / "temporary").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_ends_the_demo_and_leaves_no_process_behind(start: Start, number: signal.Signals) -> None:
    demo = start()
    wait_until_it_plays(demo, "Activating" if number is signal.SIGINT else "Standby")
    assert len(demo.family()) >= 4, "the demo, its world, the controller and Envoy"

    demo.process.send_signal(number)

    assert demo.process.wait(PATIENCE_S) == 128 + number
    assert f"ended by {number.name}" in demo.text()
    assert_nothing_is_left(demo)


def test_a_signal_while_it_starts_leaves_no_process_behind(start: Start) -> None:
    demo = start()
    wait_until(lambda: len(demo.family()) > 1, demo)

    demo.process.send_signal(signal.SIGINT)

    assert demo.process.wait(PATIENCE_S) == 128 + signal.SIGINT
    assert_nothing_is_left(demo)


def test_a_demo_that_is_killed_leaves_no_process_behind(start: Start) -> None:
    demo = start()
    wait_until_it_plays(demo)

    demo.process.kill()
    demo.process.wait()

    assert_nothing_is_left(demo)


@pytest.mark.parametrize(
    ("command", "name"), [(r"-m controller run", "controller"), (r"-m controller\.demo\.world", "simulated world")]
)
def test_a_part_that_dies_ends_the_demo_which_says_so(start: Start, command: str, name: str) -> None:
    demo = start()
    wait_until_it_plays(demo)

    os.kill(demo.pid_of(command), signal.SIGKILL)

    assert demo.process.wait(PATIENCE_S) == 1
    assert f"the {name} ended with status -9" in demo.text()
    assert_nothing_is_left(demo)
