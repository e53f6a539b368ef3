"""The tutorial, as its readers do it: the chart with the values they were told, the manifests as they are written, CPU
utilization by a real metrics-server. Then the other source that they were told of, a real Prometheus.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster.harness import images
from tests.cluster.harness.api import wait_until
from tests.cluster.harness.caller import calling
from tests.cluster.harness.node import Node
from tests.cluster.harness.process import Process
from tests.cluster.on_node import (
    DEADLINE_S,
    VALUES,
    Installed,
    Model,
    add_model,
    add_workloads,
    calling_all_the_time,
    is_half,
    lost,
    served,
)
from tests.cluster.release import Release
from tests.support.binaries import prometheus_path

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
EXAMPLE = Path(__file__).parents[2] / "examples/php-apache"
NAMESPACE = "default"
PROMETHEUS_PORT = 9090
LOGIN = "config.defaultRemoteBackend.authConfig.oauthConfig"
AS_TOLD = (
    *("--set", "installMetricServer=true"),
    *("--set", f"beamlitApiToken={base64.b64encode(b'id:secret').decode()}"),
    *("--set", f"{LOGIN}.clientId=id", "--set", f"{LOGIN}.clientSecret=secret"),
)


@pytest.fixture(scope="module")
def installed(node: Node) -> Iterator[Installed]:
    prometheus = f"config.metricInformer.prometheus.address={node.machine.address}:{PROMETHEUS_PORT}"
    release = Release(node.control_plane, NAMESPACE, "beamlit-controller")
    release.install(*AS_TOLD, *VALUES, "--set", prometheus, "--wait", f"--timeout={DEADLINE_S}s")
    yield Installed(node, release)
    release.helm("uninstall", "--wait", f"--timeout={DEADLINE_S}s")


@pytest.fixture(autouse=True)
def nothing_left(installed: Installed) -> Iterator[None]:
    """Whatever happens: no other model of the same name is served while one of this namespace is."""
    yield
    installed.kubectl("delete", "modeldeployments", "--all", f"--timeout={DEADLINE_S}s")


def test_the_tutorial(installed: Installed) -> None:
    kubectl, api = installed.kubectl, installed.node.control_plane.api
    kubectl("apply", "-f", str(EXAMPLE / "workload.yaml"))
    kubectl("create", "deployment", "elsewhere", f"--image={images.HPA_EXAMPLE}")
    kubectl("expose", "deployment", "elsewhere", "--name=my-model-on-another-cluster", "--port=80")
    for workload in ("php-apache", "elsewhere"):
        installed.node.rolled_out(NAMESPACE, workload)
    model = Model(installed, NAMESPACE, "my-model", "php-apache")
    before = model.service
    with calling(api, NAMESPACE, model.url, rate_per_s=2) as few:
        with calling(api, NAMESPACE, model.url, rate_per_s=15) as many:
            kubectl("apply", "-f", str(EXAMPLE / "model.yaml"))
            model.until_taken_over()
            model.until_state("Overflowing")
            shown = columns(kubectl("get", "modeldeployments"))
            before_overflow = many.counts()
            counts = many.wait_for(100)
        assert is_half("elsewhere", served(before_overflow, counts))
        assert not lost(counts)
        model.behave(bufferSeconds=1)  # nobody wants to wait for a minute here
        model.until_state("Standby")
        wait_until(
            lambda: {*served(few.counts(), few.wait_for(10))} == {"php-apache"}, DEADLINE_S, "none leaves any more"
        )
        kubectl("delete", "-f", str(EXAMPLE / "model.yaml"), f"--timeout={DEADLINE_S}s")
        counts = few.wait_for(10)
    assert not lost(counts)
    assert model.service == before

    assert {name: shown[name] for name in ("NAME", "MODEL", "STATE", "SHARE", "TARGET", "REMOTE", "READY")} == {
        "NAME": "my-model",
        "MODEL": "my-model",
        "STATE": "Overflowing",
        "SHARE": "50%",
        "TARGET": "50%",
        "REMOTE": "my-model-on-another-cluster:80",
        "READY": "True",
    }
    assert shown["METRIC"].startswith("cpu: ")
    assert reasons(installed, "my-model") >= {"ThresholdReached", "Returned"}


@contextmanager
def prometheus(node: Node, pods: Sequence[str], folder: Path) -> Iterator[None]:
    """Asks pods at these addresses once a second."""
    scrape = {"job_name": "models", "static_configs": [{"targets": pods}]}
    settings = folder / "prometheus.yml"
    settings.write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": [scrape]}))
    files = f"--config.file={settings}", f"--storage.tsdb.path={folder / 'data'}"
    address = f"--web.listen-address={node.machine.address}:{PROMETHEUS_PORT}"
    process = Process("prometheus", node.machine.enter_network(prometheus_path(), *files, address), folder / "log")
    try:
        yield
    finally:
        process.kill()


def test_the_tutorial_by_prometheus(installed: Installed, tmp_path: Path) -> None:
    add_workloads(installed, NAMESPACE)
    metric = {"metric": {"name": "model_requests_running"}, "target": {"type": "Value", "value": "3"}}
    metrics = [{"type": "External", "external": metric, "source": "prometheus"}]
    model = add_model(installed, NAMESPACE, metrics, activationSeconds=1, bufferSeconds=1)
    addresses = model.kubectl("get", "pods", "--selector", "app=local", "--output=jsonpath={.items[*].status.podIP}")
    pods = [f"{address}:8080" for address in addresses.split()]
    with prometheus(installed.node, pods, tmp_path), calling_all_the_time(model) as callers:
        model.until(lambda: model.condition("MetricsAvailable") == "Available", "the metric is there")
        callers.until_served_by("local")
        with calling(installed.node.control_plane.api, NAMESPACE, model.url + "?sleep=1s", rate_per_s=20, workers=40):
            callers.until_served_by("local", "remote")
            model.until_state("Overflowing")
        callers.until_served_by("local")
        model.until_state("Standby")
        model.delete()


def columns(printed: str) -> dict[str, str]:
    """The only line that `kubectl get` printed, by its header. Columns are three spaces apart."""
    header, line = (re.split(r"\s{3,}", each.strip()) for each in printed.splitlines())
    return dict(zip(header, line, strict=True))


def reasons(installed: Installed, model: str) -> set[str]:
    """Those of its Events."""
    selector = f"involvedObject.kind=ModelDeployment,involvedObject.name={model}"
    printed = installed.kubectl("get", "events", "--field-selector", selector, "--output=jsonpath={.items[*].reason}")
    return set(printed.split())
