"""Hypothesis on a machine that may be busy: no deadline for one example. Fixtures for both databases."""

from hypothesis import HealthCheck, settings

pytest_plugins = ["hilum.testing.databases", "hilum.testing.brokers", "hilum.testing.event_logs"]

settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")
