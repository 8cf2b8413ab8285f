"""What a CPM makes of releases: applied whole or not at all, and never backwards."""

import hashlib
import os
import time
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from simulators.releasing_cloud import AUDIENCE, DEVICE_ID, NAME

from cpm.custody.port import DeviceKeyType
from cpm.state_file import StateFile
from shared.errors import Conflict, FormatError, KeyUnavailable, StorageError, VerificationError
from shared.keys.kcv import key_check_value
from shared.keys.wrapping import WrapContext, wrap_key
from shared.public_keys import load_public_key
from shared.release.document import assemble, encode_claims, parse_release, to_be_signed
from shared.types import Audience, DeviceId, WrapAlgorithm


def _kcv(device, version, name=NAME):
    context = WrapContext(audience=AUDIENCE, device_id=DEVICE_ID, name=name, version=version)
    return key_check_value(device.cloud.class_key(name, version), context=context)


def _held(device, name=NAME):
    return [held["version"] for held in device.call("status")["keys"].get(name, [])]


@pytest.mark.parametrize("key_type", [DeviceKeyType.RSA2048, DeviceKeyType.P256, DeviceKeyType.X25519])
def test_release_is_applied_and_acknowledged_with_check_values(device, key_type):
    device.key_type = key_type
    for path in device.folder.iterdir():
        if path.is_file():
            path.unlink()
    device.start()

    reply = device.apply(sequence=5, keys={NAME: 3})

    assert reply == {"sequence": 5, "applied": True, "keys": {NAME: {"version": 3, "kcv": _kcv(device, 3)}}}
    status = device.call("status")
    assert status["sequence"] == 5
    assert status["latched_v2"] is True
    assert status["keys"] == {NAME: [{"version": 3, "kcv": _kcv(device, 3)}]}


def test_keys_survive_a_restart(device):
    device.apply(sequence=1, keys={NAME: 1})
    before = device.call("status")

    device.start()

    assert device.call("status") == before


def test_same_release_again_answers_the_same_and_writes_nothing(device):
    release, wrapped = device.cloud.release(device.spki, sequence=7, keys={NAME: 1})
    first = device.call("apply_release", release=release, wrapped_keys=wrapped)
    files = device.files()

    again = device.call("apply_release", release=release, wrapped_keys=wrapped)

    assert again == {**first, "applied": False}
    assert device.files() == files


@pytest.mark.parametrize("sequence", [7, 6])
def test_another_release_with_a_sequence_not_above_the_last_is_a_replay(device, sequence):
    device.apply(sequence=7, keys={NAME: 1})

    with pytest.raises(VerificationError) as refused:
        device.apply(sequence=sequence, keys={NAME: 2})

    assert refused.value.code == "replay"
    assert _held(device) == [1]


def test_replay_is_refused_after_a_restart_too(device):
    device.apply(sequence=7, keys={NAME: 2})
    device.start()

    with pytest.raises(VerificationError) as refused:
        device.apply(sequence=6, keys={NAME: 1})

    assert refused.value.code == "replay"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"signed_by": ec.generate_private_key(ec.SECP256R1())}, "signature_invalid"),
        ({"device_id": DeviceId("edge-02")}, "wrong_device"),
        ({"audience": Audience("other")}, "wrong_device"),
        ({"fingerprint": bytes(32)}, "key_mismatch"),
        ({"lease_seconds": -1}, "expired"),
    ],
)
def test_release_for_somebody_else_or_expired_changes_nothing(device, change, code):
    files = device.files()

    with pytest.raises(VerificationError) as refused:
        device.apply(sequence=1, keys={NAME: 1}, **change)

    assert refused.value.code == code
    assert device.files() == files
    assert device.call("status")["latched_v2"] is False


def test_one_key_that_does_not_unwrap_leaves_all_as_it_was(device):
    device.apply(sequence=1, keys={NAME: 1})
    files = device.files()
    release, wrapped = _release_with_foreign_wrapping(device)

    with pytest.raises(VerificationError) as refused:
        device.call("apply_release", release=release, wrapped_keys=wrapped)

    assert refused.value.code == "unwrap_failed"
    assert device.files() == files
    assert _held(device) == [1]


