"""Shell: asks a cluster's metrics APIs, as the HorizontalPodAutoscaler does.

All queries of a namespace are asked together, once per interval and at the namespace's own moment within it. What
several of them need is asked for once: what all pods of the namespace use, the pods of a selector, the value of a
metric. Each query is answered as soon as what it needs is there.

Pods are listed from the API server's cache and not watched: of all that changes in a pod, this needs a glance per
interval.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import quote

from controller.adapters.keyed_tasks import KeyedTasks
from controller.adapters.kubernetes import metrics_decode as decode
from controller.adapters.kubernetes.client import ApiError, Cluster
from controller.events import Observed
from controller.kube_metrics import Pod, Sample, read_pods, read_resource, read_sum
from controller.metrics import ApiQuery, ExternalQuery, ObjectQuery, PodsQuery, Reading, ResourceQuery, Unknown
from controller.settings import MetricsApiSettings

T = TypeVar("T")

AT_ONCE = 6
"""Requests on their way at once: fewer than the client allows, which has more urgent ones."""

RESOURCE_API = "metrics.k8s.io"
CUSTOM_API = "custom.metrics.k8s.io"
EXTERNAL_API = "external.metrics.k8s.io"

_CUSTOM_VERSIONS = (f"{CUSTOM_API}/v1beta2", f"{CUSTOM_API}/v1beta1")
_REMEDIES = {
    RESOURCE_API: "install metrics-server",
    CUSTOM_API: "install an adapter that serves it, or use a Pods metric with source: endpoints",
    EXTERNAL_API: "install an adapter that serves it, or use source: prometheus",
}
_NOT_SERVED = "404 page not found"
"""The API server's words where no API of its own or behind it has a path."""


@dataclass(slots=True)
class _Watched:
    """The queries of a namespace. `new`: those that were never asked; `news` is set while there are some."""

    queries: set[ApiQuery] = field(default_factory=set)
    new: set[ApiQuery] = field(default_factory=set)
    news: asyncio.Event = field(default_factory=asyncio.Event)


class MetricsApiSource:
    """`clock`: seconds since the epoch, to see how old a sample is. `jitter` gives numbers from 0 to 1."""

    def __init__(
        self,
        cluster: Cluster,
        settings: MetricsApiSettings,
        emit: Callable[[Observed], None],
        *,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._cluster = cluster
        self._settings = settings
        self._emit = emit
        self._clock = clock
        self._jitter = jitter
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._watched: dict[str, _Watched] = {}
        self._tasks: KeyedTasks[str] = KeyedTasks()
        self._custom_version: str | None = None
        self._plurals: dict[tuple[str, str], str] = {}

    def watch(self, query: ApiQuery) -> None:
        watched = self._watched.get(query.namespace)
        if watched is None:
            watched = self._watched[query.namespace] = _Watched()
            self._tasks.start(query.namespace, partial(self._ask_for_ever, watched))
        watched.queries.add(query)
        watched.new.add(query)
        watched.news.set()

    def unwatch(self, query: ApiQuery) -> None:
        if watched := self._watched.get(query.namespace):
            watched.queries.discard(query)
            watched.new.discard(query)
            if not watched.queries:
                del self._watched[query.namespace]
                self._tasks.stop(query.namespace)

    async def run(self) -> None:
        """Asks until it is cancelled."""
        await self._tasks.run()

    async def _ask_for_ever(self, watched: _Watched) -> None:
        """New queries at once; all of them once in each interval, for the first time after a pause that sets the
        namespaces apart.
        """
        loop = asyncio.get_running_loop()
        due_s = loop.time() + self._settings.interval_seconds * self._jitter()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due_s):
                    await watched.news.wait()
            asked = frozenset(watched.new)
            if loop.time() >= due_s:
                asked = frozenset(watched.queries)
                due_s = max(due_s + self._settings.interval_seconds, loop.time())
            watched.new.clear()
            watched.news.clear()
            async with asyncio.TaskGroup() as group:
                round_ = _Round(self._ask, group)
                for query in asked:
                    group.create_task(self._answer(query, watched, round_))

    async def _answer(self, query: ApiQuery, watched: _Watched, round_: _Round) -> None:
        reading: Reading
        try:
            reading = await self._read(query, round_)
        except _NoAnswerError as error:
            reading = error.why
        if query in watched.queries:
            self._emit(Observed(query, reading))

    async def _read(self, query: ApiQuery, round_: _Round) -> Reading:
        """Raises _NoAnswerError."""
        match query:
            case ResourceQuery(namespace=namespace):
                path = f"/apis/{RESOURCE_API}/v1beta1/namespaces/{quote(namespace)}/pods"
                usages = await round_.get(path, decode.usages)
                return read_resource(query, await _pods(query, round_), usages, self._clock())
            case PodsQuery(metric=metric, metric_selector=labels):
                samples = await self._custom(round_, query.namespace, "pods/*", metric, labels, query.selector)
                return read_pods(query, await _pods(query, round_), dict(samples), self._clock())
            case ObjectQuery(metric=metric, metric_selector=labels):
                place = await self._place(query, round_)
                found = await self._custom(round_, query.namespace, place, metric, labels)
                if len(found) > 1:
                    return Unknown("BadAnswer", f"{CUSTOM_API} has {len(found)} values for one object")
                return read_sum([sample for _, sample in found], self._clock())
            case ExternalQuery(namespace=namespace, metric=metric):
                path = f"/apis/{EXTERNAL_API}/v1beta1/namespaces/{quote(namespace)}/{quote(metric)}"
                series = await round_.get(path, decode.series, labelSelector=query.metric_selector)
                return read_sum(series, self._clock())

    async def _custom(
        self, round_: _Round, namespace: str, place: str, metric: str, labels: str, pods: str = ""
    ) -> tuple[tuple[str, Sample], ...]:
        """The values of a metric at `place`: a resource and a name, as in a path; with the names of what has them.
        `labels`: a selector of the metric's. `pods`: one of the objects'.
        """
        if self._custom_version is None:
            served = await round_.get(f"/apis/{CUSTOM_API}", decode.group_versions)
            known = [version for version in _CUSTOM_VERSIONS if version in served]
            if not known:
                raise _NoAnswerError("NotServed", f"{CUSTOM_API} is served as {', '.join(served)} only")
            self._custom_version = known[0]
        path = f"/apis/{self._custom_version}/namespaces/{quote(namespace)}/{place}/{quote(metric)}"
        try:
            return await round_.get(path, decode.values, labelSelector=pods, metricLabelSelector=labels)
        except _NoAnswerError:
            self._custom_version = None  # another adapter may have come, with another version
            raise

    async def _place(self, query: ObjectQuery, round_: _Round) -> str:
        """Of a namespace itself: just 'metrics'."""
        group, kind = query.group, query.kind
        if (group, kind) == ("", "Namespace"):
            return "metrics"
        if (plural := self._plurals.get((group, kind))) is None:
            api = "/api/v1"
            if group:
                api = f"/apis/{(await round_.get(f'/apis/{quote(group)}', decode.group_versions))[0]}"
            plural = (await round_.get(api, decode.plurals)).get(kind)
            if plural is None:
                raise _NoAnswerError("NoSuchKind", f"{api} has no {kind}; look at describedObject")
            self._plurals[group, kind] = plural
        return f"{quote(f'{plural}.{group}' if group else plural)}/{quote(query.name)}"

    async def _ask(self, path: str, query: Mapping[str, str]) -> bytes:
        async with self._slots:
            return await self._cluster.request("GET", path, query=query, timeout_s=self._settings.timeout_seconds)


