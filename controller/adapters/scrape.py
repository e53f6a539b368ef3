"""Shell: asks a Service's ready endpoints for their own metrics, the freshest signal there is.

Each endpoint is scraped once per interval for all queries together, at its own moment within the interval. A query is
answered whenever each of its endpoints has been heard once more, or has failed to answer in time; so a slow endpoint
delays only the queries that need it, and no longer than the timeout.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

import aiohttp

from controller.adapters.keyed_tasks import KeyedTasks
from controller.events import Observed
from controller.exposition import Page
from controller.metrics import Reading, ScrapeQuery, Unknown, fold
from xds.ir import Endpoint

AT_ONCE = 128
"""Scrapes on their way at once, over all endpoints."""
PAGE_BYTES = 8 * 1_048_576

_CHUNK_BYTES = 65_536
# Not OpenMetrics: there the Python client writes `vllm_num_requests_running` for `vllm:num_requests_running`.
_HEADERS = {"Accept": "text/plain;version=0.0.4", "Accept-Encoding": "identity"}


@dataclass(slots=True)
class _Watched:
    """`readings`: the last one of each endpoint. `due`: endpoints to hear before the query is answered again."""

    targets: tuple[Endpoint, ...]
    readings: dict[Endpoint, Reading] = field(default_factory=dict)
    due: set[Endpoint] = field(default_factory=set)


class EndpointScraper:
    """`timeout_s`: for one scrape, from connecting to the last byte. `jitter` gives numbers from 0 to 1."""

    def __init__(
        self,
        interval_s: float,
        emit: Callable[[Observed], None],
        *,
        timeout_s: float = 2.0,
        at_once: int = AT_ONCE,
        page_bytes: int = PAGE_BYTES,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._interval_s = interval_s
        self._emit = emit
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._page_bytes = page_bytes
        self._jitter = jitter
        self._watched: dict[ScrapeQuery, _Watched] = {}
        self._asked: dict[Endpoint, set[ScrapeQuery]] = {}
        self._slots = asyncio.Semaphore(at_once)
        self._session: aiohttp.ClientSession | None = None
        self._tasks: KeyedTasks[Endpoint] = KeyedTasks()

    def watch(self, query: ScrapeQuery, targets: tuple[Endpoint, ...]) -> None:
        """Answers the query from now on, or changes where it is asked."""
        targets = tuple(dict.fromkeys(targets))
        last = self._watched.get(query, _Watched(()))
        heard = {target: last.readings[target] for target in targets if target in last.readings}
        due = {target for target in targets if target in last.due or target not in heard}
        self._watched[query] = _Watched(targets, heard, due)
        self._move(query, last.targets, targets)
        if not targets:
            self._emit(Observed(query, fold((), query.fold)))

    def unwatch(self, query: ScrapeQuery) -> None:
        if last := self._watched.pop(query, None):
            self._move(query, last.targets, ())

    async def run(self) -> None:
        """Scrapes until it is cancelled."""
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=self._timeout) as session:
            self._session = session
            await self._tasks.run()

    def _move(self, query: ScrapeQuery, old: Iterable[Endpoint], new: Iterable[Endpoint]) -> None:
        """Starts to scrape an endpoint when the first query asks it, and stops when the last one no longer does."""
        old, new = set(old), set(new)
        for endpoint in old - new:
            self._asked[endpoint].discard(query)
            if not self._asked[endpoint]:
                del self._asked[endpoint]
                self._tasks.stop(endpoint)
        for endpoint in sorted(new - old):
            if endpoint not in self._asked:
                self._asked[endpoint] = set()
                self._tasks.start(endpoint, partial(self._scrape_for_ever, endpoint))
            self._asked[endpoint].add(query)

    async def _scrape_for_ever(self, endpoint: Endpoint) -> None:
        """The first answer at once; after a pause that sets the endpoints apart, one in each interval."""
        loop = asyncio.get_running_loop()
        due_s = loop.time() - self._interval_s * self._jitter()
        while True:
            self._heard(endpoint, await self._scrape(endpoint))
            due_s = max(due_s + self._interval_s, loop.time())
            await asyncio.sleep(due_s - loop.time())

    def _heard(self, endpoint: Endpoint, answer: str | Unknown) -> None:
        asked = tuple(self._asked[endpoint])
        page = Page(answer, {query.metric for query in asked}) if isinstance(answer, str) else answer
        for query in asked:
            watched = self._watched[query]
            watched.readings[endpoint] = page.read(query) if isinstance(page, Page) else page
            watched.due.discard(endpoint)
            if not watched.due:
                watched.due = set(watched.targets)
                self._emit(Observed(query, fold([watched.readings[each] for each in watched.targets], query.fold)))

    async def _scrape(self, endpoint: Endpoint) -> str | Unknown:
        """The endpoint's page, or why there is none."""
        host = f"[{endpoint.address}]" if ":" in endpoint.address else endpoint.address
        where = f"{host}:{endpoint.port}"
        assert self._session is not None, "tasks run only while the session is open"
        async with self._slots:
            try:
                async with self._session.get(
                    f"http://{where}/metrics", headers=_HEADERS, allow_redirects=False
                ) as response:
                    if response.status != 200:
                        return Unknown("Refused", f"http://{where}/metrics answers HTTP {response.status}")
                    body = await _read(response.content, self._page_bytes)
            except TimeoutError:
                return Unknown("Timeout", f"http://{where}/metrics gives no answer within {self._timeout.total:g} s")
            except aiohttp.ClientError as error:
                return Unknown("Unreachable", f"http://{where}/metrics: {_words_of(error)}")
        if body is None:
            return Unknown("TooLarge", f"http://{where}/metrics is longer than {self._page_bytes} bytes")
        return body.decode(errors="replace")


async def _read(content: aiohttp.StreamReader, limit_bytes: int) -> bytes | None:
    """The whole body, None if it is longer than allowed."""
    body = bytearray()
    async for chunk in content.iter_chunked(_CHUNK_BYTES):
        body += chunk
        if len(body) > limit_bytes:
            return None
    return bytes(body)


def _words_of(error: aiohttp.ClientError) -> str:
    if isinstance(error, aiohttp.ClientOSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
