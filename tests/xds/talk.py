"""Conversations between a client and a session, written as they are spoken.

    client.says(CLUSTER)
    assert client.hears() == {"CDS": ["a=1"]}
    client.acks(CLUSTER)

Responses read `name=content`, and `-name` for what is removed; resources hold a word instead of real configuration.
"""

from collections.abc import Iterable

from google.protobuf.any_pb2 import Any
from google.protobuf.wrappers_pb2 import StringValue

from protos.envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
)
from xds.response import Encoder
from xds.server import SHORT
from xds.session import OPENING_S, Session
from xds.session_delta import DeltaSession
from xds.session_state import StateSession
from xds.snapshot import Key, Resource, Snapshot, resource
from xds.subscription import Ack, Kept, Nack


def word(type_url: str, name: str, content: object = 1, *refs: Key) -> Resource:
    return resource(type_url, name, StringValue(value=str(content)), refs)


def content_of(body: Any) -> str:
    return StringValue.FromString(body.value).value


class World:
    """A snapshot and the encoder that all its streams share."""

    def __init__(self, *resources: Resource) -> None:
        self.snapshot = Snapshot()
        self.encoder = Encoder()
        self.refused: set[tuple[str, str, str]] = set()
        self.has(*resources)

    def has(self, *resources: Resource, gone: Iterable[Key] = ()) -> None:
        """One change."""
        self.snapshot.apply(resources, gone)


class Client:
    """What both variants have in common. Time stands still unless `waits`. Requests are as old as an opening lasts, so
    removals do not wait for it.
    """

    def __init__(self, world: World, session: Session) -> None:
        self.world = world
        self.session = session
        self.now_s = OPENING_S
        self.nonces: dict[str, str] = {}
        self.sizes: list[int] = []

    def waits(self, seconds: float) -> None:
        self.now_s += seconds

    def hears(self) -> dict[str, list[str]]:
        """Everything that is offered now."""
        heard: dict[str, list[str]] = {}
        for push in self.session.offer(self.now_s):
            type_url, nonce, spoken = self.decode(push.data)
            assert SHORT[type_url] not in heard, "one response in flight for each type"
            self.nonces[type_url] = nonce
            self.sizes.append(len(push.data))
            heard[SHORT[type_url]] = spoken
        return heard

    def settles(self, rounds: int = 10) -> list[dict[str, list[str]]]:
        """Acknowledges everything until there is no more; what it heard, round by round."""
        heard = []
        for _ in range(rounds):
            heard.append(self.hears())
            if not heard[-1]:
                return heard[:-1]
            for type_url in [url for url, short in SHORT.items() if short in heard[-1]]:
                self.acks(type_url)
        raise AssertionError(f"it never ends: {heard}")

    def accepted(self) -> list[str]:
        """What the session reports as accepted since the last call."""
        names = []
        for report in self.session.reports():
            if isinstance(report, Ack):
                names += [each.name for each in report.resources]
            elif isinstance(report, Kept):
                names += self.world.snapshot.logs[report.type_url].versions.keys() - report.but
        return sorted(names)

    def rejections(self) -> list[Nack]:
        return [report for report in self.session.reports() if isinstance(report, Nack)]

    def acks(self, type_url: str) -> None:
        raise NotImplementedError

    def decode(self, data: bytes) -> tuple[str, str, list[str]]:
        raise NotImplementedError


class DeltaClient(Client):
    session: DeltaSession

    def __init__(self, world: World, only: str | None = None) -> None:
        super().__init__(world, DeltaSession(world.snapshot, world.encoder, world.refused, only))

    def says(
        self, type_url: str, *names: str, without: Iterable[str] = (), known: dict[str, str] | None = None
    ) -> None:
        """Subscribes and unsubscribes. `known`: name -> version of what it kept from before."""
        self.send(
            type_url=type_url,
            resource_names_subscribe=names,
            resource_names_unsubscribe=without,
            initial_resource_versions=known or {},
        )

    def acks(self, type_url: str, nonce: str | None = None) -> None:
        self.send(type_url=type_url, response_nonce=nonce or self.nonces[type_url])

    def nacks(self, type_url: str, words: str = "no") -> None:
        self.send(type_url=type_url, response_nonce=self.nonces[type_url], error_detail={"message": words})

    def send(self, **fields: object) -> None:
        self.session.receive(DeltaDiscoveryRequest(**fields), max(0.0, self.now_s - OPENING_S))  # type: ignore[arg-type]

    def decode(self, data: bytes) -> tuple[str, str, list[str]]:
        response = DeltaDiscoveryResponse.FromString(data)
        spoken = [f"{each.name}={content_of(each.resource)}" for each in response.resources]
        return response.type_url, response.nonce, spoken + [f"-{name}" for name in response.removed_resources]


class StateClient(Client):
    session: StateSession

    def __init__(self, world: World) -> None:
        super().__init__(world, StateSession(world.snapshot, world.encoder, world.refused))
        self.names: dict[str, tuple[str, ...]] = {}
        self.versions: dict[str, str] = {}
        self.heard_versions: dict[str, str] = {}

    def says(self, type_url: str, *names: str, version: str = "") -> None:
        """Names all that it wants, in answer to nothing new."""
        self.names[type_url] = names
        self.versions[type_url] = version or self.versions.get(type_url, "")
        self._send(type_url, self.nonces.get(type_url, ""))

    def acks(self, type_url: str, *names: str, nonce: str | None = None) -> None:
        self.names[type_url] = names or self.names[type_url]
        self.versions[type_url] = self.heard_versions[type_url]
        self._send(type_url, nonce or self.nonces[type_url])

    def nacks(self, type_url: str, words: str = "no") -> None:
        self._send(type_url, self.nonces[type_url], error_detail={"message": words})

    def decode(self, data: bytes) -> tuple[str, str, list[str]]:
        response = DiscoveryResponse.FromString(data)
        self.heard_versions[response.type_url] = response.version_info
        return response.type_url, response.nonce, sorted(content_of(each) for each in response.resources)

    def _send(self, type_url: str, nonce: str, **fields: object) -> None:
        request = DiscoveryRequest(
            type_url=type_url,
            resource_names=self.names[type_url],
            version_info=self.versions[type_url],
            response_nonce=nonce,
            **fields,  # type: ignore[arg-type]
        )
        self.session.receive(request, max(0.0, self.now_s - OPENING_S))
