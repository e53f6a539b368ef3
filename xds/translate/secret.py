"""Pure: a credential's value as Envoy's generic secret. It reaches gateways over SDS, and nothing else may hold it."""

from __future__ import annotations

from protos.envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from xds import ir


def secret(value: ir.Secret) -> Secret:
    return Secret(name=value.name, generic_secret={"secret": {"inline_string": value.value}})
