"""Pure: which queries are asked, where, and for which models. Models with equal queries share one answer."""

from __future__ import annotations

from collections.abc import Mapping

from controller.events import Unwatch, Watch
from controller.metrics import Query
from xds import ir


class Watches:
    """Owned by the engine. What it returns has to be carried out. While it is not `active`, nothing is asked."""

    def __init__(self, *, active: bool = True) -> None:
        self._active = active
        self._models: dict[Query, set[str]] = {}
        self._targets: dict[Query, tuple[ir.Endpoint, ...]] = {}
        self._used: dict[str, frozenset[Query]] = {}

    def use(self, model: str, queries: Mapping[Query, tuple[ir.Endpoint, ...]]) -> list[Watch | Unwatch]:
        """Sets the queries of a model, all of them, each with the endpoints to scrape (none if it goes elsewhere)."""
        effects: list[Watch | Unwatch] = []
        for query in self._used.pop(model, frozenset()) - queries.keys():
            self._models[query].discard(model)
            if not self._models[query]:
                del self._models[query], self._targets[query]
                effects.append(Unwatch(query))
        for query, targets in queries.items():
            self._models.setdefault(query, set()).add(model)
            if self._targets.get(query) != targets:
                self._targets[query] = targets
                effects.append(Watch(query, targets))
        if queries:
            self._used[model] = frozenset(queries)
        return effects if self._active else []

    def activate(self) -> list[Watch | Unwatch]:
        """From now on everything is asked."""
        self._active = True
        return [Watch(query, targets) for query, targets in self._targets.items()]

    def deactivate(self) -> list[Watch | Unwatch]:
        """From now on nothing is asked."""
        self._active = False
        return [Unwatch(query) for query in self._targets]

    def models(self, query: Query) -> frozenset[str]:
        """Those that want its answer."""
        return frozenset(self._models.get(query, ()))
