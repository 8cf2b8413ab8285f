"""Fault campaigns in one process and simulated time: no wrong key whatever goes wrong, and all comes to rest.

A seed draws everything, so what fails once fails again: ``pytest tests/faults --campaign-seed 7``.
"""

from __future__ import annotations

import json

import pytest
from simulators.campaign import poison
from simulators.campaign.campaign import Campaign
from simulators.campaign.instances import queue_message
from simulators.campaign.oracle import Grants

from functions import audit_chain, distribute_key
from functions.distribution_messages import PageMessage
from functions.endpoint import PAGES_QUEUE
from shared.types import DeviceId

EVERYONE = Grants(
    keys=dict.fromkeys(("gateway", "camera", "lab", "kiosk"), ("*",)), open_to=frozenset({"lab"})
)

FAULTS = (
    {
        "refused",
        "lost",
        "twice",
        "dies_before",
        "dies_after",
        "late",
        "interrupted",
        "429 storm",
        "clock step",
    }
    | {f"{place} away" for place in ("hub", "vault", "audit", "policy")}
    | {"hub restarted", "instance killed"}
)
LONG = 2500
"""Steps after which every kind of fault must have come."""


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch):
    """Make a pass go on from message to message, and the audit chain from segment to segment."""
    monkeypatch.setattr(distribute_key, "PASS_SECONDS", 0.0)
    monkeypatch.setattr(audit_chain, "SEGMENT_ENTRIES", 50)


@pytest.fixture
def start(tmp_path):
    """Start campaigns; each is closed at the end."""
    campaigns = []

    def started(seed, **options):
        campaigns.append(Campaign(tmp_path, seed=seed, **options))
        return campaigns[-1]

    yield started
    for campaign in campaigns:
        campaign.close()


@pytest.mark.timeout(900)
def test_whatever_goes_wrong_no_device_has_a_wrong_key_and_the_fleet_comes_to_rest(
    start, campaign_seed, campaign_steps
):
    campaign = start(campaign_seed)
    campaign.run(steps=campaign_steps)
    assert campaign.oracle.releases > campaign_steps / 20, "hardly anything was released"
    assert campaign.oracle.applied > campaign_steps / 40, "hardly anything was applied"
    if campaign_steps >= LONG:
        assert campaign.chaos.seen.keys() >= FAULTS


def test_the_same_seed_is_the_same_campaign(start, tmp_path):
    logs = []
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        campaign = Campaign(tmp_path / folder, seed=3, devices=12)
        campaign.run(steps=300)
        campaign.close()
        logs.append(campaign.log.lines)
    assert logs[0] == logs[1]


def calm(start, **options) -> Campaign:
    """Return a fleet in which every device of a known class holds the class key ``app``."""
    campaign = start(1, **options)
    campaign.chaos.is_calm = True
    campaign.publish(EVERYONE)
    campaign.operate("ProvisionKey", {"key_name": "app"})
    return campaign


@pytest.mark.timeout(600)
def test_a_poison_twin_among_a_thousand_keeps_nobody_else_from_a_key(start):
    campaign = calm(start, devices=1000, page_size=1000)
    kinds = campaign.random.sample(sorted(poison.kinds()), 25)
    for number, kind in enumerate(kinds):
        campaign.hub.overlays[DeviceId(f"edge-{number * 40 + 17:04}")] = poison.kinds()[kind]
    campaign.come_to_rest(passes=2)
    assert not any(queue.aside_count for queue in campaign.queues.values())


@pytest.mark.timeout(600)
@pytest.mark.parametrize("poisoned", ["edge-0000", "edge-0002"], ids=["certified", "open to all"])
def test_no_kind_of_twin_stops_a_page(start, caplog, poisoned):
    campaign = calm(start, devices=6)
    campaign.come_to_rest(passes=2)
    instance = campaign.instances[0]
    page = PageMessage(
        devices=[DeviceId(name) for name in ("edge-0001", poisoned, "edge-0005")],
        attempt=1,
        correlation_id="t",
    )
    for name, kind in poison.kinds().items():
        campaign.hub.overlays[DeviceId(poisoned)] = kind
        campaign.time.go_on(1)
        _, put = instance.call("DistributeKeyPage", message=queue_message(page.encode()))
        failed = [device for text in put.get(PAGES_QUEUE, []) for device in json.loads(text)["devices"]]
        assert set(failed) <= {poisoned}, name
    assert [record for record in caplog.records if record.message == "distribute_defect"] == []
