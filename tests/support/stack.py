"""The whole product under test: `spillway run` on a directory of manifests, with its own real Envoy, as users run it.

    async with running(tmp_path, manifests) as stack:
        status, body, headers = await stack.ask("llama")

Files are written into `stack.manifests`; what users see is read from `stack.status()` and `stack.log`. Ends with
SIGTERM, then by force.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from tests.support.binaries import envoy_path

DEADLINE_S = 60.0
POLL_S = 0.05
Json = dict[str, Any]


async def eventually(condition: Callable[[], Awaitable[bool]], what: str = "the condition") -> None:
    """Waits until `condition` holds. The deadline is generous: only a failure needs it."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not await condition():
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise AssertionError(f"{what} has not come true in {DEADLINE_S:g} s") from None


@dataclass(frozen=True)
class Reply:
    status: int
    body: str
    headers: Mapping[str, str]

    @property
    def destination(self) -> str:
        return self.headers.get("x-spillway-destination", "")


@dataclass
class Stack:
    """One running controller and its Envoy. `addresses`: listen, xds, admin, envoy_admin as host:port."""

    directory: Path
    arguments: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    module: str = "controller"
    process: subprocess.Popen[bytes] | None = None
    addresses: dict[str, str] = field(default_factory=dict)

    @property
    def manifests(self) -> Path:
        return self.directory / "manifests"

    @property
    def log(self) -> str:
        """What the controller wrote to standard error."""
        return (self.directory / "stderr.log").read_text()

    @property
    def access_log(self) -> list[Json]:
        path = self.directory / "access.log"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def write(self, name: str, *objects: Json) -> None:
        """Replaces a manifest file atomically."""
        temporary = self.directory / f"{name}.new"
        temporary.write_text(yaml.safe_dump_all(objects))
        temporary.replace(self.manifests / name)

    def start(self) -> None:
        """Starts the controller; `ready` waits for it."""
        ready = self.directory / "ready.json"
        ready.unlink(missing_ok=True)
        addresses = {
            name: self.addresses.get(name, "127.0.0.1:0") for name in ("listen", "xds", "admin", "envoy_admin")
        }
        command = [sys.executable, "-m", self.module, "run", str(self.manifests)]
        command += ["--state-dir", str(self.directory / "state"), "--ready-file", str(ready)]
        command += ["--access-log", str(self.directory / "access.log"), "--log-format", "json", "--drain-seconds", "2"]
        for name, address in addresses.items():
            command += ["--" + name.replace("_", "-"), address]
        with (self.directory / "stderr.log").open("ab") as stderr:
            self.process = subprocess.Popen(
                [*command, *self.arguments],
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env={**os.environ, **self.environment},
                cwd=Path(__file__).parents[2],
            )

    async def ready(self) -> None:
        """Waits until it says that it serves."""

        async def written() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, f"spillway ended with {self.process.returncode}: {self.log[-3000:]}"
            return (self.directory / "ready.json").exists()

        await eventually(written, "ready")
        self.addresses = json.loads((self.directory / "ready.json").read_text())

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ends the controller and returns its exit status. SIGKILL leaves its Envoy running, as it should."""
        assert self.process is not None
        self.process.send_signal(number)
        try:
            return await asyncio.to_thread(self.process.wait, 30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    async def ask(self, host: str, path: str = "/", method: str = "GET", **more: Any) -> Reply:
        """One request through Envoy, for this Host."""
        headers = {"Host": host, **more.pop("headers", {})}
        url = f"http://{self.addresses['listen']}{path}"
        async with aiohttp.ClientSession() as session, session.request(method, url, headers=headers, **more) as reply:
            return Reply(reply.status, await reply.text(), {k.lower(): v for k, v in reply.headers.items()})

    async def status(self) -> Json:
        async with aiohttp.ClientSession() as session, session.get(f"http://{self.addresses['admin']}/status") as reply:
            found: Json = await reply.json()
            return found

    async def statistic(self, name: str) -> int:
        """A counter or gauge of Envoy's."""
        url = f"http://{self.addresses['envoy_admin']}/stats?filter=^{name}$"
        async with aiohttp.ClientSession() as session, session.get(url) as reply:
            return int((await reply.text()).rpartition(": ")[2])

    async def model(self, key: str = "default/llama") -> Json:
        """One model's status; empty if there is none."""
        models: list[Json] = (await self.status())["models"]
        return next((model for model in models if model["key"] == key), {})

    async def condition(self, type_: str, key: str = "default/llama") -> Json:
        conditions = (await self.model(key)).get("conditions", [])
        return next((each for each in conditions if each["type"] == type_), {})

    async def until(self, condition: Callable[[Json], bool], key: str = "default/llama") -> Json:
        """Waits until a model's status is as wanted and returns it."""
        seen: Json = {}

        async def holds() -> bool:
            nonlocal seen
            seen = await self.model(key)
            return bool(seen) and condition(seen)

        try:
            await eventually(holds)
        except AssertionError:
            raise AssertionError(f"never as wanted; last: {json.dumps(seen, indent=1)}\n{self.log[-3000:]}") from None
        return seen

    async def until_programmed(self, key: str = "default/llama") -> Json:
        return await self.until(lambda model: _condition(model, "Programmed") == "True", key)


def _condition(model: Json, type_: str) -> str:
    return next((c["status"] for c in model.get("conditions", []) if c["type"] == type_), "")


@asynccontextmanager
async def running(
    directory: Path,
    files: Mapping[str, Sequence[Json]],
    config: Json | None = None,
    arguments: Sequence[str] = (),
    module: str = "controller",
) -> AsyncIterator[Stack]:
    """Starts `spillway run` on these files and waits until it serves. Nothing is left when the block ends. `module`:
    what has the command.
    """
    envoy_path()
    stack = Stack(directory, list(arguments), module=module)
    stack.manifests.mkdir(parents=True)
    for name, objects in files.items():
        stack.write(name, *objects)
    if config is not None:
        (directory / "config.yaml").write_text(yaml.safe_dump(config))
        stack.arguments = [*stack.arguments, "--config", str(directory / "config.yaml")]
    stack.start()
    try:
        await stack.ready()
        yield stack
    finally:
        if stack.process is not None and stack.process.poll() is None:
            await stack.stop()
        _end_orphan(directory / "state" / "envoy.json")


def _end_orphan(file: Path) -> None:
    """An Envoy that a killed controller left and nobody adopted."""
    if file.exists():
        with suppress(ProcessLookupError):
            os.kill(json.loads(file.read_text())["pid"], signal.SIGKILL)
