"""Shell: a simulated model server: the OpenAI API, vLLM's metrics, and a fixed number of slots with a queue.

It computes nothing and takes the time that a model would: see `Timing`. A client that goes away gives its slot back.
"""

from __future__ import annotations

import asyncio
import ssl
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from controller.demo.openai_api import (
    Completion,
    RequestError,
    chunk,
    completion_body,
    error_body,
    models_body,
    read_request,
)
from controller.demo.workload import Timing

CHUNK_S = 0.1
"""Tokens of this long travel together: a chunk for each would be a load test of the machine."""
MAX_BODY_BYTES = 4 * 2**20
STOP_S = 0.5
OPEN_PATHS = frozenset({"/health", "/metrics"})

Authorize = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """`authorize`: judges a bearer token; None asks for none. `prefix` stands before every path."""

    name: str
    slots: int
    timing: Timing
    prefix: str = ""
    authorize: Authorize | None = None


class VllmMetrics:
    """The metrics of vLLM that a user would watch, under its names."""

    def __init__(self, model: str) -> None:
        self.registry = CollectorRegistry()
        self._labels = {"model_name": model}
        self.running = self._gauge("vllm:num_requests_running", "Requests that are being answered.")
        self.waiting = self._gauge("vllm:num_requests_waiting", "Requests in the queue.")
        usage = "Share of the KV cache in use, 0 to 1."
        self.cache_usage = self._gauge("vllm:kv_cache_usage_perc", usage)
        self.older_cache_usage = self._gauge("vllm:gpu_cache_usage_perc", usage)
        self.prompt_tokens = self._counter("vllm:prompt_tokens_total", "Tokens read.")
        self.generation_tokens = self._counter("vllm:generation_tokens_total", "Tokens written.")
        self.success = self._counter("vllm:request_success_total", "Requests answered to the end.")
        self.first_token = Histogram(
            "vllm:time_to_first_token_seconds",
            "From a request's arrival to its first token.",
            list(self._labels),
            registry=self.registry,
        ).labels(**self._labels)

    def count(self, running: int, waiting: int, slots: int) -> None:
        self.running.set(running)
        self.waiting.set(waiting)
        self.cache_usage.set(running / slots)
        self.older_cache_usage.set(running / slots)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, list(self._labels), registry=self.registry).labels(**self._labels)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, list(self._labels), registry=self.registry).labels(**self._labels)


class ModelServer:
    """One model behind one address. Answers under its prefix; metrics and health need no token."""

    def __init__(self, options: ModelOptions) -> None:
        self.metrics = VllmMetrics(options.name)
        self._options = options
        self._slots = asyncio.Semaphore(options.slots)
        self._running = 0
        self._waiting = 0
        self._created_s = int(time.time())
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[self._guard])
        app.router.add_post(f"{options.prefix}/v1/chat/completions", self._complete)
        app.router.add_get(f"{options.prefix}/v1/models", self._list)
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._expose)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=STOP_S)

    async def start(self, context: ssl.SSLContext | None = None) -> int:
        """Listens on a free loopback port, with TLS if a context is given, and returns the port."""
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=context).start()
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        await self._runner.cleanup()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        authorize = self._options.authorize
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if authorize and request.path not in OPEN_PATHS and not (scheme.lower() == "bearer" and authorize(token)):
            return web.json_response(error_body("A valid bearer token is needed.", "invalid_api_key"), status=401)
        try:
            return await handler(request)
        except RequestError as error:
            return web.json_response(error.body, status=error.status)

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        came_s = time.monotonic()
        asked = read_request(await request.read(), self._options.name)
        self.metrics.prompt_tokens.inc(asked.prompt_tokens)
        identity = f"chatcmpl-{uuid.uuid4().hex}"
        async with self._slot():
            await asyncio.sleep(self._options.timing.first_token_s(asked.prompt_tokens))
            self.metrics.first_token.observe(time.monotonic() - came_s)
            answer = self._stream if asked.stream else self._whole
            response = await answer(request, asked, identity)
            self.metrics.success.inc()
            return response

    async def _whole(self, _: web.Request, asked: Completion, identity: str) -> web.StreamResponse:
        await asyncio.sleep(self._options.timing.token_s * (asked.tokens - 1))
        self.metrics.generation_tokens.inc(asked.tokens)
        return web.json_response(completion_body(asked, identity, self._created_s))

    async def _stream(self, request: web.Request, asked: Completion, identity: str) -> web.StreamResponse:
        """The first token at once, then what has come about since the last chunk, at the model's own pace."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        await response.prepare(request)
        token_s = self._options.timing.token_s
        began_s, sent, ready = time.monotonic(), 0, 1
        while sent < asked.tokens:
            if ready > sent:
                piece = chunk(asked, identity, self._created_s, ready - sent, last=ready == asked.tokens)
                self.metrics.generation_tokens.inc(ready - sent)
                sent = ready
                await response.write(piece)
                continue
            await asyncio.sleep(min(max(CHUNK_S, token_s), token_s * (asked.tokens - sent)))
            ready = min(asked.tokens, 1 + int((time.monotonic() - began_s) / token_s + 1e-6))
        await response.write_eof()
        return response

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        """A slot, in the order of arrival."""
        self._waiting += 1
        self._count()
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
            self._count()
        self._running += 1
        self._count()
        try:
            yield
        finally:
            self._running -= 1
            self._slots.release()
            self._count()

    def _count(self) -> None:
        self.metrics.count(self._running, self._waiting, self._options.slots)

    async def _list(self, _: web.Request) -> web.Response:
        return web.json_response(models_body(self._options.name, self._created_s))

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _expose(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self.metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})
