"""What a fleet asks of its hub: which limit binds, and how many keys fit, beside the code that writes."""

from pathlib import Path

import pytest
from simulators.cloud import Cloud

from shared.keys.wrapping import wrapped_size
from shared.twin.budget import DESIRED_BUDGET, section_size
from shared.twin.capacity import (
    HubTier,
    desired_bytes,
    distribution,
    keys_that_fit,
    limits_of,
    listing_pass,
)
from shared.types import WrapAlgorithm

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "fleet.md"
WRAPPED = {"RSA-2048": 256, "RSA-3072": 384, "RSA-4096": 512, "P-256": 113, "X25519": 80}


@pytest.mark.parametrize(
    ("tier", "units", "limits"),
    [
        (HubTier.F1, 1, (100, 50, 20 / 60, 8000)),
        (HubTier.S1, 1, (100, 50, 20 / 60, 400_000)),
        (HubTier.S1, 4, (100, 50, 80 / 60, 1_600_000)),
        (HubTier.S2, 3, (100, 50, 1, 18_000_000)),
        (HubTier.S2, 20, (200, 100, 400 / 60, 120_000_000)),
        (HubTier.S3, 2, (1000, 500, 2000 / 60, 600_000_000)),
    ],
)
def test_limits_are_those_of_the_tier_and_its_units(tier, units, limits):
    found = limits_of(tier, units)
    assert (found.reads, found.updates, found.queries, found.messages) == pytest.approx(limits)


def test_a_share_is_of_the_rates_and_not_of_the_day():
    found = limits_of(HubTier.S1, 1).share(50)
    assert (found.reads, found.updates, found.queries) == pytest.approx((50, 25, 10 / 60))
    assert found.messages == 400_000


def test_the_free_tier_counts_smaller_messages():
    free = distribution(devices=10, keys=1, wrapped_bytes=256, limits=limits_of(HubTier.F1, 1))
    paid = distribution(devices=10, keys=1, wrapped_bytes=256, limits=limits_of(HubTier.S1, 1))
    assert free.messages > paid.messages == 30


def test_updates_bind_on_a_small_hub_and_the_vault_on_a_large_one():
    small = distribution(devices=100_000, keys=10, wrapped_bytes=256, limits=limits_of(HubTier.S2, 3))
    large = distribution(devices=100_000, keys=10, wrapped_bytes=256, limits=limits_of(HubTier.S3, 2))
    assert (small.binding, small.duration) == ("twin updates", 2000)
    assert (large.binding, large.duration) == ("signatures of the vault", 500)


def test_a_quota_that_is_used_up_makes_it_last_for_days():
    effort = distribution(devices=1_000_000, keys=1, wrapped_bytes=256, limits=limits_of(HubTier.S1, 1))
    assert effort.messages == 3_000_000
    assert effort.binding == "messages a day"
    assert effort.duration == 7 * 86_400


def test_an_unchanged_pass_costs_pages_and_no_message():
    effort = listing_pass(devices=100_001, limits=limits_of(HubTier.S3, 1))
    assert (effort.duration, effort.messages) == (pytest.approx(101 * 60 / 1000), 0)


@pytest.mark.parametrize("wrapped", WRAPPED.values(), ids=WRAPPED.keys())
def test_one_key_more_than_fits_does_not(wrapped):
    most = keys_that_fit(wrapped)
    assert desired_bytes(most, wrapped) <= DESIRED_BUDGET < desired_bytes(most + 1, wrapped)


def test_the_estimate_is_what_a_release_really_takes():
    cloud = Cloud()
    names = [f"{number:020}" for number in range(5)]
    for name in names:
        cloud.class_keys.provision(name, bits=256)
    device = cloud.enrol("d" * 20, kind="rsa")
    cloud.run()
    size = wrapped_size(device.public_key, WrapAlgorithm.RSA_OAEP_256, 32)
    taken = section_size(cloud.registry.snapshot(device.device_id)["desired"])
    assert abs(desired_bytes(5, size) - taken) < 100


def test_the_guide_shows_how_many_keys_fit():
    rows = [line for line in GUIDE.read_text().splitlines() if line.startswith("| RSA") or "| HPKE" in line]
    found = [int(row.split("|")[3]) for row in rows]
    assert found == [keys_that_fit(wrapped) for wrapped in WRAPPED.values()]
