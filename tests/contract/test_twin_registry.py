"""What every registry of twins keeps: one suite, run on each adapter."""

import secrets
import threading

import pytest
from simulators.cloud import APP, Cloud
from simulators.fleet import Device
from simulators.hub_devices import HubDevices
from simulators.meeting_registry import run_at_once
from simulators.registry import MemoryRegistry

from functions.adapters.iot_hub import HubTwinRegistry
from shared.errors import Conflict, FormatError, NotFound
from shared.twin.settled import row_of
from shared.types import DeviceId, KeyName

OUTCOME = {"confidential_packages": {"state": "released", "at": "2030-01-01T00:00:00Z"}}


class MemoryHub:
    def __init__(self):
        self.registry = MemoryRegistry(page_size=2)
        self.enrol = self.registry.enrol
        self.delete = self.registry.delete
        self.report = self.registry.report


class LocalHub:
    """The local cloud's hub."""

    def __init__(self, cloud):
        self.registry = HubTwinRegistry.connect(cloud.hub_host, cloud.credential)
        devices = HubDevices(
            cloud.service_connection_string, device_host=cloud.device_host, ca_file=cloud.ca_file
        )
        self.enrol, self.delete, self.report = devices.enrol, devices.delete, devices.report


@pytest.fixture(params=["memory", "iot_hub"])
def hub(request):
    if request.param == "memory":
        return MemoryHub()
    return LocalHub(request.getfixturevalue("live_cloud"))


@pytest.fixture
def registry(hub):
    return hub.registry


@pytest.fixture
def device(hub):
    """A device that no other test uses: the hub is shared."""
    device_id = DeviceId(f"edge-{secrets.token_hex(4)}")
    hub.enrol(device_id, tags={"class": "gateway"})
    return device_id


def plain(section):
    return {name: value for name, value in section.items() if not name.startswith("$")}


def everybody(registry):
    return [row.device_id for row in rows_of(registry)]


def rows_of(registry):
    found, token = [], None
    while True:
        page = registry.rows(token=token)
        found += page.rows
        token = page.next_token
        if token is None:
            return found


def tagged(registry, size, **filters):
    found, token = [], None
    while True:
        page = registry.page(token=token, size=size, **filters)
        assert len(page.twins) <= size
        found += page.twins
        token = page.next_token
        if token is None:
            return found


def test_a_fresh_twin_is_enabled_and_empty_but_for_its_tags(registry, device):
    twin = registry.read(device)
    assert (twin.device_id, twin.status, twin.tags) == (device, "enabled", {"class": "gateway"})
    assert (plain(twin.desired), plain(twin.reported)) == ({}, {})


def test_a_patch_merges_tags_and_desired_at_once_and_null_deletes(registry, device):
    def patch(value):
        registry.patch(device, value, etag=registry.read(device).etag)

    patch({"properties": {"desired": {"a": {"b": "1", "c": "2"}, "d": 7}}, "tags": OUTCOME})
    patch({"properties": {"desired": {"a": {"b": None, "e": True}, "d": None}}})
    patch({"tags": {"confidential_packages": {"state": "denied", "at": None}}})
    twin = registry.read(device)
    assert plain(twin.desired) == {"a": {"c": "2", "e": True}}
    assert twin.tags == {"class": "gateway", "confidential_packages": {"state": "denied"}}


def test_a_row_tells_what_the_twin_does(registry, hub, device):
    reported = {
        "device_public_key": "AAAA",
        "device_cert": {"0": "BBBB"},
        "confidential_package_status": {"v": 2, "seq": 7, "pkf": "00", "algs": "X", "failed": "abc"},
    }
    hub.report(device, reported)
    registry.patch(
        device,
        {"tags": OUTCOME, "properties": {"desired": {"a": "1"}}},
        etag=registry.read(device).etag,
    )
    [row] = [row for row in rows_of(registry) if row.device_id == device]
    assert row == row_of(registry.read(device))
    assert (row.sequence, row.fingerprint, row.algorithms, row.failed) == (7, "00", "X", "abc")
    assert (row.key_updated is not None, row.certificate_updated is not None) == (True, True)


def test_the_version_of_desired_rises_by_one_with_each_write(registry, device):
    def version():
        return registry.read(device).desired["$version"]

    before = version()
    registry.patch(device, {"properties": {"desired": {"a": "1", "b": "2"}}}, etag=registry.read(device).etag)
    assert version() == before + 1
    registry.patch(device, {"tags": OUTCOME}, etag=registry.read(device).etag)
    assert version() == before + 1


