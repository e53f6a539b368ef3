"""What the chart installs, by its values. New goldens: SPILLWAY_UPDATE_GOLDEN=1 pytest tests/helm"""

from __future__ import annotations

import base64
import json
import os
import re
import ssl
import subprocess
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller import __version__, settings
from controller.__main__ import main
from controller.destinations import LOCAL_ONLY
from controller.settings import Loaded
from tests.cluster.harness.programs import program
from tests.support import chart
from tests.support.binaries import envoy_path
from tests.support.chart import CHART, ChartError, Json

GOLDEN = Path(__file__).parent / "golden"
UPDATE = os.environ.get("SPILLWAY_UPDATE_GOLDEN") == "1"
LOGIN = "config.defaultRemoteBackend.authConfig.oauthConfig"
API_TOKEN = base64.b64encode(b"client:hunter2").decode()
AS_DOCUMENTED = (
    *("--set", "installMetricServer=true", "--set", f"beamlitApiToken={API_TOKEN}"),
    *("--set", f"{LOGIN}.clientId=client", "--set", f"{LOGIN}.clientSecret=hunter2"),
)
"""How Beamlit Controller's users were told to install it."""


def named(made: list[Json], kind: str, name: str) -> Json:
    (found,) = (each for each in made if each["kind"] == kind and each["metadata"]["name"] == name)
    return found


def configuration(*arguments: str) -> Loaded:
    """config.yaml as the controller reads it."""
    text = named(chart.objects(*arguments), "Secret", "sw-spillway-config")["stringData"]["config.yaml"]
    return settings.load("config.yaml", text, {})


def drain_key(made: list[Json]) -> str:
    """What a gateway's kubelet says to drain it."""
    (container,) = pods(made)["sw-spillway-gateway"]["spec"]["containers"]
    path: str = container["lifecycle"]["preStop"]["httpGet"]["path"]
    _, drain, key, seconds = path.split("/")
    assert (drain, seconds) == ("drain", "300")
    return key


def pods(made: list[Json]) -> dict[str, Json]:
    """The Pods that it asks for, by what does so."""
    return {
        each["metadata"]["name"]: each["spec"]["template"] for each in made if each["kind"] in ("Deployment", "Job")
    }


@pytest.mark.parametrize(("name", "arguments"), [("default", ()), ("as-documented", AS_DOCUMENTED)])
def test_what_is_installed(name: str, arguments: tuple[str, ...]) -> None:
    made = sorted(chart.objects(*arguments), key=lambda each: (each["kind"], each["metadata"]["name"]))
    found = yaml.safe_dump_all(made, sort_keys=False, width=120).replace(drain_key(made), "(made anew)")
    for secret in [each["data"] for each in made if each["kind"] == "Secret" and "data" in each]:
        for value in secret.values():
            found = found.replace(value, "(made anew)")
    golden = GOLDEN / f"{name}.yaml"
    if UPDATE:
        golden.write_text(found)
    assert found == golden.read_text()


def test_the_chart_is_of_the_controllers_version() -> None:
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == __version__


