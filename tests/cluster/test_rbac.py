"""The controller's rights: everything it does is allowed, and nothing else is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest
import yaml

from tests.cluster.harness.api import Api
from tests.cluster.harness.control_plane import ControlPlane
from tests.cluster.rights import ACCOUNT, grant, revoke_cluster_wide
from tests.support import chart
from tests.support.chart import CHART, Json

MODELS, REFERENCES, OWN, GATEWAY = "models", "references", "own", "gateway"


class Right(NamedTuple):
    """`resource`: with a subresource as in RBAC, or the wildcard."""

    group: str
    resource: str
    verb: str


NEEDED = {
    MODELS: {
        "models are read": "deployment.beamlit.com modeldeployments list watch",
        "a finalizer is put on": "deployment.beamlit.com modeldeployments get patch",
        "the status is applied": "deployment.beamlit.com modeldeployments/status patch",
        "an Event is recorded, and counted up": "- events create patch",
    },
    REFERENCES: {
        "policies are read": "authorization.beamlit.com policies list watch",
        "Deployments are read": "apps deployments list watch",
        "StatefulSets are read": "apps statefulsets list watch",
        "DaemonSets are read": "apps daemonsets list watch",
        "ReplicaSets are read": "apps replicasets list watch",
        "Services are read": "- services get list watch",
        "a shadow is applied, a selector patched": "- services create patch",
        "a shadow is deleted": "- services delete",
        "slices are read": "discovery.k8s.io endpointslices list watch",
        "slices are applied": "discovery.k8s.io endpointslices create patch",
        "stale slices are deleted": "discovery.k8s.io endpointslices delete",
        "names of Endpoints are read": "- endpoints get list watch",
        "Endpoints of a Service that is taken over are deleted": "- endpoints delete",
        "a Secret is read by its name": "- secrets list watch",
        "Pods' requests are read": "- pods list",
        "usage is read": "metrics.k8s.io pods list",
        "a custom metric is read": "custom.metrics.k8s.io * get",
        "an external metric is read": "external.metrics.k8s.io * list",
    },
    OWN: {
        "a leader is elected": "coordination.k8s.io leases get create patch",
        "what replicas tell each other is read": "coordination.k8s.io leases list watch",
        "a replica's Lease is deleted": "coordination.k8s.io leases delete",
    },
    GATEWAY: {"gateway Pods are found": "discovery.k8s.io endpointslices list watch"},
}
DENIED = [
    "- secrets get",
    "- secrets create",
    "- secrets patch",
    "- secrets delete",
    "- services update",
    "discovery.k8s.io endpointslices update",
    "- services deletecollection",
    "- pods get",
    "- pods create",
    "- pods delete",
    "- pods/exec create",
    "- pods/log get",
    "- pods/ephemeralcontainers patch",
    "- configmaps list",
    "- serviceaccounts list",
    "- serviceaccounts/token create",
    "- endpoints create",
    "- endpoints patch",
    "- events delete",
    "apps deployments patch",
    "apps deployments/scale patch",
    "apps statefulsets delete",
    "deployment.beamlit.com modeldeployments create",
    "deployment.beamlit.com modeldeployments delete",
    "deployment.beamlit.com modeldeployments update",
    "deployment.beamlit.com modeldeployments/status update",
    "authorization.beamlit.com policies patch",
    "rbac.authorization.k8s.io roles create",
    "rbac.authorization.k8s.io rolebindings create",
    "networking.k8s.io networkpolicies delete",
    "coordination.k8s.io leases update",
    "metrics.k8s.io nodes list",
]
CLUSTER_WIDE_DENIED = ["- nodes list", "- nodes/proxy get", "- namespaces list", "- persistentvolumes list"]


def rights(text: str) -> Iterator[Right]:
    """'<group, - for the core> <resource> <verb>...'"""
    group, resource, *verbs = text.split()
    for verb in verbs:
        yield Right("" if group == "-" else group, resource, verb)


def needed(scope: str) -> set[Right]:
    return {right for text in NEEDED[scope].values() for right in rights(text)}


class Account:
    """What the controller's ServiceAccount may do, as the API server says."""

    def __init__(self, api: Api, namespace: str) -> None:
        self._api = api
        self._user = f"system:serviceaccount:{namespace}:{ACCOUNT}"
        self._groups = ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"]

    def may(self, right: Right, namespace: str = "") -> bool:
        resource, _, subresource = right.resource.partition("/")
        attributes = {
            "group": right.group,
            "resource": "anything" if resource == "*" else resource,
            "subresource": subresource,
            "verb": right.verb,
            "namespace": namespace,
        }
        review = {"spec": {"user": self._user, "groups": self._groups, "resourceAttributes": attributes}}
        answer = self._api.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
        return bool(answer["status"]["allowed"])

    def refused(self, wanted: set[Right], namespace: str = "") -> set[Right]:
        return {right for right in wanted if not self.may(right, namespace)}

    def allowed(self, unwanted: set[Right], namespace: str = "") -> set[Right]:
        return {right for right in unwanted if self.may(right, namespace)}


