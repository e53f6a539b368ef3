"""Shell: what the replicas of a controller tell each other, in a Lease of coordination.k8s.io for each of them.

A replica writes its Lease when it has news and there is somebody to hear them, and over and over so that others know
it is there. One whose Lease has stood still for as long as it lasts is gone. Only time in which the API server
can be read and written counts: while it is away, nobody is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from uuid import uuid4

import msgspec

from controller.adapters.host import steady_clock
from controller.adapters.kubernetes.client import LEASES, ApiError, Cluster, micro_time, path_of
from controller.adapters.kubernetes.reflector import Handler, Reflector, Selection, UnusableError
from controller.events import Event, PeerReported
from controller.parsing import Problem
from controller.peers import PeerReport, from_text, to_text

REPLICA_LABEL = "spillway.dev/replica"
"""Its value is the election's name, so that the replicas of another controller are none of ours."""
REPORT_ANNOTATION = "spillway.dev/report"

LEAVE_S = 2.0
"""Stopping waits this long for the API server to delete the Lease."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Timing:
    """How often a report is made, how often the Lease is written without news, how long it lasts, and when it is
    deleted if nobody writes it.
    """

    look_s: float = 2.0
    renew_s: float = 10.0
    duration_s: int = 30
    forget_s: float = 600.0


TIMING = Timing()


class _Metadata(msgspec.Struct, gc=False):
    name: str
    namespace: str
    uid: str
    annotations: dict[str, str] | None = None


class _Spec(msgspec.Struct, rename="camel", gc=False):
    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    renew_time: str | None = None


class _Lease(msgspec.Struct, gc=False):
    metadata: _Metadata
    spec: _Spec


_lease = msgspec.json.Decoder(_Lease)


@dataclass(slots=True)
class _Peer:
    """Another replica. `silent_s`: how long its Lease has stood still."""

    lease: _Lease
    report: PeerReport | None
    silent_s: float = 0.0
    is_gone: bool = False

    @property
    def name(self) -> str:
        return self.lease.spec.holder_identity or self.lease.metadata.name

    @property
    def flaw(self) -> str:
        """What is wrong with the report, '' if nothing is."""
        if self.report is None:
            return "its report cannot be read; is it of another version?"
        if self.report.cut:
            return f"its report would be too long, so it lacks some {', '.join(sorted(self.report.cut))}"
        return ""

    @property
    def duration_s(self) -> float:
        return self.lease.spec.lease_duration_seconds or TIMING.duration_s


class Peers:
    """The replicas beside this one, in Leases '<election>-<identity>' of `namespace`.

    `identity`: this replica's name, nobody else's, and such that an object may have it. `report`: what there is to
    tell, of the run with this id. `emit` hears what the others tell. `leads`: whether this replica does; then it
    deletes what nobody writes any more.
    """

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        election: str,
        identity: str,
        report: Callable[[str], PeerReport],
        emit: Callable[[Event], None],
        leads: Callable[[], bool],
        *,
        timing: Timing = TIMING,
    ) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._election = election
        self._identity = identity
        self._name = f"{election}-{identity}"
        self._report = report
        self._emit = emit
        self._leads = leads
        self._timing = timing
        self._run = uuid4().hex
        self._clock = steady_clock()
        self._peers: dict[str, _Peer] = {}
        self._heard: dict[str, PeerReport] = {}
        self._told = ""
        self._told_at_s = float("-inf")
        self._looked_at_s = self._clock()
        self._complaint = ""
        selection = Selection(path_of(LEASES, "leases", namespace), f"{REPLICA_LABEL}={election}")
        # No Lease is refused: all that is read of it, the API server has checked.
        handler = Handler(_decode, self._change, self._remove, lambda key, problems: None)
        self._reflector = Reflector(cluster, selection, handler)

    @property
    def names(self) -> list[str]:
        """The other replicas that are there."""
        return sorted(peer.name for peer in self._peers.values() if not peer.is_gone)

    @property
    def troubles(self) -> list[str]:
        """Why replicas cannot hear of each other, one sentence for each reason."""
        return [words for words in (self._reflector.trouble, self._complaint) if words]

    async def run(self) -> None:
        """Until it is cancelled; then the others are told that this replica is gone."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._reflector.run())
                while True:
                    await self._look()
                    await asyncio.sleep(self._timing.look_s)
        finally:
            await self._leave()

    async def _look(self) -> None:
        """Tells what there is to tell, and finds out who is gone."""
        try:
            async with asyncio.timeout(self._timing.renew_s):
                await self._tell()
                await self._forget()
            self._complaint = ""
        except TimeoutError:
            self._complain("no answer from the API server")
        except ApiError as error:
            self._complain(str(error))
        now_s = self._clock()
        if not self.troubles:
            self._judge(min(now_s - self._looked_at_s, self._timing.renew_s))
        self._looked_at_s = now_s

    # This replica

    async def _tell(self) -> None:
        """Writes our Lease if that is due. Raises ApiError."""
        now_s = self._clock()
        is_due = now_s >= self._told_at_s + self._timing.renew_s
        if not is_due and not self.names:
            return
        text = to_text(self._report(self._run))
        if not is_due and text == self._told:
            return
        body = {
            "apiVersion": LEASES,
            "kind": "Lease",
            "metadata": {
                "name": self._name,
                "labels": {REPLICA_LABEL: self._election},
                "annotations": {REPORT_ANNOTATION: text},
            },
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": self._timing.duration_s,
                "renewTime": micro_time(now_s),
            },
        }
        await self._cluster.apply(self._path(self._name), body)
        self._told, self._told_at_s = text, now_s

    async def _leave(self) -> None:
        try:
            async with asyncio.timeout(LEAVE_S):
                await self._cluster.delete(self._path(self._name))
        except (ApiError, TimeoutError) as error:
            log.warning("the other replicas could not be told that this one stops", extra={"error": str(error)})

    def _complain(self, words: str) -> None:
        """Once for each trouble."""
        words = f"the Lease {self._name} cannot be kept: {words}"
        if words != self._complaint:
            self._complaint = words
            log.warning(words)

    def _path(self, name: str) -> str:
        return path_of(LEASES, "leases", self._namespace, name)

    # The others

    def _change(self, lease: _Lease) -> None:
        if lease.metadata.name == self._name:
            return
        known = self._peers.get(key := _key(lease))
        if known and known.lease.spec == lease.spec:
            return  # somebody else wrote something else
        peer = self._peers[key] = _Peer(lease, from_text((lease.metadata.annotations or {}).get(REPORT_ANNOTATION, "")))
        if known is None or known.is_gone:
            log.info("replica %s is there", peer.name)
        if peer.flaw and peer.flaw != (known.flaw if known else ""):
            log.warning("replica %s: %s", peer.name, peer.flaw)
        self._hear(peer.name, peer.report)

    def _remove(self, key: str) -> None:
        peer = self._peers.pop(key, None)
        if peer and not peer.is_gone:
            self._lose(peer)

    def _judge(self, elapsed_s: float) -> None:
        for peer in self._peers.values():
            peer.silent_s += elapsed_s
            if not peer.is_gone and peer.silent_s > peer.duration_s:
                peer.is_gone = True
                self._lose(peer)

    def _lose(self, peer: _Peer) -> None:
        log.info("replica %s is gone", peer.name)
        self._hear(peer.name, None)

    def _hear(self, name: str, report: PeerReport | None) -> None:
        """Passes on what is news."""
        if report == self._heard.get(name):
            return
        if report is None:
            del self._heard[name]
        else:
            self._heard[name] = report
        self._emit(PeerReported(name, report))

    async def _forget(self) -> None:
        """Deletes the Leases of those that will not come back. Raises ApiError."""
        silent = [peer.lease.metadata for peer in self._peers.values() if peer.silent_s > self._timing.forget_s]
        for metadata in silent if self._leads() else ():
            await self._cluster.delete(self._path(metadata.name), uid=metadata.uid)


def _decode(body: bytes) -> _Lease:
    """Raises UnusableError."""
    try:
        return _lease.decode(body)
    except msgspec.DecodeError as error:
        raise UnusableError(Problem("", str(error))) from None


def _key(lease: _Lease) -> str:
    return f"{lease.metadata.namespace}/{lease.metadata.name}"
