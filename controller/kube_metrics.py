"""Pure: metrics of pods, put together as the HorizontalPodAutoscaler does it, in exact numbers.

(kubernetes/kubernetes: pkg/controller/podautoscaler/replica_calculator.go)

A pod that is being deleted or has failed does not count. Of the others,

- *measured* are those with a sample. Where it is one of cpu, the pod must also be past its start, which burns cpu that
  no request causes: see `_starts`;
- *missing* are ready ones without a sample, or with one that is too old;
- all others are left out.

ratio = what the measured pods use / what they would use at the target. For a Utilization target that is a part of what
they request, so the ratio is that of the sums, and large pods weigh more. Missing pods are then taken to be what speaks
against moving traffic: idle if the target is reached, and else at what they request, or at the target if that is more.
If that carries the ratio across the target, the measured pods alone say nothing, and the reading is Unknown; the HPA
leaves the number of replicas as it is.

In two things the HPA's rule would be wrong here, since it asks what will be enough, and we ask what is full now:

- To the HPA a pod that starts is idle once the target is reached: it will soon help. But it takes no requests yet, and
  the minutes until it does are what there are remotes for. So pods that are not ready are left out, here as there.
- To the HPA a missing request is an error even in a pod that does not count. Here only those that count need one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from controller.metrics import PodsQuery, Reading, ResourceQuery, Unknown, Value, number
from controller.quantity import parse_quantity

CPU_INITIALIZATION_S = 300.0
"""So long after its start a pod's cpu counts only once it is ready, and has been for a sample's whole window."""
INITIAL_READINESS_S = 30.0
"""A pod that turned unready so soon after its start has never been ready."""
STALE_S = 300.0
"""A sample whose window ended longer ago is none. Cloud monitoring may be minutes behind, and clocks differ."""

Quantities = Mapping[str, str]
"""Resource -> quantity, as the API writes it."""


@dataclass(frozen=True, slots=True)
class Pod:
    """`ready`: status of its condition Ready, '' while it has none, and since when. `requests`: of the pod as a whole,
    which is rare. `containers`: what each requests, sidecars among them. Times in seconds since the epoch.
    """

    name: str
    phase: str = "Running"
    is_deleted: bool = False
    started_at_s: float | None = None
    ready: str = ""
    ready_since_s: float = 0.0
    containers: Mapping[str, Quantities] = field(default_factory=dict)
    requests: Quantities = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sample:
    """`at_s`: the end of its window, None if the source does not say."""

    value: Fraction
    at_s: float | None = None
    window_s: float = 0.0

    def is_stale(self, now: float) -> bool:
        return self.at_s is not None and now > self.at_s + STALE_S


@dataclass(frozen=True, slots=True)
class Usage:
    """What the containers of a pod use, from metrics.k8s.io."""

    containers: Mapping[str, Quantities]
    at_s: float | None = None
    window_s: float = 0.0

    def sample(self, resource: str, container: str | None) -> Sample | None:
        """Of one container, or the sum of all; None if one of these has no sample. Raises ValueError for no number."""
        used = [self.containers.get(container, {})] if container is not None else list(self.containers.values())
        texts = [each[resource] for each in used if resource in each]
        if not used or len(texts) < len(used):
            return None
        return Sample(sum(map(parse_quantity, texts), Fraction()), self.at_s, self.window_s)


@dataclass(frozen=True, slots=True)
class _Aim:
    """What a pod uses at the target, and what it is taken to use at most while it is not measured."""

    at_target: Fraction
    at_most: Fraction


@dataclass(frozen=True, slots=True)
class _Counted:
    measured: Mapping[str, Sample]
    missing: tuple[str, ...]


def read_resource(query: ResourceQuery, pods: Sequence[Pod], usages: Mapping[str, Usage], now: float) -> Reading:
    """`pods`: those that the query selects. `usages`: by the pod's name, of any other pods too. The value is in percent
    for a Utilization target, else the average.
    """
    target = query.target
    try:
        samples = {
            pod.name: sample
            for pod in pods
            if pod.name in usages and (sample := usages[pod.name].sample(query.resource, query.container))
        }
        counted = _count(pods, samples, now, is_cpu=query.resource == "cpu")
        if isinstance(counted, Unknown):
            return counted
        if target.average_value is not None:
            return _judge(counted, _equal_aims(counted, target.average_value), target.average_value)
        percent = Fraction(target.average_utilization or 0)
        aims: dict[str, _Aim] = {}
        for pod in pods:
            if pod.name in counted.measured or pod.name in counted.missing:
                request = _request(pod, query)
                if isinstance(request, Unknown):
                    return request
                aims[pod.name] = _Aim(request * percent / 100, request * max(percent, Fraction(100)) / 100)
        return _judge(counted, aims, percent)
    except ValueError as error:
        return Unknown("BadAnswer", f"a quantity of {query.resource} {error}")


def read_pods(query: PodsQuery, pods: Sequence[Pod], samples: Mapping[str, Sample], now: float) -> Reading:
    """`samples`: by the pod's name. The value is the average."""
    counted = _count(pods, samples, now, is_cpu=False)
    target = query.target.average_value
    assert target is not None, "the only type of target that a Pods metric has"
    return counted if isinstance(counted, Unknown) else _judge(counted, _equal_aims(counted, target), target)


