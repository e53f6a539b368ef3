"""What holds for all tests."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# An example that takes long on a busy machine is no counterexample.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")
