"""What pods use and what is asked of them, what a HorizontalPodAutoscaler makes of it, and what we do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.support.metrics_apiserver import Series

Json = dict[str, Any]

THIS = "THIS"
"""Stands for the row's own name: of its metric, and of the object that has it."""
HOUR_S = 3600.0

# The autoscaler's reasons, in the condition ScalingLimited, where it may not scale; or that it knows nothing.
UP, DOWN, STAY, FAILS = "TooManyReplicas", "TooFewReplicas", "DesiredWithinRange", "Fails"


@dataclass(frozen=True)
class PaperPod:
    """`used`, `requests`: by container (main, side); no `used`: no sample. Times in seconds from now."""

    used: Sequence[str] = ()
    requests: Sequence[str | None] = ("1",)
    phase: str = "Running"
    ready: str = "True"
    started_s: float = -HOUR_S
    ready_since_s: float = -HOUR_S
    is_deleted: bool = False


@dataclass(frozen=True)
class Row:
    """`hpa`: what the autoscaler wants. `value`, `ratio`: ours; None: unknown. `differs`: why we decide otherwise.

    `resource`: what the pods use and request. `custom`: the metric by the resource of the objects that have it; of a
    pod by its place in `pods`.
    """

    metric: Json
    pods: Sequence[PaperPod]
    hpa: str
    value: float | None = None
    ratio: float | None = None
    resource: str = "cpu"
    custom: Mapping[str, Sequence[Series]] = field(default_factory=dict)
    external: Sequence[Series] = ()
    differs: str = ""

    @property
    def replicas(self) -> int:
        """Pods that a ReplicaSet counts."""
        return sum(not pod.is_deleted and pod.phase != "Failed" for pod in self.pods)


def using(*values: str, **fields: Any) -> list[PaperPod]:
    """Pods of one container each; '' for one without a sample."""
    return [PaperPod([value] if value else (), **fields) for value in values]


def pods(count: int) -> list[PaperPod]:
    """Pods whose resources do not matter."""
    return using(*[""] * count)


def utilization(percent: int, name: str = "cpu", container: str = "") -> Json:
    return _resource({"name": name, "target": {"type": "Utilization", "averageUtilization": percent}}, container)


def average(value: str, name: str = "cpu", container: str = "") -> Json:
    return _resource({"name": name, "target": {"type": "AverageValue", "averageValue": value}}, container)


def of_pods(value: str, **labels: str) -> Json:
    target = {"type": "AverageValue", "averageValue": value}
    return {"type": "Pods", "pods": {"metric": _identifier(labels), "target": target}}


def of_object(target: Json, kind: str = "Ingress", api_version: str = "networking.k8s.io/v1") -> Json:
    described = {"apiVersion": api_version, "kind": kind, "name": THIS}
    return {"type": "Object", "object": {"describedObject": described, "metric": _identifier({}), "target": target}}


def external(target: Json, **labels: str) -> Json:
    return {"type": "External", "external": {"metric": _identifier(labels), "target": target}}


def _resource(member: Json, container: str) -> Json:
    if container:
        return {"type": "ContainerResource", "containerResource": {**member, "container": container}}
    return {"type": "Resource", "resource": member}


def _identifier(labels: Mapping[str, str]) -> Json:
    return {"name": THIS, **({"selector": {"matchLabels": labels}} if labels else {})}


def each(*values: str) -> list[Series]:
    """One value for each pod, in order."""
    return [Series(value, str(number)) for number, value in enumerate(values)]


TEN: Json = {"type": "Value", "value": "10"}
TEN_EACH: Json = {"type": "AverageValue", "averageValue": "10"}
INGRESSES = "ingresses.networking.k8s.io"
YOUNG: Json = {"started_s": HOUR_S, "ready_since_s": HOUR_S}
"""In its first minutes as long as a test runs, and ready for less than a window."""
UNREADY: Json = {"phase": "Pending", "ready": "False"}

NEVER_READY: Json = {"ready": "False", "ready_since_s": -HOUR_S + 1}

