"""A small API server over a real socket: objects of one kind, and on demand everything that can go wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

from controller.adapters.kubernetes.client import Cluster

Object = dict[str, Any]

TOO_DEEP = '{"a":' * 100_000 + "1" + "}" * 100_000
"""JSON that only a parser without recursion would read."""


class FakeApi:
    """`requests`: method and path with query of all that came. `answer`: in place of what would be answered."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[tuple[str, str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answer: Callable[[web.Request], web.Response | None] = lambda request: None
        self.objects: dict[str, Object] = {}
        self.events: list[tuple[int, str, Object]] = []
        self.version = 100
        self.oldest = 0
        self.watches: set[asyncio.Queue[bytes | None]] = set()
        self.page = 500

    @property
    def lists(self) -> list[str]:
        return [target for method, target, _ in self.requests if method == "GET" and "watch=true" not in target]

    @property
    def watched(self) -> list[str]:
        return [target for _, target, _ in self.requests if "watch=true" in target]

    # What happens in the cluster

    def put(self, name: str, namespace: str = "shop", **fields: Any) -> None:
        key = f"{namespace}/{name}"
        kind = "MODIFIED" if key in self.objects else "ADDED"
        self.version += 1
        metadata = {"name": name, "namespace": namespace, "resourceVersion": str(self.version)}
        self.objects[key] = {"metadata": metadata, **fields}
        self._tell(kind, self.objects[key])

    def delete(self, name: str, namespace: str = "shop") -> None:
        self.version += 1
        gone = self.objects.pop(f"{namespace}/{name}")
        gone["metadata"] |= {"resourceVersion": str(self.version)}
        self._tell("DELETED", gone)

    def bookmark(self) -> None:
        self.version += 1
        self.send("BOOKMARK", {"metadata": {"resourceVersion": str(self.version)}})

    def compact(self) -> None:
        """Forgets what has happened up to now."""
        self.oldest = self.version

    def send(self, kind: str, obj: Object) -> None:
        self.send_raw(json.dumps({"type": kind, "object": obj}).encode() + b"\n")

    def send_raw(self, line: bytes) -> None:
        for watch in self.watches:
            watch.put_nowait(line)

    def cut(self) -> None:
        """Breaks off all watches."""
        for watch in self.watches:
            watch.put_nowait(None)

    def _tell(self, kind: str, obj: Object) -> None:
        self.events.append((self.version, kind, json.loads(json.dumps(obj))))
        self.send(kind, obj)

    # HTTP

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.text()
        self.requests.append((request.method, str(request.rel_url), json.loads(body) if body else None))
        self.headers.append(dict(request.headers))
        if (answer := self.answer(request)) is not None:
            return answer
        return await self._watch(request) if "watch" in request.query else self._list(request)

    def _list(self, request: web.Request) -> web.Response:
        start = int(request.query.get("continue", 0))
        items = list(self.objects.values())
        more = str(start + self.page) if start + self.page < len(items) else ""
        metadata = {"resourceVersion": str(self.version), "continue": more}
        return web.json_response({"metadata": metadata, "items": items[start : start + self.page] or None})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        since = int(request.query["resourceVersion"])
        if since < self.oldest:
            return status(410, "Expired", f"too old resource version: {since} ({self.oldest})")
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        for version, kind, obj in self.events:
            if version > since:
                queue.put_nowait(json.dumps({"type": kind, "object": obj}).encode() + b"\n")
        self.watches.add(queue)
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while (line := await queue.get()) is not None:
                await response.write(line)
        finally:
            self.watches.discard(queue)
        if request.transport is not None:
            request.transport.abort()
        return response


def status(code: int, reason: str, message: str = "") -> web.Response:
    """A Kubernetes Status."""
    return web.json_response({"kind": "Status", "code": code, "reason": reason, "message": message}, status=code)


@asynccontextmanager
async def serving(api: FakeApi) -> AsyncIterator[FakeApi]:
    async def handle(request: web.Request) -> web.StreamResponse:
        return await api.handle(request)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    api.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield api
    finally:
        await runner.cleanup()


def kubeconfig(path: Path, server: str, **user: Any) -> Path:
    config = {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "one", "user": "me", "namespace": "shop"}}],
        "clusters": [{"name": "one", "cluster": {"server": server}}],
        "users": [{"name": "me", "user": user}],
    }
    path.write_text(yaml.safe_dump(config))
    return path


@asynccontextmanager
async def connected(api: FakeApi, directory: Path, **user: Any) -> AsyncIterator[Cluster]:
    cluster = await Cluster.connect(kubeconfig(directory / "kubeconfig", api.url, **user))
    try:
        yield cluster
    finally:
        await cluster.close()
