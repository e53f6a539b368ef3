"""A process that contends for a Lease and says on its output whether it leads.

Arguments: kubeconfig, namespace, identity, duration_s and deadline_s of the terms.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from controller.adapters.kubernetes.client import Cluster
from controller.adapters.kubernetes.election import Election
from controller.election import Terms


async def contend(kubeconfig: str, namespace: str, identity: str, duration_s: str, deadline_s: str) -> None:
    cluster = await Cluster.connect(Path(kubeconfig))
    terms = Terms(int(duration_s), float(deadline_s), 0.1)
    await Election(cluster, namespace, "leader", identity, lambda leads: print(leads, flush=True), terms=terms).run()


if __name__ == "__main__":
    asyncio.run(contend(*sys.argv[1:]))
