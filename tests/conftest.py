"""What all tests share: how hypothesis runs."""

from hypothesis import HealthCheck, settings

# The machines are shared: how long an example takes, to make or to run, says nothing about the code.
_SLOW_MACHINE = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}

# The same examples in every run, so that a change alone can turn a run red; `explore` looks for new ones.
settings.register_profile("project", derandomize=True, **_SLOW_MACHINE)
settings.register_profile("explore", **_SLOW_MACHINE)
settings.load_profile("project")
