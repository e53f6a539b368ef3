"""Shell: everything around Spillway: local, the remote, the issuer of its tokens, a DNS server that knows its name.

A process of its own, so that serving does not slow down whoever measures. It reads its settings as a line of JSON,
answers with the addresses as one, and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import ssl
import sys
from dataclasses import asdict

import trustme

from controller.demo import scenario
from controller.demo.dns import NameServer
from controller.demo.issuer import Issuer
from controller.demo.manifests import CLIENT_ID, REMOTE_NAME, SCOPE, World, remote_path_prefix
from controller.demo.models import ModelOptions, ModelServer
from controller.demo.workload import Timing

REMOTE_SLOTS = 1_000


async def serve(local: ModelOptions, remote_timing: Timing, issuer: Issuer, stop: asyncio.Event) -> None:
    """Starts everything, prints a `World` as a line of JSON, and runs until `stop`."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(REMOTE_NAME).configure_cert(context)
    remote = ModelOptions(
        scenario.MODEL, REMOTE_SLOTS, remote_timing, prefix=remote_path_prefix(), authorize=issuer.valid
    )
    async with contextlib.AsyncExitStack() as stack:
        ports = []
        for options, tls in ((local, None), (remote, context)):
            server = ModelServer(options)
            stack.push_async_callback(server.stop)
            ports.append(await server.start(tls))
        names = NameServer({REMOTE_NAME: "127.0.0.1"})
        dns = await names.start()
        stack.callback(names.stop)
        world = World(
            local_port=ports[0],
            remote_port=ports[1],
            dns=dns,
            token_url=issuer.token_url,
            ca_pem=authority.cert_pem.bytes().decode(),
        )
        print(json.dumps(asdict(world)), flush=True)
        await stop.wait()


async def main() -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    settings = json.loads(await asyncio.to_thread(sys.stdin.readline))
    loop.add_reader(sys.stdin, stop.set)  # nothing more comes but the end
    local = ModelOptions(scenario.MODEL, settings["slots"], Timing(**settings["local"]))
    with Issuer({CLIENT_ID: settings["client_secret"]}, scopes=(SCOPE,)) as issuer:
        await serve(local, Timing(**settings["remote"]), issuer, stop)


if __name__ == "__main__":
    asyncio.run(main())
