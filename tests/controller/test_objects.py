"""Kubernetes' own objects: absent means what Kubernetes says it means, and nothing that a file may hold raises."""

from __future__ import annotations

import base64
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.objects import (
    MANAGED_BY_LABEL,
    MANAGER,
    SELECTOR_ANNOTATION,
    EndpointSlice,
    Resolved,
    Secret,
    Service,
    equalities,
    parse_endpoint_slice,
    parse_secret,
    parse_service,
    ready_endpoints,
    shadow_key,
    shadow_name,
)
from controller.parsing import Invalid, Parsed
from xds.ir import Endpoint, Protocol

Json = dict[str, Any]
WEB: Json = {"name": "web", "port": 80, "targetPort": "http"}


def service(*ports: Json, **spec: Any) -> Service:
    parsed = parse_service({"metadata": {"name": "llama"}, "spec": {"ports": list(ports) or [{"port": 80}], **spec}})
    assert isinstance(parsed, Parsed), parsed
    return parsed.model


def slice_manifest(*addresses: str, family: str = "IPv4", ports: Any = ({"port": 8000},), **more: Any) -> Json:
    return {
        "metadata": {"name": "llama-1", "labels": {"kubernetes.io/service-name": "llama"}},
        "addressType": family,
        "ports": list(ports),
        "endpoints": [{"addresses": [address]} for address in addresses],
        **more,
    }


def endpoint_slice(*addresses: str, **more: Any) -> EndpointSlice:
    parsed = parse_endpoint_slice(slice_manifest(*addresses, **more))
    assert isinstance(parsed, Parsed), parsed
    return parsed.model


def secret(**fields: Any) -> Secret:
    parsed = parse_secret({"metadata": {"name": "keys"}, **fields})
    assert isinstance(parsed, Parsed), parsed
    return parsed.model


def problems(parsed: Parsed[Any] | Invalid) -> dict[str, str]:
    assert isinstance(parsed, Invalid), parsed
    return {problem.field: problem.reason for problem in parsed.problems}


def resolved(service_: Service, *slices: EndpointSlice, port: int | None = None) -> Resolved:
    found = ready_endpoints(service_, slices, port)
    assert isinstance(found, Resolved), found
    return found


# Which endpoints a port has


def test_no_slice_at_all_is_unknown_and_a_slice_without_ready_endpoints_is_known_to_be_empty() -> None:
    down = endpoint_slice(endpoints=[{"addresses": ["10.0.0.1"], "conditions": {"ready": False}}])
    assert ready_endpoints(service(), (), 80) is None
    assert resolved(service(), down) == Resolved(())


@pytest.mark.parametrize(
    ("conditions", "ready"),
    [(None, True), ({}, True), ({"ready": None}, True), ({"ready": True}, True), ({"ready": False}, False)],
)
def test_an_endpoint_is_ready_unless_it_says_that_it_is_not(conditions: Json | None, ready: bool) -> None:
    found = endpoint_slice(endpoints=[{"addresses": ["10.0.0.1"], "conditions": conditions}])
    assert bool(resolved(service(), found).endpoints) is ready


def test_the_endpoints_of_several_slices_are_sorted_and_each_is_there_once() -> None:
    found = resolved(service(), endpoint_slice("10.0.0.3", "10.0.0.1"), endpoint_slice("10.0.0.1", "10.0.0.2"))
    assert found.endpoints == tuple(Endpoint(f"10.0.0.{last}", 8000) for last in (1, 2, 3))
    assert found.replicas == 3


def test_defect_21_the_slices_port_of_the_same_name_is_the_services_port_whatever_its_number() -> None:
    ports = [{"name": "metrics", "port": 9090}, {"name": "web", "port": 8000}]
    both = endpoint_slice("10.0.0.1", ports=ports)
    several = service({"name": "metrics", "port": 81, "targetPort": 9090}, WEB)
    assert resolved(several, both, port=80).endpoints == (Endpoint("10.0.0.1", 8000),)
    assert resolved(several, both, port=81).endpoints == (Endpoint("10.0.0.1", 9090),)


