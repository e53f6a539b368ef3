"""What models look up, and which of them to look at again when it changes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.events import Kind
from controller.inventory import Inventory, Reference
from controller.metrics import PromQuery, ScrapeQuery
from controller.objects import Resolved
from tests.controller.cluster_world import slice_of, taken, workload
from tests.controller.manifests import endpoint_slice, secret, service
from xds.ir import Endpoint

LLAMA = "default/llama"
SHADOW = "llama-spillway-pods"


def addresses(found: Inventory) -> list[str]:
    resolved = found.endpoints(LLAMA, 80)
    assert isinstance(resolved, Resolved), resolved
    return [endpoint.address for endpoint in resolved.endpoints]


def holding(*things: object) -> Inventory:
    found = Inventory()
    for thing in things:
        found.apply(thing)  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize(
    ("thing", "reference"),
    [
        (service(), (Kind.SERVICE, LLAMA)),
        (endpoint_slice("10.0.0.1"), (Kind.SERVICE, LLAMA)),
        (secret(), (Kind.SECRET, "default/remote")),
        (workload(), (Kind.DEPLOYMENT, LLAMA)),
    ],
)
def test_who_looked_something_up_hears_of_it_there_or_not(thing: object, reference: Reference) -> None:
    found = Inventory()
    found.follow("a", [reference])
    found.follow("b", [reference, (Kind.SERVICE, "default/other")])
    found.follow("c", [(Kind.SERVICE, "default/other")])
    assert found.apply(thing) == {"a", "b"}  # type: ignore[arg-type]
    found.follow("b", [])
    kind = Kind.ENDPOINT_SLICE if reference == (Kind.SERVICE, LLAMA) and thing != service() else reference[0]
    assert found.remove(kind, reference[1]) == {"a"}
    assert found.followers(reference) == {"a"}


def test_a_slice_that_goes_to_another_service_is_news_for_both() -> None:
    found = holding(slice_of("one", "llama", "10.0.0.1"))
    found.follow("a", [(Kind.SERVICE, LLAMA)])
    found.follow("b", [(Kind.SERVICE, "default/other")])
    assert found.apply(slice_of("one", "other", "10.0.0.1")) == {"a", "b"}
    assert found.remove(Kind.ENDPOINT_SLICE, "default/one") == {"b"}
    assert found.remove(Kind.ENDPOINT_SLICE, "default/one") == frozenset()


def test_workloads_of_one_name_and_different_kinds_are_different() -> None:
    found = holding(workload())
    assert found.remove(Kind.STATEFUL_SET, LLAMA) == frozenset()
    assert (Kind.DEPLOYMENT, LLAMA) in found.workloads


def test_the_secrets_that_are_referred_to_are_known_by_name() -> None:
    found = Inventory()
    found.follow("a", [(Kind.SECRET, "default/one"), (Kind.SERVICE, LLAMA)])
    found.follow("b", [(Kind.SECRET, "default/one"), (Kind.SECRET, "default/two")])
    assert found.followed_secrets == {"default/one", "default/two"}
    found.follow("b", [])
    assert found.followed_secrets == {"default/one"}
    found.follow("a", [(Kind.SERVICE, LLAMA)])
    assert found.followed_secrets == set()


def test_a_service_that_is_not_there_is_said_and_one_without_slices_is_not_known() -> None:
    assert Inventory().endpoints(LLAMA, 80) == "Service default/llama does not exist"
    assert holding(service()).endpoints(LLAMA, 80) is None


OWN, OF_SHADOW = slice_of("own", "llama", "10.0.0.1"), slice_of("shadow", SHADOW, "10.0.0.2")
OURS = slice_of("ours", "llama", "10.1.0.1", managed_by="spillway")


def test_the_pods_of_a_taken_service_are_where_its_shadow_says_and_else_where_they_were() -> None:
    assert addresses(holding(service(), OWN, OF_SHADOW, OURS)) == ["10.0.0.1"]
    assert addresses(holding(service(), OF_SHADOW, OURS)) == ["10.0.0.2"]
    assert addresses(holding(taken(), OWN, OF_SHADOW, OURS)) == ["10.0.0.2"]
    assert addresses(holding(taken(), OWN, OURS)) == ["10.0.0.1"]
    assert holding(taken(), OURS).endpoints(LLAMA, 80) is None, "not seeing any is not seeing that there is none"


def test_a_service_is_touched_when_it_is_taken_or_has_a_slice_of_ours() -> None:
    assert not holding(service(), OWN).is_touched(LLAMA)
    assert holding(service(), OWN, OURS).is_touched(LLAMA)
    assert holding(taken(), OWN).is_touched(LLAMA)
    assert not Inventory().is_touched(LLAMA)


def test_endpoints_are_asked_for_their_metrics_and_nothing_else_is() -> None:
    found = holding(service(), OWN)
    assert found.targets(ScrapeQuery(LLAMA, 80, "busy")) == (Endpoint("10.0.0.1", 8000),)
    assert found.targets(ScrapeQuery("default/other", None, "busy")) == ()
    assert found.targets(PromQuery("busy")) == ()


_references = st.tuples(st.sampled_from([Kind.SERVICE, Kind.SECRET]), st.sampled_from(["default/a", "default/b"]))


@given(st.lists(st.tuples(st.sampled_from("xyz"), st.frozensets(_references))))
def test_followers_are_those_who_last_said_so(steps: list[tuple[str, frozenset[Reference]]]) -> None:
    found = Inventory()
    last: dict[str, frozenset[Reference]] = {}
    for model, references in steps:
        found.follow(model, references)
        last[model] = references
    for reference in frozenset().union(*last.values()):
        assert found.followers(reference) == {model for model, wanted in last.items() if reference in wanted}
    secrets = {key for wanted in last.values() for kind, key in wanted if kind is Kind.SECRET}
    assert found.followed_secrets == secrets
