"""Shell: the composition root of `spillway run`: a controller whose manifests are files, and the Envoy it starts.

An unexpected exception anywhere ends the process; Envoy keeps its configuration, and the next start goes on from the
state file.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import ssl
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import certifi

from controller import collector, events
from controller.adapters.envoy_process import EnvoyError, EnvoyOptions, EnvoyProcess, left_behind
from controller.adapters.files import ManifestDirectory
from controller.adapters.host import StartError, bind, join, only_one, write_addresses
from controller.adapters.last_good import LastGood
from controller.adapters.state_file import StateFile
from controller.api import ModelDeployment
from controller.events import Event
from controller.resolution import Config
from controller.runtime import Runtime
from controller.settings import Settings
from xds.translate import Gateway

log = logging.getLogger("spillway")


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The flags of `spillway run`. Addresses are (host, port); port 0 takes a free one."""

    directory: Path
    state_directory: Path
    listen: tuple[str, int]
    xds: tuple[str, int]
    admin: tuple[str, int]
    envoy_admin: tuple[str, int]
    start_envoy: bool = True
    access_log: str = "/dev/stdout"
    ready_file: Path | None = None
    drain_s: float = 10.0


class Standalone(Runtime):
    """A controller whose manifests are files."""

    def __init__(self, options: RunOptions, settings: Settings) -> None:
        self.options = options
        self.state = StateFile(options.state_directory / "state.json")
        config = Config(
            settings.metric_informer.type,
            settings.default_remote_backend,
            settings.workspace,
            referable=settings.referable(in_cluster=False),
            destinations=settings.reachable(in_cluster=False),
        )
        super().__init__(settings, config, self.state.load(), _gateway(options, settings))
        last_good = LastGood(options.state_directory / "last-good.db")
        self.manifests = ManifestDirectory(options.directory, last_good=last_good)
        self.envoy: EnvoyProcess | None = None

    def parts(self) -> tuple[Coroutine[object, object, None], ...]:
        return *super().parts(), self.state.run(), self.manifests.watch(self.take)

    def status(self) -> dict[str, object]:
        return {**super().status(), "problems": [problem.as_json() for problem in self.manifests.problems]}

    def tell(self, effect: events.Save | events.Announce | events.Expose) -> None:
        super().tell(effect)
        if isinstance(effect, events.Save):
            self.state.save(effect.states)

    def in_scope(self, event: Event) -> bool:
        """Whether an event concerns this controller: models of other namespaces than the configured ones do not."""
        if isinstance(event, events.Applied) and isinstance(event.object, ModelDeployment):
            return self.settings.in_scope(event.object.metadata.namespace)
        return True

    def take(self, event: Event) -> None:
        """Queues what a manifest says."""
        if self.in_scope(event):
            self.queue.put_nowait(event)

    def load(self) -> None:
        """Takes in all that there is before the first gateway may ask: one that kept its configuration must not lose a
        part of it. Raises ManifestError.
        """
        with collector.at_rest():
            loaded = [event for event in self.manifests.load() if self.in_scope(event)]
            self.carry_out(self.engine.handle_all(in_saved_order(loaded, self.state.order), self.clock()))
            self._forget_the_deleted()

    def _forget_the_deleted(self) -> None:
        """Drops what was saved of models that were deleted meanwhile. One may still stand in a file that is bad now."""
        if all(problem.warning for problem in self.manifests.problems):
            gone = self.engine.forget_saved()
            self.state.save(dict.fromkeys(gone))


async def run(options: RunOptions, settings: Settings) -> None:
    """Runs until SIGTERM or SIGINT, then drains. Raises StartError, EnvoyError or ManifestError if it cannot start."""
    if options.start_envoy and settings.xds.tls:
        raise StartError(
            "xds.tls is for gateways elsewhere, and the one started here has no certificate: use --no-envoy"
        )
    with only_one(options.state_directory):
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        reserved = _reserve_listener(options)
        # Port 0 is settled here for an Envoy of our own; gateways elsewhere take a free one each.
        listen = reserved.getsockname()[:2] if options.start_envoy else options.listen
        runtime = Standalone(replace(options, listen=listen), settings)
        runtime.load()
        with reserved:
            await _run(runtime, stop)


async def _run(runtime: Standalone, stop: asyncio.Event) -> None:
    """Runs all parts until `stop`. An Envoy that serves is ended only then: a controller that fails leaves it be."""
    try:
        async with asyncio.TaskGroup() as group:
            await runtime.listen(runtime.options.xds, [runtime.options.admin])
            tasks = [group.create_task(part) for part in (*runtime.parts(), _serve(runtime))]
            await stop.wait()
            log.info("stopping: requests in flight are finished first")
            for task in tasks:
                task.cancel()
    except ExceptionGroup as failures:
        expected, others = failures.split((StartError, EnvoyError))
        if expected is None or others is not None:
            raise
        raise expected.exceptions[0] from None
    finally:
        if runtime.envoy is not None and (stop.is_set() or "listen" not in runtime.addresses):
            await runtime.envoy.stop()
        await runtime.admin.stop()
        await runtime.server.stop(grace_s=1.0)


async def _serve(runtime: Standalone) -> None:
    """Starts or adopts Envoy, says where everything is, and keeps Envoy alive."""
    options, addresses = runtime.options, runtime.addresses
    if options.start_envoy:
        host, port = options.envoy_admin
        runtime.envoy = EnvoyProcess(
            EnvoyOptions(
                directory=options.state_directory,
                xds=addresses["xds"],
                admin_host=host,
                admin_port=port,
                listen=join(*options.listen),
                drain_s=options.drain_s,
            )
        )
        if not await runtime.envoy.adopt():
            bind("--envoy-admin", options.envoy_admin).close()
            await runtime.envoy.start()
        addresses["listen"] = await runtime.envoy.listener()
        addresses["envoy_admin"] = runtime.envoy.admin
    _announce_addresses(runtime)
    if runtime.envoy is not None:
        await runtime.envoy.run()


def _announce_addresses(runtime: Standalone) -> None:
    shown = runtime.addresses
    for name, what in (
        ("listen", "callers use"),
        ("envoy_admin", "Envoy's admin interface"),
        ("admin", "status, metrics, health"),
        ("xds", "xDS for gateways"),
    ):
        if name in shown:
            log.info(f"{what}: http://{shown[name]}" if name != "xds" else f"{what}: {shown[name]}")
    if runtime.options.ready_file:
        write_addresses(runtime.options.ready_file, shown)


def _reserve_listener(options: RunOptions) -> socket.socket:
    """Holds the listener's address, shared, so that nobody else is given it while Envoy comes and goes.

    Raises StartError if somebody else has it, unless that is an Envoy of ours.
    """
    envoy = left_behind(options.state_directory)
    if envoy is None or envoy.listen != join(*options.listen):
        bind("--listen", options.listen).close()
    return bind("--listen", options.listen, shared=True)


def in_saved_order(batch: Sequence[Event], order: Sequence[str]) -> list[Event]:
    """Models that were saved first, in the order they were saved: names they held before a restart stay theirs."""
    rank = {key: index for index, key in enumerate(order)}

    def place(event: Event) -> int:
        key = event.object.key if isinstance(event, events.Applied) else ""
        return rank.get(key, len(rank))

    return sorted(batch, key=place)


def _gateway(options: RunOptions, settings: Settings) -> Gateway:
    return Gateway(
        address=options.listen[0],
        port=options.listen[1],
        access_log_path=options.access_log,
        system_ca_path=ssl.get_default_verify_paths().cafile or certifi.where(),
        dns_resolvers=settings.gateway.resolvers,
    )
