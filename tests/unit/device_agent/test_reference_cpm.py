"""What is peculiar to the reference CPM: its faults, and that its releases are judged by the client."""

import fcntl
import json
from pathlib import Path

import pytest
from simulators.reference_tool import ReferenceTool
from simulators.releasing_cloud import AUDIENCE, DEVICE_ID, NAME, ReleasingCloud

from device_agent.reference_cpm import Pins, ReferenceCpm
from shared.encoding import encode_base64
from shared.errors import FormatError, StorageError, TransportError, VerificationError
from shared.public_keys import KeyKind, load_public_key
from shared.types import WrapAlgorithm

RSA1_5 = WrapAlgorithm.RSA1_5


@pytest.fixture
def tool(tmp_path):
    return ReferenceTool(tmp_path / "reference")


@pytest.fixture
def cloud():
    return ReleasingCloud()


@pytest.fixture
def make(tool, cloud, tmp_path):
    def client(**options):
        pins = Pins(device_id=DEVICE_ID, audience=AUDIENCE, release_keys=[cloud.release_key.public_key()])
        return ReferenceCpm(tool.path, pins=pins, folder=tmp_path, **options)

    return client


@pytest.fixture
def cpm(make):
    return make()


def release(cloud, cpm, sequence, keys, **options):
    return cloud.release(
        cpm.identify().spki, sequence=sequence, keys=keys, **{"algorithm": RSA1_5, **options}
    )


def test_class_key_reaches_the_one_slot_through_argv_and_nothing_else(cloud, cpm, tool):
    cose, wrapped = release(cloud, cpm, 7, {NAME: 3})

    cpm.apply_release(cose, wrapped)

    assert tool.slot == cloud.class_key(NAME, 3).reveal()
    assert ["sync", "-a", NAME, "-m", "commandline", "-k", encode_base64(wrapped[NAME])] in tool.calls
    assert all(call[0] in {"sync", "pub-key"} for call in tool.calls)


def test_it_pings_before_it_asks_for_the_key(cpm, tool):
    cpm.identify()

    assert [call[0] for call in tool.calls] == ["sync", "pub-key"]
    assert "-k" not in tool.calls[0]
    assert tool.slot is None


@pytest.mark.parametrize("fault", ["", "pkcs1"])
def test_key_is_reported_as_spki_whichever_der_the_tool_prints(cpm, tool, fault):
    tool.fail(fault)

    key = cpm.identify()

    assert load_public_key(key.spki, where="test").kind is KeyKind.RSA
    assert key.algorithms == (RSA1_5,)


@pytest.mark.parametrize("fault", ["no_tee", "hang", "flood"])
def test_tool_that_does_not_answer_in_its_limits_is_an_absent_cpm(make, tool, fault):
    tool.fail(fault)

    with pytest.raises(TransportError) as caught:
        make(seconds=3.0).identify()

    assert caught.value.code == "cpm_unavailable"


def test_tool_that_prints_no_key_is_refused(cpm, tool):
    tool.fail("garbage")

    with pytest.raises(FormatError, match="pub-key"):
        cpm.identify()


@pytest.mark.parametrize("fault", ["", "zero"])
def test_key_that_is_not_taken_is_told_whatever_the_status(cloud, cpm, tool, fault):
    tool.fail(fault)
    cpm.identify()

    with pytest.raises(VerificationError) as caught:
        cpm.install_application_key(NAME, bytes(256))

    assert caught.value.code == "unwrap_failed"
    assert dict(cpm.status().keys) == {}


def test_key_of_every_load_anew_is_never_taken_for_one_that_holds_a_class_key(cloud, cpm, tool):
    cose, wrapped = release(cloud, cpm, 7, {NAME: 1})
    tool.fail("new_key_at_every_load")

    with pytest.raises((TransportError, VerificationError)) as caught:
        cpm.apply_release(cose, wrapped)

    assert caught.value.code in {"cpm_unavailable", "key_mismatch"}
    assert cpm.status().sequence == 0


