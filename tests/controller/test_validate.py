"""Validation: what only shows between objects, every problem at once, and an exit status that means something."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import Any

import pytest
import trustme
import yaml

from controller.__main__ import main
from controller.adapters.files import ManifestError
from controller.manifests import FileProblem, Source
from controller.metrics import Source as MetricSource
from controller.remote_backend import RemoteBackend
from controller.settings import DestinationSettings, MetricInformer, Settings
from controller.validate import render, validate
from tests.controller.manifests import OAUTH, Json, model_manifest

PODS: Json = {
    "type": "Pods",
    "pods": {"metric": {"name": "vllm:num_requests_waiting"}, "target": {"type": "AverageValue", "averageValue": "4"}},
}

API_KEY: Json = {"type": "apiKey", "apiKeyConfig": {"secretRef": {"name": "s", "key": "k"}}}
BEHIND_TLS: Json = {"host": "a", "scheme": "https", "tls": {"caRef": {"name": "s", "key": "k"}}}
AUTHORITY = trustme.CA().cert_pem.bytes().decode()


def model(name: str = "llama", **offloading: Any) -> Json:
    """A model on Service `llama` in which nothing is wrong."""
    manifest = model_manifest(name, **{"metrics": [PODS], **offloading})
    manifest["spec"]["serviceRef"]["name"] = "llama"
    return manifest


def service(*ports: Json, **metadata: str) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "llama", **metadata},
        "spec": {"ports": list(ports) or [{"port": 80, "targetPort": "http"}]},
    }


def endpoint_slice(port_name: str = "", of: str = "llama", **metadata: str) -> Json:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{of}-1", "labels": {"kubernetes.io/service-name": of}, **metadata},
        "addressType": "IPv4",
        "ports": [{"name": port_name, "port": 8000}],
        "endpoints": [{"addresses": ["127.0.0.1"]}],
    }


def secret(name: str = "remote", **data: str) -> Json:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}


def found(directory: Path, *objects: Json, settings: Settings | None = None) -> list[FileProblem]:
    (directory / "all.yaml").write_text(yaml.safe_dump_all(objects))
    return validate(directory, settings or Settings())


def test_nothing_wrong_is_nothing_found(tmp_path: Path) -> None:
    assert found(tmp_path, model(), service(), endpoint_slice()) == []


def expect(problems: list[FileProblem], field: str, words: str, *, warning: bool = False) -> None:
    (problem,) = problems
    assert problem.field == field
    assert words in problem.reason
    assert problem.warning is warning
    assert problem.source.line > 0


# References


def test_a_service_ref_to_nothing_is_a_problem(tmp_path: Path) -> None:
    expect(found(tmp_path, model()), "spec.serviceRef.name", "Service default/llama is in no file here")


def test_a_metric_service_ref_to_nothing_is_a_problem(tmp_path: Path) -> None:
    manifest = model()
    manifest["spec"]["metricServiceRef"] = {"name": "metrics", "namespace": "other"}
    problems = found(tmp_path, manifest, service(), endpoint_slice())
    expect(problems, "spec.metricServiceRef.name", "Service other/metrics is in no file here")


def test_defect_21_a_port_that_the_service_does_not_have_is_a_problem(tmp_path: Path) -> None:
    ports = service({"name": "http", "port": 8080, "targetPort": "web"}, {"name": "metrics", "port": 9090})
    problems = found(tmp_path, model(), ports, endpoint_slice("http"))
    expect(problems, "spec.serviceRef.targetPort", "has no port 80; its ports: 8080, 9090")


def test_defect_21_named_target_ports_and_several_ports_are_no_problem(tmp_path: Path) -> None:
    ports = service({"name": "metrics", "port": 9090}, {"name": "http", "port": 80, "targetPort": "web"})
    assert found(tmp_path, model(), ports, endpoint_slice("http")) == []


def test_a_service_without_slices_is_a_warning(tmp_path: Path) -> None:
    problems = found(tmp_path, model(), service())
    expect(problems, "spec.serviceRef.name", "no EndpointSlice here is labelled", warning=True)


def test_a_slice_whose_port_has_another_name_is_a_warning(tmp_path: Path) -> None:
    problems = found(tmp_path, model(), service(), endpoint_slice("web"))
    expect(problems, "spec.serviceRef.name", "must have the Service port's name", warning=True)


def test_a_slice_of_no_service_is_a_warning(tmp_path: Path) -> None:
    problems = found(tmp_path, model(), service(), endpoint_slice(), endpoint_slice(of="lama"))
    expect(problems, "metadata.labels[kubernetes.io/service-name]", "Service default/lama is in no file", warning=True)


def test_a_bad_service_is_told_once_and_not_as_missing_too(tmp_path: Path) -> None:
    problems = found(tmp_path, model(), service({"port": 0}), endpoint_slice())
    expect(problems, "spec.ports[0].port", "must be a number from 1 to 65535")


def test_a_model_without_a_service_has_no_endpoint_outside_a_cluster(tmp_path: Path) -> None:
    manifest = model()
    del manifest["spec"]["serviceRef"]
    manifest["spec"]["metricServiceRef"] = {"name": "llama", "targetPort": 80}
    problems = found(tmp_path, manifest, service(), endpoint_slice())
    expect(problems, "spec.serviceRef", "no local endpoint is known", warning=True)


# Remotes


def policy(name: str, *countries: str) -> Json:
    locations = [{"type": "country", "name": each} for each in countries]
    return {
        "apiVersion": "authorization.beamlit.com/v1alpha1",
        "kind": "Policy",
        "metadata": {"name": name},
        "spec": {"type": "location", "locations": locations},
    }


def governed(*policies: str, country: str = "fr") -> Json:
    manifest = model(remoteBackend={"host": "a", "location": {"country": country}})
    manifest["spec"]["policies"] = [{"refType": "localPolicy", "name": each} for each in policies]
    return manifest


def test_a_policy_that_is_missing_is_a_problem_since_it_leaves_no_remote(tmp_path: Path) -> None:
    rest = service(), endpoint_slice()
    expect(found(tmp_path, governed("eu"), *rest), "spec.policies[0].name", "Policy default/eu is in no file here")
    assert found(tmp_path, governed("eu"), *rest, policy("eu", "fr")) == []


def test_a_policy_that_forbids_a_remote_is_a_warning(tmp_path: Path) -> None:
    problems = found(tmp_path, governed("eu", country="us"), service(), endpoint_slice(), policy("eu", "fr"))
    words = "location is country us, and Policy default/eu allows country fr"
    expect(problems, "spec.offloadingConfig.remoteBackend", words, warning=True)


def test_a_destination_that_the_settings_deny_is_a_problem(tmp_path: Path) -> None:
    settings = Settings(destinations=DestinationSettings(deny=("10.0.0.0/8",)))
    problems = found(
        tmp_path, model(remoteBackend={"host": "10.1.2.3"}), service(), endpoint_slice(), settings=settings
    )
    expect(problems, "spec.offloadingConfig.remoteBackend", "10.1.2.3 is a destination that the settings deny")


@pytest.mark.parametrize(
    ("remote", "place", "ref", "good"),
    [
        (
            {"host": "a", "authConfig": OAUTH},
            "authConfig.oauthConfig.clientSecretRef",
            ("remote", "client-secret"),
            "x",
        ),
        (
            {"host": "a", "authConfig": API_KEY},
            "authConfig.apiKeyConfig.secretRef",
            ("s", "k"),
            "x",
        ),
        (BEHIND_TLS, "tls.caRef", ("s", "k"), AUTHORITY),
    ],
)
def test_a_secret_or_a_key_that_is_missing_is_a_problem(
    tmp_path: Path, remote: Json, place: str, ref: tuple[str, str], good: str
) -> None:
    field = f"spec.offloadingConfig.remoteBackend.{place}"
    name, key = ref
    rest = (model(remoteBackend=remote), service(), endpoint_slice())
    expect(found(tmp_path, *rest), field, f"Secret default/{name} does not exist")
    expect(found(tmp_path, *rest, secret(name, other="x")), field, f"Secret default/{name} has no key '{key}'")
    assert found(tmp_path, *rest, secret(name, **{key: good})) == []


@pytest.mark.parametrize(
    ("remote", "place", "reason"),
    [
        ({"host": "a", "authConfig": API_KEY}, "authConfig.apiKeyConfig.secretRef", "is not one line of printable"),
        (BEHIND_TLS, "tls.caRef", "holds no PEM certificate that can be read"),
    ],
)
def test_a_secret_of_no_use_for_what_it_is_for_is_a_problem(
    tmp_path: Path, remote: Json, place: str, reason: str
) -> None:
    problems = found(tmp_path, model(remoteBackend=remote), service(), endpoint_slice(), secret("s", k="two\nlines"))
    expect(problems, f"spec.offloadingConfig.remoteBackend.{place}", f"Secret default/s key 'k' {reason}")


def test_each_of_several_remotes_is_looked_at(tmp_path: Path) -> None:
    remotes = [{"name": "a", "host": "a"}, {"name": "b", "host": "b", "authConfig": OAUTH}]
    problems = found(tmp_path, model(remoteBackends=remotes), service(), endpoint_slice())
    field = "spec.offloadingConfig.remoteBackends[1].authConfig.oauthConfig.clientSecretRef"
    expect(problems, field, "Secret default/remote does not exist")


def test_no_remote_and_no_default_is_a_warning(tmp_path: Path) -> None:
    objects = (model(remoteBackend=None), service(), endpoint_slice())
    problems = found(tmp_path, *objects)
    expect(problems, "spec.offloadingConfig.remoteBackend", "nothing can leave", warning=True)
    default = Settings(default_remote_backend=RemoteBackend(host="a"))
    assert found(tmp_path, *objects, settings=default) == []


def test_the_default_remotes_secret_must_be_there_for_a_model_that_uses_it(tmp_path: Path) -> None:
    default = RemoteBackend.model_validate({"host": "a", "authConfig": OAUTH})
    settings = Settings(default_remote_backend=default)
    problems = found(tmp_path, model(remoteBackend=None), service(), endpoint_slice(), settings=settings)
    field = "defaultRemoteBackend.authConfig.oauthConfig.clientSecretRef"
    expect(problems, field, "Secret default/remote does not exist")
    assert found(tmp_path, model(), service(), endpoint_slice(), settings=settings) == []


# Names and metrics


def test_defect_17_two_models_of_one_name_and_environment_are_a_problem(tmp_path: Path) -> None:
    second = model("second")
    second["spec"]["model"] = "llama"
    problems = found(tmp_path, model(), second, service(), endpoint_slice())
    expect(problems, "spec.model", "'llama' in environment 'production' is already the model of default/llama")
    assert "all.yaml:1" in problems[0].reason
    second["spec"]["environment"] = "staging"
    second["spec"]["serviceRef"]["name"] = "other"
    others = (service(name="other"), endpoint_slice(of="other"))
    problems = found(tmp_path, model(), second, service(), endpoint_slice(), *others)
    expect(problems, "spec.serviceRef", "others have some of its Hosts: llama (default/llama at all", warning=True)


def test_a_model_to_which_no_host_leads_is_a_problem(tmp_path: Path) -> None:
    second = model("second")
    second["spec"]["model"] = "llama"
    second["spec"]["environment"] = "staging"
    problems = found(tmp_path, model(), second, service(), endpoint_slice())
    expect(problems, "spec.serviceRef", "no Host leads to this model, others have them: llama (default/llama at all")


def test_one_service_name_in_two_namespaces_is_a_warning_that_names_the_holder(tmp_path: Path) -> None:
    second = model("second")
    second["metadata"]["namespace"] = "other"
    local = (service(), endpoint_slice(), service(namespace="other"), endpoint_slice(namespace="other"))
    reason = "others have some of its Hosts: llama (default/llama at all.yaml:1)"
    expect(found(tmp_path, model(), second, *local), "spec.serviceRef", reason, warning=True)


def test_a_model_that_is_not_served_takes_no_name_from_one_that_is(tmp_path: Path) -> None:
    first = model()
    first["metadata"]["namespace"] = "a"
    local = (service(), endpoint_slice(), service(namespace="a"), endpoint_slice(namespace="a"))
    problems = found(tmp_path, first, model(), *local, settings=Settings(namespaces="default"))
    expect(problems, "metadata.namespace", "not served", warning=True)


def test_a_metric_that_nothing_answers_here_is_a_warning(tmp_path: Path) -> None:
    cpu = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}
    problems = found(tmp_path, model(metrics=[PODS, cpu]), service(), endpoint_slice())
    expect(problems, "spec.offloadingConfig.metrics[1]", "a cluster's metrics API", warning=True)


def test_an_external_metric_needs_a_source_that_is_configured(tmp_path: Path) -> None:
    metric = {"name": "m", "selector": {"matchLabels": {"a": "b"}}}
    external = {"type": "External", "external": {"metric": metric, "target": {"type": "Value", "value": 1}}}
    objects = (model(metrics=[external]), service(), endpoint_slice())
    expect(
        found(tmp_path, *objects),
        "spec.offloadingConfig.metrics[0]",
        "use source prometheus or endpoints (metricInformer.type",
        warning=True,
    )
    prometheus = Settings(metric_informer=MetricInformer(type=MetricSource.PROMETHEUS))
    assert found(tmp_path, *objects, settings=prometheus) == []


def test_a_model_in_a_namespace_that_is_not_served_is_a_warning(tmp_path: Path) -> None:
    problems = found(tmp_path, model(), service(), endpoint_slice(), settings=Settings(namespaces="a,b"))
    expect(problems, "metadata.namespace", "not one of the namespaces that the config file names (a,b)", warning=True)


# All of it


def test_every_problem_of_every_file_is_there_at_once_in_order(tmp_path: Path) -> None:
    bad = model("bad", behavior={"percentage": 101})
    (tmp_path / "a.yaml").write_text("apiVersion: v1\nkind: Service\nmetadata:\n\tname: x\n")
    (tmp_path / "b.yaml").write_text(yaml.safe_dump_all([bad, model("lost")]))
    (tmp_path / "c.json").write_text('{"apiVersion": "v1",\n "kind" "Service"}')
    problems = validate(tmp_path, Settings())
    assert [(str(problem.source.file), problem.name, problem.field) for problem in problems] == [
        ("a.yaml", "", ""),
        ("b.yaml", "default/bad", "spec.offloadingConfig.behavior.percentage"),
        ("b.yaml", "default/lost", "spec.serviceRef.name"),
        ("c.json", "", ""),
    ]
    assert "YAML forbids tabs for indentation: line 4" in problems[0].reason
    assert problems[3].source.line == 2


def test_a_directory_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="does not exist"):
        validate(tmp_path / "missing", Settings())
    (tmp_path / "file").touch()
    with pytest.raises(ManifestError, match="is not a directory"):
        validate(tmp_path / "file", Settings())


# What is printed

PROBLEM = FileProblem(Source(PurePath("a.yaml"), 1, 3), "Service", "default/x", "spec.ports[0].port", "must be lower")
WARNING = FileProblem(Source(PurePath("b.yaml"), 2, 9), "Secret", "default/y", "data", "is empty", warning=True)


@pytest.mark.parametrize(
    ("problems", "text", "status"),
    [
        ([], "0 problems, 0 warnings", 0),
        ([WARNING], "warning: b.yaml:9: Secret default/y: data: is empty\n0 problems, 1 warning", 0),
        (
            [PROBLEM, WARNING],
            (
                "a.yaml:3: Service default/x: spec.ports[0].port: must be lower\n"
                "warning: b.yaml:9: Secret default/y: data: is empty\n1 problem, 1 warning"
            ),
            1,
        ),
        (
            [FileProblem(Source(PurePath("a.yaml")), "", "", "", "the file is not UTF-8 text")],
            "a.yaml:1: the file is not UTF-8 text\n1 problem, 0 warnings",
            1,
        ),
    ],
)
def test_a_line_is_printed_for_each_problem_and_only_problems_fail(
    problems: list[FileProblem], text: str, status: int
) -> None:
    assert render(problems) == (text, status)


def test_the_command_prints_and_exits_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(model(behavior={"percentage": 101})))
    assert main(["validate", str(tmp_path)]) == 1
    assert "spec.offloadingConfig.behavior.percentage: must be at most 100, not 101" in capsys.readouterr().out
    assert caplog.records == [], "what is printed is not logged as well"
