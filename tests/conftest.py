"""What all tests share: how hypothesis runs, and which fault campaigns."""

import signal

from hypothesis import HealthCheck, settings

# The machines are shared: how long an example takes, to make or to run, says nothing about the code.
_SLOW_MACHINE = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}

# The same examples in every run, so that a change alone can turn a run red; `explore` looks for new ones.
settings.register_profile("project", derandomize=True, **_SLOW_MACHINE)
settings.register_profile("explore", **_SLOW_MACHINE)
settings.load_profile("project")

CAMPAIGN_SEEDS = (1, 2, 3, 4)
"""Seeds of the fault campaigns that every run makes."""

PROCESS_SEEDS = (1,)
"""Seeds of the campaign over real processes."""


def pytest_addoption(parser):
    group = parser.getgroup("fault campaigns (tests/faults)")
    group.addoption(
        "--campaign-seed", type=int, action="append", metavar="N", help="run this seed instead; repeatable"
    )
    group.addoption(
        "--campaign-count", type=int, default=1, metavar="N", help="run so many seeds from each given one on"
    )
    group.addoption(
        "--campaign-steps", type=int, default=900, metavar="N", help="how long to let things go wrong"
    )


def pytest_configure():
    # Started in a shell's background, this and all that it starts would ignore an interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_generate_tests(metafunc):
    if "campaign_seed" in metafunc.fixturenames:
        given, count = metafunc.config.getoption("campaign_seed"), metafunc.config.getoption("campaign_count")
        seeds = CAMPAIGN_SEEDS if given is None else [seed + more for seed in given for more in range(count)]
        metafunc.parametrize("campaign_seed", seeds)
    if "process_seed" in metafunc.fixturenames:
        metafunc.parametrize("process_seed", metafunc.config.getoption("campaign_seed") or PROCESS_SEEDS)
    if "campaign_steps" in metafunc.fixturenames:
        metafunc.parametrize("campaign_steps", [metafunc.config.getoption("campaign_steps")])
