"""A real Envoy under test: started from the bootstrap template or any configuration, on loopback, ended by its process.

    async with running(tmp_path, bootstrap(xds_port)) as envoy:
        host, port = await envoy.listener("front")

Everything that waits lets the event loop run, so the control plane may live in the test's own loop.
"""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from string import Template

from tests.support.binaries import envoy_path

TEMPLATE = Path(__file__).parents[2] / "envoy/bootstrap.yaml"
DEADLINE_S = 30.0
POLL_S = 0.02


def bootstrap(xds_port: int, node_id: str = "gateway-1", xds_host: str = "127.0.0.1") -> str:
    """The project's own bootstrap, with an admin interface on a free port."""
    return Template(TEMPLATE.read_text()).substitute(
        node_id=node_id,
        node_cluster="spillway",
        xds_host=xds_host,
        xds_port=xds_port,
        admin_host="127.0.0.1",
        admin_port=0,
    )


@dataclass
class Envoy:
    """A running one. `directory` holds its log (`envoy.log`) and what it writes to standard output (`stdout.log`)."""

    process: subprocess.Popen[bytes]
    directory: Path
    admin_port: int = 0

    @property
    def log(self) -> str:
        return (self.directory / "envoy.log").read_text()

    @property
    def stdout(self) -> str:
        """The access log, when it goes there."""
        return (self.directory / "stdout.log").read_text()

    async def ask(self, path: str, method: str = "GET") -> str:
        """The admin interface's answer."""
        return await asyncio.to_thread(self._ask, path, method)

    async def statistic(self, name: str) -> int | None:
        """A counter or gauge by its full name; None: Envoy does not have it (yet)."""
        for line in (await self.ask(f"/stats?filter=^{name}$")).splitlines():
            found, _, value = line.partition(": ")
            if found == name:
                return int(value)
        return None

    async def listener(self, name: str) -> tuple[str, int]:
        """Waits until a listener is bound; its address and port."""
        deadline = _now() + DEADLINE_S
        while _now() < deadline:
            self._check()
            statuses = json.loads(await self.ask("/listeners?format=json"))
            for status in statuses.get("listener_statuses", []):
                if status["name"] == name:
                    address = status["local_address"]["socket_address"]
                    return address["address"], address["port_value"]
            await asyncio.sleep(POLL_S)
        raise TimeoutError(f"no listener {name} after {DEADLINE_S:g} s: {self.log[-2000:]}")

    async def live(self) -> None:
        """Waits until Envoy has had a first answer of every kind and serves."""
        deadline = _now() + DEADLINE_S
        while _now() < deadline:
            self._check()
            if (await self.ask("/ready")).strip() == "LIVE":
                return
            await asyncio.sleep(POLL_S)
        raise TimeoutError(f"not live after {DEADLINE_S:g} s: {self.log[-2000:]}")

    async def stop(self) -> None:
        """Ends it now, whatever it is doing."""
        self.process.kill()
        await asyncio.to_thread(self.process.wait)

    def _check(self) -> None:
        if self.process.poll() is not None:
            raise RuntimeError(f"Envoy ended with {self.process.returncode}: {self.log[-2000:]}")

    def _ask(self, path: str, method: str) -> str:
        connection = HTTPConnection("127.0.0.1", self.admin_port, timeout=10)
        try:
            connection.request(method, path)
            return connection.getresponse().read().decode()
        finally:
            connection.close()


@asynccontextmanager
async def running(
    directory: Path, configuration: str, *options: str, concurrency: int = 1, binary: Path | None = None
) -> AsyncIterator[Envoy]:
    """Starts Envoy (the pinned one) with `configuration` and further `options` of its command line, waits for its admin
    interface, and ends it at last.
    """
    directory.mkdir(parents=True, exist_ok=True)
    config, admin = directory / "envoy.yaml", directory / "admin.txt"
    config.write_text(configuration)
    admin.unlink(missing_ok=True)
    command = [
        *(str(binary or envoy_path()), "--config-path", str(config), "--admin-address-path", str(admin)),
        *("--use-dynamic-base-id", "--concurrency", str(concurrency), "--file-flush-interval-msec", "100"),
        *("--log-level", "warning", "--log-path", str(directory / "envoy.log"), *options),
    ]
    with (directory / "stdout.log").open("wb") as stdout:
        process = subprocess.Popen(command, stdout=stdout, stderr=subprocess.STDOUT)
    envoy = Envoy(process, directory)
    try:
        await _admin_ready(envoy, admin)
        yield envoy
    finally:
        await envoy.stop()


async def _admin_ready(envoy: Envoy, admin: Path) -> None:
    deadline = _now() + DEADLINE_S
    while not (admin.exists() and ":" in admin.read_text()):
        if envoy.process.poll() is not None:
            raise RuntimeError(f"Envoy ended with {envoy.process.returncode}: {envoy.stdout}{envoy.log}")
        if _now() > deadline:
            raise TimeoutError(f"no admin interface after {DEADLINE_S:g} s")
        await asyncio.sleep(POLL_S)
    envoy.admin_port = int(admin.read_text().strip().rpartition(":")[2])


def _now() -> float:
    return asyncio.get_running_loop().time()
