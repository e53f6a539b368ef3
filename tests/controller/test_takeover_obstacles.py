"""What cannot be taken over, and why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from controller.events import Exposure
from controller.objects import EndpointSlice, ServicePort
from controller.takeover.obstacles import obstacle_of
from controller.takeover.world import ServiceView, World

Json = dict[str, Any]

KEY = "ns/php"
HTTP = ServicePort(80, "http", "web")
SERVICE = ServiceView(KEY, "uid-1", "7", (HTTP,), {"app": "php"})
EXPOSURE = Exposure(KEY, 80, 20_000, ())


@pytest.mark.parametrize(
    ("changes", "port", "reason"),
    [
        ({}, 80, None),
        ({}, None, None),
        ({}, 81, "PortNotFound"),
        ({"ports": ()}, None, "PortNotFound"),
        ({"ports": (replace(HTTP, protocol="UDP"),)}, 80, "ProtocolNotSupported"),
        ({"ports": (replace(HTTP, protocol="UDP"), HTTP)}, 80, None),
        ({"ports": (replace(HTTP, app_protocol="https"),)}, 80, "ProtocolNotSupported"),
        ({"ports": (replace(HTTP, app_protocol="kubernetes.io/h2c"),)}, 80, None),
        ({"type": "ExternalName"}, 80, "ExternalName"),
        ({"type": "LoadBalancer"}, 80, None),
        ({"headless": True}, 80, "Headless"),
        ({"local_only": "externalTrafficPolicy"}, 80, "TrafficPolicyLocal"),
        ({"selector": {}}, 80, "NoSelector"),
        ({"selector": {}, "kept": "app=php"}, 80, None),
        ({"selector": {}, "kept": "app"}, 80, "NoSelector"),
    ],
)
def test_what_cannot_be_taken_over_says_why(changes: Json, port: int | None, reason: str | None) -> None:
    obstacle = obstacle_of(World(replace(SERVICE, **changes)), replace(EXPOSURE, port=port))
    assert (obstacle and obstacle.reason) == reason
    assert obstacle is None or KEY in obstacle.message


def test_the_service_of_a_model_that_names_none_has_to_be_its_own() -> None:
    """Even while it cannot be told how it would be made."""
    exposure = replace(EXPOSURE, owner_uid="uid-m")
    assert obstacle_of(World(replace(SERVICE, owners=frozenset({"uid-m"}))), exposure) is None
    obstacle = obstacle_of(World(SERVICE), exposure)
    assert obstacle is not None
    assert obstacle.reason == "ServiceExists"


def test_a_service_that_others_write_slices_for_is_left_alone() -> None:
    seen = World(SERVICE, slices=(EndpointSlice("ns/x", KEY, "IPv4", managed_by="staff"),))
    obstacle = obstacle_of(seen, EXPOSURE)
    assert obstacle is not None
    assert obstacle.message == "Service ns/php has EndpointSlices that others write ('staff')."


def test_somebody_elses_service_is_never_taken_for_the_shadow() -> None:
    obstacle = obstacle_of(World(SERVICE, replace(SERVICE, key="ns/php-spillway-pods")), EXPOSURE)
    assert obstacle is not None
    assert obstacle.reason == "NameTaken"