def test_defect_21_pods_that_differ_in_the_number_of_a_named_port_are_all_found() -> None:
    old = endpoint_slice("10.0.0.1", ports=[{"name": "web", "port": 8000}])
    new = endpoint_slice("10.0.0.2", ports=[{"name": "web", "port": 9000}])
    assert resolved(service(WEB), old, new).endpoints == (Endpoint("10.0.0.1", 8000), Endpoint("10.0.0.2", 9000))


def test_defect_21_both_families_are_used_and_a_pod_with_both_is_one_replica() -> None:
    four = endpoint_slice("10.0.0.1", "10.0.0.2")
    six = endpoint_slice("fd00::1", "fd00::2", family="IPv6")
    found = resolved(service(), four, six)
    assert {endpoint.address for endpoint in found.endpoints} == {"10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"}
    assert found.replicas == 2


def test_defect_21_a_headless_service_is_read_like_any_other() -> None:
    assert resolved(service(clusterIP="None"), endpoint_slice("10.0.0.1")).endpoints


def test_of_a_pods_addresses_the_first_is_used() -> None:
    pod = endpoint_slice(endpoints=[{"addresses": ["10.0.0.1", "10.0.0.9"]}])
    assert resolved(service(), pod).endpoints == (Endpoint("10.0.0.1", 8000),)


def test_names_are_no_addresses_so_a_slice_of_them_leaves_the_endpoints_unknown() -> None:
    names = endpoint_slice("backend.example.com", family="FQDN")
    assert ready_endpoints(service(), [names], 80) is None


def test_a_port_that_a_service_does_not_have_is_said_with_those_it_has() -> None:
    found = ready_endpoints(service({"port": 80}, {"name": "x", "port": 81}), [endpoint_slice("10.0.0.1")], 8080)
    assert found == "Service default/llama has no port 8080; its ports: 80, 81"
    empty = parse_service({"metadata": {"name": "llama"}})
    assert isinstance(empty, Parsed)
    assert ready_endpoints(empty.model, (), 80) == "Service default/llama has no port 80; its ports: none"


def test_a_port_number_that_is_both_udps_and_tcps_means_tcps() -> None:
    both = service({"name": "quic", "port": 443, "protocol": "UDP"}, {"name": "https", "port": 443})
    found = endpoint_slice("10.0.0.1", ports=[{"name": "quic", "port": 1}, {"name": "https", "port": 2}])
    assert resolved(both, found, port=443).endpoints == (Endpoint("10.0.0.1", 2),)
    assert resolved(both, found).endpoints == (Endpoint("10.0.0.1", 2),)


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        (None, Protocol.HTTP1),
        ("http", Protocol.HTTP1),
        ("grpc", Protocol.HTTP2),
        ("kubernetes.io/h2c", Protocol.HTTP2),
    ],
)
def test_http2_is_spoken_where_the_service_or_its_slice_says_so(protocol: str | None, expected: Protocol) -> None:
    of_service = service({"port": 80, "appProtocol": protocol})
    of_slice = endpoint_slice("10.0.0.1", ports=[{"port": 8000, "appProtocol": protocol}])
    assert resolved(of_service, endpoint_slice("10.0.0.1")).protocol is expected
    assert resolved(service(), of_slice).protocol is expected


# What is taken over


def test_a_service_is_taken_when_it_has_no_selector_and_says_which_it_had() -> None:
    def read(annotations: Json, **spec: Any) -> bool:
        metadata = {"name": "llama", "annotations": annotations}
        parsed = parse_service({"metadata": metadata, "spec": {"ports": [{"port": 80}], **spec}})
        assert isinstance(parsed, Parsed)
        return parsed.model.taken

    kept = {SELECTOR_ANNOTATION: "app=llama"}
    assert read(kept)
    assert not read(kept, selector={"app": "llama"})
    assert not read({})


def test_a_slice_says_who_manages_it() -> None:
    ours = slice_manifest("10.0.0.1")
    ours["metadata"]["labels"][MANAGED_BY_LABEL] = MANAGER
    parsed = parse_endpoint_slice(ours)
    assert isinstance(parsed, Parsed)
    assert (parsed.model.managed_by, endpoint_slice("10.0.0.1").managed_by) == ("spillway", "")


