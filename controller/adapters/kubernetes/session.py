"""Shell: connections to an API server with one set of credentials, found by the official client's configuration."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from kubernetes.aio.client import Configuration
from kubernetes.aio.client.rest import RESTClientObject
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config
from yaml import YAMLError

from controller import __version__
from controller.objects import MANAGER

DEAD_AFTER_S = 30
"""A peer that answers no TCP keepalive for this long is gone: a watch would not notice otherwise."""

_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_CONNECT_S = 10.0


class ConnectError(Exception):
    """Where the API server is, or who we are there, cannot be told; the message says why."""


@dataclass(frozen=True, slots=True)
class Access:
    """`configuration`: the library's. `namespace`: the one we are in, or that the kubeconfig's context names."""

    configuration: Configuration
    namespace: str


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    timeout_s: float
    body: object = None


class Session:
    """Connections with one set of credentials. Once retired, it closes with the last exchange that goes on."""

    def __init__(self, configuration: Configuration) -> None:
        # From Python 3.13 on, certificates of many clusters would be refused that kubectl, like all of Go, takes.
        configuration.disable_strict_ssl_verification = True
        # Left to itself, aiohttp reads ~/.netrc for each request, in a thread, and fails over one that names the host.
        configuration.client_session_kwargs = {"trust_env": False}
        configuration.proxy = configuration.proxy or _proxy_to(configuration.host)
        self._configuration = configuration
        self._rest = _Rest(configuration)
        self._exchanges = 0
        self._retired = False

    @asynccontextmanager
    async def exchange(self, request: Request) -> AsyncIterator[aiohttp.ClientResponse]:
        self._exchanges += 1
        try:
            async with await self._send(request) as response:
                yield response
        finally:
            self._exchanges -= 1
            await self._close_if_done()

    def refused(self, response: aiohttp.ClientResponse) -> bool:
        """Whether the credentials were, or there are none: an exec plugin that failed leaves us anonymous."""
        anonymous = not (self._configuration.api_key or self._configuration.cert_file)
        return response.status == HTTPStatus.UNAUTHORIZED or (response.status == HTTPStatus.FORBIDDEN and anonymous)

    async def retire(self) -> None:
        self._retired = True
        await self._close_if_done()

    async def _close_if_done(self) -> None:
        if self._retired and not self._exchanges:
            await self._rest.close()

    async def _send(self, request: Request) -> aiohttp.ClientResponse:
        headers = {**request.headers, "User-Agent": f"{MANAGER}/{__version__}"}
        if token := await self._configuration.get_api_key_with_prefix("BearerToken"):
            headers["Authorization"] = token
        path = f"{request.path}?{urlencode(request.query)}" if request.query else request.path
        answer = await self._rest.request(
            request.method,
            self._configuration.host + path,
            headers=headers,
            body=request.body,
            _request_timeout=aiohttp.ClientTimeout(total=request.timeout_s, sock_connect=_CONNECT_S),
        )
        response: aiohttp.ClientResponse = answer.response
        return response


class _Rest(RESTClientObject):  # type: ignore[misc] # not typed
    """The library's session, without its limit of connections: each watch has one for itself."""

    def _create_connector(self) -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector(limit=0, ssl=self.ssl_context, socket_factory=_socket)


def _proxy_to(url: str) -> str | None:
    """The proxy that the environment names (HTTPS_PROXY, NO_PROXY)."""
    parts = urlsplit(url)
    return None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)


def _socket(address: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, *_ = address
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", DEAD_AFTER_S // 2),
        ("TCP_KEEPINTVL", DEAD_AFTER_S // 6),
        ("TCP_KEEPCNT", 3),
    ):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return sock


async def load_access(kubeconfig: Path | None, context: str | None) -> Access:
    try:
        if kubeconfig is None and context is None and "KUBERNETES_SERVICE_HOST" in os.environ:
            return _load_in_pod()
        files = str(kubeconfig or os.environ.get("KUBECONFIG") or Path.home() / ".kube" / "config")
        if not any(map(os.path.isfile, files.split(os.pathsep))):
            raise ConnectError(f"there is no kubeconfig at {files}, and this is no pod")
        configuration = Configuration()
        loader = await load_kube_config(files, context, configuration, persist_config=False)
        return Access(configuration, loader.current_context["context"].get("namespace") or "default")
    except (ConfigException, OSError, ValueError, YAMLError) as error:
        raise ConnectError(str(error)) from error


def _load_in_pod() -> Access:
    configuration = Configuration()
    load_incluster_config(configuration)
    return Access(configuration, _NAMESPACE_FILE.read_text().strip())
