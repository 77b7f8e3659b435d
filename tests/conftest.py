"""For all tests."""

from hypothesis import HealthCheck, settings

# No test is about how long an example takes: a busy machine is not a finding.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")
