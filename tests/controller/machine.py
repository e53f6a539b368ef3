"""One model's decision over time, for tests: what is seen, step by step."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

from controller.offload import Decision, Observation, Policy, Reason, State, step

START_S = 1_700_000_000.0


@dataclass
class Machine:
    """Steps a decision. Nothing is known at first but that both sides are there."""

    policy: Policy = field(default_factory=Policy)
    decision: Decision = field(default_factory=Decision)
    seen: Observation = field(default_factory=lambda: Observation(None, START_S, local_ready=True, remote_ready=True))
    now: float = START_S
    history: list[Decision] = field(default_factory=list)

    def step(self) -> Machine:
        self.decision = step(self.policy, self.decision, self.seen, self.now)
        self.history.append(self.decision)
        return self

    def hear(self, ratio: float, for_s: float = 0.0, every_s: float = 1.0) -> Machine:
        """A sample now, and one more every `every_s` until `for_s` have passed since the first."""
        self.sample(ratio)
        for _ in range(round(for_s / every_s)):
            self.now += every_s
            self.sample(ratio)
        return self

    def sample(self, ratio: float) -> Machine:
        self.seen = Observation(ratio, self.now, self.seen.local_ready, self.seen.remote_ready)
        return self.step()

    def wait(self, seconds: float) -> Machine:
        """Time passes and nothing is heard."""
        self.now += seconds
        return self.step()

    def local(self, ready: bool | None) -> Machine:
        self.seen = Observation(self.seen.ratio, self.seen.ratio_at_s, ready, self.seen.remote_ready)
        return self.step()

    def remote(self, *, ready: bool) -> Machine:
        self.seen = Observation(self.seen.ratio, self.seen.ratio_at_s, self.seen.local_ready, ready)
        return self.step()

    def follow(self, policy: Policy) -> Machine:
        """The user edits the policy."""
        self.policy = policy
        return self.step()

    def restart(self) -> Machine:
        """The decision goes through JSON; what was seen is forgotten."""
        self.decision = through_json(self.decision)
        self.seen = Observation(None, self.now, self.seen.local_ready, self.seen.remote_ready)
        return self.step()

    @property
    def state(self) -> State:
        return self.decision.state

    @property
    def reason(self) -> Reason:
        return self.decision.reason

    @property
    def percent(self) -> float:
        return self.decision.share_ppm / 10_000

    @property
    def states(self) -> list[State]:
        """The states gone through, each once in a row."""
        return [d.state for i, d in enumerate(self.history) if i == 0 or self.history[i - 1].state is not d.state]


def through_json(decision: Decision) -> Decision:
    values = json.loads(json.dumps(asdict(decision)))
    return Decision(**{**values, "state": State(values["state"]), "reason": Reason(values["reason"])})