def _release_with_foreign_wrapping(device):
    """Sign a release of two keys, one of which is wrapped for another device."""
    cose, wrapped = device.cloud.release(device.spki, sequence=2, keys={NAME: 2, "other": 1})
    foreign = wrap_key(
        device.cloud.class_key("other", 1),
        load_public_key(device.spki, where="test"),
        WrapAlgorithm.HPKE_P256,
        context=WrapContext(audience=AUDIENCE, device_id="edge-99", name="other", version=1),
    )
    parsed = parse_release(cose, where="test")
    keys = dict(parsed.release.keys)
    keys["other"] = replace(keys["other"], wrapped_sha256=hashlib.sha256(foreign).digest())
    claims = encode_claims(replace(parsed.release, keys=keys))
    der = device.cloud.release_key.sign(to_be_signed(claims, kid=parsed.kid), ec.ECDSA(hashes.SHA256()))
    signature = b"".join(part.to_bytes(32, "big") for part in decode_dss_signature(der))
    return assemble(claims, kid=parsed.kid, signature=signature), {**wrapped, "other": foreign}


def test_wrapped_key_that_was_exchanged_is_refused(device):
    release, wrapped = device.cloud.release(device.spki, sequence=1, keys={NAME: 1})
    _, others = device.cloud.release(device.spki, sequence=1, keys={NAME: 1})

    with pytest.raises(VerificationError):
        device.call("apply_release", release=release, wrapped_keys=others)

    assert _held(device) == []
    assert wrapped != others


def test_names_that_a_release_does_not_list_are_forgotten(device):
    device.apply(sequence=1, keys={NAME: 1, "other": 1})

    device.apply(sequence=2, keys={"other": 1})

    assert _held(device) == []
    assert _held(device, "other") == [1]


def test_older_version_stays_until_the_floor_rises(device):
    device.apply(sequence=1, keys={NAME: 1})
    device.apply(sequence=2, keys={NAME: 2})
    assert _held(device) == [1, 2]

    device.apply(sequence=3, keys={NAME: 2}, floors={NAME: 2})

    assert _held(device) == [2]
    with pytest.raises(KeyUnavailable) as refused:
        device.service.find_key(NAME, 1)
    assert refused.value.code == "key_revoked"


def test_floor_never_falls(device):
    device.apply(sequence=1, keys={NAME: 5}, floors={NAME: 5})

    device.apply(sequence=2, keys={NAME: 5}, floors={NAME: 2})

    assert device.call("status")["floors"] == {NAME: 5}
    with pytest.raises(VerificationError) as refused:
        device.apply(sequence=3, keys={NAME: 4})
    assert refused.value.code == "rollback"


def test_floor_outlives_the_name(device):
    device.apply(sequence=1, keys={NAME: 2}, floors={NAME: 2})
    device.apply(sequence=2, keys={})

    with pytest.raises(VerificationError) as refused:
        device.apply(sequence=3, keys={NAME: 1})

    assert refused.value.code == "rollback"


def test_key_is_not_used_after_its_lease(device):
    now = int(time.time())
    device.apply(sequence=1, keys={NAME: 1}, issued_at=now, lease_seconds=100)
    device.now = now + 101

    with pytest.raises(KeyUnavailable) as refused:
        device.service.find_key(NAME, None)

    assert refused.value.code == "key_expired"
    assert _held(device) == []


def test_clock_set_back_does_not_bring_an_expired_key_back(device):
    now = int(time.time())
    device.apply(sequence=1, keys={"short": 1, NAME: 1}, issued_at=now, lease_seconds=10)
    device.apply(sequence=2, keys={NAME: 2}, issued_at=now + 1000)
    device.now = 0

    with pytest.raises(KeyUnavailable):
        device.service.find_key(NAME, 1)

    assert device.service.find_key(NAME, 2).version == 2


def test_lease_ends_though_the_clock_is_held(device):
    now = int(time.time())
    device.now = 0
    device.apply(sequence=1, keys={NAME: 1}, issued_at=now, lease_seconds=100)
    device.elapsed += 99
    assert device.service.find_key(NAME, 1).version == 1

    device.elapsed += 1

    with pytest.raises(KeyUnavailable) as refused:
        device.service.find_key(NAME, 1)
    assert refused.value.code == "key_expired"


