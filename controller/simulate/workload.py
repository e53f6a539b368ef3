"""Pure: what is asked of a model, and how long a server takes for it. Times are seconds since the start of the load."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request: when it arrives, and its size in tokens."""

    at_s: float
    context_tokens: int
    generated_tokens: int


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a server takes for a request that it serves: the first byte after `base_s` and the context, the last one
    when all tokens are generated.
    """

    base_s: float
    context_token_s: float
    generated_token_s: float

    def first_byte_s(self, arrival: Arrival) -> float:
        return self.base_s + self.context_token_s * arrival.context_tokens

    def service_s(self, arrival: Arrival) -> float:
        """How long the request occupies the server."""
        return self.first_byte_s(arrival) + self.generated_token_s * arrival.generated_tokens


LOCAL = Timing(base_s=0.0, context_token_s=0.000_15, generated_token_s=0.025)
REMOTE = Timing(base_s=0.5, context_token_s=0.000_1, generated_token_s=0.025)