def test_a_shadow_has_a_name_of_its_own_that_kubernetes_takes_however_long_the_services_is() -> None:
    assert shadow_name("llama") == "llama-spillway-pods"
    assert shadow_key("team/llama") == "team/llama-spillway-pods"
    long = [63 * "a", 62 * "a" + "b", 49 * "a", 50 * "a"]
    names = [shadow_name(name) for name in long]
    assert len(set(names)) == len(names)
    assert all(len(name) <= 63 and re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name) for name in names)


@given(st.from_regex(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True))
def test_a_shadow_is_never_its_services_or_its_own_shadow(name: str) -> None:
    assert len({name, shadow_name(name), shadow_name(shadow_name(name))}) == 3
    assert max(len(shadow_name(name)), len(shadow_name(shadow_name(name)))) <= 63


@pytest.mark.parametrize(
    ("text", "selector"),
    [
        ("app=llama", {"app": "llama"}),
        ("app=llama,tier=gpu", {"app": "llama", "tier": "gpu"}),
        ("app=", {"app": ""}),
        ("", None),
        ("app", None),
        ("!app", None),
        ("app!=llama", None),
        ("app==llama", None),
        ("app in (llama,mistral)", None),
        ("app=llama,tier notin (cpu)", None),
    ],
)
def test_a_selector_of_equal_values_is_one_that_a_service_can_have(text: str, selector: Json | None) -> None:
    assert equalities(text) == selector


def test_the_port_that_callers_use_is_the_first_of_tcp_unless_it_is_named_by_its_number() -> None:
    udp, first, second = {"port": 53, "protocol": "UDP"}, {"name": "a", "port": 80}, {"name": "b", "port": 81}
    several = service({**udp, "name": "dns"}, first, second)
    assert [port and port.port for port in map(several.tcp_port, (None, 80, 81, 53))] == [80, 80, 81, None]


# Reading


def test_a_service_is_read_with_what_it_leaves_out() -> None:
    found = service(WEB, selector={"app": "llama"}, clusterIP="10.96.0.1")
    assert (found.key, found.type, found.cluster_ip, found.selector) == (
        "default/llama",
        "ClusterIP",
        "10.96.0.1",
        {"app": "llama"},
    )
    assert (found.ports[0].target_port, found.ports[0].protocol) == ("http", "TCP")


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"ports": [{"port": 0}]}, "spec.ports[0].port"),
        ({"ports": [{}]}, "spec.ports[0].port"),
        ({"ports": [{"port": "80"}]}, "spec.ports[0].port"),
        ({"ports": [{"port": True}]}, "spec.ports[0].port"),
        ({"ports": [{"port": 80, "name": 5}]}, "spec.ports[0].name"),
        ({"ports": [{"port": 80, "targetPort": 70_000}]}, "spec.ports[0].targetPort"),
        ({"ports": [{"port": 80, "appProtocol": ["grpc"]}]}, "spec.ports[0].appProtocol"),
        ({"ports": ["80"]}, "spec.ports[0]"),
        ({"ports": {"port": 80}}, "spec.ports"),
        ({"selector": ["app"]}, "spec.selector"),
        ({"clusterIP": 5}, "spec.clusterIP"),
        ("ports", "spec"),
    ],
)
def test_what_is_wrong_with_a_service_is_named(spec: Any, field: str) -> None:
    assert field in problems(parse_service({"metadata": {"name": "llama"}, "spec": spec}))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"metadata": {"name": "x"}}, "metadata.labels[kubernetes.io/service-name]"),
        ({"addressType": "IPv5"}, "addressType"),
        ({"addressType": ["IPv4"]}, "addressType"),
        ({"ports": [{"name": "web"}]}, "ports[0].port"),
        ({"endpoints": [{"addresses": []}]}, "endpoints[0].addresses"),
        ({"endpoints": [{"addresses": "10.0.0.1"}]}, "endpoints[0].addresses"),
        ({"endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["fd00::1"]}]}, "endpoints[1].addresses"),
        ({"endpoints": [{"addresses": ["backend"]}]}, "endpoints[0].addresses"),
        ({"endpoints": [{"addresses": ["fe80::1%eth0"]}], "addressType": "IPv6"}, "endpoints[0].addresses"),
        ({"endpoints": ["10.0.0.1"]}, "endpoints[0]"),
    ],
)
def test_what_is_wrong_with_an_endpoint_slice_is_named(change: Json, field: str) -> None:
    assert field in problems(parse_endpoint_slice(slice_manifest("10.0.0.1", **change)))