def test_release_that_is_refused_moves_no_clock(device):
    now = int(time.time())
    device.now = 0
    device.apply(sequence=2, keys={NAME: 1}, issued_at=now, lease_seconds=100)

    with pytest.raises(VerificationError):
        device.apply(sequence=1, keys={NAME: 1}, issued_at=now + 1000)

    assert device.service.find_key(NAME, 1).version == 1


def test_time_goes_on_from_the_mark_after_a_restart(device):
    now = int(time.time())
    device.now = 0
    device.apply(sequence=1, keys={NAME: 1}, issued_at=now, lease_seconds=100)
    device.elapsed = 5  # the system was started anew, too
    device.start()
    device.elapsed += 99
    assert device.service.find_key(NAME, 1).version == 1

    device.elapsed += 1

    with pytest.raises(KeyUnavailable):
        device.service.find_key(NAME, 1)


def test_device_whose_clock_says_1970_takes_a_release(device):
    device.now = 0

    assert device.apply(sequence=1, keys={NAME: 1})["applied"] is True


def test_lease_is_renewed_by_a_release_of_the_same_version(device):
    now = int(time.time())
    device.apply(sequence=1, keys={NAME: 1}, issued_at=now, lease_seconds=100)
    device.apply(sequence=2, keys={NAME: 1}, issued_at=now, lease_seconds=1000)
    device.now = now + 500

    assert device.service.find_key(NAME, 1).not_after == now + 1000


def test_names_are_checked_before_anything_else(device):
    release, wrapped = device.cloud.release(device.spki, sequence=1, keys={NAME: 1})

    with pytest.raises(FormatError) as refused:
        device.call("apply_release", release=release, wrapped_keys={"../x": wrapped[NAME]})

    assert refused.value.code == "name_invalid"


# ── contract version 1 ────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def rsa_device(device):
    for path in device.folder.iterdir():
        if path.is_file():
            path.unlink()
    device.key_type = DeviceKeyType.RSA2048
    device.start()
    return device


def _v1_wrapped(device, algorithm, name=NAME):
    context = WrapContext(audience=AUDIENCE, device_id=DEVICE_ID, name=name, version=1)
    return wrap_key(
        device.cloud.class_key("planted"),
        load_public_key(device.spki, where="test"),
        algorithm,
        context=context,
    )


@pytest.mark.parametrize("algorithm", [WrapAlgorithm.RSA_OAEP_256, WrapAlgorithm.RSA1_5])
def test_v1_key_is_taken_before_the_first_release(rsa_device, algorithm):
    rsa_device.call(
        "install_application_key", application_id=NAME, wrapped_key=_v1_wrapped(rsa_device, algorithm)
    )

    found = rsa_device.service.find_key(NAME, None)
    assert found.key.reveal() == rsa_device.cloud.class_key("planted").reveal()
    assert rsa_device.call("status")["latched_v2"] is False


def test_planted_v1_key_is_refused_for_good_after_a_release(rsa_device):
    rsa_device.apply(sequence=1, keys={"other": 1})
    rsa_device.start()

    with pytest.raises(VerificationError) as refused:
        rsa_device.call(
            "install_application_key",
            application_id=NAME,
            wrapped_key=_v1_wrapped(rsa_device, WrapAlgorithm.RSA_OAEP_256),
        )

    assert refused.value.code == "rollback"
    assert _held(rsa_device) == []


def test_v1_key_does_not_outlive_the_first_release_even_under_a_listed_name(rsa_device):
    rsa_device.call(
        "install_application_key",
        application_id=NAME,
        wrapped_key=_v1_wrapped(rsa_device, WrapAlgorithm.RSA_OAEP_256),
    )

    rsa_device.apply(sequence=1, keys={NAME: 2})

    assert _held(rsa_device) == [2]


def test_v1_garbage_is_one_error(rsa_device):
    with pytest.raises(VerificationError) as refused:
        rsa_device.call("install_application_key", application_id=NAME, wrapped_key=os.urandom(255))

    assert refused.value.code == "unwrap_failed"
    assert _held(rsa_device) == []


def test_v1_key_is_refused_by_a_device_without_an_rsa_key(device):
    with pytest.raises(FormatError) as refused:
        device.call("install_application_key", application_id=NAME, wrapped_key=b"x" * 256)

    assert refused.value.code == "unsupported_algorithm"


