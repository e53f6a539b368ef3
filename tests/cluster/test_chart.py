"""The chart on a real API server: what Helm finds there decides what it does."""

from __future__ import annotations

import pytest

from tests.cluster.harness.control_plane import ControlPlane
from tests.cluster.release import Release
from tests.support import chart

API_SERVICE = "/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.metrics.k8s.io"


@pytest.fixture
def release(control_plane: ControlPlane, namespace: str) -> Release:
    return Release(control_plane, namespace)


def uninstall(release: Release) -> None:
    release.helm("uninstall", "--no-hooks")  # without a node no hook would ever end


def test_it_is_installed_upgraded_and_uninstalled(control_plane: ControlPlane, release: Release) -> None:
    gateway = f"/apis/apps/v1/namespaces/{release.namespace}/deployments/sw-spillway-gateway"
    notes = release.install()
    assert f"serves ModelDeployments in namespace {release.namespace}" in notes
    secrets = ("sw-spillway-controller-xds", "sw-spillway-gateway-xds", "sw-spillway-gateway-drain")
    before = [release.secret(name) for name in secrets]
    assert before[0]["ca.crt"] == before[1]["ca.crt"]
    pod = control_plane.api.get(gateway)["spec"]["template"]

    release.install("--set", "gateway.replicas=3", "--set", "networkPolicy.enabled=true")
    assert [release.secret(name) for name in secrets] == before
    assert control_plane.api.get(gateway)["spec"]["template"] == pod

    uninstall(release)
    kinds = "all,secrets,configmaps,roles,pdb,networkpolicies"
    left = control_plane.kubectl("get", kinds, "-n", release.namespace, "-o", "name")
    assert "spillway" not in left
    assert control_plane.api.exists(
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/modeldeployments.deployment.beamlit.com"
    )


def test_half_of_the_certificates_is_none(control_plane: ControlPlane, release: Release) -> None:
    """If one is lost, both are made anew, since they trust one authority."""
    release.install()
    before = release.secret("sw-spillway-gateway-xds")
    control_plane.api.delete(f"/api/v1/namespaces/{release.namespace}/secrets/sw-spillway-controller-xds")
    release.install()
    assert release.secret("sw-spillway-gateway-xds") != before
    assert release.secret("sw-spillway-gateway-xds")["ca.crt"] == release.secret("sw-spillway-controller-xds")["ca.crt"]
    uninstall(release)


def test_metrics_that_the_cluster_has_are_left_alone(control_plane: ControlPlane, release: Release) -> None:
    spec = {"group": "metrics.k8s.io", "version": "v1beta1", "groupPriorityMinimum": 1, "versionPriority": 1}
    name = {"metadata": {"name": "v1beta1.metrics.k8s.io"}}
    control_plane.api.create(API_SERVICE.rpartition("/")[0], {**name, "spec": spec})
    try:
        release.install("--set", "installMetricServer=true")
        assert control_plane.api.get(API_SERVICE)["spec"].get("service") is None
        uninstall(release)
    finally:
        control_plane.api.delete(API_SERVICE)


def test_metrics_that_it_installed_stay_its_own(control_plane: ControlPlane, release: Release) -> None:
    for _ in range(2):
        release.install("--set", "installMetricServer=true")
        assert control_plane.api.get(API_SERVICE)["spec"]["service"]["name"] == "sw-spillway-metrics-server"
    uninstall(release)
    assert not control_plane.api.exists(API_SERVICE)


def test_its_pods_run_where_only_restricted_ones_may(control_plane: ControlPlane, release: Release) -> None:
    restricted = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    control_plane.api.merge(f"/api/v1/namespaces/{release.namespace}", restricted)
    made = chart.objects("--set", "installMetricServer=true")
    templates = [each["spec"]["template"] for each in made if each["kind"] in ("Deployment", "Job")]
    assert len(templates) == 4
    for number, template in enumerate(templates):
        pod = {**template, "metadata": {"name": f"pod-{number}"}}
        del pod["spec"]["serviceAccountName"]  # that it exists is asked first
        control_plane.api.create(f"/api/v1/namespaces/{release.namespace}/pods?dryRun=All", pod)