@pytest.mark.parametrize("arguments", [(), AS_DOCUMENTED])
def test_helm_has_nothing_against_the_chart(arguments: tuple[str, ...]) -> None:
    command = [str(program("helm")), "lint", str(CHART), "--strict", "--kube-version", chart.KUBERNETES, *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout


def test_every_file_of_the_chart_is_a_template_a_source_or_a_description() -> None:
    names = {str(path.relative_to(CHART).parts[0]) for path in CHART.rglob("*") if path.is_file()}
    assert names == {".helmignore", "Chart.yaml", "crds", "files", "templates", "values.schema.json", "values.yaml"}


# config.yaml


def test_the_configuration_is_read_without_a_warning() -> None:
    loaded = configuration()
    assert loaded.warnings == ()
    assert loaded.settings.namespaces == "default"
    assert loaded.settings.default_remote_backend is None
    assert (loaded.settings.proxy_service.namespace, loaded.settings.proxy_service.name) == (
        "spillway",
        "sw-spillway-gateway",
    )
    tls = loaded.settings.xds.tls
    assert tls is not None
    assert tls.client_ca_file == "/etc/spillway/xds/ca.crt"


def test_a_login_alone_is_one_for_beamlits_network() -> None:
    loaded = configuration(*AS_DOCUMENTED)
    assert loaded.warnings == ()
    remote = loaded.settings.default_remote_backend
    assert remote is not None
    assert (remote.host, remote.scheme, remote.path_prefix) == ("run.beamlit.dev", "https", "/$workspace/$model")
    assert remote.auth_config is not None
    assert remote.auth_config.oauth_config is not None
    assert remote.auth_config.oauth_config.client_id == "client"
    assert remote.auth_config.oauth_config.token_url == "https://api.beamlit.dev/v0/oauth/token"


def test_a_remote_with_a_host_is_left_as_it_is() -> None:
    remote = configuration("--set", "config.defaultRemoteBackend.host=b.example.com").settings.default_remote_backend
    assert remote is not None
    assert (remote.host, remote.scheme, remote.auth_config) == ("b.example.com", "http", None)


def test_what_the_chart_does_not_know_is_the_controllers_to_judge() -> None:
    loaded = configuration(
        "--set", "config.metricInformer.type=prometheus,config.metricInformer.prometheus.address=p:9090"
    )
    assert loaded.settings.metric_informer.prometheus.address == "p:9090"
    assert configuration("--set", "config.nonsense=1").warnings == ("config.yaml: nonsense: unknown field, ignored",)


def test_another_gateways_service_is_the_one_that_is_named() -> None:
    arguments = "--set", "installBeamlitGateway=false", "--set", "config.proxyService.name=mine"
    proxy = configuration(*arguments).settings.proxy_service
    assert (proxy.namespace, proxy.name, proxy.port) == ("spillway", "mine", 8080)
    assert not [
        each
        for each in chart.objects(*arguments)
        if each["metadata"]["name"] == "sw-spillway-gateway"
        and each["kind"] != "Role"
        and each["kind"] != "RoleBinding"
    ]


def test_the_charts_own_gateway_is_the_one_that_is_meant_whatever_else_is_named() -> None:
    """Values of Beamlit's named the gateway that its chart installed."""
    arguments = "--set", "config.proxyService.name=mine,config.proxyService.namespace=a"
    proxy = configuration(*arguments).settings.proxy_service
    assert (proxy.namespace, proxy.name) == ("spillway", "sw-spillway-gateway")


def test_a_changed_configuration_restarts_the_controller_and_nothing_else() -> None:
    before, after = pods(chart.objects()), pods(chart.objects("--set", "config.workspace=other"))
    changed = {name for name in before if before[name]["metadata"] != after[name]["metadata"]}
    assert changed == {"sw-spillway-controller"}


@pytest.mark.parametrize(
    ("arguments", "models", "references"),
    [
        ((), ["default"], ["default"]),
        (("--set", "config.namespaces=null"), ["default"], ["default"]),
        (("--set", r"config.namespaces=b\, a\,"), ["a", "b"], ["a", "b"]),
        (("--set", "config.namespaces="), [None], [None]),
        (("--set", "config.namespaces=a,config.referenceNamespaces={b}"), ["a"], ["a", "b"]),
        (("--set", "config.namespaces=a,config.referenceNamespaces={*}"), ["a"], [None]),
        (("--set", "config.namespaces=a,allowedNamespaces={a,c}"), ["a"], ["a", "c"]),
    ],
)
def test_rights_are_granted_where_the_controller_works(
    arguments: tuple[str, ...], models: list[str | None], references: list[str | None]
) -> None:
    made = [each for each in chart.objects(*arguments) if each["kind"] in ("Role", "ClusterRole")]

    def granted(scope: str) -> list[str | None]:
        return [each["metadata"].get("namespace") for each in made if each["metadata"]["name"].endswith(scope)]

    assert granted("-models") == models
    assert granted("-references") == references


# Secrets


def test_defect_19_no_secret_leaves_the_secrets() -> None:
    made = chart.objects(*AS_DOCUMENTED)
    holders = {each["kind"] for each in made if "hunter2" in str(each) or API_TOKEN in str(each)}
    assert holders == {"Secret"}


def test_a_token_that_was_never_filled_in_is_none() -> None:
    config = named(chart.objects("--set", "beamlitApiToken=REPLACE_ME"), "Secret", "sw-spillway-config")
    assert config["stringData"].keys() == {"config.yaml"}


def test_the_controllers_and_the_gateways_certificates_fit_each_other(tmp_path: Path) -> None:
    controller, gateway = certificates(chart.objects(), tmp_path)
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(controller / "ca.crt"))
    serving.load_cert_chain(controller / "tls.crt", controller / "tls.key")
    serving.verify_mode = ssl.CERT_REQUIRED
    asking = ssl.create_default_context(cafile=str(gateway / "ca.crt"))
    asking.load_cert_chain(gateway / "tls.crt", gateway / "tls.key")
    shake_hands(serving, asking, "sw-spillway-controller.spillway.svc")
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake_hands(serving, asking, "elsewhere.spillway.svc")