def test_the_etag_moves_with_every_write(registry, device):
    before = registry.read(device).etag
    registry.patch(device, {"tags": {"x": "1"}}, etag=before)
    assert registry.read(device).etag != before


def test_a_stale_etag_is_a_conflict_and_changes_nothing(registry, device):
    stale = registry.read(device).etag
    registry.patch(device, {"tags": {"x": "1"}}, etag=stale)
    with pytest.raises(Conflict) as caught:
        registry.patch(device, {"tags": {"x": "2"}}, etag=stale)
    assert caught.value.code == "twin_conflict"
    assert registry.read(device).tags["x"] == "1"


def test_a_report_is_read_and_does_not_move_the_etag(hub, registry, device):
    before = registry.read(device)
    hub.report(device, {"device_public_key": "AAAA"})
    after = registry.read(device)
    assert plain(after.reported) == {"device_public_key": "AAAA"}
    assert after.etag == before.etag
    assert device in everybody(registry)


def test_who_holds_keys_or_a_release_is_a_candidate_and_nobody_else(registry, hub, device):
    names = [DeviceId(f"{device}-{number}") for number in range(3)]
    for name in names:
        hub.enrol(name)
    for name, desired in zip(
        names,
        ({"confidential_package_keys": {"k": "AAAA"}}, {"confidential_package_release": {"v": 2}}, {"x": 1}),
        strict=True,
    ):
        registry.patch(name, {"properties": {"desired": desired}}, etag=registry.read(name).etag)
    found = everybody(registry)
    assert [name in found for name in names] == [True, True, False]
    assert device not in found


def test_a_module_is_read_patched_and_found_under_its_device(registry, hub, device):
    module = DeviceId(f"{device}/agent")
    hub.enrol(module)
    twin = registry.read(module)
    assert (twin.device_id, twin.status) == (module, "enabled")
    patch = {"properties": {"desired": {"confidential_package_keys": {"k": "AAAA"}}}, "tags": OUTCOME}
    registry.patch(module, patch, etag=twin.etag)
    found = everybody(registry)
    assert (module in found, device in found) == (True, False)
    assert module in {each.device_id for each in tagged(registry, 100)}


def test_a_disabled_device_says_so(registry, hub, device):
    disabled = DeviceId(f"{device}-off")
    hub.enrol(disabled, status="disabled")
    assert registry.read(disabled).status == "disabled"


def test_pages_lead_through_all_that_bear_an_outcome(registry, hub, device):
    names = [DeviceId(f"{device}-{number}") for number in range(5)]
    for name in names:
        hub.enrol(name, tags=OUTCOME)
    found = [twin.device_id for twin in tagged(registry, 2)]
    assert set(names) <= set(found)
    assert len(found) == len(set(found))
    assert device not in found


def test_pages_may_be_of_one_state_and_one_reason_alone(registry, hub, device):
    reason = f"r_{device.rpartition('-')[2].lower()}"
    outcomes = [("denied", reason), ("denied", "other"), ("released", reason)]
    for number, (state, each) in enumerate(outcomes):
        tag = {**OUTCOME["confidential_packages"], "state": state, "reason": each}
        hub.enrol(f"{device}-{number}", tags={"confidential_packages": tag})
    assert {twin.device_id for twin in tagged(registry, 1, state="denied", reason=reason)} == {f"{device}-0"}
    assert {twin.device_id for twin in tagged(registry, 1, reason=reason)} == {f"{device}-0", f"{device}-2"}
    with pytest.raises(FormatError):
        registry.page(token="' OR '", size=1, state="' OR '")


def test_a_token_of_nobody_is_refused(registry):
    with pytest.raises(FormatError):
        registry.page(token="nobody's", size=2)


@pytest.mark.parametrize("device_id", ["nobody", "nobody/agent"])
def test_an_unknown_device_is_not_found(registry, device_id):
    with pytest.raises(NotFound) as caught:
        registry.read(DeviceId(device_id))
    assert caught.value.code == "device_not_found"
    with pytest.raises(NotFound):
        registry.patch(DeviceId(device_id), {"tags": {"x": "1"}}, etag="AAAAAAAAAAE=")


def test_a_deleted_device_is_not_found(registry, hub, device):
    hub.delete(device)
    with pytest.raises(NotFound):
        registry.read(device)


