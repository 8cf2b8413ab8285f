"""What one instance takes of the services' limits: the tier's, its share, its part."""

from __future__ import annotations

import pytest
from simulators.virtual_time import VirtualTime

from functions.call_rates import (
    MAX_PAUSE_SECONDS,
    QUERY_BURST,
    QUERYING_INSTANCES,
    UNTOLD_PAUSE_SECONDS,
    Allowance,
    CallRates,
    HubCall,
    VaultCall,
    hub_rates,
    seconds_asked,
    vault_rates,
)
from shared.twin.capacity import VAULT_LIMITS, HubTier, limits_of

MINUTE = 60


def calls_in(seconds: float, rates: CallRates, time: VirtualTime, call: HubCall | VaultCall) -> int:
    """Return how many calls one instance gets through at most."""
    ends, calls = time.clock() + seconds, 0
    while True:
        rates.take(call)
        if time.clock() > ends:
            return calls
        calls += 1


@pytest.fixture
def time():
    return VirtualTime()


@pytest.mark.parametrize("instances", [1, 2, 8, 80])
@pytest.mark.parametrize(
    ("tier", "units"), [(HubTier.F1, 1), (HubTier.S1, 1), (HubTier.S1, 3), (HubTier.S2, 20), (HubTier.S3, 1)]
)
def test_all_instances_together_stay_below_the_hubs_limits_in_every_minute(time, tier, units, instances):
    limits = limits_of(tier, units)
    rates = hub_rates(limits.share(80), instances=instances, clock=time.clock, sleep=time.sleep)
    querying = min(instances, QUERYING_INSTANCES)
    assert calls_in(MINUTE, rates, time, HubCall.READ) * instances <= limits.reads * MINUTE
    assert calls_in(MINUTE, rates, time, HubCall.UPDATE) * instances <= limits.updates * MINUTE
    assert calls_in(MINUTE, rates, time, HubCall.QUERY) * querying <= round(limits.queries * MINUTE)


@pytest.mark.parametrize("instances", [1, 8])
@pytest.mark.parametrize("call", VaultCall)
def test_all_instances_together_stay_below_the_vaults_limits_in_every_ten_seconds(time, call, instances):
    rates = vault_rates(VAULT_LIMITS.share(80), instances=instances, clock=time.clock, sleep=time.sleep)
    limit = {
        VaultCall.READ: 4000,
        VaultCall.WRITE: 300,
        VaultCall.UNWRAP: 500,
        VaultCall.SIGN: 2000,
    }[call]
    assert calls_in(10, rates, time, call) * instances <= limit


def test_a_small_fleet_is_listed_without_a_wait_on_the_smallest_hub(time):
    limits = limits_of(HubTier.S1, 1).share(80)
    rates = hub_rates(limits, instances=8, clock=time.clock, sleep=time.sleep)
    for _ in range(QUERY_BURST):
        rates.take(HubCall.QUERY)
    assert time.slept == []


def test_an_allowance_without_a_tier_limits_nothing(time):
    for rates, call in ((Allowance().of_hub(), HubCall.UPDATE), (Allowance().of_vault(), VaultCall.SIGN)):
        for _ in range(10_000):
            rates.take(call)
    assert time.slept == []


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "0"}, 0),
        ({}, None),
        ({"Retry-After": ""}, None),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "٣"}, None),
        ({"Retry-After": "Fri, 17 May 2030 12:00:00 GMT"}, None),
    ],
)
def test_what_a_service_asks_for_is_a_number_of_seconds_or_nothing(headers, seconds):
    assert seconds_asked(headers) == seconds


def test_no_refusal_holds_back_for_more_than_a_minute(time):
    rates = CallRates("hub", clock=time.clock, sleep=time.sleep)
    for asked, waited in ((10.0**30, MAX_PAUSE_SECONDS), (None, UNTOLD_PAUSE_SECONDS), (3.0, 3.0)):
        rates.refused(HubCall.READ, asked)
        rates.take(HubCall.READ)
        assert time.slept[-1] == pytest.approx(waited)
