"""Pure: a model, its decision and what is known of its endpoints and remotes -> the route that Envoy gets.

The share is divided over the *preferred* remotes: the ready ones of the lowest `priority` number, by `weight`. Whatever
destination a request starts at, the others follow as its fallbacks: the ready remotes by priority and weight, local
last. A mode that moves nothing (Off, DryRun, a disabled model) has no fallbacks either: then nothing leaves, whatever
happens.

A remote that *rests*, since all requests to it have failed, is not ready, but it comes behind everything else: a
request that nobody took would fail for sure, and here it may still be served. In Failover, with no remote ready, the
resting ones get the traffic for the same reason.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from controller import offload
from controller.api import Behavior, ModelDeployment, RemoteBackend
from xds import ir

CLUSTER_DOMAIN = "cluster.local"

_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9_])?")
_OF_SERVICE = re.compile(rf".*\.svc(\.{re.escape(CLUSTER_DOMAIN)})?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class RemoteState:
    """A remote of a model, resolved. `ready`: it may be given traffic; if not, `reason` says why. `rests`: it could be
    given some, but it has only failed lately. `refused`: no gateway can be told of it; a CamelCase reason.
    """

    spec: RemoteBackend
    target: ir.Remote
    ready: bool
    reason: str = ""
    rests: bool = False
    refused: str = ""


def policy_of(model: ModelDeployment) -> offload.Policy:
    """The model's offloading policy, in the decision's own units."""
    wanted: Behavior = model.spec.offloading_config.behavior
    return offload.Policy(
        ceiling_ppm=wanted.percentage * 10_000,
        strategy=wanted.strategy,
        activation_s=wanted.activation_seconds,
        buffer_s=wanted.buffer_seconds,
        max_step_ppm=wanted.max_step_percentage * 10_000,
        interval_s=wanted.interval_seconds,
        scope=wanted.metric_scope,
        stale_s=wanted.stale_seconds,
        on_unavailable=wanted.on_metrics_unavailable,
        mode=_mode_of(model),
        watched=bool(model.spec.offloading_config.metrics),
    )


def service_key_of(model: ModelDeployment) -> str:
    """The Service that a model names, '' if it names none."""
    ref = model.spec.service_ref
    return ref.object_key(model.metadata.namespace) if ref else ""


def hosts_of(model: ModelDeployment, service_key: str) -> tuple[str, ...]:
    """Every Host that callers may use, lower case: the Service's names ('<namespace>/<name>', '' for none), short to
    fully qualified, and the model's own, where that can stand in a Host and is not the name of some Service.
    """
    own = model.spec.model
    names = [own] if _HOST.fullmatch(own) and not _OF_SERVICE.fullmatch(own) else []
    if service_key:
        namespace, _, name = service_key.partition("/")
        full = f"{name}.{namespace}"
        names += [name, full, f"{full}.svc", f"{full}.svc.{CLUSTER_DOMAIN}"]
    return tuple(sorted({name.lower() for name in names}))


def remote_of(
    spec: RemoteBackend, model: ModelDeployment, workspace: str, credential: ir.Credential | None, ca_pem: str | None
) -> ir.Remote:
    """How Envoy reaches a remote on behalf of a model. Https lets ALPN choose the protocol and pins SNI and SAN to the
    remote's name.
    """
    tls = None
    if spec.scheme == "https":
        name = (spec.tls.sni if spec.tls else None) or spec.address
        tls = ir.Tls(sni=name, san=name, ca_pem=ca_pem)
    backend = ir.Backend(
        address=spec.address,
        port=spec.port,
        tls=tls,
        protocol=ir.Protocol.AUTO if tls else ir.Protocol.HTTP1,
        headers=tuple(sorted((name.lower(), value) for name, value in spec.headers_to_add.items())),
        credential=credential,
        limit=ir.UNLIMITED if spec.max_concurrent_requests is None else spec.max_concurrent_requests,
    )
    # What a name brings into a path must not end the path or begin a query.
    values = {"$workspace": quote(workspace), "$model": quote(model.spec.model)}
    prefix = re.sub(r"\$\w+", lambda match: values.get(match[0], match[0]), spec.path_prefix).strip("/")
    return ir.Remote(backend, authority=spec.host, path_prefix=f"/{prefix}" if prefix else "")


def route(
    model: ModelDeployment,
    decision: offload.Decision,
    hosts: tuple[str, ...],
    local: ir.Local,
    remotes: Sequence[RemoteState],
    port: int | None = None,
) -> ir.Route:
    """The route of a model under a decision. Remotes that are not ready keep their slot and get no share. `port`: the
    model's own on the gateway.
    """
    offloading = model.spec.offloading_config
    remotes = [remote for remote in remotes if not remote.refused]
    moves = _mode_of(model) not in (offload.Mode.OFF, offload.Mode.DRY_RUN)
    ranked = sorted(range(len(remotes)), key=lambda i: _rank(remotes[i].spec, i)) if moves else []
    ready = [index for index in ranked if remotes[index].ready]
    resting = [index for index in ranked if remotes[index].rests]
    failover = decision.state is offload.State.FAILOVER
    weights = _weights(decision, sorted(ready or (resting if failover else [])), remotes)
    local_slot = [] if failover else [ir.LOCAL]
    order = [*map(ir.remote_slot, ready), *local_slot, *map(ir.remote_slot, resting)]
    attempts = offloading.retry.attempts
    return ir.Route(
        name=model.key,
        hosts=hosts,
        local=local,
        remotes=tuple(remote.target for remote in remotes),
        chains=tuple(
            ir.Chain(first, weight_ppm, tuple(slot for slot in order if slot != first)) for first, weight_ppm in weights
        ),
        retry=ir.Retry(
            attempts=ir.MAX_REMOTES if attempts is None else attempts,
            status_codes=offloading.retry.status_codes,
        ),
        affinity_header=offloading.session_affinity.header.lower() if offloading.session_affinity else None,
        port=port,
    )


def divide(total: int, weights: Sequence[int]) -> list[int]:
    """`total` in whole parts proportional to `weights`, by largest remainder: the parts add up to `total`."""
    whole = sum(weights)
    parts = [total * weight // whole for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda i: (-(total * weights[i] % whole), i))
    for index in by_remainder[: total - sum(parts)]:
        parts[index] += 1
    return parts


def _mode_of(model: ModelDeployment) -> offload.Mode:
    return model.spec.offloading_config.behavior.mode if model.spec.enabled else offload.Mode.OFF


def _rank(spec: RemoteBackend, index: int) -> tuple[int, int, int]:
    return spec.priority, -spec.weight, index


def _weights(decision: offload.Decision, ready: Sequence[int], remotes: Sequence[RemoteState]) -> list[tuple[str, int]]:
    """Which slots a request may start at, in slot order, and with what weight."""
    share_ppm = decision.share_ppm if ready else 0
    weights = [(ir.LOCAL, ir.PPM - share_ppm)]
    if share_ppm:
        weighted = [index for index in ready if remotes[index].spec.weight] or ready
        first = min(remotes[index].spec.priority for index in weighted)
        preferred = [index for index in weighted if remotes[index].spec.priority == first]
        parts = divide(share_ppm, [remotes[index].spec.weight or 1 for index in preferred])
        weights += [(ir.remote_slot(index), part) for index, part in zip(preferred, parts, strict=True)]
    return [(slot, weight) for slot, weight in weights if weight]
