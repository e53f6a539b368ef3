"""Shell: the command `spillway restore`: puts every Service back as it was, whether or not a controller runs.

Controllers that run stand back: their leader's Lease is taken, and kept for `STAND_BACK_S` after the end, long enough
to uninstall them. Then each Service that is taken over, or half so, is given back as a controller would, and the
ModelDeployments are let go.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from controller.adapters.kubernetes.client import LEASES, ApiError, Cluster, path_of
from controller.adapters.kubernetes.reflector import PAGE
from controller.adapters.kubernetes.service_access import OVERTAKEN, carry_out, hold_model, read_world
from controller.adapters.kubernetes.session import ConnectError
from controller.adapters.kubernetes.source import Where, where_of
from controller.adapters.kubernetes.stand_back import take_lease
from controller.api import MODEL_API_VERSION
from controller.objects import MANAGED_BY_LABEL, MANAGER, SERVICE_LABEL, key_of
from controller.settings import LeaderElection, Settings
from controller.takeover import finalizer
from controller.takeover.contest import Contest
from controller.takeover.plan import plan
from controller.takeover.world import World, models_of, view_of

HOLDER = "spillway-restore"
STAND_BACK_S = 60
WORKING_S = 600
"""How long controllers stand back if this is killed. They do so anew while it works."""
WITHIN_S = 60.0
"""For one Service; Kubernetes has to write its EndpointSlices meanwhile."""
AT_ONCE = 8
_LOOK_AGAIN_S = 0.2


@dataclass(frozen=True, slots=True)
class RestoreOptions:
    """`kubeconfig` None: the pod's own account, or as kubectl does. `namespace`: the controllers', None: each where one
    has led; for those who may not look, the one this runs in. `settings`: the controllers', which say where models and
    Services may be.
    """

    kubeconfig: Path | None
    namespace: str | None
    settings: Settings


class RestoreError(Exception):
    """Why nothing could be done at all."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    """`models`: those the Service was taken over for. `problem`: why it is not as it was, '' if it is."""

    models: frozenset[str]
    problem: str = ""


async def restore(options: RestoreOptions, say: Callable[[str], None]) -> bool:
    """Says one line for each Service, and returns whether all are as they were. Raises RestoreError."""
    try:
        cluster = await Cluster.connect(options.kubeconfig)
        try:
            return await _restore(cluster, options, say)
        finally:
            await cluster.close()
    except (ConnectError, ApiError) as error:
        raise RestoreError(str(error)) from error


async def _restore(cluster: Cluster, options: RestoreOptions, say: Callable[[str], None]) -> bool:
    own = options.namespace or cluster.namespace
    where, election = where_of(options.settings, own), options.settings.leader_election
    places = [options.namespace] if options.namespace else await _places(cluster, election.name)
    async with _standing_back(cluster, places, election, say):
        failures = [each for each in await _restore_services(cluster, where, say) if each.problem]
        unfinished = {model for each in failures for model in each.models}
        are_free = await _let_models_go(cluster, where.namespaces, unfinished, say)
    return are_free and not failures


async def _places(cluster: Cluster, election: str) -> list[str]:
    """The namespaces where a controller has led: one that runs on would undo what is done here."""
    named = {"fieldSelector": f"metadata.name={election}"}
    try:
        leases = await cluster.get(path_of(LEASES, "leases"), named)
    except ApiError as error:
        if error.status != HTTPStatus.FORBIDDEN:
            raise
        return [cluster.namespace]
    return sorted(lease["metadata"]["namespace"] for lease in leases["items"]) or [cluster.namespace]


@asynccontextmanager
async def _standing_back(
    cluster: Cluster, places: Sequence[str], election: LeaderElection, say: Callable[[str], None]
) -> AsyncIterator[None]:
    """Controllers do nothing as long as this lasts, and for `STAND_BACK_S` after it has gone well."""

    async def hold(seconds: int) -> None:
        for place in places:
            await _stand_back(cluster, place, election, seconds, say)

    async def renew() -> None:
        while True:
            await asyncio.sleep(WORKING_S / 3)
            await hold(WORKING_S)

    await hold(WORKING_S)
    renewing = asyncio.create_task(renew())
    try:
        yield
    finally:
        renewing.cancel()
        await asyncio.wait([renewing])
    await hold(STAND_BACK_S)


async def _stand_back(
    cluster: Cluster, namespace: str, election: LeaderElection, seconds: int, say: Callable[[str], None]
) -> None:
    """For this long from now on."""
    try:
        leader = await take_lease(cluster, namespace, election.name, HOLDER, seconds)
    except ApiError as error:
        if error.status == HTTPStatus.NOT_FOUND:
            return  # no such namespace, so no controllers
        say(f"controllers that run may take Services over again: {error}")
        return
    if leader not in ("", HOLDER):
        say(f"{leader} led; it stands back")
        # It looks at the lease this often, and may be in the middle of something.
        await asyncio.sleep(2 * election.retry_period_seconds)


async def _restore_services(cluster: Cluster, where: Where, say: Callable[[str], None]) -> list[_Outcome]:
    slots = asyncio.Semaphore(AT_ONCE)

    async def give_back(key: str) -> _Outcome:
        async with slots:
            outcome = await _give_back(cluster, key)
        say(f"Service {key}: {outcome.problem or 'is as it was'}")
        return outcome

    keys = sorted(await _touched(cluster, where))
    if not keys:
        say("no Service is taken over")
    return await asyncio.gather(*map(give_back, keys))


async def _give_back(cluster: Cluster, key: str) -> _Outcome:
    models: frozenset[str] = frozenset()
    problem = "Kubernetes has not written its EndpointSlices; until it has, callers reach what they reached"
    try:
        async with asyncio.timeout(WITHIN_S):
            while True:
                try:
                    seen = await read_world(cluster, key)
                    if not seen.is_touched:
                        return _Outcome(models)
                    models |= models_of(seen.service, seen.shadow)
                    for action in plan(seen, {}, Contest(), time.time()).actions:
                        await carry_out(cluster, action)
                except ApiError as error:
                    problem = str(error)
                    if error.is_refusal and error.status not in OVERTAKEN:
                        return _Outcome(models, problem)
                await asyncio.sleep(_LOOK_AGAIN_S)
    except TimeoutError:
        return _Outcome(models, problem)


async def _touched(cluster: Cluster, where: Where) -> set[str]:
    """The Services at which something of ours is, and nothing of controllers of other namespaces' models."""
    keys: set[str] = set()
    others: set[str] = set()
    async for obj in _all(cluster, "v1", "services", where.referred):
        view = view_of(obj)
        if view.shadow_of is not None:
            key = f"{view.namespace}/{view.shadow_of}"
        elif World(view).is_touched:
            key = view.key
        else:
            continue
        is_ours = all(where.serves(model.partition("/")[0]) for model in models_of(view))
        (keys if is_ours else others).add(key)
    ours = f"{MANAGED_BY_LABEL}={MANAGER}"
    async for obj in _all(cluster, "discovery.k8s.io/v1", "endpointslices", where.referred, ours):
        metadata = obj["metadata"]
        if service := metadata["labels"].get(SERVICE_LABEL):
            keys.add(f"{metadata['namespace']}/{service}")
    return keys - others


