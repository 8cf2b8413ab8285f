"""What all tests share: how hypothesis runs."""

from hypothesis import HealthCheck, settings

# The machines are shared: how long an example takes, to make or to run, says nothing about the code.
settings.register_profile("project", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("project")