class _NoAnswerError(Exception):
    """Why there is no value."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)
        self.why = Unknown(reason, message)


class _Round:
    """Requests of one moment: each is sent once, whoever needs its answer, and decoded once."""

    def __init__(self, ask: Callable[[str, Mapping[str, str]], Any], group: asyncio.TaskGroup) -> None:
        self._ask = ask
        self._group = group
        self._answers: dict[tuple[str, ...], asyncio.Task[Any]] = {}

    async def get(self, path: str, decoded: Callable[[bytes], T], **query: str) -> T:
        """`query`: without parts that are ''. Raises _NoAnswerError."""
        key = (path, *query.values())
        if key not in self._answers:
            self._answers[key] = self._group.create_task(self._fetch(path, decoded, query))
        answer: T | Unknown = await self._answers[key]
        if isinstance(answer, Unknown):
            raise _NoAnswerError(answer.reason, answer.message)
        return answer

    async def _fetch(self, path: str, decoded: Callable[[bytes], T], query: Mapping[str, str]) -> T | Unknown:
        api = path.split("/")[2] if path.startswith("/apis/") else "the API server"
        try:
            return decoded(await self._ask(path, {name: value for name, value in query.items() if value}))
        except ApiError as error:
            return _why(error, api)
        except ValueError as error:
            return Unknown("BadAnswer", f"{api} gives an answer that is none: {error}")


async def _pods(query: ResourceQuery | PodsQuery, round_: _Round) -> tuple[Pod, ...]:
    path = f"/api/v1/namespaces/{quote(query.namespace)}/pods"
    return await round_.get(path, decode.pods, labelSelector=query.selector, resourceVersion="0")


def _why(error: ApiError, api: str) -> Unknown:
    if error.status == HTTPStatus.NOT_FOUND and error.message == _NOT_SERVED:
        remedy = _REMEDIES.get(api, "look at describedObject.apiVersion")
        return Unknown("NotServed", f"the cluster does not serve {api}: {remedy}")
    if error.status == HTTPStatus.SERVICE_UNAVAILABLE:
        return Unknown("Unavailable", f"{api} is not available: {error.message}; see kubectl get apiservices")
    return Unknown(error.reason, f"{api}: {error.message}")
