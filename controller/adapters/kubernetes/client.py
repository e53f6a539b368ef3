"""Shell: requests to the Kubernetes API.

The official client finds the API server and the credentials; what it makes of answers is passed by, since its model
classes cost 140-400 us an object. Everything here is bytes or plain JSON values.

Nothing is retried here, but once where credentials are refused, with them read anew: tokens and certificates are
rotated, exec plugins have to be run again. All else is the caller's, who knows whether it is still wanted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec
from kubernetes.aio.config import ConfigException

from controller.adapters.kubernetes.session import DEAD_AFTER_S, Access, ConnectError, Request, Session, load_access
from controller.objects import MANAGER

JSON = "application/json"
METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
"""`accept` for an object, or a watch of them, without spec and status; lists have METADATA_LIST."""
METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

AT_ONCE = 16
"""Requests on their way at once, watches and Leases aside: a leader whose renewal waits behind others leads no more.
What we may ask for beyond that is the API server's to say, by its priority and fairness.
"""
RELOAD_PAUSE_S = 10.0
"""Credentials that were refused are read anew at most this often."""

LEASES = "coordination.k8s.io/v1"
"""The group and version of Leases."""

_WORDS_MAX = 500


class ApiError(Exception):
    """A request that failed. `status` 0: the API server could not be reached, or did not answer in time.

    `reason`: Kubernetes' own CamelCase word ('NotFound', 'Conflict', 'Expired'). `message`: its sentence.
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}" if message else reason)
        self.status = status
        self.reason = reason
        self.message = message

    @property
    def is_refusal(self) -> bool:
        """Whether it is the request that was wrong: the same one is refused again as long as nothing else changes."""
        return HTTPStatus.BAD_REQUEST <= self.status < HTTPStatus.TOO_MANY_REQUESTS


def path_of(group_version: str, plural: str, namespace: str = "", name: str = "", subresource: str = "") -> str:
    """The path of a resource: path_of('apps/v1', 'deployments', 'shop') -> '/apis/apps/v1/namespaces/shop/deployments'.

    No namespace: of all namespaces, or of a kind that has none.
    """
    root = "apis" if "/" in group_version else "api"
    parts = [root, group_version, *(("namespaces", quote(namespace)) if namespace else ()), plural]
    return "/" + "/".join([*parts, *(quote(part) for part in (name, subresource) if part)])


