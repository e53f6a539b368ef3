"""Fixtures of the data-path tests: an Envoy for each module, servers for each test."""

import socket
import ssl
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio
import trustme

from tests.envoy.world import World, world
from tests.support.backends import Backend, http_backend


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with world(tmp_path_factory.mktemp("envoy")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def here() -> AsyncIterator[Backend]:
    async with http_backend("here") as backend:
        yield backend


@pytest_asyncio.fixture(loop_scope="module")
async def there() -> AsyncIterator[Backend]:
    async with http_backend("there") as backend:
        yield backend


@pytest_asyncio.fixture(loop_scope="module")
async def elsewhere() -> AsyncIterator[Backend]:
    async with http_backend("elsewhere") as backend:
        yield backend


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def ca_pem(authority: trustme.CA) -> str:
    return authority.cert_pem.bytes().decode()


def server_tls(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    """A server's side, with a certificate for these names or addresses."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*names).configure_cert(context)
    return context


def grpc_tls(authority: trustme.CA, name: str) -> grpc.ServerCredentials:
    """The same for a gRPC server."""
    certificate = authority.issue_cert(name)
    chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
    return grpc.ssl_server_credentials([(certificate.private_key_pem.bytes(), chain)])


def ipv6_or_skip() -> str:
    """The IPv6 loopback address. Skips the test where there is none."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return "::1"
    except OSError:
        pytest.skip("this machine has no IPv6")