def read_sum(samples: Sequence[Sample], now: float) -> Reading:
    """The sum of a metric's series."""
    if not samples:
        return Unknown("Empty", "the metrics API has no value for it; look at the metric's name and labels")
    if any(sample.is_stale(now) for sample in samples):
        oldest_s = now - min(sample.at_s for sample in samples if sample.at_s is not None)
        return Unknown("Stale", f"the metrics API has no newer value than one from {oldest_s:.0f} s ago")
    return _number(sum((sample.value for sample in samples), Fraction()))


def _count(pods: Sequence[Pod], samples: Mapping[str, Sample], now: float, *, is_cpu: bool) -> _Counted | Unknown:
    measured: dict[str, Sample] = {}
    missing: list[str] = []
    for pod in pods:
        if pod.is_deleted or pod.phase in ("Failed", "Pending"):
            continue
        sample = samples.get(pod.name)
        if sample is None or sample.is_stale(now):
            if pod.ready == "True":
                missing.append(pod.name)
        elif not (is_cpu and _starts(pod, sample, now)):
            measured[pod.name] = sample
    if not pods:
        return Unknown("NoPods", "the workload has no pods")
    if not measured:
        return Unknown("NoSamples", f"none of {_number_of_pods(len(pods))} has a sample that counts yet")
    return _Counted(measured, tuple(missing))


def _starts(pod: Pod, sample: Sample, now: float) -> bool:
    if not pod.ready or pod.started_at_s is None:
        return True
    if now < pod.started_at_s + CPU_INITIALIZATION_S:
        return pod.ready == "False" or (sample.at_s or 0.0) < pod.ready_since_s + sample.window_s
    return pod.ready == "False" and pod.ready_since_s < pod.started_at_s + INITIAL_READINESS_S


def _request(pod: Pod, query: ResourceQuery) -> Fraction | Unknown:
    """What it requests of the resource, 0 if it does not have the container."""
    if query.container is None and query.resource in pod.requests:
        return parse_quantity(pod.requests[query.resource])
    total = Fraction()
    for name, requests in pod.containers.items():
        if query.container not in (None, name):
            continue
        if query.resource not in requests:
            return Unknown(
                "NoRequest",
                f"container {name} of pod {pod.name} requests no {query.resource}, so its utilization cannot be told; "
                f"set resources.requests.{query.resource}, or use an AverageValue target",
            )
        total += parse_quantity(requests[query.resource])
    return total


def _equal_aims(counted: _Counted, target: Fraction) -> Mapping[str, _Aim]:
    return dict.fromkeys((*counted.measured, *counted.missing), _Aim(target, target))


def _judge(counted: _Counted, aims: Mapping[str, _Aim], target: Fraction) -> Reading:
    """`target`: in the unit of the value."""
    used = sum((sample.value for sample in counted.measured.values()), Fraction())
    at_target = sum((aims[pod].at_target for pod in counted.measured), Fraction())
    if not at_target:
        return Unknown("NoRequest", "the pods request nothing of it, so there is nothing to compare with")
    measured = used / at_target
    missing = [aims[pod] for pod in counted.missing]
    unseen = Fraction() if measured >= 1 else sum((aim.at_most for aim in missing), Fraction())
    ratio = (used + unseen) / (at_target + sum((aim.at_target for aim in missing), Fraction()))
    if (ratio >= 1) is not (measured >= 1):
        return Unknown(
            "PodsWithoutSample",
            f"{len(missing)} of {_number_of_pods(len(aims))} have no sample, and what they use would decide: "
            f"{float(measured):.0%} of the target without them, {float(ratio):.0%} with a cautious guess",
        )
    shown = _number(measured * target)
    judged = _number(ratio)
    if isinstance(shown, Unknown) or isinstance(judged, Unknown):
        return shown if isinstance(shown, Unknown) else judged
    return Value(shown.value, judged.value)


def _number(value: Fraction) -> Reading:
    try:
        return number(float(value))
    except OverflowError:
        return Unknown("NotANumber", "the answer is too large to compare with")


def _number_of_pods(count: int) -> str:
    return "1 pod" if count == 1 else f"{count} pods"
