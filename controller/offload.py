"""Pure: how much of a model's traffic leaves, decided from its metric, its endpoints and its remotes.

Theory
------
A metric gives `ratio = value / target`; 1 or more means *reached*. Its last known value stands until it is stale, so
silence is the same as hearing the same thing again: stepping twice with one observation changes nothing, and missing
data never moves traffic.

The hard part is coming back. Offloading lowers the very metric that caused it, so "below the target" alone returns,
overloads, offloads and returns for ever. What counts is the ratio local *would* carry if everything came back:

    carried = ratio / local share      for a metric that follows local traffic (Scope.LOCAL)
    carried = ratio                    for one that counts all traffic (Scope.TOTAL)

and only `carried < 1` without a break for the whole buffer ends an overflow. Two cases remain. A metric that is not
proportional to load (a queue length) can still fool the rule; a return that lasts less than `FLAP_BUFFERS` buffers
doubles the buffer, up to `BUFFER_GROWTH_MAX` times, so flapping dies out (if the buffer outlasts the delay with which
the metric follows the load: a window of 60 s wants a buffer of 60 s). And with everything remote, local is *blind*, it
gives no signal at all: instead of bringing all of it back to see what happens, `PROBE_PPM` of the traffic comes back
first, and the ratio it causes decides. (A metric that has no value at all without traffic, like a latency quantile,
stays silent there, and silence moves nothing: such a metric wants a percentage below 100.)

Proportional keeps the metric at its target: local deserves `1 / carried` of the traffic. It moves by bounded steps, and
not while local is blind. A metric that is late still tells of the share before the last step, and following it both
ways at once swings for ever between too much and nothing; so beyond `TOLERANCE` the share rises every `interval_s`, but
it falls only when it has stood for the buffer: leaving is fast, taking back waits for proof. Above the target, but
within the tolerance, it rises as slowly: a metric that saturates (requests running, utilization) may show no more while
the queue behind it grows without end. Below the target, the tolerance is left alone.

Durations are counted between samples, never from a sample to the clock: a streak of one sample has length 0 however
long nothing else came, and a gap as long as staleness breaks it. Only staleness looks at the clock. Times are seconds
since the epoch, since a decision survives a restart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

PPM = 1_000_000
PROBE_PPM = 100_000
TOLERANCE = 0.1
BUFFER_GROWTH_MAX = 10
FLAP_BUFFERS = 2
SHARE_GRAIN_PPM = 1_000

_FULL = "By its metric, local cannot carry all requests."


class State(StrEnum):
    STANDBY = "Standby"
    OVERFLOWING = "Overflowing"
    FAILOVER = "Failover"


class Strategy(StrEnum):
    FIXED = "Fixed"
    PROPORTIONAL = "Proportional"


class Scope(StrEnum):
    """Which traffic a metric counts."""

    LOCAL = "Local"
    TOTAL = "Total"


class OnUnavailable(StrEnum):
    """What to do when no metric has been heard for `stale_s`."""

    HOLD = "Hold"
    LOCAL = "Local"
    REMOTE = "Remote"


class Mode(StrEnum):
    AUTO = "Auto"
    OFF = "Off"
    FORCE = "Force"
    DRY_RUN = "DryRun"


class Reason(StrEnum):
    """Why a decision is what it is: status, events, logs and tests show these words."""

    BELOW_TARGET = "BelowTarget"
    ACTIVATING = "Activating"
    THRESHOLD_REACHED = "ThresholdReached"
    BUFFERING = "Buffering"
    PROBING = "Probing"
    RETURNED = "Returned"
    NO_READY_ENDPOINT = "NoReadyEndpoint"
    ENDPOINT_READY = "EndpointReady"
    METRICS_UNAVAILABLE = "MetricsUnavailable"
    NO_METRICS = "NoMetrics"
    MODE_OFF = "ModeOff"
    FORCED = "Forced"
    STARTING = "Starting"


@dataclass(frozen=True, slots=True)
class Policy:
    """What the user asked for. `watched`: the model has at least one metric."""

    ceiling_ppm: int = PPM
    strategy: Strategy = Strategy.FIXED
    activation_s: float = 5
    buffer_s: float = 60
    max_step_ppm: int = 250_000
    interval_s: float = 5
    scope: Scope = Scope.LOCAL
    stale_s: float = 60
    on_unavailable: OnUnavailable = OnUnavailable.HOLD
    mode: Mode = Mode.AUTO
    watched: bool = True


@dataclass(frozen=True, slots=True)
class Observation:
    """What is known now.

    `ratio`: the last known value/target of the metric, None before the first. `ratio_at_s`: when it was sampled, or
    when watching began. `local_ready`: whether a ready local endpoint exists, None while that is not known.
    `remote_ready`: whether a remote can take traffic.
    """

    ratio: float | None
    ratio_at_s: float
    local_ready: bool | None
    remote_ready: bool


@dataclass(frozen=True, slots=True)
class Decision:
    """The decision in force, and what the next one needs to remember of it.

    `wanted_ppm` is the share the policy asks for; `share_ppm` the one in force: 0 in DryRun and while no remote can
    take it, which `restraint` says. `heard_s`: the last sample judged, 0 if the next one is to be judged whatever its
    age. `streak_from_s`: the first one of the unbroken run that argues for leaving this state. `buffer_growth`: how
    many times the buffer is in force, more than 1 after flapping. `probing`: local is tried with a part of the traffic
    after having had none.
    """

    state: State = State.STANDBY
    share_ppm: int = 0
    reason: Reason = Reason.STARTING
    message: str = "Nothing is known about this model yet."
    since_s: float = 0.0
    restraint: str = ""
    wanted_ppm: int = 0
    heard_s: float = 0.0
    streak_from_s: float | None = None
    stepped_at_s: float | None = None
    returned_at_s: float | None = None
    buffer_growth: int = 1
    probing: bool = False

    @property
    def sentence(self) -> str:
        """The decision in words."""
        return f"{self.message} {self.restraint}".rstrip()


def step(policy: Policy, last: Decision, seen: Observation, now: float) -> Decision:
    """The next decision. Stepping again with what was already seen changes nothing more."""
    decision = _decide(policy, last, seen, now)
    restraint = _restraint(policy, decision, seen)
    return replace(
        decision,
        share_ppm=0 if restraint else decision.wanted_ppm,
        restraint=restraint,
        since_s=now if decision.state is not last.state or not last.since_s else last.since_s,
    )


def stale_at_s(policy: Policy, seen: Observation) -> float:
    """When the last sample becomes stale, the only moment at which time alone changes a decision."""
    return seen.ratio_at_s + policy.stale_s


def _restraint(policy: Policy, decision: Decision, seen: Observation) -> str:
    """Why a share that is wanted is not in force, empty if it is."""
    if not decision.wanted_ppm:
        return ""
    if policy.mode is Mode.DRY_RUN:
        return f"DryRun: {decision.wanted_ppm / 10_000:g} % of the requests would leave."
    if seen.remote_ready:
        return ""
    if decision.state is State.FAILOVER:
        return "No remote can take requests either, so they fail."
    return "No remote can take requests, so they stay local."


def _decide(policy: Policy, last: Decision, seen: Observation, now: float) -> Decision:
    if policy.mode is Mode.OFF:
        return _stay_local(last, Reason.MODE_OFF, "Offloading is switched off (mode Off).")
    if seen.local_ready is False:
        return _fail_over(last)
    if last.state is State.FAILOVER and seen.local_ready is None:
        return last
    if policy.mode is Mode.FORCE:
        return _overflow(_unheard(last), policy.ceiling_ppm, Reason.FORCED, "Offloading is forced (mode Force).")
    if last.state is State.FAILOVER:
        return _recover(policy, last, seen, now)
    return _judge(policy, last, seen, now)


def _stay_local(last: Decision, reason: Reason, message: str) -> Decision:
    return Decision(State.STANDBY, reason=reason, message=message, since_s=last.since_s)


def _fail_over(last: Decision) -> Decision:
    return replace(
        last,
        state=State.FAILOVER,
        wanted_ppm=PPM,
        reason=Reason.NO_READY_ENDPOINT,
        message="No local endpoint is ready.",
        streak_from_s=None,
        probing=False,
    )


def _recover(policy: Policy, last: Decision, seen: Observation, now: float) -> Decision:
    """A local endpoint is ready again: go on with what the metric says now, if it says anything."""
    standby = replace(
        last,
        state=State.STANDBY,
        wanted_ppm=0,
        reason=Reason.ENDPOINT_READY,
        message="A local endpoint is ready again.",
    )
    if policy.watched and seen.ratio is not None and seen.ratio >= 1 and now < stale_at_s(policy, seen):
        return _trigger(policy, replace(standby, heard_s=seen.ratio_at_s), seen.ratio, seen.ratio_at_s)
    return _judge(policy, standby, seen, now)


def _judge(policy: Policy, last: Decision, seen: Observation, now: float) -> Decision:
    """What the metric says, if there is one, it is not stale, and it says something new."""
    if not policy.watched:
        if last.state is State.STANDBY and last.reason is Reason.ENDPOINT_READY:
            return last
        message = "No metric is configured; requests leave only when local is full or down."
        return _stay_local(last, Reason.NO_METRICS, message)
    if now >= stale_at_s(policy, seen):
        return _without_metrics(policy, last)
    if seen.ratio is None or seen.ratio_at_s <= last.heard_s:
        return _hold(policy, last)
    unbroken = seen.ratio_at_s - last.heard_s < policy.stale_s
    last = replace(last, heard_s=seen.ratio_at_s, streak_from_s=last.streak_from_s if unbroken else None)
    if last.state is State.STANDBY:
        return _watch(policy, last, seen.ratio, seen.ratio_at_s)
    return _consider_return(policy, last, seen.ratio, seen.ratio_at_s)


def _unheard(last: Decision) -> Decision:
    """Nothing is being judged; what is known then is judged anew, and a streak begins anew."""
    return replace(last, heard_s=0.0, streak_from_s=None)


def _hold(policy: Policy, last: Decision) -> Decision:
    """Nothing new was heard. Only a new policy makes a difference: a reason that went with the old one is dropped."""
    if last.reason in (Reason.STARTING, Reason.FORCED, Reason.MODE_OFF, Reason.NO_METRICS):
        last = replace(last, reason=Reason.STARTING, message="Waiting for the first sample of the metric.")
    return _within_ceiling(policy, last)


def _within_ceiling(policy: Policy, last: Decision) -> Decision:
    if last.state is not State.OVERFLOWING:
        return last
    fixed = policy.strategy is Strategy.FIXED
    return replace(last, wanted_ppm=_fixed_ppm(policy, last) if fixed else min(last.wanted_ppm, policy.ceiling_ppm))


def _without_metrics(policy: Policy, last: Decision) -> Decision:
    silence = f"No metric has been heard for {policy.stale_s:g} s; "
    if policy.on_unavailable is OnUnavailable.LOCAL:
        return _stay_local(last, Reason.METRICS_UNAVAILABLE, silence + "staying local as configured.")
    if policy.on_unavailable is OnUnavailable.REMOTE:
        message = silence + "sending requests away as configured."
        return _overflow(_unheard(last), policy.ceiling_ppm, Reason.METRICS_UNAVAILABLE, message)
    held = replace(_unheard(last), reason=Reason.METRICS_UNAVAILABLE, message=silence + "holding.")
    return _within_ceiling(policy, held)


def _watch(policy: Policy, last: Decision, ratio: float, at_s: float) -> Decision:
    """Standby: has the metric been reached for long enough?"""
    if ratio < 1:
        calm = replace(last, streak_from_s=None)
        if last.reason in (Reason.RETURNED, Reason.ENDPOINT_READY):
            return calm
        return replace(calm, reason=Reason.BELOW_TARGET, message="The metric is below its target.")
    from_s = at_s if last.streak_from_s is None else last.streak_from_s
    last = replace(last, streak_from_s=from_s)
    if at_s - from_s >= policy.activation_s:
        return _trigger(policy, last, ratio, at_s)
    message = f"The metric has reached its target; overflowing once that has lasted {policy.activation_s:g} s."
    return replace(last, reason=Reason.ACTIVATING, message=message)


def _trigger(policy: Policy, last: Decision, ratio: float, at_s: float) -> Decision:
    """Standby -> Overflowing. If that comes soon after the last return, returning was wrong: wait longer next time."""
    began_s = at_s if last.streak_from_s is None else last.streak_from_s
    quiet_s = FLAP_BUFFERS * policy.buffer_s * last.buffer_growth
    flapped = last.returned_at_s is not None and began_s - last.returned_at_s < quiet_s
    fixed = policy.strategy is Strategy.FIXED
    share_ppm = policy.ceiling_ppm if fixed else _proportional_ppm(policy, last.wanted_ppm, carried=ratio)
    return replace(
        _overflow(last, share_ppm, Reason.THRESHOLD_REACHED, _FULL),
        buffer_growth=_grown(last) if flapped else 1,
        stepped_at_s=at_s,
        returned_at_s=None,
    )


def _overflow(last: Decision, share_ppm: int, reason: Reason, message: str) -> Decision:
    return replace(
        last,
        state=State.OVERFLOWING,
        wanted_ppm=share_ppm,
        reason=reason,
        message=message,
        streak_from_s=None,
        probing=False,
    )


def _grown(last: Decision) -> int:
    return min(2 * last.buffer_growth, BUFFER_GROWTH_MAX)


def _consider_return(policy: Policy, last: Decision, ratio: float, at_s: float) -> Decision:
    """Overflowing: could local carry everything, and for long enough? Else keep the share the strategy asks for."""
    if _carried(policy, last, ratio) >= 1:
        full = replace(last, streak_from_s=None, reason=Reason.THRESHOLD_REACHED, message=_FULL)
        return _adjust(policy, full, ratio, at_s)
    blind = _blind(policy, last)
    buffer_s = policy.buffer_s * last.buffer_growth
    from_s = at_s if last.streak_from_s is None else last.streak_from_s
    if at_s - from_s < buffer_s:
        message = f"Local could carry all requests; returning once that has lasted {buffer_s:g} s."
        if blind:
            message = f"Local gets no requests; trying it with a part of them after {buffer_s:g} s below its target."
        kept = replace(last, streak_from_s=from_s, reason=Reason.BUFFERING, message=message)
        return _adjust(policy, kept, ratio, at_s)
    if blind:
        message = "Bringing a part of the requests back to see what local can carry."
        share_ppm = min(PPM - PROBE_PPM, policy.ceiling_ppm)
        probe = _overflow(last, share_ppm, Reason.PROBING, message)
        return replace(probe, stepped_at_s=at_s, probing=True)
    message = f"Local could carry all requests for {buffer_s:g} s."
    back = replace(last, state=State.STANDBY, wanted_ppm=0, reason=Reason.RETURNED, message=message)
    return replace(back, returned_at_s=at_s, streak_from_s=None, probing=False)


def _blind(policy: Policy, last: Decision) -> bool:
    """Nothing reaches local, so its metric says nothing."""
    return policy.scope is Scope.LOCAL and last.share_ppm >= PPM


def _carried(policy: Policy, last: Decision, ratio: float) -> float:
    """The ratio if everything came back; while local is blind, its own ratio has to do."""
    if policy.scope is Scope.TOTAL or _blind(policy, last):
        return ratio
    return ratio * PPM / (PPM - last.share_ppm)


def _adjust(policy: Policy, last: Decision, ratio: float, at_s: float) -> Decision:
    """The share while overflowing, by the strategy."""
    if policy.strategy is Strategy.FIXED:
        if last.probing and ratio >= 1:
            last = replace(last, probing=False, buffer_growth=_grown(last))
        return replace(last, wanted_ppm=_fixed_ppm(policy, last))
    last = _within_ceiling(policy, last)
    carried = _carried(policy, last, ratio)
    at_local = carried * (PPM - last.share_ppm) / PPM
    on_target = 1 - TOLERANCE <= at_local <= 1
    share_ppm = _proportional_ppm(policy, last.wanted_ppm, carried)
    urgent = share_ppm > last.wanted_ppm and at_local > 1 + TOLERANCE
    pause_s = policy.interval_s if urgent else max(policy.interval_s, policy.buffer_s)
    too_soon = last.stepped_at_s is not None and at_s - last.stepped_at_s < pause_s
    if share_ppm == last.wanted_ppm or on_target or too_soon or _blind(policy, last):
        return last
    return replace(last, wanted_ppm=share_ppm, stepped_at_s=at_s)


def _fixed_ppm(policy: Policy, last: Decision) -> int:
    """Fixed: the ceiling; a probe keeps a part of the traffic back, so that local can be judged."""
    return min(PPM - PROBE_PPM, policy.ceiling_ppm) if last.probing else policy.ceiling_ppm


def _proportional_ppm(policy: Policy, wanted_ppm: int, carried: float) -> int:
    """Proportional: one step from `wanted_ppm` towards the smallest share at which the metric is at its target."""
    target_ppm = PPM - PPM / max(carried, 1.0)
    step_ppm = max(-policy.max_step_ppm, min(policy.max_step_ppm, target_ppm - wanted_ppm))
    return min(round((wanted_ppm + step_ppm) / SHARE_GRAIN_PPM) * SHARE_GRAIN_PPM, policy.ceiling_ppm)
