"""From metric specs to queries, and from answers to value/target."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.api import MetricSpec, ModelDeployment
from controller.metrics import (
    ExternalQuery,
    Fold,
    ObjectQuery,
    PodsQuery,
    PromQuery,
    Query,
    Reading,
    ResourceQuery,
    ScrapeQuery,
    Source,
    Unknown,
    Value,
    fold,
    judged,
    query_for,
    read_prometheus,
    target_of,
)
from controller.objects import Workload
from controller.selector import Matcher
from tests.controller.manifests import Json, model, model_from, model_manifest

FINITE = st.floats(allow_nan=False, allow_infinity=False)
WORKLOAD = Workload("Deployment", "models/llama", "app=llama")


def external(name: str = "m", target: Json | None = None, **selector: Any) -> MetricSpec:
    metric = {"name": name, **({"selector": selector} if selector else {})}
    target = target or {"type": "Value", "value": "10"}
    return MetricSpec.model_validate({"type": "External", "external": {"metric": metric, "target": target}})


def pods(name: str = "m", average: str = "10", **selector: Any) -> MetricSpec:
    metric = {"name": name, **({"selector": selector} if selector else {})}
    target = {"type": "AverageValue", "averageValue": average}
    return MetricSpec.model_validate({"type": "Pods", "pods": {"metric": metric, "target": target}})


def resource(**target: Any) -> MetricSpec:
    return MetricSpec.model_validate({"type": "Resource", "resource": {"name": "cpu", "target": target}})


def container_resource(**target: Any) -> MetricSpec:
    member = {"name": "cpu", "container": "main", "target": target}
    return MetricSpec.model_validate({"type": "ContainerResource", "containerResource": member})


def on_object(target: Json | None = None, name: str = "main", **described: Any) -> MetricSpec:
    member = {
        "describedObject": {"kind": "Ingress", "name": name, **described},
        "metric": {"name": "requests", "selector": {"matchLabels": {"code": "200"}}},
        "target": target or {"type": "Value", "value": "10"},
    }
    return MetricSpec.model_validate({"type": "Object", "object": member})


def from_source(metric: MetricSpec, source: Source) -> MetricSpec:
    return metric.model_copy(update={"source": source})


def model_with(**spec: Any) -> ModelDeployment:
    manifest = model_manifest(namespace="prod")
    manifest["spec"] |= spec
    return model_from({**manifest, "spec": {k: v for k, v in manifest["spec"].items() if v is not None}})


def reason(reading: Query | Reading) -> str:
    assert isinstance(reading, Unknown), reading
    assert reading.message
    return reading.reason


# Queries


def test_an_external_metric_is_one_selector_with_all_its_labels() -> None:
    spec = external(
        "queue:length", matchLabels={"b": "2", "a": "1"}, matchExpressions=[{"key": "c", "operator": "Exists"}]
    )
    assert query_for(spec, model(), Source.PROMETHEUS) == PromQuery('queue:length{a="1",b="2",c!=""}')


def test_defect_14_a_selector_without_labels_is_just_the_name() -> None:
    assert query_for(external("queue_length", matchLabels={}), model(), Source.PROMETHEUS) == PromQuery("queue_length")


def test_promql_is_taken_as_it_is() -> None:
    expression = 'sum(rate(requests_total{code=~"5.."}[1m]))\n'
    assert query_for(external(expression), model(), Source.PROMETHEUS) == PromQuery(expression.strip())


def test_promql_with_a_selector_beside_it_is_refused_with_what_to_do() -> None:
    query = query_for(external("sum(m)", matchLabels={"a": "1"}), model(), Source.PROMETHEUS)
    assert reason(query) == "SelectorOnExpression"


def test_a_pods_metric_is_averaged_over_the_endpoints_whatever_the_source() -> None:
    spec = pods("vllm:num_requests_running", matchLabels={"model_name": "llama"})
    labels = (Matcher("model_name", ("llama",)),)
    expected = ScrapeQuery("default/llama", 80, "vllm:num_requests_running", labels, Fold.AVERAGE)

    assert [query_for(spec, model(), source) for source in Source] == [expected] * 3


def test_an_external_metric_from_endpoints_is_their_sum() -> None:
    expected = ScrapeQuery("default/llama", 80, "queue_length", (), Fold.SUM)
    assert query_for(external("queue_length"), model(), Source.ENDPOINTS) == expected


@pytest.mark.parametrize(
    ("spec", "service", "port"),
    [
        ({"serviceRef": {"name": "a", "targetPort": 80}}, "prod/a", 80),
        ({"metricServiceRef": {"name": "b", "targetPort": 9090}}, "prod/b", 9090),
        ({"metricServiceRef": {"name": "b", "namespace": "monitoring"}}, "monitoring/b", None),
    ],
)
def test_the_metric_service_is_asked_or_else_the_service(spec: Json, service: str, port: int | None) -> None:
    query = query_for(pods(), model_with(**spec), Source.KUBERNETES)
    assert isinstance(query, ScrapeQuery)
    assert (query.service, query.port) == (service, port)


def test_without_any_service_there_is_nothing_to_ask() -> None:
    assert reason(query_for(pods(), model_with(serviceRef=None), Source.ENDPOINTS)) == "NoService"


def test_endpoints_cannot_answer_promql() -> None:
    assert reason(query_for(external("sum(m)"), model(), Source.ENDPOINTS)) == "NotAMetricName"


@pytest.mark.parametrize(
    "spec",
    [
        resource(type="Utilization", averageUtilization=80),
        container_resource(type="AverageValue", averageValue="500m"),
        on_object(),
    ],
    ids=["Resource", "ContainerResource", "Object"],
)
def test_defect_13_metrics_that_need_a_cluster_are_unknown_and_say_what_to_use(spec: MetricSpec) -> None:
    query = query_for(spec, model(), Source.PROMETHEUS)
    assert reason(query) == "NoSource"
    assert isinstance(query, Unknown)
    assert spec.type in query.message
    assert "Pods" in query.message


def test_an_external_metric_from_a_cluster_that_is_not_there_names_the_setting() -> None:
    query = query_for(external(), model(), Source.KUBERNETES)
    assert isinstance(query, Unknown)
    assert "metricInformer.type" in query.message


# Queries in a cluster


def test_a_metrics_own_source_counts_more_than_the_setting() -> None:
    here = query_for(from_source(external("m"), Source.PROMETHEUS), model(), Source.KUBERNETES, WORKLOAD)
    there = query_for(from_source(external("m"), Source.KUBERNETES), model(), Source.PROMETHEUS, WORKLOAD)
    direct = query_for(from_source(pods("m"), Source.ENDPOINTS), model(), Source.KUBERNETES, WORKLOAD)

    assert here == PromQuery("m")
    assert there == ExternalQuery("default", "m", "")
    assert direct == ScrapeQuery("default/llama", 80, "m", (), Fold.AVERAGE)


@pytest.mark.parametrize("source", Source)
def test_a_resource_comes_from_the_cluster_whatever_the_setting(source: Source) -> None:
    spec = resource(type="Utilization", averageUtilization=80)
    assert query_for(spec, model(), source, WORKLOAD) == ResourceQuery(
        "models", "app=llama", "cpu", None, target_of(spec)
    )


def test_of_a_container_resource_the_container_counts() -> None:
    spec = container_resource(type="AverageValue", averageValue="500m")
    query = query_for(spec, model(), Source.KUBERNETES, WORKLOAD)
    assert query == ResourceQuery("models", "app=llama", "cpu", "main", target_of(spec))


def test_a_pods_metric_of_a_cluster_is_asked_of_the_workloads_pods() -> None:
    spec = pods("running", matchLabels={"lora": "none"}, matchExpressions=[{"key": "engine", "operator": "Exists"}])
    query = query_for(spec, model(), Source.KUBERNETES, WORKLOAD)
    assert query == PodsQuery("models", "app=llama", "running", "engine,lora=none", target_of(spec))


def test_a_pods_metric_comes_from_endpoints_where_prometheus_answers_the_rest() -> None:
    assert isinstance(query_for(pods(), model(), Source.PROMETHEUS, WORKLOAD), ScrapeQuery)


@pytest.mark.parametrize(
    ("api_version", "group"),
    [("networking.k8s.io/v1", "networking.k8s.io"), ("v1", ""), (None, "")],
)
def test_an_object_is_known_by_its_group_and_stands_in_the_models_namespace(
    api_version: str | None, group: str
) -> None:
    query = query_for(on_object(apiVersion=api_version), model_with(), Source.KUBERNETES, WORKLOAD)
    assert query == ObjectQuery("prod", group, "Ingress", "main", "requests", "code=200")


@pytest.mark.parametrize(
    "spec",
    [
        resource(type="Utilization", averageUtilization=80),
        container_resource(type="AverageValue", averageValue="500m"),
        pods(),
    ],
    ids=["Resource", "ContainerResource", "Pods"],
)
def test_metrics_of_pods_wait_for_the_workload_and_say_so(spec: MetricSpec) -> None:
    why = "Deployment models/llama does not exist"
    assert query_for(spec, model(), Source.KUBERNETES, why) == Unknown("NoWorkload", why)
    everything = query_for(spec, model(), Source.KUBERNETES, Workload("Deployment", "models/llama"))
    assert reason(everything) == "NoSelector"


def test_metrics_of_other_things_do_not_wait_for_the_workload() -> None:
    for spec, expected in ((external(), ExternalQuery), (on_object(), ObjectQuery)):
        assert isinstance(query_for(spec, model(), Source.KUBERNETES, "there is none"), expected)


@pytest.mark.parametrize("name", [".", "..", "../../../../api/v1/namespaces/kube-system/secrets", "a%2Fb"])
@pytest.mark.parametrize("make", [external, pods, lambda name: on_object(name=name)], ids=["metric", "pods", "object"])
def test_a_name_that_would_lead_elsewhere_in_the_api_is_never_asked(name: str, make: Any) -> None:
    query = query_for(make(name), model(), Source.KUBERNETES, WORKLOAD)
    assert reason(query) == "BadName"


def test_a_group_that_would_lead_elsewhere_in_the_api_is_never_asked() -> None:
    spec = on_object(apiVersion="../api/v1")
    assert reason(query_for(spec, model(), Source.KUBERNETES, WORKLOAD)) == "BadName"


def test_a_label_that_would_be_read_as_two_is_never_asked() -> None:
    query = query_for(external("m", matchLabels={"a": "1,b=2"}), model(), Source.KUBERNETES, WORKLOAD)
    assert reason(query) == "BadName"
    assert isinstance(query, Unknown)
    assert "label a" in query.message


def test_models_of_one_workload_share_a_query_if_their_targets_are_equal() -> None:
    def query(name: str, percent: int) -> object:
        spec = resource(type="Utilization", averageUtilization=percent)
        return query_for(spec, model(name), Source.KUBERNETES, WORKLOAD)

    assert len({query("one", 80), query("two", 80)}) == 1
    assert len({query("one", 80), query("two", 70)}) == 2


def test_equal_metrics_of_two_models_share_a_query() -> None:
    queries = {
        query_for(external("m", matchLabels={"b": "1", "a": "2"}), model("one"), Source.PROMETHEUS),
        query_for(external("m", matchLabels={"a": "2", "b": "1"}), model("two"), Source.PROMETHEUS),
    }
    assert len(queries) == 1


# Ratios


@pytest.mark.parametrize(
    ("value", "target", "expected"),
    [
        (20, "10", 2.0),
        (5, "10", 0.5),
        (10, "10", 1.0),
        (0.5, "500m", 1.0),
        (0.3, "300m", 1.0),
        (0, "1", 0.0),
        (2048, "2Ki", 1.0),
    ],
)
def test_defect_13_value_is_divided_by_target_and_not_the_other_way_round(
    value: float, target: str, expected: float
) -> None:
    assert judged(external(target={"type": "Value", "value": target}), Value(value), None) == Value(value, expected)


def test_defect_13_a_thousandth_is_a_thousandth() -> None:
    spec = external(target={"type": "Value", "value": "500m"})
    assert judged(spec, Value(1), None) == Value(1, 2.0)
    assert judged(spec, Value(0.0005), None) == Value(0.0005, 0.001)


def test_defect_13_an_external_average_is_divided_by_the_ready_replicas_once() -> None:
    spec = external(target={"type": "AverageValue", "averageValue": "100m"})
    assert judged(spec, Value(0.3), 3) == Value(0.3 / 3, 1.0)
    assert judged(spec, Value(0.5), 1) == Value(0.5, 5.0)


def test_defect_13_an_average_over_an_objects_metric_is_divided_by_the_ready_replicas_once() -> None:
    spec = on_object({"type": "AverageValue", "averageValue": "2"})
    assert judged(spec, Value(12), 3) == Value(4, 2.0)
    assert judged(on_object({"type": "Value", "value": "6"}), Value(12), 3) == Value(12, 2.0)


def test_a_source_that_has_judged_is_believed() -> None:
    spec = resource(type="Utilization", averageUtilization=80)
    assert judged(spec, Value(90, ratio=0.7), None) == Value(90, ratio=0.7)


@pytest.mark.parametrize("replicas", [None, 0])
def test_an_external_average_over_no_replicas_is_unknown(replicas: int | None) -> None:
    spec = external(target={"type": "AverageValue", "averageValue": "10"})
    assert reason(judged(spec, Value(5), replicas)) == "NoReadyReplicas"


@pytest.mark.parametrize("replicas", [None, 0, 1, 7])
def test_defect_13_a_pods_metric_is_an_average_already(replicas: int | None) -> None:
    assert judged(pods(average="10"), Value(5), replicas) == Value(5, 0.5)


def test_defect_13_utilization_is_unknown_here_and_crashes_nothing() -> None:
    assert reason(judged(resource(type="Utilization", averageUtilization=80), Value(5), 2)) == "NoSource"


def test_a_target_beyond_all_numbers_is_unknown_and_crashes_nothing() -> None:
    too_small = external(target={"type": "Value", "value": "1e-999"})
    assert reason(judged(too_small, Value(5), 2)) == "BadTarget"
    too_large = external(target={"type": "AverageValue", "averageValue": "1e308"})
    assert reason(judged(too_large, Value(5), 1000)) == "BadTarget"


def test_a_target_of_zero_that_got_past_the_parser_is_unknown() -> None:
    spec = external()
    assert spec.external is not None
    zero = spec.external.target.model_copy(update={"value": Fraction(0)})
    broken = spec.model_copy(update={"external": spec.external.model_copy(update={"target": zero})})

    assert reason(judged(broken, Value(5), 2)) == "BadTarget"


def test_an_unknown_reading_stays_what_it_is() -> None:
    unknown = Unknown("Timeout", "no answer")
    assert judged(external(), unknown, 1) is unknown


@given(FINITE, st.fractions(min_value=Fraction(1, 1000)), st.integers(1, 1000))
def test_a_metric_has_reached_its_target_exactly_from_the_target_on(
    value: float, target: Fraction, replicas: int
) -> None:
    spec = external(target={"type": "AverageValue", "averageValue": target})
    found = judged(spec, Value(value), replicas)
    if isinstance(found, Value):
        assert found.ratio is not None
        assert (found.ratio >= 1) is (value >= float(target * replicas))
    else:
        assert abs(value) > 1e300


def test_the_target_is_found_in_each_type_of_metric() -> None:
    specs = [external(), pods(), resource(type="Utilization", averageUtilization=80), on_object()]
    assert [target_of(spec).type for spec in specs] == ["Value", "AverageValue", "Utilization", "Value"]


# Prometheus' answers


def series(value: str, **labels: str) -> Json:
    return {"metric": labels, "value": [1700000000.123, value]}


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ([series("3")], Value(3)),
        ([series("3", a="1"), series("4.5", a="2")], Value(7.5)),
        ([1700000000, "42"], Value(42)),
        ([1700000000.5, "-1e3"], Value(-1000)),
    ],
)
def test_scalars_and_vectors_are_numbers(result: object, expected: Reading) -> None:
    assert read_prometheus(result) == expected


def test_defect_14_a_scalar_result_is_a_number() -> None:
    assert read_prometheus([1700000000.781, "1"]) == Value(1)


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ([], "Empty"),
        ([series("NaN")], "NotANumber"),
        ([series("1"), series("NaN")], "NotANumber"),
        ([1700000000, "+Inf"], "NotANumber"),
        ([1700000000, "hello"], "NotANumber"),
        ([series("1e308"), series("1e308")], "NotANumber"),
        ([{"metric": {}, "values": [[1, "2"], [2, "3"]]}], "Matrix"),
        ([{"metric": {}, "histogram": [1, {"count": "1"}]}], "Histogram"),
        ([series("1"), {"metric": {}, "histogram": [1, {}]}], "BadAnswer"),
        ([{"metric": {}}], "BadAnswer"),
        (["a", "b"], "BadAnswer"),
        (None, "BadAnswer"),
        ({"value": 1}, "BadAnswer"),
        ("1", "BadAnswer"),
        (1, "BadAnswer"),
    ],
)
def test_every_other_answer_is_unknown_with_its_reason(result: object, expected: str) -> None:
    assert reason(read_prometheus(result)) == expected


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["value", "values", "x"]), inner),
    max_leaves=8,
)


@given(JSON)
def test_no_answer_whatever_raises(result: object) -> None:
    reading = read_prometheus(result)
    assert isinstance(reading, Unknown) or math.isfinite(reading.value)


# Folding over endpoints

SILENT = Unknown("Timeout", "http://10.0.0.1:8000/metrics gives no answer within 1 s")


def test_an_average_is_over_the_endpoints_that_answered() -> None:
    assert fold([Value(2), SILENT, Value(4)], Fold.AVERAGE) == Value(3)


def test_a_sum_with_one_part_missing_is_unknown() -> None:
    found = fold([Value(2), SILENT, Value(4)], Fold.SUM)
    assert found == Unknown("Timeout", f"1 of 3 endpoints have no value: {SILENT.message}")


def test_a_complete_sum_is_the_sum() -> None:
    assert fold([Value(2), Value(4)], Fold.SUM) == Value(6)


@pytest.mark.parametrize("how", Fold)
def test_nothing_known_is_unknown(how: Fold) -> None:
    assert reason(fold([SILENT, SILENT], how)) == "Timeout"


@pytest.mark.parametrize("how", Fold)
def test_no_endpoint_is_not_a_value_of_zero(how: Fold) -> None:
    assert reason(fold([], how)) == "NoEndpoints"


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=6), st.integers(0, 3))
def test_endpoints_that_say_nothing_neither_raise_nor_lower_an_average(values: list[float], silent: int) -> None:
    known = [Value(value) for value in values]
    assert fold([*known, *[SILENT] * silent], Fold.AVERAGE) == fold(known, Fold.AVERAGE)
