"""The rule that turns chains into groups, and what a RouteConfiguration says about a model."""

import json

import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import given
from hypothesis import strategies as st

from xds import ir
from xds.translate import route
from xds.translate.cluster import backend_cluster_name

SLOTS = [ir.LOCAL, *(ir.remote_slot(index) for index in range(4))]
ATTEMPTS = 8


def chain(first: str, weight_ppm: int, *fallbacks: str) -> ir.Chain:
    return ir.Chain(first, weight_ppm, fallbacks)


@st.composite
def chains(draw: st.DrawFn) -> tuple[ir.Chain, ...]:
    firsts = sorted(draw(st.sets(st.sampled_from(SLOTS), min_size=1)), key=SLOTS.index)
    cuts = sorted(draw(st.sets(st.integers(1, ir.PPM - 1), min_size=len(firsts) - 1, max_size=len(firsts) - 1)))
    weights = [upper - lower for lower, upper in zip([0, *cuts], [*cuts, ir.PPM], strict=True)]
    result = []
    for first, weight in zip(firsts, weights, strict=True):
        others = draw(st.permutations([slot for slot in SLOTS if slot != first]))
        result.append(ir.Chain(first, weight, tuple(others[: draw(st.integers(0, len(others)))])))
    return tuple(result)


@pytest.mark.parametrize(
    ("given_chains", "expected"),
    [
        ([chain("local", 10)], ((("local", 10),),)),
        (
            [chain("local", 7, "remote-0"), chain("remote-0", 3, "local")],
            ((("local", 7), ("remote-0", 3)), (("remote-0", 7), ("local", 3))),
        ),
        (
            [chain("local", 7, "remote-0", "remote-1"), chain("remote-0", 3)],
            (
                (("local", 7), ("remote-0", 3)),
                (("remote-0", 7), ("remote-0", 3)),
                (("remote-1", 7), ("remote-0", 3)),
            ),
        ),
    ],
    ids=["one destination", "each the other's fallback", "the shorter one repeats its last"],
)
def test_chains_become_groups(given_chains: list[ir.Chain], expected: tuple[route.Group, ...]) -> None:
    assert route.groups(given_chains, ATTEMPTS) == expected


@given(chains())
def test_whoever_starts_at_a_chain_visits_exactly_its_destinations_in_order(wanted: tuple[ir.Chain, ...]) -> None:
    made = route.groups(wanted, ATTEMPTS)
    for place, each in enumerate(wanted):
        visited = [group[place][0] for group in made]
        path = [each.first, *each.fallbacks]

        assert visited[: len(path)] == path
        assert set(visited[len(path) :]) <= {path[-1]}


@given(chains())
def test_all_groups_have_the_same_weights_in_the_same_order(wanted: tuple[ir.Chain, ...]) -> None:
    weights = {tuple(weight for _, weight in group) for group in route.groups(wanted, ATTEMPTS)}

    assert weights == {tuple(each.weight_ppm for each in wanted)}


@given(chains(), st.integers(0, ATTEMPTS))
def test_there_are_no_more_groups_than_attempts(wanted: tuple[ir.Chain, ...], attempts: int) -> None:
    made = route.groups(wanted, attempts)

    assert len(made) == 1 + min(attempts, max(len(each.fallbacks) for each in wanted))
    assert made == route.groups(wanted, ATTEMPTS)[: len(made)]


def test_a_route_without_a_second_destination_has_no_retries() -> None:
    (host,) = route.choose(ir.Route("default/a", ("a",), ir.Local())).virtual_hosts

    assert not host.routes[0].route.HasField("retry_policy")


def test_a_changed_share_changes_weights_only() -> None:
    remote = ir.Remote(ir.Backend("other.example.com", 80), "other.example.com")
    both = ir.Route("default/a", ("a",), ir.Local(), (remote,), (chain("local", ir.PPM, "remote-0"),))
    moved = ir.Route(
        *("default/a", ("a",), ir.Local(), (remote,)),
        (chain("local", 900_000, "remote-0"), chain("remote-0", 100_000, "local")),
    )
    before, after = route.choose(both), route.choose(moved)
    for configuration in (before, after):
        configuration.virtual_hosts[0].routes[0].route.ClearField("inline_cluster_specifier_plugin")

    assert before == after


def test_the_metadata_says_what_every_destination_is() -> None:
    remotes = (
        ir.Remote(ir.Backend("a.example.com", 80), "a.example.com"),
        ir.Remote(ir.Backend("b.example.com", 80), "b.example.com:81", "/50%"),
    )
    configuration = route.choose(ir.Route("default/a", ("a",), ir.Local(), remotes))
    metadata = configuration.virtual_hosts[0].routes[0].metadata.filter_metadata

    assert MessageToDict(metadata["destinations"]) == {
        "local": {"x-spillway-cluster": "local/default/a"},
        "remote-0": {
            "x-spillway-cluster": backend_cluster_name(remotes[0].backend),
            "x-spillway-host": "a.example.com",
            "x-spillway-prefix": "",
        },
        "remote-1": {
            "x-spillway-cluster": backend_cluster_name(remotes[1].backend),
            "x-spillway-host": "b.example.com:81",
            "x-spillway-prefix": "/50%",
        },
    }


def test_nothing_to_serve_with_is_said_in_json_whatever_the_name() -> None:
    configuration = route.choose(ir.Route('default/"a"', ("a",), ir.Local(), (), ()))
    answer = configuration.virtual_hosts[0].routes[0].direct_response

    assert answer.status == 503
    assert 'default/"a"' in json.loads(answer.body.inline_string)["error"]["message"]
