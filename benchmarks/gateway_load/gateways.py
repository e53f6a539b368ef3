"""The gateways that are compared, each an Envoy with one worker: bare, and full.

The full one has the product's bootstrap and exactly the resources that the product translates a model into, here one
with a remote to fail over to and an affinity header. The bare one is `bare.yaml`.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from string import Template

from benchmarks.gateway_load.load import Address
from benchmarks.gateway_load.wire import AFFINITY_HEADER, HOST
from benchmarks.scale.processes import cpu_s
from tests.support.ads import Ads
from tests.support.envoy import Envoy, bootstrap, running
from xds import ir
from xds.snapshot import Resource
from xds.translate import Gateway as Settings
from xds.translate import backend_resource, gateway_resources, route_resources
from xds.translate.listener import FRONT

Edit = Callable[[Sequence[Resource]], Sequence[Resource]]

MODEL = "default/m"
NOBODY = ir.Backend("127.0.0.66", 9)
"""Where the remote is: nobody listens there. Nobody is sent there either, while local is up and not full."""


@dataclass(frozen=True, slots=True)
class Gateway:
    envoy: Envoy
    address: Address

    @property
    def cpu_s(self) -> float:
        """CPU seconds of all its threads so far."""
        return cpu_s(self.envoy.process.pid)

    def pin(self, core: int) -> None:
        """Keeps all its threads on one core."""
        for thread in Path(f"/proc/{self.envoy.process.pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {core})


@asynccontextmanager
async def bare(directory: Path, server: Address) -> AsyncIterator[Gateway]:
    template = Template((Path(__file__).parent / "bare.yaml").read_text(encoding="utf-8"))
    async with running(directory, template.substitute(server_host=server[0], server_port=server[1])) as envoy:
        yield Gateway(envoy, await envoy.listener(FRONT))


@asynccontextmanager
async def full(directory: Path, server: Address, edit: Edit) -> AsyncIterator[Gateway]:
    """`edit` may take a part out of what Envoy is sent."""
    settings = Settings(port=0)
    model = ir.Route(
        MODEL,
        (HOST,),
        ir.Local((ir.Endpoint(*server),)),
        remotes=(ir.Remote(NOBODY, "remote.example.com", "/serving"),),
        chains=(ir.Chain(ir.LOCAL, ir.PPM, (ir.remote_slot(0),)),),
        affinity_header=AFFINITY_HEADER,
    )
    ads = Ads()
    ads.put(edit([*gateway_resources(settings), backend_resource(NOBODY, settings), *route_resources(model, settings)]))
    await ads.start()
    try:
        async with running(directory, bootstrap(ads.port)) as envoy:
            await envoy.live()
            await ads.settled()
            yield Gateway(envoy, await envoy.listener(FRONT))
    finally:
        await ads.stop()
