"""Kubernetes' objects as taking over reads and writes them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from controller.events import NewService
from controller.objects import ServicePort
from controller.takeover import finalizer
from controller.takeover.actions import (
    Action,
    DeleteEndpoints,
    DeleteShadow,
    DeleteSlice,
    EditPorts,
    EditService,
    EmptySlice,
    MakeService,
    PutShadow,
    PutSlice,
    request_of,
    words_of,
)
from controller.takeover.slices import desired_slices
from controller.takeover.watched import Watched
from controller.takeover.world import ServiceView, World, selector_of, selector_text, view_of
from tests.controller.takeover_values import EXPOSURE, HTTP, KEY, METRICS, PODS, SERVICE

Json = dict[str, Any]


# What is read
OBJECT: Json = {
    "metadata": {
        "name": "php",
        "namespace": "ns",
        "uid": "uid-1",
        "resourceVersion": "7",
        "creationTimestamp": "2026-11-21T20:38:24Z",
        "annotations": {"spillway.dev/selector": "app=php", "spillway.dev/model": "ns/model"},
        "managedFields": [
            {"manager": "kubectl", "operation": "Apply", "fieldsV1": {"f:spec": {"f:selector": {}, "f:ports": {}}}},
            {
                "manager": "spillway",
                "operation": "Update",
                "fieldsV1": {"f:metadata": {"f:annotations": {"f:spillway.dev/selector": {}}}},
            },
            {"manager": "spillway", "operation": "Update", "subresource": "status", "fieldsV1": {}},
            {"manager": "spillway", "operation": "Apply", "fieldsV1": {}},
        ],
    },
    "spec": {
        "type": "NodePort",
        "clusterIP": "10.0.0.1",
        "ipFamilies": ["IPv4", "IPv6"],
        "ipFamilyPolicy": "PreferDualStack",
        "internalTrafficPolicy": "Cluster",
        "externalTrafficPolicy": "Local",
        "publishNotReadyAddresses": True,
        "ports": [
            {"port": 80, "name": "http", "targetPort": "web", "protocol": "TCP", "nodePort": 30_000},
            {"port": 53, "protocol": "UDP", "targetPort": 53, "appProtocol": "dns"},
        ],
    },
}


def test_a_service_is_read() -> None:
    assert view_of(OBJECT) == ServiceView(
        KEY,
        "uid-1",
        "7",
        (HTTP, ServicePort(53, "", 53, "UDP", "dns")),
        type="NodePort",
        families=("IPv4", "IPv6"),
        family_policy="PreferDualStack",
        local_only="externalTrafficPolicy",
        not_ready_too=True,
        annotated=True,
        kept="app=php",
        kept_by_us=True,
        models="ns/model",
        writers=frozenset({"kubectl"}),
        entries_of_ours=(1,),
        created_s=1_795_293_504,
    )


def test_an_annotation_that_its_user_has_set_too_is_not_ours() -> None:
    entry = {
        "manager": "kubectl",
        "operation": "Apply",
        "fieldsV1": {"f:metadata": {"f:annotations": {"f:spillway.dev/selector": {}}}},
    }
    metadata = {**OBJECT["metadata"], "managedFields": [*OBJECT["metadata"]["managedFields"], entry]}
    assert not view_of({**OBJECT, "metadata": metadata}).kept_by_us


@pytest.mark.parametrize(
    ("labels", "shadow_of"),
    [
        ({"app.kubernetes.io/managed-by": "spillway", "spillway.dev/shadow-of": "php"}, "php"),
        ({"spillway.dev/shadow-of": "php"}, None),
        (None, None),
    ],
)
def test_a_shadow_is_known_by_its_labels(labels: dict[str, str] | None, shadow_of: str | None) -> None:
    metadata = {**OBJECT["metadata"], "labels": labels}
    assert view_of({"metadata": metadata, "spec": {"clusterIP": "None"}}).shadow_of == shadow_of


@pytest.mark.parametrize(
    ("text", "selector"),
    [
        ("app=php", {"app": "php"}),
        ("b=2, a/x=1", {"a/x": "1", "b": "2"}),
        ("a=", {"a": ""}),
        ("", None),
        ("a", None),
        ("=1", None),
        ("a=1,", None),
        ("a=1,a=2", None),
    ],
)
def test_a_selector_is_read_from_its_annotation(text: str, selector: dict[str, str] | None) -> None:
    assert selector_of(text) == selector
    assert selector is None or selector_of(selector_text(selector)) == selector


# What is written
OWNER = {"apiVersion": "v1", "kind": "Service", "name": "php", "uid": "uid-1"}


def test_the_shadow_is_the_service_without_an_address() -> None:
    request = request_of(PutShadow(replace(SERVICE, not_ready_too=True), {"app": "php"}, "ns/model"))
    assert (request.method, request.path) == ("APPLY", "/api/v1/namespaces/ns/services/php-spillway-pods")
    assert request.body["metadata"]["ownerReferences"] == [OWNER]
    assert request.body["spec"] == {
        "clusterIP": "None",
        "selector": {"app": "php"},
        "ports": [
            {"name": "http", "port": 80, "protocol": "TCP", "targetPort": "web"},
            {"name": "metrics", "port": 9090, "protocol": "TCP", "targetPort": 9090},
        ],
        "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack",
        "publishNotReadyAddresses": True,
    }


def test_a_slice_goes_with_its_service() -> None:
    (_, written) = desired_slices(SERVICE, (PODS,), {HTTP: EXPOSURE})
    request = request_of(PutSlice(SERVICE, written))
    assert request.path == f"/apis/discovery.k8s.io/v1/namespaces/ns/endpointslices/{written.key.removeprefix('ns/')}"
    assert request.body["metadata"]["ownerReferences"] == [OWNER]
    assert request.body["metadata"]["labels"] == {
        "kubernetes.io/service-name": "php",
        "endpointslice.kubernetes.io/managed-by": "spillway",
    }
    assert request.body["ports"] == [{"name": "metrics", "port": 9090, "protocol": "TCP"}]
    assert request.body["endpoints"] == [
        {
            "addresses": ["10.0.0.1"],
            "conditions": {"ready": False, "serving": True, "terminating": True},
            "targetRef": {"kind": "Pod", "namespace": "ns", "name": "php-1"},
            "nodeName": "n",
            "zone": "z",
        }
    ]


TEST = {"op": "test", "path": "/metadata/resourceVersion", "value": "7"}


@pytest.mark.parametrize(
    ("edit", "operations"),
    [
        (
            EditService(SERVICE, {}, {"spillway.dev/model": "ns/m"}),
            [
                {"op": "remove", "path": "/spec/selector"},
                {"op": "add", "path": "/metadata/annotations", "value": {}},
                {"op": "add", "path": "/metadata/annotations/spillway.dev~1model", "value": "ns/m"},
            ],
        ),
        (EditService(SERVICE, {"a": "b"}), [{"op": "add", "path": "/spec/selector", "value": {"a": "b"}}]),
        (
            EditService(
                replace(SERVICE, annotated=True, models="ns/m", entries_of_ours=(1, 3)),
                annotations={"spillway.dev/model": None, "spillway.dev/selector": None},
                disown=True,
            ),
            [
                {"op": "remove", "path": "/metadata/annotations/spillway.dev~1model"},
                {"op": "remove", "path": "/metadata/managedFields/3"},
                {"op": "remove", "path": "/metadata/managedFields/1"},
            ],
        ),
        (
            EditPorts(SERVICE, (METRICS,)),
            [
                {
                    "op": "replace",
                    "path": "/spec/ports",
                    "value": [{"name": "metrics", "port": 9090, "protocol": "TCP", "targetPort": 9090}],
                }
            ],
        ),
    ],
)
def test_a_service_is_edited_only_if_it_is_as_it_was_seen(edit: Action, operations: list[Json]) -> None:
    request = request_of(edit)
    assert (request.method, request.path) == ("PATCH", "/api/v1/namespaces/ns/services/php")
    assert request.body == [TEST, *operations]


def test_a_service_that_is_made_belongs_to_its_model() -> None:
    request = request_of(MakeService("ns/m", NewService("m", "uid-m", {"app": "m"}, (ServicePort(80),))))
    assert (request.method, request.path) == ("POST", "/api/v1/namespaces/ns/services")
    (owner,) = request.body["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("ModelDeployment", "m", "uid-m")
    assert request.body["spec"] == {"selector": {"app": "m"}, "ports": [{"port": 80, "protocol": "TCP"}]}


@pytest.mark.parametrize(
    ("action", "path", "uid", "version"),
    [
        (DeleteEndpoints(KEY), "/api/v1/namespaces/ns/endpoints/php", "", ""),
        (DeleteSlice("ns/x"), "/apis/discovery.k8s.io/v1/namespaces/ns/endpointslices/x", "", ""),
        (DeleteSlice("ns/x", "9"), "/apis/discovery.k8s.io/v1/namespaces/ns/endpointslices/x", "", "9"),
        (DeleteShadow("ns/x", "u"), "/api/v1/namespaces/ns/services/x", "u", ""),
    ],
)
def test_what_is_deleted(action: Action, path: str, uid: str, version: str) -> None:
    request = request_of(action)
    assert (request.method, request.path, request.uid, request.version) == ("DELETE", path, uid, version)


def test_a_slice_of_somebody_else_keeps_all_but_its_endpoints() -> None:
    request = request_of(EmptySlice("ns/x", "7"))
    assert (request.method, request.path) == ("PATCH", "/apis/discovery.k8s.io/v1/namespaces/ns/endpointslices/x")
    assert request.body == [TEST, {"op": "replace", "path": "/endpoints", "value": []}]


@pytest.mark.parametrize(
    "action",
    [
        MakeService(KEY, NewService("m", "u", {}, ())),
        PutShadow(SERVICE, {}, ""),
        PutSlice(SERVICE, PODS),
        EditService(SERVICE),
        EditPorts(SERVICE, ()),
        DeleteEndpoints(KEY),
        EmptySlice(KEY, "7"),
        DeleteSlice(KEY),
        DeleteShadow(KEY, "u"),
    ],
)
def test_each_action_has_words_that_name_what_it_is_about(action: Action) -> None:
    assert "ns/php" in words_of(action)


# What was shown
def service_object(name: str, **labels: str) -> Json:
    metadata = {**OBJECT["metadata"], "name": name, "annotations": None, "managedFields": None, "labels": labels}
    return {"metadata": metadata, "spec": {"selector": {"app": "php"}, "ports": [{"port": 80}]}}


SHADOW_LABELS = {"app.kubernetes.io/managed-by": "spillway", "spillway.dev/shadow-of": "php"}


def test_all_that_belongs_to_a_service_is_about_it() -> None:
    watched = Watched()
    assert watched.see_service(service_object("php")) == KEY
    assert list(watched.touched()) == []
    assert watched.see_service(service_object("php-spillway-pods", **SHADOW_LABELS)) == KEY
    assert watched.see_slice(PODS) == KEY
    assert watched.see_slice(replace(PODS, key="ns/a", service_key=KEY)) == KEY
    assert watched.see_endpoints(KEY) == KEY
    assert watched.see_endpoints("ns/php-spillway-pods") == KEY
    world = watched.world(KEY)
    assert world.service is not None
    assert world.owns_shadow
    assert (len(world.slices), len(world.shadow_slices), world.endpoints) == (1, 1, True)
    assert list(watched.touched()) == [KEY]


def test_what_goes_is_about_it_too() -> None:
    watched = Watched()
    watched.see_service(service_object("php-spillway-pods", **SHADOW_LABELS))
    watched.see_slice(PODS)
    watched.see_endpoints(KEY)
    assert watched.lose_slice(PODS.key) == KEY
    assert watched.lose_slice(PODS.key) is None
    assert watched.lose_service("ns/php-spillway-pods") == KEY
    assert watched.lose_endpoints(KEY) == KEY
    assert watched.world(KEY) == World()


def test_a_slice_may_change_hands() -> None:
    watched = Watched()
    watched.see_slice(PODS)
    assert watched.see_slice(replace(PODS, service_key="ns/other")) == "ns/other"
    assert watched.world(KEY).shadow_slices == ()
    assert len(watched.world("ns/other").slices) == 1


# Finalizers
@pytest.mark.parametrize(
    ("metadata", "hold", "value"),
    [
        ({}, True, [finalizer.FINALIZER]),
        ({"finalizers": ["x"]}, True, ["x", finalizer.FINALIZER]),
        ({"finalizers": [finalizer.FINALIZER]}, True, None),
        ({"deletionTimestamp": "now"}, True, None),
        ({"finalizers": [finalizer.FINALIZER, "x"], "deletionTimestamp": "now"}, False, ["x"]),
        ({"finalizers": ["x"]}, False, None),
    ],
)
def test_the_finalizer_comes_and_goes(metadata: Json, hold: bool, value: list[str] | None) -> None:
    operations = finalizer.edit_of({**metadata, "resourceVersion": "7"}, hold=hold)
    assert operations == (
        [] if value is None else [TEST, {"op": "add", "path": "/metadata/finalizers", "value": value}]
    )