def certificates(made: list[Json], folder: Path) -> list[Path]:
    """Folders with what the Secrets hold, the controller's and the gateway's."""
    folders = []
    for component in ("controller", "gateway"):
        place = folder / component
        place.mkdir()
        for name, data in named(made, "Secret", f"sw-spillway-{component}-xds")["data"].items():
            (place / name).write_bytes(base64.b64decode(data))
        folders.append(place)
    return folders


def shake_hands(serving: ssl.SSLContext, asking: ssl.SSLContext, name: str) -> None:
    """Raises ssl.SSLError if one does not accept the other."""
    there, here = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        asking.wrap_bio(here, there, server_hostname=name),
        serving.wrap_bio(there, here, server_side=True),
    ]
    waiting = list(sides)
    while waiting:
        for side in tuple(waiting):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(side)


def test_certificates_of_somebody_elses_are_used_if_they_are_named() -> None:
    made = chart.objects("--set", "xds.controllerCertificate=mine", "--set", "xds.gatewayCertificate=also-mine")
    assert not [each for each in made if each.get("type") == "kubernetes.io/tls"]
    mounted = {
        name: {v["secret"]["secretName"] for v in pod["spec"]["volumes"] if "secret" in v}
        for name, pod in pods(made).items()
    }
    assert mounted["sw-spillway-controller"] == {"sw-spillway-config", "mine"}
    assert mounted["sw-spillway-gateway"] == {"also-mine"}


@pytest.mark.parametrize("name", ["controllerCertificate", "gatewayCertificate"])
def test_a_certificate_of_somebody_elses_is_never_written_over(name: str) -> None:
    with pytest.raises(ChartError, match="go together"):
        chart.rendered("--set", f"xds.{name}=mine")


# Pods


