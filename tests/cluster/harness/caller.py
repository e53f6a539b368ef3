"""Somebody who calls a Service all the time, from a pod of their own, and counts what comes back."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import requests

from tests.cluster.harness.api import Api, wait_until
from tests.cluster.harness.images import MODEL_SERVER

_PORT = 8099
_DEADLINE_S = 60.0
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Counts:
    """So far. `answers`: by status and body, '200 web-1'. `errors`: requests without a whole answer, by the reason."""

    requests: int
    answers: Mapping[str, int]
    errors: Mapping[str, int]
    slowest_ms: int


class Caller:
    def __init__(self, address: str) -> None:
        self._address = address

    def counts(self) -> Counts:
        return Counts(**requests.get(f"http://{self._address}:{_PORT}/", timeout=10).json())

    def wait_for(self, more: int) -> Counts:
        """Until so many more requests are done; the counts then."""
        wanted = self.counts().requests + more
        wait_until(
            lambda: self.counts().requests >= wanted, _DEADLINE_S, f"{wanted} requests", lambda: str(self.counts())
        )
        return self.counts()


@contextmanager
def calling(
    api: Api, namespace: str, url: str, *, rate_per_s: float = 50, workers: int = 4, reuse: bool = False
) -> Iterator[Caller]:
    """Calls until the block ends, and counts from the first answer on. `url`: by name, as seen in `namespace`. `reuse`:
    keeps connections, instead of a new one for each request.
    """
    name = f"caller-{next(_numbers)}"
    arguments = ["call", f"-rate={rate_per_s:g}", f"-workers={workers}", f"-reuse={str(reuse).lower()}", url]
    probe = {"httpGet": {"path": "/", "port": _PORT}, "periodSeconds": 1}
    container = {"name": "caller", "image": MODEL_SERVER, "args": arguments, "readinessProbe": probe}
    path = f"/api/v1/namespaces/{namespace}/pods"
    api.create(path, {"metadata": {"name": name}, "spec": {"containers": [container], "restartPolicy": "Never"}})
    try:
        wait_until(
            lambda: _ready(api, f"{path}/{name}"),
            _DEADLINE_S,
            f"{name} is ready",
            lambda: str(api.get(f"{path}/{name}")["status"]),
        )
        yield Caller(api.get(f"{path}/{name}")["status"]["podIP"])
    finally:
        api.delete(f"{path}/{name}", grace_s=0)


def _ready(api: Api, pod: str) -> bool:
    conditions = api.get(pod)["status"].get("conditions", ())
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
