"""Pure: the states of a decision, as a table and a picture for the documentation. Tests hold `offload.step` to it."""

from __future__ import annotations

from collections.abc import Mapping

from controller.offload import Reason, State

MOVES: Mapping[tuple[State, State], tuple[Reason, ...]] = {
    (State.STANDBY, State.OVERFLOWING): (Reason.THRESHOLD_REACHED, Reason.METRICS_UNAVAILABLE, Reason.FORCED),
    (State.STANDBY, State.FAILOVER): (Reason.NO_READY_ENDPOINT,),
    (State.OVERFLOWING, State.STANDBY): (
        Reason.RETURNED,
        Reason.METRICS_UNAVAILABLE,
        Reason.NO_METRICS,
        Reason.MODE_OFF,
    ),
    (State.OVERFLOWING, State.FAILOVER): (Reason.NO_READY_ENDPOINT,),
    (State.FAILOVER, State.STANDBY): (Reason.ENDPOINT_READY, Reason.METRICS_UNAVAILABLE, Reason.MODE_OFF),
    (State.FAILOVER, State.OVERFLOWING): (Reason.THRESHOLD_REACHED, Reason.METRICS_UNAVAILABLE, Reason.FORCED),
}
"""Every change of state, and the reasons it can have."""

STAYS: Mapping[State, tuple[Reason, ...]] = {
    State.STANDBY: (
        Reason.STARTING,
        Reason.BELOW_TARGET,
        Reason.ACTIVATING,
        Reason.RETURNED,
        Reason.ENDPOINT_READY,
        Reason.METRICS_UNAVAILABLE,
        Reason.NO_METRICS,
        Reason.MODE_OFF,
    ),
    State.OVERFLOWING: (
        Reason.STARTING,
        Reason.THRESHOLD_REACHED,
        Reason.BUFFERING,
        Reason.PROBING,
        Reason.METRICS_UNAVAILABLE,
        Reason.FORCED,
    ),
    State.FAILOVER: (Reason.NO_READY_ENDPOINT,),
}
"""The reasons that a state can show while it lasts."""


def state_diagram() -> str:
    """The states and their moves in Mermaid's language, without the code fence around it."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.STANDBY}"]
    lines += [f"    {before} --> {after}: {', '.join(reasons)}" for (before, after), reasons in MOVES.items()]
    lines += [f"    {state}: {state}<br/>{', '.join(reasons)}" for state, reasons in STAYS.items()]
    return "\n".join(lines) + "\n"
