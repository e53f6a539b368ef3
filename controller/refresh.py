"""Pure: when to ask an issuer again.

A token is renewed at about `REFRESH_AT` of its life, early enough that some failures fit in before it expires; after a
failure the pauses double up to a cap. Jitter keeps controllers and credentials from asking in step.
"""

from __future__ import annotations

from dataclasses import dataclass

ASSUMED_LIFETIME_S = 300.0
"""For a token whose answer does not say how long it lives, which the standard allows."""

_DOUBLINGS_MAX = 16


@dataclass(frozen=True, slots=True)
class Pace:
    """`refresh_at` and `spread`: parts of a token's life. The rest in seconds."""

    refresh_at: float = 0.8
    spread: float = 0.1
    shortest_s: float = 1.0
    first_retry_s: float = 1.0
    longest_retry_s: float = 60.0


PACE = Pace()


def next_refresh_s(pace: Pace, lifetime_s: float, jitter: float) -> float:
    """How long to wait after a token was asked for. `jitter`: 0 to 1."""
    return max(pace.shortest_s, lifetime_s * (pace.refresh_at + pace.spread * (jitter - 0.5)))


def next_retry_s(pace: Pace, failures: int, jitter: float) -> float:
    """How long to wait after so many failures in a row, 1 or more. Between half and all of the doubled pause."""
    doubled_s = pace.first_retry_s * 2.0 ** min(failures - 1, _DOUBLINGS_MAX)
    return min(pace.longest_retry_s, doubled_s) * (0.5 + 0.5 * jitter)
