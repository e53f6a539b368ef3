"""Pure: who a gateway says it is, and whether it can carry our configuration."""

from __future__ import annotations

import re
from dataclasses import dataclass

from protos.envoy.config.core.v3.base_pb2 import Node

MIN_ENVOY = (1, 40)
"""The first Envoy with priority groups, which decide where a request goes next."""

UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Introduction:
    """A gateway's id, its version ('1.40.0', or 'unknown'), and why it is turned away; empty if it is not."""

    gateway: str
    version: str
    objection: str = ""


def introduce(node: Node) -> Introduction:
    """A client that is no Envoy, or does not say which one, is let in: tools that look at the configuration do that."""
    version = _version(node)
    text = ".".join(map(str, version)) or UNKNOWN
    if not node.id:
        return Introduction("", text, "node.id is empty: a gateway needs an id of its own (Envoy: --service-node)")
    if version and version[:2] < MIN_ENVOY:
        needed = ".".join(map(str, MIN_ENVOY))
        objection = (
            f"gateway {node.id} is Envoy {text}: {needed} or newer is needed, older ones have no priority groups"
        )
        return Introduction(node.id, text, objection)
    return Introduction(node.id, text)


def _version(node: Node) -> tuple[int, ...]:
    """Of an Envoy; empty if it is none or does not say."""
    if node.user_agent_name not in ("", "envoy"):
        return ()
    if node.HasField("user_agent_build_version"):
        build = node.user_agent_build_version.version
        return build.major_number, build.minor_number, build.patch
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", node.user_agent_version)
    return tuple(int(part) for part in found.groups(default="0")) if found else ()