def test_application_that_was_loaded_anew_has_lost_its_keys_and_takes_a_new_release(cloud, cpm, tool):
    cpm.apply_release(*release(cloud, cpm, 7, {NAME: 1}))
    before = cpm.status()

    tool.unload()

    after = cpm.status()
    assert after.fingerprint != before.fingerprint
    assert (after.sequence, dict(after.keys)) == (7, {})
    cpm.apply_release(*release(cloud, cpm, 8, {NAME: 1}))
    assert cpm.status().keys[NAME].version == 1


def test_release_of_two_keys_is_refused_before_anything_is_handed_over(cloud, cpm, tool):
    with pytest.raises(VerificationError) as caught:
        cpm.apply_release(*release(cloud, cpm, 7, {NAME: 1, "other": 1}))

    assert caught.value.code == "storage_full"
    assert tool.slot is None


def test_other_wrapping_than_pkcs1_is_refused_before_anything_is_handed_over(cloud, cpm, tool):
    with pytest.raises(VerificationError) as caught:
        cpm.apply_release(*release(cloud, cpm, 7, {NAME: 1}, algorithm=WrapAlgorithm.RSA_OAEP_256))

    assert caught.value.code == "unsupported_algorithm"
    assert tool.slot is None


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"device_id": "edge-02"}, "wrong_device"),
        ({"audience": "other"}, "wrong_device"),
        ({"issued_at": 1_600_000_000}, "expired"),
        ({"floors": {NAME: 2}}, "rollback"),
    ],
)
def test_release_is_judged_as_a_cpm_would(cloud, cpm, tool, options, code):
    with pytest.raises(VerificationError) as caught:
        cpm.apply_release(*release(cloud, cpm, 7, {NAME: 1}, **options))

    assert caught.value.code == code
    assert tool.slot is None


def test_floors_and_sequence_outlive_the_client_and_the_load(cloud, make, tool):
    first = make()
    first.apply_release(*release(cloud, first, 7, {NAME: 2}, floors={NAME: 2}))
    tool.unload()
    second = make()

    for sequence, code in ((6, "replay"), (8, "rollback")):
        with pytest.raises(VerificationError) as caught:
            second.apply_release(*release(cloud, second, sequence, {NAME: 1}))
        assert caught.value.code == code


def test_clock_of_1970_is_corrected_by_the_last_release(cloud, make):
    now = 1_800_000_000
    make(clock=lambda: now).apply_release(*release(cloud, make(), 7, {NAME: 1}, issued_at=now))
    woken = make(clock=lambda: 0.0)

    with pytest.raises(VerificationError) as caught:
        woken.apply_release(*release(cloud, woken, 8, {NAME: 1}, issued_at=now - 7200))

    assert caught.value.code == "expired"
    assert woken.apply_release(*release(cloud, woken, 9, {NAME: 1}, issued_at=now)).applied


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"sequence": -1}', '{"fingerprint": "zz"}'])
def test_damaged_memory_is_never_taken_for_none(cloud, cpm, tmp_path, damage):
    cpm.apply_release(*release(cloud, cpm, 7, {NAME: 1}))
    (tmp_path / "reference-cpm.json").write_text(damage)

    with pytest.raises(StorageError) as caught:
        cpm.apply_release(*release(cloud, cpm, 8, {NAME: 1}))

    assert caught.value.code == "state_damaged"


def test_memory_holds_no_key(cloud, cpm, tmp_path):
    cpm.apply_release(*release(cloud, cpm, 7, {NAME: 1}))

    document = json.loads((tmp_path / "reference-cpm.json").read_text())

    assert document.keys() == {"fingerprint", "sequence", "digest", "issued_at", "floors", "keys"}
    assert document["keys"] == {NAME: 1}


def test_one_command_runs_at_a_time(cpm, tmp_path):
    cpm.identify()
    with Path(tmp_path / "reference-cpm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        with pytest.raises(TransportError, match="another command"):
            cpm.identify()


def test_package_whose_signature_failed_is_an_error_though_the_tool_ends_with_zero(cpm, tool, tmp_path):
    package = tmp_path / "app.cpk"
    package.write_bytes(bytes(100))
    tool.fail("bad_signature")

    with pytest.raises(VerificationError, match="did not confirm"):
        cpm.install_package(package)

    tool.fail()
    cpm.install_package(package)
    assert tool.calls[-1] == ["install", "-p", str(package)]
