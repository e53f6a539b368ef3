"""The slices of ours that a Service has while it is taken over."""

from __future__ import annotations

from dataclasses import replace

from controller.objects import GatewayPod, SliceEndpoint, SlicePort
from controller.takeover.slices import ENDPOINTS_MAX, covers, desired_slices, unshown
from tests.controller.takeover_values import EXPOSURE, GATEWAYS, HTTP, KEY, METRICS, POD, PODS, SERVICE


def test_each_family_has_its_gateways_or_its_pods() -> None:
    service = replace(SERVICE, families=("IPv4", "IPv6"))
    pods6 = replace(
        PODS, key="ns/php-spillway-pods-abc34", address_type="IPv6", endpoints=(SliceEndpoint(("fd00::9",)),)
    )
    only4 = replace(EXPOSURE, gateways=GATEWAYS[1:])
    gateways, pods, others = desired_slices(service, (PODS, pods6), {HTTP: only4})
    assert [port.name for port in gateways.ports] == ["http"]
    assert (pods.address_type, [port.name for port in pods.ports]) == ("IPv4", ["metrics"])
    assert (others.address_type, [port.name for port in others.ports]) == ("IPv6", ["http", "metrics"])
    both = desired_slices(service, (PODS, pods6), {HTTP: EXPOSURE})
    assert [each.endpoints[0].addresses for each in both if each.ports[0].port == 20_000] == [
        ("10.0.1.1",),
        ("fd00::1",),
    ]


def test_conditions_and_places_of_pods_are_as_kubernetes_tells_them() -> None:
    (_, copied) = desired_slices(SERVICE, (PODS,), {HTTP: EXPOSURE})
    assert copied.endpoints == (POD,)


def test_a_slice_has_no_more_endpoints_than_kubernetes_gives_one() -> None:
    many = tuple(GatewayPod(f"g-{n:03}", (f"10.1.{n // 250}.{n % 250 + 1}",)) for n in range(ENDPOINTS_MAX + 1))
    slices = desired_slices(SERVICE, (), {HTTP: replace(EXPOSURE, gateways=many)})
    assert [len(each.endpoints) for each in slices] == [ENDPOINTS_MAX, 1]
    assert len({each.key for each in slices}) == 2


def test_a_slice_keeps_the_protocols_of_its_port() -> None:
    grpc = replace(HTTP, app_protocol="grpc")
    (written,) = desired_slices(replace(SERVICE, ports=(grpc,)), (PODS,), {grpc: EXPOSURE})
    assert written.ports == (SlicePort(20_000, "http", "grpc"),)


def test_ports_that_the_service_no_longer_has_lead_nowhere() -> None:
    (written,) = desired_slices(replace(SERVICE, ports=(METRICS,)), (PODS,), {})
    assert written.ports == (SlicePort(9090, "metrics"),)


def test_a_slice_of_another_life_of_the_service_has_another_name() -> None:
    names = {desired_slices(replace(SERVICE, uid=uid), (PODS,), {})[0].key for uid in ("uid-1", "uid-2")}
    assert len(names) == 2


def test_what_is_not_ready_need_not_be_covered() -> None:
    ready = replace(PODS, endpoints=(replace(POD, ready=True),))
    assert covers((), (PODS,))
    assert not covers((PODS,), (ready,))
    assert covers((ready,), (ready, PODS))
    assert not covers((ready,), (replace(ready, ports=(SlicePort(1, "http"),)),))


def test_what_is_ready_and_not_shown_at_all_is_unshown() -> None:
    ready, other = replace(POD, ready=True), SliceEndpoint(("10.0.0.2",))
    ours = replace(PODS, key="ns/ours", service_key=KEY, endpoints=(ready, other))
    assert list(unshown((ours,), (PODS,))) == [replace(ours, endpoints=(other,))]
    assert list(unshown((ours,), ())) == [ours]
    assert list(unshown((ours,), (replace(PODS, address_type="IPv6"),))) == [ours]
    assert list(unshown((PODS,), ())) == []