TABLE: Mapping[str, Row] = {
    # Resource, Utilization
    "above": Row(utilization(50), using("900m", "700m"), UP, 80, 1.6),
    "below": Row(utilization(50), using("100m", "100m"), DOWN, 10, 0.2),
    "at-target": Row(utilization(50), using("500m", "500m"), STAY, 50, 1.0),
    "target-above-100": Row(utilization(150), using("4", "5"), UP, 450, 3.0),
    "requests-weigh": Row(utilization(80), [PaperPod(["1"]), PaperPod(["0"], ["3"])], DOWN, 25, 0.3125),
    "part-of-a-percent": Row(utilization(50), using("999m", "1"), UP, 99.95, 1.999),
    "containers-add-up": Row(utilization(50), [PaperPod(["1", "500m"], ["1", "500m"])] * 2, UP, 100, 2.0),
    "memory": Row(utilization(50, "memory"), [PaperPod(["900Mi"], ["1000Mi"])] * 2, UP, 90, 1.8, "memory"),
    # Pods without a sample
    "missing-above": Row(utilization(50), using("1500m", ""), UP, 150, 1.5),
    "missing-below": Row(utilization(80), using("100m", "100m", "100m", ""), DOWN, 10, 0.40625),
    "missing-high-target": Row(utilization(200), using("100m", "100m", "100m", ""), DOWN, 10, 0.2875),
    "missing-may-be-idle": Row(utilization(50), using("600m", ""), STAY),
    "missing-may-be-busy": Row(utilization(50), using("400m", ""), STAY),
    "no-sample-at-all": Row(utilization(50), using("", ""), FAILS),
    # Pods that do not count
    "deleted": Row(utilization(50), [*using("100m", "100m"), PaperPod(["9"], is_deleted=True)], DOWN, 10, 0.2),
    "failed": Row(utilization(50), [*using("100m", "100m"), PaperPod(["9"], phase="Failed")], DOWN, 10, 0.2),
    "pending-below": Row(utilization(50), [*using("100m", "100m"), PaperPod(**UNREADY)], DOWN, 10, 0.2),
    "pending-above": Row(
        *(utilization(50), [*using("600m", "600m"), *[PaperPod(**UNREADY)] * 2], STAY, 60, 1.2),
        differs="a pod that starts takes no requests yet",
    ),
    "crashing-above": Row(
        *(utilization(50), [*using("600m", "600m"), *using("", "", ready="False")], STAY, 60, 1.2),
        differs="a pod that is not ready takes no requests",
    ),
    "no-request-in-a-failed-pod": Row(
        *(utilization(50), [*using("900m", "700m"), PaperPod(requests=[None], phase="Failed")], FAILS, 80, 1.6),
        differs="what does not count needs no request",
    ),
    "no-request": Row(utilization(50), [PaperPod(["1"]), PaperPod(["1"], [None])], FAILS),
    # Pods that start
    "young-unready": Row(
        utilization(50), [*using("100m", "100m"), PaperPod(["9"], ready="False", **YOUNG)], DOWN, 10, 0.2
    ),
    "young-just-ready": Row(utilization(50), [*using("100m", "100m"), PaperPod(["9"], **YOUNG)], DOWN, 10, 0.2),
    "young-ready": Row(utilization(50), using("900m", "700m", started_s=HOUR_S), UP, 80, 1.6),
    "young-memory": Row(
        utilization(50, "memory"), [PaperPod(["9"], ["10"], ready="False", **YOUNG)] * 2, UP, 90, 1.8, "memory"
    ),
    "never-ready": Row(
        *(utilization(50), [*using("100m", "100m"), PaperPod(["9"], **NEVER_READY)], DOWN, 10, 0.2),
    ),
    "ready-once": Row(utilization(50), using("900m", "700m", ready="False", ready_since_s=-60), UP, 80, 1.6),
    # Resource, AverageValue
    "average-above": Row(average("500m"), using("900m", "1100m"), UP, 1, 2.0),
    "average-below": Row(average("500m"), using("100m", "101m"), DOWN, 0.1005, 0.201),
    "average-without-requests": Row(average("500m"), [PaperPod(["2"], [None])] * 2, UP, 2, 4.0),
    "average-missing-below": Row(average("500m"), using("100m", "100m", "100m", ""), DOWN, 0.1, 0.4),
    "average-missing-above": Row(average("500m"), using("600m", ""), STAY),
    "average-memory": Row(average("1Gi", "memory"), using(*["512Mi"] * 4), DOWN, 2**29, 0.5, "memory"),
    # ContainerResource
    "container": Row(utilization(50, container="side"), [PaperPod(["0", "400m"], ["1", "500m"])] * 2, UP, 80, 1.6),
    "container-average": Row(
        average("500m", container="main"), [PaperPod(["100m", "9"], ["1", "500m"])] * 2, DOWN, 0.1, 0.2
    ),
    "container-no-request": Row(utilization(50, container="side"), [PaperPod(["1", "1"], ["1", None])] * 2, FAILS),
    "other-container-no-request": Row(
        utilization(50, container="main"), [PaperPod(["1", "1"], ["1", None])] * 2, UP, 100, 2.0
    ),
    "container-that-is-not": Row(utilization(50, container="none"), using("1", "1"), FAILS),
    # Pods
    "pods-above": Row(of_pods("10"), pods(2), UP, 20, 2.0, custom={"pods": each("15", "25")}),
    "pods-below": Row(of_pods("10"), pods(2), DOWN, 1.5, 0.15, custom={"pods": each("1", "2")}),
    "pods-thousandths": Row(of_pods("500m"), pods(2), UP, 0.9, 1.8, custom={"pods": each("900m", "900m")}),
    "pods-missing": Row(of_pods("10"), pods(2), STAY, custom={"pods": each("15")}),
    "pods-selector": Row(
        *(of_pods("10", lora="yes"), pods(1), UP, 40, 4.0),
        custom={"pods": [Series("1", "0", {"lora": "no"}), Series("40", "0", {"lora": "yes"})]},
    ),
    "pods-no-metric": Row(of_pods("10"), pods(2), FAILS),
    # Object
    "object-value": Row(of_object(TEN), pods(2), UP, 30, 3.0, custom={INGRESSES: [Series("30", THIS)]}),
    "object-average": Row(of_object(TEN_EACH), pods(2), DOWN, 2.5, 0.25, custom={INGRESSES: [Series("5", THIS)]}),
    "object-of-the-core": Row(
        of_object(TEN, "Service", "v1"), pods(2), DOWN, 1, 0.1, custom={"services": [Series("1", THIS)]}
    ),
    "object-namespace": Row(
        of_object(TEN, "Namespace", "v1"), pods(2), UP, 30, 3.0, custom={"metrics": [Series("30")]}
    ),
    "object-of-no-kind": Row(of_object(TEN, "Nothing"), pods(2), FAILS),
    "object-no-metric": Row(of_object(TEN), pods(2), FAILS),
    # External
    "external-value": Row(external(TEN), pods(2), UP, 30, 3.0, external=[Series("10"), Series("20")]),
    "external-average": Row(external(TEN_EACH), pods(2), DOWN, 1.5, 0.15, external=[Series("3")]),
    "external-selector": Row(
        *(external(TEN, name="b"), pods(2), DOWN, 2, 0.2),
        external=[Series("40", labels={"name": "a"}), Series("2", labels={"name": "b"})],
    ),
    "external-no-metric": Row(external(TEN), pods(2), FAILS),
}