def test_envoy_takes_the_bootstrap(tmp_path: Path) -> None:
    made = chart.objects()
    _, gateway = certificates(made, tmp_path)
    text = named(made, "ConfigMap", "sw-spillway-gateway")["data"]["bootstrap.yaml"]
    bootstrap = tmp_path / "bootstrap.yaml"
    bootstrap.write_text(text.replace("/etc/spillway/", f"{gateway}/"))
    arguments: list[str] = pods(made)["sw-spillway-gateway"]["spec"]["containers"][0]["args"]
    arguments = [argument.replace("/etc/envoy/bootstrap.yaml", str(bootstrap)) for argument in arguments]
    ran = subprocess.run([envoy_path(), "--mode", "validate", *arguments], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("value", ["xds.port=18001", "config.gateway.address=::"])
def test_a_gateway_is_started_anew_with_a_changed_bootstrap(value: str) -> None:
    def checksum(*arguments: str) -> object:
        (gateway,) = (pod for name, pod in pods(chart.objects(*arguments)).items() if name.endswith("-gateway"))
        return gateway["metadata"]["annotations"]["checksum/bootstrap"]

    assert checksum() == checksum()
    assert checksum() != checksum("--set", value)


def test_the_controller_knows_its_flags(capsys: pytest.CaptureFixture[str]) -> None:
    (container,) = pods(chart.objects())["sw-spillway-controller"]["spec"]["containers"]
    command, *flags = container["args"]
    with pytest.raises(SystemExit):
        main([command, "--help"])
    known = capsys.readouterr().out
    assert all(f"{flag.partition('=')[0]} " in known for flag in flags)


@pytest.mark.parametrize("name", ["sw-spillway-controller", "sw-spillway-gateway", "sw-spillway-restore"])
def test_a_pod_is_as_restricted_as_it_can_be(name: str) -> None:
    pod = pods(chart.objects())[name]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "memory" in container["resources"]["limits"]


def test_the_gateway_has_no_account_to_speak_of() -> None:
    pod = pods(chart.objects())["sw-spillway-gateway"]["spec"]
    assert pod["automountServiceAccountToken"] is False


def test_only_the_kubelet_and_the_gateway_know_how_to_drain_it() -> None:
    made, again = chart.objects(), chart.objects()
    key = drain_key(made)
    assert re.fullmatch("[A-Za-z0-9]{32}", key)
    assert key != drain_key(again)
    assert base64.b64decode(named(made, "Secret", "sw-spillway-gateway-drain")["data"]["key"]).decode() == key
    (container,) = pods(made)["sw-spillway-gateway"]["spec"]["containers"]
    assert {"name": "DRAIN_KEY", "value": key} in container["env"]


def test_a_key_that_is_given_is_used() -> None:
    made = chart.objects("--set", "gateway.drainKey=known")
    assert drain_key(made) == "known"
    assert "sw-spillway-gateway-drain" not in [each["metadata"]["name"] for each in made]


def test_services_lead_to_pods() -> None:
    made = chart.objects("--set", "installMetricServer=true")
    labels = [pod["metadata"]["labels"] for pod in pods(made).values()]
    services = [each for each in made if each["kind"] in ("Service", "PodDisruptionBudget")]
    for each in services:
        selector = each["spec"]["selector"]
        selector = selector.get("matchLabels", selector)
        assert len([found for found in labels if selector.items() <= found.items()]) == 1, each["metadata"]["name"]
    assert len(services) == 5


MONITORING = {"namespaceSelector": {"matchLabels": {"purpose": "monitoring"}}}
CLOSED = ("--set", "networkPolicy.enabled=true")


def policies(*arguments: str) -> dict[str, Json]:
    made = chart.objects(*CLOSED, *arguments)
    return {each["metadata"]["name"]: each["spec"] for each in made if each["kind"] == "NetworkPolicy"}


def test_networks_are_the_clusters_own_affair_unless_it_is_asked_for() -> None:
    assert "NetworkPolicy" not in {each["kind"] for each in chart.objects()}


def test_callers_reach_the_gateways_ports_and_gateways_the_controllers() -> None:
    found = policies("--set", "config.gateway.ports=30000-30999")
    gateway, controller = found["sw-spillway-gateway"], found["sw-spillway-controller"]
    assert gateway["ingress"] == [{"ports": [{"port": "http"}, {"port": 30000, "endPort": 30999}]}]
    assert controller["ingress"] == [{"ports": [{"port": "xds"}], "from": [{"podSelector": gateway["podSelector"]}]}]
    assert controller["policyTypes"] == ["Ingress"]
    for name, policy in found.items():
        selected = policy["podSelector"]["matchLabels"]
        matching = [name for name, pod in pods(chart.objects()).items() if selected.items() <= labels(pod).items()]
        assert matching == [name]


def labels(pod: Json) -> dict[str, str]:
    found: dict[str, str] = pod["metadata"]["labels"]
    return found


def test_metrics_are_for_those_who_collect_them() -> None:
    found = policies("--set-json", f"networkPolicy.metricsFrom={json.dumps([MONITORING])}")
    assert found["sw-spillway-gateway"]["ingress"][1:] == [{"from": [MONITORING], "ports": [{"port": "pod"}]}]
    assert found["sw-spillway-controller"]["ingress"][1:] == [{"from": [MONITORING], "ports": [{"port": "metrics"}]}]


def test_gateways_reach_no_clouds_metadata() -> None:
    gateway = policies()["sw-spillway-gateway"]
    assert gateway["policyTypes"] == ["Ingress", "Egress"]
    blocks = [each["ipBlock"] for each in gateway["egress"][0]["to"] if "ipBlock" in each]
    excepted = {ip_network(network) for block in blocks for network in block["except"]}
    assert excepted == {ip_network(rule) for rule in LOCAL_ONLY if "/" in rule and ip_network(rule).is_link_local} | {
        ip_network("fd00:ec2::254/128")
    }


def test_gateways_of_somebody_elses_may_come_from_anywhere() -> None:
    found = policies("--set", "installBeamlitGateway=false,config.proxyService.name=mine")
    assert found.keys() == {"sw-spillway-controller"}
    assert found["sw-spillway-controller"]["ingress"] == [{"ports": [{"port": "xds"}]}]


def test_ports_follow_the_configuration() -> None:
    made = chart.objects(
        "--set", "config.metricsAddr=:9000,config.probeAddr=0.0.0.0:9001,config.gateway.listen=9002,xds.port=9003"
    )
    ports = {
        port["name"]: port["containerPort"]
        for pod in pods(made).values()
        for container in pod["spec"]["containers"]
        for port in container.get("ports", [])
    }
    assert ports == {"metrics": 9000, "probes": 9001, "http": 9002, "pod": 9902, "xds": 9003}
    assert "port_value: 9003" in named(made, "ConfigMap", "sw-spillway-gateway")["data"]["bootstrap.yaml"]


def test_images_and_resources_are_the_values() -> None:
    made = chart.objects(
        *("--set-string", "controllerManager.manager.image.repository=here/c,controllerManager.manager.image.tag=1"),
        *("--set", "controllerManager.manager.resources.limits.memory=1Gi,controllerManager.replicas=3"),
        *("--set-string", "gateway.image.repository=here/e,gateway.image.tag=2", "--set", "gateway.replicas=5"),
    )
    images = {name: pod["spec"]["containers"][0]["image"] for name, pod in pods(made).items()}
    assert images == {
        "sw-spillway-controller": "here/c:1",
        "sw-spillway-restore": "here/c:1",
        "sw-spillway-gateway": "here/e:2",
    }
    deployments = {each["metadata"]["name"]: each["spec"] for each in made if each["kind"] == "Deployment"}
    assert {name: spec["replicas"] for name, spec in deployments.items()} == {
        "sw-spillway-controller": 3,
        "sw-spillway-gateway": 5,
    }
    controller = deployments["sw-spillway-controller"]["template"]["spec"]["containers"][0]
    assert controller["resources"]["limits"]["memory"] == "1Gi"


def test_services_are_put_back_before_anything_is_deleted() -> None:
    job = named(chart.objects(), "Job", "sw-spillway-restore")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-delete"
    pod = job["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "sw-spillway-controller"
    assert pod["containers"][0]["args"][:2] == ["restore", "--all"]


# Values


BEAMLITS = {
    "kubernetesClusterDomain": "cluster.local",
    "allowedNamespaces": ["beamlit"],
    "metricsService": {"type": "ClusterIP", "ports": [{"name": "https", "port": 8443}]},
    "metrics-server": {"args": ["--kubelet-insecure-tls"]},
    "beamlitBaseUrl": "https://api.beamlit.dev/v0",
    "controllerManager": {
        "replicas": 1,
        "serviceAccount": {"annotations": {}},
        "podSecurityContext": {"runAsNonRoot": True},
        "kubeRbacProxy": {"args": [], "image": {"repository": "gcr.io/kubebuilder/kube-rbac-proxy", "tag": "v0.16.0"}},
        "manager": {
            "containerSecurityContext": {"allowPrivilegeEscalation": False},
            "image": {
                "repository": "ghcr.io/beamlit/beamlit-controller",
                "tag": "latest",
                "pullPolicy": "IfNotPresent",
            },
            "resources": {"limits": {"cpu": "500m", "memory": "128Mi"}},
        },
    },
    "config": {
        "enableHTTP2": False,
        "secureMetrics": False,
        "namespaces": "beamlit",
        "proxyService": {"namespace": "beamlit", "name": "beamlit-gateway", "port": 8080, "adminPort": 8081},
    },
}


def test_a_values_file_of_beamlits_is_taken(tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump(BEAMLITS))
    loaded = configuration("--values", str(values))
    assert loaded.warnings == ()
    assert loaded.settings.namespaces == "beamlit"


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("replicas=3", "replicas"),
        ("gateway.replicas=-1", "gateway/replicas"),
        ("gateway.service.type=Loadbalancer", "gateway/service/type"),
        ("controllerManager.manager.image.pullPolicy=never", "pullPolicy"),
        ("gateway.image.tag=2", "gateway/image/tag"),
        ("gateway.drainKey=a/b", "gateway/drainKey"),
        ("xds.port=70000", "xds/port"),
        ("config.metricsAddr=8080", "config/metricsAddr"),
        ("allowedNamespaces=default", "allowedNamespaces"),
    ],
)
def test_a_value_that_makes_no_sense_is_named(value: str, complaint: str) -> None:
    with pytest.raises(ChartError, match="don't meet the specifications") as refused:
        chart.rendered("--set", value)
    words: Any = str(refused.value).replace(".", "/")
    assert complaint in words