def test_ids_may_hold_all_that_the_hub_allows(registry, hub, device):
    odd = DeviceId(f"{device}:.+%_#*?!(),=@$'")
    hub.enrol(odd, tags={"x": "1"})
    assert registry.read(odd).tags == {"x": "1"}


def test_desired_beyond_what_the_hub_holds_is_refused_whole(registry, device):
    section = {f"p{number}": "x" * 4000 for number in range(9)}
    with pytest.raises(FormatError):
        registry.patch(device, {"properties": {"desired": section}}, etag=registry.read(device).etag)
    assert plain(registry.read(device).desired) == {}


def test_several_threads_may_use_it(registry, device):
    found = []
    threads = [threading.Thread(target=lambda: found.append(registry.read(device).status)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == ["enabled"] * 4


def test_of_passes_that_have_all_read_a_twin_one_writes_it(hub):
    cloud = Cloud()
    cloud.registry = hub.registry
    cloud.class_keys.provision(APP, bits=256)
    fleet = [DeviceId(f"edge-{secrets.token_hex(4)}") for _ in range(4)]
    for device_id in fleet:
        hub.enrol(device_id, tags={"class": "gateway"})
        hub.report(device_id, Device.make(cloud.authority, device_id).report())
    before = {device_id: hub.registry.read(device_id).desired["$version"] for device_id in fleet}

    assert run_at_once(cloud, fleet, passes=3) == []

    assert cloud.registry.conflicts == 2 * len(fleet)
    for device_id in fleet:
        twin = hub.registry.read(device_id)
        assert twin.desired["$version"] == before[device_id] + 1
        assert twin.tags["confidential_packages"]["state"] == "released"


# ── holders ───────────────────────────────────────────────────────────────────────────────────────────────


def holders(registry, name, **filters):
    """Return every holder by its id, page by page."""
    found, token = {}, None
    while True:
        page = registry.holders(name, token=token, size=2, **filters)
        assert len(page.rows) <= 2
        found |= {row.device_id: row for row in page.rows}
        token = page.next_token
        if token is None:
            return found


def status(name, **report):
    return {"confidential_package_status": {"v": 2, "keys": {name: report}}}


def give(registry, device_id, name, *, staged=None):
    tag = {"state": "released"} | ({} if staged is None else {"rollout": {name: staged}})
    patch = {
        "tags": {"confidential_packages": tag},
        "properties": {"desired": {"confidential_package_keys": {name: "AAAA"}}},
    }
    registry.patch(device_id, patch, etag=registry.read(device_id).etag)


def test_whoever_reports_a_class_key_or_was_given_it_holds_it(hub, registry, device):
    # Names that are a word of the query language, or hold what it takes for a sign, are names like any other.
    name = KeyName(f"in-2_{secrets.token_hex(4)}")
    for suffix in ("a", "b", "c/agent", "d"):
        if "/" in suffix:
            hub.enrol(f"{device}-{suffix.partition('/')[0]}")
        hub.enrol(f"{device}-{suffix}")
    reports, given, module, other = (DeviceId(f"{device}-{suffix}") for suffix in ("a", "b", "c/agent", "d"))
    hub.report(reports, status(name, ver=1, state="error", error="unwrap_failed"))
    give(registry, given, name)
    give(registry, module, name, staged=2)
    give(registry, other, KeyName(f"{name}-other"), staged=2)

    found = holders(registry, name)

    assert set(found) == {reports, given, module}
    assert found[reports].report == {"ver": 1, "state": "error", "error": "unwrap_failed"}
    assert (found[reports].given_at, found[reports].staged, found[reports].outcome) == (None, None, None)
    assert (found[given].report, found[given].staged, found[given].outcome) == (None, None, "released")
    assert isinstance(found[given].given_at, str)
    assert (found[module].staged, isinstance(found[module].given_at, str)) == (2, True)
    assert set(holders(registry, name, version=1)) == {reports}
    assert set(holders(registry, name, version=2)) == {module}
    assert set(holders(registry, name, state="error")) == {reports}
    assert set(holders(registry, name, version=1, state="installed")) == set()
    assert holders(registry, KeyName(f"{name}-none")) == {}


def test_what_no_page_told_and_what_is_no_word_is_refused(registry):
    for wrong in ({"token": "nobody's"}, {"token": None, "state": "x' OR 'x' = 'x"}):
        with pytest.raises(FormatError):
            registry.holders(KeyName("app"), size=10, **wrong)