# ── storage ───────────────────────────────────────────────────────────────────────────────────────────────


def test_full_disk_leaves_the_old_state(device, monkeypatch):
    device.apply(sequence=1, keys={NAME: 1})
    files = device.files()

    def no_room(_fd):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as fault:
        fault.setattr(os, "fsync", no_room)
        with pytest.raises(StorageError) as refused:
            device.apply(sequence=2, keys={NAME: 2})

    assert refused.value.code == "storage_full"
    assert device.files() == files
    assert _held(device) == [1]
    assert device.apply(sequence=2, keys={NAME: 2})["applied"] is True


def test_no_class_key_stands_in_any_file(device):
    device.apply(sequence=1, keys={NAME: 1, "other": 4})

    stored = b"".join(device.files().values())
    for name, version in ((NAME, 1), ("other", 4)):
        assert device.cloud.class_key(name, version).reveal() not in stored


def test_state_whose_every_byte_may_be_changed_is_never_taken(device):
    device.apply(sequence=1, keys={NAME: 1})
    path = device.folder / "state.sealed"
    sealed = path.read_bytes()

    for position in (0, 11, 12, len(sealed) // 2, len(sealed) - 1):
        path.write_bytes(sealed[:position] + bytes([sealed[position] ^ 1]) + sealed[position + 1 :])
        files = device.files()
        with pytest.raises(StorageError) as refused:
            device.start()
        assert refused.value.code == "state_damaged"
        assert device.files() == files

    path.write_bytes(sealed)
    device.start()
    assert _held(device) == [1]


@pytest.mark.parametrize("length", [0, 5, 40])
def test_cut_state_is_refused(device, length):
    path = device.folder / "state.sealed"
    path.write_bytes(path.read_bytes()[:length])

    with pytest.raises(StorageError) as refused:
        device.start()

    assert refused.value.code == "state_damaged"


@pytest.mark.parametrize("missing", ["state.sealed", "storage.root", "device.key"])
def test_folder_that_lost_a_file_is_damaged_and_not_new(device, missing):
    device.apply(sequence=1, keys={NAME: 1})
    (device.folder / missing).unlink()
    files = device.files()

    with pytest.raises(StorageError) as refused:
        device.start()

    assert refused.value.code == "state_damaged"
    assert device.files() == files


def test_first_start_that_was_cut_off_is_finished_by_the_next(device):
    (device.folder / "device.key").unlink()  # it is written last

    device.start()

    assert device.apply(sequence=1, keys={NAME: 1})["applied"] is True


def test_state_of_another_device_is_refused(device):
    with pytest.raises(Conflict) as refused:
        StateFile.open(device.folder, device.custody, audience=AUDIENCE, device_id=DeviceId("edge-02"))

    assert refused.value.code == "state_of_another"


@pytest.mark.parametrize("name", ["device.key", "storage.root", "state.sealed"])
def test_file_that_others_may_read_is_refused(device, name):
    (device.folder / name).chmod(0o640)

    with pytest.raises(StorageError) as refused:
        device.start()

    assert refused.value.code == "state_exposed"


# ── limits ────────────────────────────────────────────────────────────────────────────────────────────────


def test_keys_without_a_release_have_a_limit(rsa_device, monkeypatch):
    monkeypatch.setattr("cpm.keyring.MAX_V1_KEYS", 2)
    wrapped = _v1_wrapped(rsa_device, WrapAlgorithm.RSA_OAEP_256)
    for name in ("one", "two", "two"):
        rsa_device.call("install_application_key", application_id=name, wrapped_key=wrapped)

    with pytest.raises(StorageError) as refused:
        rsa_device.call("install_application_key", application_id="three", wrapped_key=wrapped)

    assert refused.value.code == "storage_full"
    assert sorted(rsa_device.call("status")["keys"]) == ["one", "two"]


def test_versions_of_a_key_have_a_limit_and_the_released_one_is_always_held(device, monkeypatch):
    monkeypatch.setattr("cpm.keyring.MAX_KEY_VERSIONS", 3)
    for version in range(1, 6):
        device.apply(sequence=version, keys={NAME: version})
    assert _held(device) == [3, 4, 5]

    device.apply(sequence=6, keys={NAME: 2})

    assert _held(device) == [2, 4, 5]
