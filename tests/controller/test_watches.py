"""Which queries are asked, where, and for which models."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from controller.events import Unwatch, Watch
from controller.metrics import PromQuery, Query, ScrapeQuery
from controller.watches import Watches
from xds.ir import Endpoint

UP = PromQuery("up")
BUSY = ScrapeQuery("default/llama", None, "busy")
ONE, TWO = Endpoint("10.0.0.1", 8000), Endpoint("10.0.0.2", 8000)


def test_models_with_equal_queries_share_one_answer() -> None:
    watches = Watches()
    assert watches.use("a", {UP: ()}) == [Watch(UP)]
    assert watches.use("b", {UP: ()}) == []
    assert watches.models(UP) == {"a", "b"}
    assert watches.use("a", {}) == []
    assert watches.use("b", {}) == [Unwatch(UP)]
    assert watches.models(UP) == frozenset()


def test_a_query_goes_on_elsewhere_when_its_targets_change() -> None:
    watches = Watches()
    assert watches.use("a", {BUSY: (ONE,)}) == [Watch(BUSY, (ONE,))]
    assert watches.use("a", {BUSY: (ONE,)}) == []
    assert watches.use("a", {BUSY: (ONE, TWO)}) == [Watch(BUSY, (ONE, TWO))]


def test_a_model_that_asks_something_else_stops_asking_what_it_asked() -> None:
    watches = Watches()
    watches.use("a", {UP: ()})
    assert watches.use("a", {BUSY: ()}) == [Unwatch(UP), Watch(BUSY)]


def test_who_follows_asks_nothing_and_everything_once_it_leads() -> None:
    watches = Watches(active=False)
    assert watches.use("a", {UP: (), BUSY: (ONE,)}) == []
    assert watches.use("b", {UP: ()}) == []
    assert watches.use("a", {BUSY: (TWO,)}) == []
    assert watches.activate() == [Watch(UP), Watch(BUSY, (TWO,))]
    assert watches.use("b", {}) == [Unwatch(UP)]
    assert watches.deactivate() == [Unwatch(BUSY)]
    assert watches.use("a", {UP: ()}) == []
    assert watches.models(UP) == {"a"}


_queries: st.SearchStrategy[dict[Query, tuple[Endpoint, ...]]] = st.dictionaries(
    st.sampled_from([UP, BUSY]), st.sampled_from([(), (ONE,), (ONE, TWO)])
)
_steps = st.lists(st.one_of(st.tuples(st.sampled_from("abc"), _queries), st.booleans()))


@given(_steps)
def test_what_is_asked_is_what_models_want_while_it_is_active_and_nothing_else(steps: list[object]) -> None:
    watches, active = Watches(), True
    asked: dict[Query, tuple[Endpoint, ...]] = {}
    wanted: dict[str, dict[Query, tuple[Endpoint, ...]]] = {}
    last: dict[Query, tuple[Endpoint, ...]] = {}
    for step in steps:
        match step:
            case (str() as model, dict() as queries):
                effects, wanted[model] = watches.use(model, queries), queries
                last |= queries
            case bool() if step is not active:
                effects, active = watches.activate() if step else watches.deactivate(), bool(step)
            case _:
                continue
        for effect in effects:
            if isinstance(effect, Watch):
                asked[effect.query] = effect.targets
            else:
                del asked[effect.query]
        live = {query for queries in wanted.values() for query in queries}
        assert asked == ({query: last[query] for query in live} if active else {})