def micro_time(at_s: float) -> str:
    """Kubernetes' MicroTime: that of Leases and Events."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Cluster:
    """A Kubernetes API server, as one user. `namespace`: the one we run in, or that the kubeconfig's context names."""

    def __init__(self, access: Access, load: Callable[[], Awaitable[Access]]) -> None:
        self.namespace = access.namespace
        self._load = load
        self._session = Session(access.configuration)
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._loading = asyncio.Lock()
        self._loaded_at_s = float("-inf")

    @classmethod
    async def connect(cls, kubeconfig: Path | None = None, context: str | None = None) -> Cluster:
        """Without `kubeconfig`: as the pod's service account if this is a pod, else by KUBECONFIG or ~/.kube/config.

        Sends nothing yet. Raises ConnectError.
        """
        load = partial(load_access, kubeconfig, context)
        return cls(await load(), load)

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content_type: str = JSON,
        accept: str = JSON,
        timeout_s: float = 30.0,
    ) -> bytes:
        """The answer's body. `body`: plain JSON values. Raises ApiError."""
        headers = {"Accept": accept, "Content-Type": content_type}
        request = Request(method, path, query or {}, headers, timeout_s, body)
        async with self._slot(path), self._exchange(request) as response:
            return await response.read()

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> dict[str, Any]:
        return _decoded(await self.request("GET", path, query=query))

    async def find(self, path: str, *, accept: str = JSON) -> dict[str, Any] | None:
        """The object, None if there is none."""
        try:
            return _decoded(await self.request("GET", path, accept=accept))
        except ApiError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            return None

    async def create(self, path: str, body: Mapping[str, object]) -> dict[str, Any]:
        return _decoded(await self.request("POST", path, query=_BY_US, body=body))

    async def json_patch(self, path: str, operations: list[dict[str, Any]]) -> dict[str, Any]:
        kind = "application/json-patch+json"
        return _decoded(await self.request("PATCH", path, query=_BY_US, body=operations, content_type=kind))

    async def merge_patch(self, path: str, body: Mapping[str, object]) -> dict[str, Any]:
        kind = "application/merge-patch+json"
        return _decoded(await self.request("PATCH", path, query=_BY_US, body=body, content_type=kind))

    async def apply(
        self, path: str, body: Mapping[str, object], *, manager: str = MANAGER, force: bool = True
    ) -> dict[str, Any]:
        """Server-side apply: `body` is everything that `manager` wants to own there."""
        query = {"fieldManager": manager, "force": "true" if force else "false"}
        kind = "application/apply-patch+yaml"
        return _decoded(await self.request("PATCH", path, query=query, body=body, content_type=kind))

    async def delete(self, path: str, *, uid: str = "", version: str = "") -> None:
        """It is well if there is none. With `uid` only that very object, with `version` only as it was then; else it
        raises 'Conflict'.
        """
        conditions = {name: value for name, value in (("uid", uid), ("resourceVersion", version)) if value}
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": conditions} if conditions else None
        try:
            await self.request("DELETE", path, body=options)
        except ApiError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise

    @asynccontextmanager
    async def watch(
        self, path: str, query: Mapping[str, str], *, accept: str = JSON
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """A watch that the server has begun: one event's JSON after the other, until the server ends it.

        `query` has timeoutSeconds: a server that does not keep to it is left a while after. Raises ApiError, also where
        the stream breaks off.
        """
        timeout_s = float(query["timeoutSeconds"]) + DEAD_AFTER_S
        request = Request("GET", path, {**query, "watch": "true"}, {"Accept": accept}, timeout_s)
        async with self._exchange(request) as response:
            yield _lines(response.content)

    async def close(self) -> None:
        await self._session.retire()

    def _slot(self, path: str) -> AbstractAsyncContextManager[object]:
        return nullcontext() if path.startswith(path_of(LEASES, "")) else self._slots

    @asynccontextmanager
    async def _exchange(self, request: Request) -> AsyncIterator[aiohttp.ClientResponse]:
        """A good answer, its body still to be read. Raises ApiError, and makes one of what fails while it is read."""
        try:
            async with self._answer(request) as response:
                if response.status >= HTTPStatus.BAD_REQUEST:
                    raise _refusal(response.status, await response.read())
                yield response
        except TimeoutError:
            raise ApiError(0, "Timeout", f"no answer from the API server within {request.timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            words = str(error) or type(error).__name__
            raise ApiError(0, "Unreachable", f"the API server cannot be reached: {words}") from error
        except (ConfigException, ConnectError) as error:
            raise ApiError(0, "Credentials", str(error)) from error

    @asynccontextmanager
    async def _answer(self, request: Request) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer to a request, or to its repetition with new credentials."""
        session = self._session
        async with session.exchange(request) as response:
            if not session.refused(response) or not await self._reload(session):
                yield response
                return
        async with self._session.exchange(request) as response:
            yield response

    async def _reload(self, refused: Session) -> bool:
        """Whether there is another session than that one."""
        async with self._loading:
            if self._session is not refused:
                return True
            if time.monotonic() < self._loaded_at_s + RELOAD_PAUSE_S:
                return False
            self._loaded_at_s = time.monotonic()
            self._session = Session((await self._load()).configuration)
        await refused.retire()
        return True


_BY_US = {"fieldManager": MANAGER}


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of any length. What has no end yet is not given."""
    begun = b""
    async for chunk in content.iter_any():
        *lines, begun = (begun + chunk).split(b"\n")
        for line in lines:
            yield line


def _decoded(body: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise ApiError(0, "BadAnswer", f"the answer is no JSON object: {error}") from error


class _Status(msgspec.Struct):
    reason: str = ""
    message: str = ""


def _refusal(status: int, body: bytes) -> ApiError:
    """The server's words; a proxy in front of it has none of its kind."""
    try:
        said = msgspec.json.decode(body, type=_Status)
    except (msgspec.DecodeError, RecursionError):
        said = _Status(message=body.decode(errors="replace"))
    return ApiError(status, said.reason or _word(status), said.message[:_WORDS_MAX].strip())


def _word(status: int) -> str:
    try:
        return HTTPStatus(status).phrase.title().replace(" ", "")
    except ValueError:
        return f"Http{status}"
