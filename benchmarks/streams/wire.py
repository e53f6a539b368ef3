"""What one delta stream says over HTTP/2, as bytes: just enough of gRPC for a client with one stream a connection.

Nothing is decoded that need not be. The answer to a response is made once for all streams that get the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping

from protos.envoy.config.core.v3.base_pb2 import Node
from protos.envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest

METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
INITIAL_WINDOW_SIZE = 4

STREAM = 1
FRAME_HEADER = 9
MAX_FRAME = 16_384
DEFAULT_WINDOW = 65_535
LARGEST_WINDOW = (1 << 31) - 1

MAX_CACHED = 65_536
"""Bytes of a response that is looked up whole."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def opening(authority: str, scheme: str) -> bytes:
    """What a connection says first. Its windows are the largest: a client that is never behind needs no credit."""
    settings = INITIAL_WINDOW_SIZE.to_bytes(2, "big") + LARGEST_WINDOW.to_bytes(4, "big")
    more = LARGEST_WINDOW - DEFAULT_WINDOW
    headers = bytes((0x83, 0x86 if scheme == "http" else 0x87))  # :method POST and :scheme, of HPACK's static table
    headers += b"\x04" + _text(METHOD) + b"\x01" + _text(authority)
    headers += b"\x00" + _text("content-type") + _text("application/grpc") + b"\x00" + _text("te") + _text("trailers")
    return (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + frame(SETTINGS, 0, 0, settings)
        + frame(WINDOW_UPDATE, 0, 0, more.to_bytes(4, "big"))
        + frame(HEADERS, END_HEADERS, STREAM, headers)
    )


def _text(value: str) -> bytes:
    encoded = value.encode()
    assert len(encoded) < 0x7F, "a longer one has its length in more than a byte"
    return bytes((len(encoded),)) + encoded


def message(serialized: bytes) -> bytes:
    """A gRPC message, not compressed."""
    return b"\0" + len(serialized).to_bytes(4, "big") + serialized


def introduction(node: str) -> bytes:
    """The part of a stream's first request that is its own; `subscription` is the rest of it."""
    return DeltaDiscoveryRequest(node=Node(id=node, cluster="benchmark")).SerializeToString()


def subscription(type_url: str, known: Mapping[str, str]) -> bytes:
    """Asks for all resources of a type. `known`: name -> version of those that the client has."""
    return DeltaDiscoveryRequest(
        type_url=type_url, resource_names_subscribe=["*"], initial_resource_versions=known
    ).SerializeToString()


class Answers:
    """ACKs of one type, as DATA frames."""

    def __init__(self, type_url: str) -> None:
        self.given = 0
        """How many responses have been answered."""
        self._type_url = type_url
        self._made: dict[bytes, bytes] = {}

    def to(self, response: bytes) -> bytes:
        """The answer to a serialized DeltaDiscoveryResponse."""
        self.given += 1
        if len(response) > MAX_CACHED:
            return self._answer(response)
        if (found := self._made.get(response)) is None:
            if len(self._made) > 1_000:
                self._made.clear()
            found = self._made[response] = self._answer(response)
        return found

    def _answer(self, response: bytes) -> bytes:
        request = DeltaDiscoveryRequest(type_url=self._type_url, response_nonce=nonce_of(response))
        return frame(DATA, 0, STREAM, message(request.SerializeToString()))


def nonce_of(response: bytes) -> str:
    """Every server here writes the nonce (field 5) last: found from the end, it costs nothing in a large response."""
    start = response.rindex(b"\x2a")
    assert response[start + 1] == len(response) - start - 2, "the nonce is not the last field"
    return response[start + 2 :].decode()
