"""The rights that the chart grants to the controller, without the rest of the chart."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.cluster.harness.control_plane import ControlPlane
from tests.support import chart

ACCOUNT = "sw-spillway-controller"
_KINDS = frozenset({"Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding", "ServiceAccount"})


def grant(control_plane: ControlPlane, namespace: str, *arguments: str) -> Path:
    """A kubeconfig of the controller's account in `namespace`, which has what the chart grants with these `arguments`
    ('--set', 'config.namespaces=...') and nothing else.
    """
    granting = [each for each in chart.objects(*arguments, namespace=namespace) if each["kind"] in _KINDS]
    for each in granting:
        each["metadata"].setdefault("namespace", namespace)  # as Helm does it
    control_plane.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(granting))
    return control_plane.service_account_kubeconfig(namespace, ACCOUNT)


def revoke_cluster_wide(control_plane: ControlPlane) -> None:
    """What no namespace takes with it."""
    control_plane.kubectl("delete", "clusterroles,clusterrolebindings", "-l", "app.kubernetes.io/name=spillway")