class Place(NamedTuple):
    """Namespaces of the controller, of models, of what they refer to, and one that is nobody's."""

    own: str
    models: str
    referred: str
    other: str


@pytest.fixture
def place(control_plane: ControlPlane, namespace: str) -> Iterator[Place]:
    further = [f"{namespace}-{part}" for part in ("models", "referred", "other")]
    for name in further:
        control_plane.api.create("/api/v1/namespaces", {"metadata": {"name": name}})
    yield Place(namespace, *further)
    for name in further:
        control_plane.api.delete(f"/api/v1/namespaces/{name}")
    revoke_cluster_wide(control_plane)


def account(control_plane: ControlPlane, place: Place, *arguments: str) -> Account:
    """The controller's, with the chart's rights."""
    grant(control_plane, place.own, *arguments)
    return Account(control_plane.api, place.own)


def test_defect_20_every_right_is_written_down_once_and_needed() -> None:
    granted = yaml.safe_load((CHART / "files/rbac.yaml").read_text())
    assert granted.keys() == NEEDED.keys()
    for scope, rules in granted.items():
        found = [
            Right(group, resource, verb)
            for rule in rules
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
        ]
        assert len(found) == len(set(found))
        assert set(found) == needed(scope)
        assert all(rule.keys() == {"apiGroups", "resources", "verbs"} for rule in rules)


def test_each_right_comes_with_its_reason() -> None:
    lines = (CHART / "files/rbac.yaml").read_text().splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("- apiGroups")]
    assert all(lines[number - 1].startswith("# ") for number in starts)


def test_with_named_namespaces_it_has_rights_there_and_nowhere_else(control_plane: ControlPlane, place: Place) -> None:
    controller = account(
        control_plane,
        place,
        *("--set", f"config.namespaces={place.models}", "--set", f"config.referenceNamespaces={{{place.referred}}}"),
    )
    assert controller.refused(needed(MODELS) | needed(REFERENCES), place.models) == set()
    assert controller.refused(needed(REFERENCES), place.referred) == set()
    assert controller.refused(needed(OWN) | needed(GATEWAY), place.own) == set()

    everything = {right for scope in NEEDED for right in needed(scope)}
    assert controller.allowed(everything, place.other) == set()
    assert controller.allowed(everything) == set()
    assert controller.allowed(needed(MODELS), place.referred) == set()
    assert controller.allowed(everything - needed(OWN) - needed(GATEWAY), place.own) == set()
    assert controller.allowed(needed(OWN), place.models) == set()


def test_with_all_namespaces_it_has_rights_in_each_but_for_leases(control_plane: ControlPlane, place: Place) -> None:
    controller = account(control_plane, place, "--set", "config.namespaces=")
    assert controller.refused(needed(MODELS) | needed(REFERENCES)) == set()
    assert controller.refused(needed(OWN), place.own) == set()
    assert controller.allowed(needed(OWN), place.other) == set()


@pytest.mark.parametrize("everywhere", [False, True], ids=["in-some-namespaces", "in-all-namespaces"])
def test_what_it_has_no_business_with_is_denied(control_plane: ControlPlane, place: Place, everywhere: bool) -> None:
    controller = account(control_plane, place, "--set", f"config.namespaces={'' if everywhere else place.models}")
    unwanted = {right for text in DENIED for right in rights(text)}
    for each in place:
        assert controller.allowed(unwanted, each) == set()
    assert controller.allowed({right for text in CLUSTER_WIDE_DENIED for right in rights(text)}) == set()


def test_references_to_all_namespaces_do_not_widen_whose_models_are_served(
    control_plane: ControlPlane, place: Place
) -> None:
    arguments = "--set", f"config.namespaces={place.models}", "--set", "config.referenceNamespaces={*}"
    controller = account(control_plane, place, *arguments)
    assert controller.refused(needed(REFERENCES), place.other) == set()
    assert controller.allowed(needed(MODELS), place.other) == set()


def test_the_gateways_account_has_no_rights_and_no_token() -> None:
    made = chart.objects()
    (gateway,) = (
        each for each in made if each["metadata"]["name"] == "sw-spillway-gateway" and each["kind"] == "ServiceAccount"
    )
    assert gateway["automountServiceAccountToken"] is False
    assert bound(made) == {ACCOUNT}


def bound(made: list[Json]) -> set[str]:
    """Who has any rights."""
    return {subject["name"] for each in made if each["kind"].endswith("Binding") for subject in each["subjects"]}
