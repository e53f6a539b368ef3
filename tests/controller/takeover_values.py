"""A Service with two ports, its gateways and its pods, for tests of taking it over."""

from __future__ import annotations

from controller.events import Exposure
from controller.objects import EndpointSlice, GatewayPod, ServicePort, SliceEndpoint, SlicePort
from controller.takeover.world import BY_SELECTOR, ServiceView

KEY = "ns/php"
HTTP, METRICS = ServicePort(80, "http", "web"), ServicePort(9090, "metrics", 9090)
SERVICE = ServiceView(KEY, "uid-1", "7", (HTTP, METRICS), {"app": "php"})
GATEWAYS = (GatewayPod("gateway-0", ("10.0.1.1", "fd00::1")), GatewayPod("gateway-1", ("10.0.1.2",)))
EXPOSURE = Exposure(KEY, 80, 20_000, GATEWAYS)
POD = SliceEndpoint(("10.0.0.1",), ready=False, serving=True, terminating=True, pod="php-1", node="n", zone="z")
PODS = EndpointSlice(
    "ns/php-spillway-pods-xyz12",
    "ns/php-spillway-pods",
    "IPv4",
    (SlicePort(8080, "http"), SlicePort(9090, "metrics")),
    (POD,),
    BY_SELECTOR,
)
