"""Shell: makes every controller stop acting, by taking the Lease of their leader, whoever holds it."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import Any

from controller.adapters.kubernetes.client import LEASES, ApiError, Cluster, micro_time, path_of


async def take_lease(cluster: Cluster, namespace: str, name: str, holder: str, duration_s: int) -> str:
    """Holds the lease for this long from now on, unless somebody else takes it in the same way. Returns who held it
    before, '' if nobody did. Raises ApiError.
    """
    collection, path = path_of(LEASES, "leases", namespace), path_of(LEASES, "leases", namespace, name)
    while True:
        now = micro_time(time.time())
        spec = {"holderIdentity": holder, "leaseDurationSeconds": duration_s, "acquireTime": now, "renewTime": now}
        try:
            if (lease := await cluster.find(path)) is None:
                await cluster.create(collection, {"metadata": {"name": name}, "spec": spec})
                return ""
            held: dict[str, Any] = lease.get("spec") or {}
            before = held.get("holderIdentity") or ""
            transitions = (held.get("leaseTransitions") or 0) + (before != holder)
            version = {"resourceVersion": lease["metadata"]["resourceVersion"]}
            await cluster.merge_patch(path, {"metadata": version, "spec": {**spec, "leaseTransitions": transitions}})
            return before
        except ApiError as error:
            if error.status != HTTPStatus.CONFLICT:  # its holder has renewed it in between
                raise