def test_everything_wrong_is_told_at_once() -> None:
    found = problems(parse_service({"metadata": {"namespace": 5}, "spec": {"ports": [{"port": 0}, {"port": -1}]}}))
    assert found.keys() == {"metadata.namespace", "metadata.name", "spec.ports[0].port", "spec.ports[1].port"}


def test_a_secrets_data_is_base64_and_its_string_data_is_text_and_wins() -> None:
    found = secret(data={"a": base64.b64encode(b"\x00\xff").decode(), "b": "b2xk"}, stringData={"b": "new"})
    assert found.data == {"a": b"\x00\xff", "b": b"new"}


def test_base64_over_several_lines_is_read() -> None:
    assert secret(data={"ca": "Y2Vy\ndGlm\naWNhdGU=\n"}).data == {"ca": b"certificate"}


@pytest.mark.parametrize("value", ["pl@in", "s3cret", 5, None, ["x"]])
def test_data_that_is_no_base64_is_said_without_the_value(value: Any) -> None:
    found = problems(parse_secret({"metadata": {"name": "keys"}, "data": {"password": value}}))
    assert found == {"data.password": "must be base64; plain text goes into stringData"}


def test_string_data_that_is_no_text_is_said_without_the_value() -> None:
    found = problems(parse_secret({"metadata": {"name": "keys"}, "stringData": {"pin": 123_456}}))
    assert found == {"stringData.pin": "must be text (a number needs quotes to be text)"}


def test_defect_19_a_secret_does_not_show_its_values() -> None:
    assert "s3cret" not in repr(secret(stringData={"password": "s3cret"}))


# Anything at all

_WORDS = """metadata name namespace labels kubernetes.io/service-name spec ports port targetPort protocol appProtocol
    selector type clusterIP addressType endpoints addresses conditions ready serving data stringData"""
_KEYS = st.sampled_from(_WORDS.split())
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("10.0.0.1"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=20,
)
_VALUES = {
    parse_service: st.fixed_dictionaries({}, optional={"metadata": _JSON, "spec": _JSON}),
    parse_secret: st.fixed_dictionaries({}, optional={"metadata": _JSON, "data": _JSON, "stringData": _JSON}),
    parse_endpoint_slice: st.fixed_dictionaries(
        {}, optional={"metadata": _JSON, "addressType": _JSON, "ports": _JSON, "endpoints": _JSON}
    ),
}


@pytest.mark.parametrize("parse", _VALUES)
@given(data=st.data())
def test_whatever_a_file_holds_is_read_or_refused_and_never_raises(parse: Any, data: st.DataObject) -> None:
    obj = data.draw(_VALUES[parse])
    found = parse(obj)
    assert isinstance(found, Parsed) or (found.problems and all(problem.field for problem in found.problems))


@given(port=st.fixed_dictionaries({"port": st.just(80)}, optional={"name": _JSON, "appProtocol": _JSON}))
def test_what_was_read_can_always_be_resolved(port: Json) -> None:
    of_service = parse_service({"metadata": {"name": "llama"}, "spec": {"ports": [port]}})
    of_slice = parse_endpoint_slice(slice_manifest("10.0.0.1", ports=[port]))
    if isinstance(of_service, Parsed):
        assert isinstance(of_slice, Parsed)
        assert resolved(of_service.model, of_slice.model).endpoints == (Endpoint("10.0.0.1", 80),)
