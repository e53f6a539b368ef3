"""Pure: a model's limit, divided over the gateways by what each of them carries.

Theory
------
A limit of L requests over N gateways is L/N for each: the *static* part, which each gateway has without being told
more (its cluster's circuit breaker, and the `limits` layers of its runtime). Where load is uneven, some gateways spill
while others have room. So a part is *lent*: the lender's limit goes below static, and a borrower's above.

No more than L requests may be in progress, whatever is lost on the way. Two numbers are kept for each gateway and
model: its `limit`, as it was told last, and its `bound`, the most that may be in progress there. **The bounds never
add up to more than L by a raise.**

- A raise counts at once, when it is told.
- A lowering counts when the gateway has acknowledged it and a report after that shows how many are in progress: the
  bound becomes that number, and falls with each report until it meets the limit. Requests in progress are never cut.
- A gateway that joins starts at 0, and gets its static part as the others come down to theirs.

**Leases end by themselves.** What is borrowed ends `ir.BORROWED_TTL_S` after the last renewal, what is lent after
`ir.LENT_TTL_S`, and then static is back. So with the control plane gone, what is borrowed is given up long before what
is lent is taken back: even requests that take as long as the difference stay below L together.

- A gateway that is silent (no report for `SILENT_S`, or disconnected) is not renewed. It counts with static from then
  on, or with its bound if that is more, and the others make room while its lease still runs.
- After a restart nothing is known of earlier leases. Nothing is told to anyone until all that was borrowed has ended;
  what is lent runs on meanwhile.

**Who gets how much.** A gateway is *short* when its limit is nearly used up, or has turned requests away. Free slots
are divided over the gateways in proportion to the requests that arrive at each, which is who will need them next, and
lenders are lowered by no more than the others get. Nobody is lowered below `ledger.FLOOR`. A model of which no
gateway has been short for `ledger.CALM_S` goes back to static.

A gateway that cannot be leased to (an older bootstrap, no load reports) keeps its static part, and the rest is divided.
Requests that are on their way to a worker when a limit changes are not seen here: each worker may let one too many in.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from controller.events import Conduct, Effect, Grant
from controller.gateways import Gateways
from controller.ledger import RATE_S, Ledger, Part, is_short
from xds import ir
from xds.events import GatewayConnected, GatewayDisconnected, GatewayEvent, LeaseAccepted, LoadReported, LocalLoad

TICK_S = 0.05
"""Limits are divided anew when something has changed, at most this often: with four gateways, that report five times a
second, at nearly every report, which comes to three leases a second for each.
"""

RENEW_S = 1.0
SILENT_S = 3.0

MAX_LEASED = 500
"""Models that are divided by demand at a time; those that come later keep their static parts."""


@dataclass(slots=True)
class Member:
    """A gateway. `told`: what it was sent last, and nothing before the first time."""

    connected: bool = True
    capable: bool = False
    reported_at_s: float = float("-inf")
    loads: dict[str, LocalLoad] = field(default_factory=dict)
    told: ir.Lease | None = None

    def is_live(self, now: float) -> bool:
        return self.connected and self.capable and now < self.reported_at_s + SILENT_S


class Leasing:
    """Owned by the engine. `restored`: how many gateways there were before a restart."""

    def __init__(self, restored: int) -> None:
        self._members: dict[str, Member] = {}
        self._limits: dict[str, tuple[int, int]] = {}
        self._limited: frozenset[str] | None = None
        self._survey = ir.Survey()
        self._ledgers: dict[str, Ledger] = {}
        self._joining: set[str] = set()
        self._live: frozenset[str] = frozenset()
        self._missing = 0
        self._dirty: set[str] = set()
        self._serial = 0
        self._ticked_at_s = self._renewed_at_s = float("-inf")
        self._hold_until_s = float("inf") if restored > 1 else float("-inf")

    @property
    def limits(self) -> dict[str, dict[str, int]]:
        """By model that is not static everywhere, what each gateway was told last."""
        parts = {model: ledger.parts for model, ledger in sorted(self._ledgers.items())}
        return {model: {name: part.limit for name, part in sorted(each.items())} for model, each in parts.items()}

    # What happens

    def take(self, event: GatewayEvent, gateways: Gateways, now: float) -> None:
        """Takes what a gateway reports; `gateways` knows of it already."""
        match event:
            case GatewayConnected(gateway=gateway):
                if gateway in gateways.names:
                    self._join(gateway, now)
            case GatewayDisconnected(gateway=gateway):
                if member := self._members.get(gateway):
                    member.connected = False
            case LoadReported(gateway=gateway):
                if member := self._members.get(gateway):
                    self._hear(event, member, now)
            case LeaseAccepted(gateway=gateway, serial=serial):
                if member := self._members.get(gateway):
                    member.capable = True
                    for ledger in self._ledgers.values():
                        ledger.apply(gateway, serial, now)
            case _:
                pass

    def _join(self, gateway: str, now: float) -> None:
        """It connected, for the first time or again."""
        if self._hold_until_s == float("inf"):
            self._hold_until_s = now + ir.BORROWED_TTL_S + SILENT_S
        if member := self._members.get(gateway):
            member.connected = True
            member.told = None  # its process may be another
            return
        self._members[gateway] = Member()
        if len(self._members) > 1 and now >= self._hold_until_s:
            self._joining.add(gateway)
            for key in self._ledgers:
                self._ledgers[key].parts[gateway] = Part(0, 0)
                self._dirty.add(key)

    def retain(self, gateways: Gateways) -> None:
        """Forgets those that are gone for good."""
        for name in self._members.keys() - gateways.names:
            del self._members[name]
            self._joining.discard(name)
            for ledger in self._ledgers.values():
                ledger.parts.pop(name, None)
            self._dirty.update(self._ledgers)
        self._missing = max(0, gateways.count - len(self._members))

    def set_limit(self, model: str, total: int | None, static: int) -> None:
        """A model's limit over all gateways, and each one's static part, from now on. None: it has no limit."""
        known = self._limits.get(model)
        if total is None or known is None:
            self._limited = None
        if total is None:
            self._limits.pop(model, None)
            self._ledgers.pop(model, None)
            return
        self._limits[model] = (max(total, static), static)
        if known == self._limits[model]:
            return
        if known and self._joining and model not in self._ledgers:
            parts = {name: Part(known[1], known[1]) for name in self._members.keys() - self._joining}
            parts |= {name: Part(0, 0) for name in self._joining}
            self._ledgers[model] = Ledger(parts)
        if model in self._ledgers:
            self._dirty.add(model)

    def _hear(self, report: LoadReported, member: Member, now: float) -> None:
        """It says what it carries."""
        elapsed_s = min(max(now - member.reported_at_s, TICK_S), RATE_S)
        member.reported_at_s = now
        member.loads = {load.route: load for load in report.locals if load.route in self._limits}
        if now < self._hold_until_s or len(self._members) < 2:
            return
        self._open_ledgers(member, now)
        for model in report.covered & self._ledgers.keys():
            ledger = self._ledgers[model]
            if part := ledger.parts.get(report.gateway):
                load = member.loads.get(model) or LocalLoad(model, 0, 0, 0)
                if ledger.hear(part, load, elapsed_s, now):
                    self._dirty.add(model)

    def _open_ledgers(self, member: Member, now: float) -> None:
        """For models of which this gateway needs more than its static part."""
        leased = sum(ledger.leased for ledger in self._ledgers.values())
        for model, load in member.loads.items():
            ledger = self._ledgers.get(model)
            static = self._limits[model][1]
            if (ledger and ledger.leased) or leased >= MAX_LEASED:
                continue
            if is_short(load, static):
                ledger = self._ledgers.setdefault(model, self._new_ledger(model, now))
                ledger.leased, ledger.short_at_s = True, now
                leased += 1
                self._dirty.add(model)

    def _new_ledger(self, model: str, now: float) -> Ledger:
        """Static everywhere; after a restart more may be in progress, from what was borrowed before."""
        static = self._limits[model][1]
        parts = {}
        for name, member in self._members.items():
            active = member.loads[model].active if model in member.loads else 0
            parts[name] = Part(static, max(static, active), lowered_at_s=now, active=active)
        return Ledger(parts)

    # What follows

    def wake_at(self) -> float | None:
        """When `step` has something to do; None: not before something happens."""
        if self._ticked_at_s < self._hold_until_s < float("inf") and self._members:
            return self._hold_until_s
        if self._dirty:
            return self._ticked_at_s + TICK_S
        return self._renewed_at_s + RENEW_S if self._ledgers else None

    def step(self, now: float) -> list[Effect]:
        """What is to be done by now."""
        effects: list[Effect] = []
        if self._is_due(now) and (leases := self._tick(now)):
            effects.append(Grant(tuple(leases)))
        survey = self._wanted_survey()
        if survey != self._survey:
            self._survey = survey
            effects.append(Conduct(survey))
        return effects

    def _is_due(self, now: float) -> bool:
        if now < self._hold_until_s:
            return False
        at_s = self.wake_at()
        untold = any(each.connected and each.told is None for each in self._members.values())
        return untold or bool(self._joining) or (at_s is not None and now >= at_s)

    def _wanted_survey(self) -> ir.Survey:
        """Gateways report on all models with a limit once there is somebody to share it with."""
        if len(self._members) < 2:
            return ir.Survey()
        if self._limited is None:
            self._limited = frozenset(self._limits)
        return ir.Survey(self._limited, bool(self._ledgers))

    def _tick(self, now: float) -> list[ir.Lease]:
        if self._ticked_at_s < self._hold_until_s:
            for member in self._members.values():
                self._open_ledgers(member, now)  # who was short meanwhile does not go back to static first
        self._ticked_at_s = now
        self._serial += 1
        live = frozenset(name for name, member in self._members.items() if member.is_live(now))
        renews = now >= self._renewed_at_s + RENEW_S
        if renews:
            self._renewed_at_s = now
            self._review(live, now)
        if live != self._live:
            self._live = live
            self._dirty.update(self._ledgers)
        dirty, self._dirty = self._dirty, set()
        for model in sorted(dirty & self._ledgers.keys()):
            total, static = self._limits[model]
            self._ledgers[model].divide(total - self._missing * static, static, live, self._serial, now)
        self._joining.clear()
        return self._tell(live, renews=renews)

    def _review(self, live: Collection[str], now: float) -> None:
        """What time alone changes."""
        for model, ledger in list(self._ledgers.items()):
            static = self._limits[model][1]
            if ledger.review(static, live, now):
                self._dirty.add(model)
            if ledger.is_static(static):
                del self._ledgers[model]

    def _tell(self, live: Collection[str], *, renews: bool) -> list[ir.Lease]:
        leases = []
        for name, member in self._members.items():
            if not member.connected or (name not in live and member.told is not None):
                continue
            lent, borrowed = self._deviations(name)
            told = member.told
            same = told is not None and (told.lent, told.borrowed) == (lent, borrowed)
            if not same or (renews and (lent or borrowed)):
                member.told = ir.Lease(name, self._serial, lent, borrowed)
                leases.append(member.told)
        return leases

    def _deviations(self, gateway: str) -> tuple[dict[str, int], dict[str, int]]:
        """The limits of a gateway that a ledger speaks of: up to static, and above."""
        lent: dict[str, int] = {}
        borrowed: dict[str, int] = {}
        for model, ledger in self._ledgers.items():
            if part := ledger.parts.get(gateway):
                (lent if part.limit <= self._limits[model][1] else borrowed)[model] = part.limit
        return lent, borrowed
