"""For all tests: hypothesis looks at what an example does, not at how long a busy machine takes for it."""

from hypothesis import HealthCheck, settings

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")
