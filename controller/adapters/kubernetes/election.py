"""Shell: one leader among controllers, by a Lease of coordination.k8s.io. `controller/election.py` says who leads.

The official client has an election too (kubernetes.aio.leaderelection). It is not used: a request that hangs keeps its
leader leading past the lease's end, so that two lead; it reads the wall clock; a connection error ends it; it neither
releases the lease when it stops, nor contends again once it lost, nor counts transitions.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from controller.adapters.host import steady_clock
from controller.adapters.kubernetes.client import LEASES, ApiError, Cluster, micro_time, path_of
from controller.election import NOBODY, Candidate, Lease, Terms

TERMS = Terms()
RELEASE_S = 2.0
"""Stopping waits this long for the API server to take the lease back."""

log = logging.getLogger(__name__)


class Election:
    """Contends for the Lease `namespace`/`name` while it runs.

    `identity`: who we are there, nobody else's: a pod's name. `tell` hears True when we begin to lead and False when we
    no longer do; `tell_holder` hears who holds the lease, each time it is another than was known before.
    """

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        name: str,
        identity: str,
        tell: Callable[[bool], None],
        *,
        tell_holder: Callable[[str], None] = lambda holder: None,
        terms: Terms = TERMS,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.leads = False
        self.holder = NOBODY
        self._cluster = cluster
        self._name = name
        self._collection = path_of(LEASES, "leases", namespace)
        self._path = path_of(LEASES, "leases", namespace, name)
        self._candidate = Candidate(identity, terms)
        self._terms = terms
        self._tell = tell
        self._tell_holder = tell_holder
        self._jitter = jitter
        self._clock = steady_clock()
        self._version = ""
        self._complaint = ""

    async def run(self) -> None:
        """Contends until it is cancelled, then gives back what it holds."""
        try:
            while True:
                await self._contend()
                await self._pause()
        finally:
            self._announce(leads=False)
            await self._release()

    async def _contend(self) -> None:
        """One attempt to hold the lease, given up when we may no longer lead without it."""
        now_s = self._clock()
        candidate = self._candidate
        patience_s = candidate.leads_until_s - now_s if candidate.leads(now_s) else self._terms.deadline_s
        try:
            async with asyncio.timeout(patience_s):
                await self._try()
            self._complaint = ""
        except TimeoutError:
            self._miss(ApiError(0, "Timeout", "no answer from the API server"))
        except ApiError as error:
            if error.status != HTTPStatus.CONFLICT:  # somebody else was faster
                self._miss(error)
        self._announce(leads=candidate.leads(self._clock()))

    async def _try(self) -> None:
        lease = await self._read()
        self._learn(lease.holder if lease else NOBODY)
        claim = self._candidate.claim(lease, self._clock(), micro_time(self._clock()))
        if claim is None:
            self._announce(leads=False)
            return
        begun_s = self._clock()
        await self._write(claim, exists=lease is not None)
        self._candidate.wrote(claim, begun_s)
        self._learn(claim.holder)

    async def _pause(self) -> None:
        """Until the next attempt, or until we may no longer lead, if that comes first."""
        now_s = self._clock()
        pause_s = self._terms.retry_s
        if self._candidate.leads(now_s):
            pause_s = min(pause_s, self._candidate.leads_until_s - now_s)
        else:
            pause_s *= 1.0 + 0.2 * self._jitter()
        await asyncio.sleep(pause_s)
        self._announce(leads=self._candidate.leads(self._clock()))

    async def _release(self) -> None:
        lease = self._candidate.release(micro_time(self._clock()))
        if lease is None:
            return
        try:
            async with asyncio.timeout(RELEASE_S):
                await self._give_back(lease)
        except (ApiError, TimeoutError) as error:
            log.warning("the lease could not be given back, so it has to run out", extra={"error": str(error)})

    async def _give_back(self, lease: Lease) -> None:
        """Raises ApiError."""
        try:
            await self._write(lease, exists=True)
        except ApiError as error:
            if error.status != HTTPStatus.CONFLICT:
                raise
            # We may have been stopped while a renewal was under way, and have not heard what came of it.
            held = await self._read()
            if held is not None and held.holder == self._candidate.identity:
                await self._write(lease, exists=True)

    def _learn(self, holder: str) -> None:
        if holder != self.holder:
            self.holder = holder
            self._tell_holder(holder)

    def _announce(self, *, leads: bool) -> None:
        if leads is not self.leads:
            self.leads = leads
            log.info("this controller leads" if leads else "this controller no longer leads")
            self._tell(leads)

    def _miss(self, error: ApiError) -> None:
        """Said once for each trouble."""
        self._candidate.missed(self._clock())
        if str(error) != self._complaint:
            self._complaint = str(error)
            log.warning("the lease %s cannot be held: %s", self._path, error)

    # The Lease object

    async def _read(self) -> Lease | None:
        if (obj := await self._cluster.find(self._path)) is None:
            return None
        self._version = obj["metadata"]["resourceVersion"]
        return _lease(obj.get("spec") or {})

    async def _write(self, lease: Lease, *, exists: bool) -> None:
        """Raises ApiError; 'Conflict' or 'AlreadyExists' if somebody has written since it was read."""
        spec = _spec(lease)
        if exists:
            body = {"metadata": {"resourceVersion": self._version}, "spec": spec}
            obj = await self._cluster.merge_patch(self._path, body)
        else:
            obj = await self._cluster.create(self._collection, {"metadata": {"name": self._name}, "spec": spec})
        self._version = obj["metadata"]["resourceVersion"]


def _lease(spec: dict[str, Any]) -> Lease:
    return Lease(
        spec.get("holderIdentity") or NOBODY,
        spec.get("leaseDurationSeconds") or 1,
        spec.get("leaseTransitions") or 0,
        spec.get("acquireTime") or "",
        spec.get("renewTime") or "",
    )


def _spec(lease: Lease) -> dict[str, Any]:
    return {
        "holderIdentity": lease.holder or None,
        "leaseDurationSeconds": lease.duration_s,
        "leaseTransitions": lease.transitions,
        "acquireTime": lease.acquired or None,
        "renewTime": lease.renewed,
    }