async def _let_models_go(
    cluster: Cluster, namespaces: Sequence[str], unfinished: set[str], say: Callable[[str], None]
) -> bool:
    """Takes the finalizer off all models but those whose Service is not as it was. Returns whether it did."""
    done = True
    for key in sorted(await _held(cluster, namespaces) - unfinished):
        try:
            await hold_model(cluster, key, hold=False)
        except ApiError as error:
            done = False
            say(f"ModelDeployment {key}: {error}")
    return done


async def _held(cluster: Cluster, namespaces: Sequence[str]) -> set[str]:
    try:
        models = [obj async for obj in _all(cluster, MODEL_API_VERSION, "modeldeployments", namespaces)]
    except ApiError as error:
        if error.status != HTTPStatus.NOT_FOUND:
            raise
        return set()  # the kind is not served any more
    return {key_of(model) for model in models if finalizer.is_held(model["metadata"])}


async def _all(
    cluster: Cluster, group_version: str, plural: str, namespaces: Sequence[str], labels: str = ""
) -> AsyncIterator[dict[str, Any]]:
    for namespace in namespaces or ("",):
        query = {"limit": str(PAGE), **({"labelSelector": labels} if labels else {})}
        while True:
            page = await cluster.get(path_of(group_version, plural, namespace), query)
            for item in page.get("items") or ():
                yield item
            if not (more := page["metadata"].get("continue")):
                break
            query["continue"] = more
