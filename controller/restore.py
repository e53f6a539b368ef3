"""Shell: the command `spillway restore`: puts every Service back as it was, whether or not a controller runs.

Controllers that run stand back: their leader's Lease is taken, and kept for `STAND_BACK_S` after the end, long enough
to uninstall them. Then each Service that is taken over, or half so, is given back as a controller would, and the
ModelDeployments are let go.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

from controller.adapters.kubernetes.client import ApiError, Cluster, path_of
from controller.adapters.kubernetes.reflector import PAGE
from controller.adapters.kubernetes.service_access import carry_out, hold_model, read_world
from controller.adapters.kubernetes.stand_back import take_lease
from controller.api import MODEL_API_VERSION
from controller.objects import MANAGED_BY_LABEL, MANAGER, SERVICE_LABEL
from controller.settings import LeaderElection
from controller.takeover import finalizer
from controller.takeover.contest import Contest
from controller.takeover.plan import plan
from controller.takeover.world import World, models_of, view_of

STAND_BACK_S = 60
WORKING_S = 600
"""How long controllers stand back if this is killed."""
WITHIN_S = 60.0
"""For one Service; Kubernetes has to write its EndpointSlices meanwhile."""
AT_ONCE = 8
_LOOK_AGAIN_S = 0.2
_OVERTAKEN = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY})
"""Somebody else was faster: look again."""


@dataclass(frozen=True, slots=True)
class RestoreOptions:
    """`kubeconfig` None: the pod's own account, or as kubectl does. `models`, `services`: the namespaces of each, none:
    all. `namespace`: the controllers', None: the one this runs in, or that the kubeconfig names.
    """

    kubeconfig: Path | None = None
    namespace: str | None = None
    models: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    election: LeaderElection = field(default_factory=LeaderElection)


@dataclass(frozen=True, slots=True)
class _Outcome:
    """`models`: those the Service was taken over for. `problem`: why it is not as it was, '' if it is."""

    models: frozenset[str]
    problem: str = ""


async def restore(options: RestoreOptions, say: Callable[[str], None]) -> bool:
    """Says one line for each Service, and returns whether all are as they were. Raises ConnectError and ApiError."""
    cluster = await Cluster.connect(options.kubeconfig)
    try:
        await _stand_back(cluster, options, say, WORKING_S)
        failures = [each for each in await _restore_services(cluster, options, say) if each.problem]
        unfinished = {model for each in failures for model in each.models}
        are_free = await _let_models_go(cluster, options.models, unfinished, say)
        await _stand_back(cluster, options, say, STAND_BACK_S)
        return are_free and not failures
    finally:
        await cluster.close()


async def _stand_back(cluster: Cluster, options: RestoreOptions, say: Callable[[str], None], seconds: int) -> None:
    namespace, holder = options.namespace or cluster.namespace, "spillway-restore"
    try:
        leader = await take_lease(cluster, namespace, options.election.name, holder, seconds)
    except ApiError as error:
        if error.status == HTTPStatus.NOT_FOUND:
            return  # no such namespace, so no controllers
        say(f"controllers that run may take Services over again: {error}")
        return
    if leader not in ("", holder):
        say(f"{leader} led; it stands back")
        # It looks at the lease this often, and may be in the middle of something.
        await asyncio.sleep(2 * options.election.retry_period_seconds)


async def _restore_services(cluster: Cluster, options: RestoreOptions, say: Callable[[str], None]) -> list[_Outcome]:
    slots = asyncio.Semaphore(AT_ONCE)

    async def give_back(key: str) -> _Outcome:
        async with slots:
            outcome = await _give_back(cluster, key)
        say(f"Service {key}: {outcome.problem or 'is as it was'}")
        return outcome

    keys = sorted(await _touched(cluster, options))
    if not keys:
        say("no Service is taken over")
    return await asyncio.gather(*map(give_back, keys))


async def _give_back(cluster: Cluster, key: str) -> _Outcome:
    models: frozenset[str] = frozenset()
    problem = "Kubernetes has not written its EndpointSlices; until it has, callers reach what they reached"
    try:
        async with asyncio.timeout(WITHIN_S):
            while (seen := await read_world(cluster, key)).is_touched:
                models |= models_of(seen.service, seen.shadow)
                problem = await _step(cluster, seen) or problem
                await asyncio.sleep(_LOOK_AGAIN_S)
    except TimeoutError:
        return _Outcome(models, problem)
    except ApiError as error:
        return _Outcome(models, str(error))
    return _Outcome(models)


async def _step(cluster: Cluster, seen: World) -> str:
    """Why it could not be done, where that may pass; ''."""
    try:
        for action in plan(seen, {}, Contest(), time.time()).actions:
            await carry_out(cluster, action)
    except ApiError as error:
        if error.status not in _OVERTAKEN:
            raise
        return str(error)
    return ""


async def _touched(cluster: Cluster, options: RestoreOptions) -> set[str]:
    """The Services at which something of ours is, and nothing of controllers of other namespaces' models."""
    keys: set[str] = set()
    others: set[str] = set()
    async for obj in _all(cluster, "v1", "services", options.services):
        view = view_of(obj)
        if view.shadow_of is not None:
            key = f"{view.namespace}/{view.shadow_of}"
        elif World(view).is_touched:
            key = view.key
        else:
            continue
        theirs = {model for model in models_of(view) if model.partition("/")[0] not in options.models}
        (others if options.models and theirs else keys).add(key)
    ours = f"{MANAGED_BY_LABEL}={MANAGER}"
    async for obj in _all(cluster, "discovery.k8s.io/v1", "endpointslices", options.services, ours):
        metadata = obj["metadata"]
        keys.add(f"{metadata['namespace']}/{metadata['labels'][SERVICE_LABEL]}")
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
        models = [obj["metadata"] async for obj in _all(cluster, MODEL_API_VERSION, "modeldeployments", namespaces)]
    except ApiError as error:
        if error.status != HTTPStatus.NOT_FOUND:
            raise
        return set()  # the kind is not served any more
    return {f"{metadata['namespace']}/{metadata['name']}" for metadata in models if finalizer.is_held(metadata)}


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
