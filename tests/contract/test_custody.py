"""What every custody keeps: one suite, run on each back end."""

import os

import pytest

from cpm.custody.port import DeviceKeyType
from cpm.custody.software import SoftwareCustody
from shared.certificates import KeyKind
from shared.errors import StorageError, VerificationError
from shared.keys.wrapping import WrapContext, wrap_key
from shared.types import Audience, KeyName, Secret, WrapAlgorithm

CONTEXT = WrapContext(audience=Audience("a"), device_id="edge-01", name=KeyName("k"), version=1)
KINDS = {
    DeviceKeyType.RSA2048: (KeyKind.RSA, WrapAlgorithm.RSA_OAEP_256),
    DeviceKeyType.P256: (KeyKind.P256, WrapAlgorithm.HPKE_P256),
    DeviceKeyType.X25519: (KeyKind.X25519, WrapAlgorithm.HPKE_X25519),
}


@pytest.fixture(params=KINDS, ids=lambda key_type: f"software-{key_type.value}")
def key_type(request):
    return request.param


@pytest.fixture
def open_custody(tmp_path, key_type):
    """Open a custody over one folder, again and again."""
    return lambda: SoftwareCustody.open(tmp_path, key_type=key_type)


def test_first_start_makes_a_key_of_the_kind_that_was_asked_for(open_custody, key_type):
    custody = open_custody()

    kind, algorithm = KINDS[key_type]
    assert custody.fresh
    assert custody.public_key.kind is kind
    assert custody.algorithms[0] is algorithm


def test_committed_key_stays_the_same_and_an_uncommitted_one_does_not(open_custody):
    uncommitted = open_custody().public_key.fingerprint
    custody = open_custody()
    custody.commit()

    again = open_custody()

    assert again.public_key.fingerprint == custody.public_key.fingerprint != uncommitted
    assert not again.fresh
    assert not custody.fresh


@pytest.mark.parametrize("length", [16, 24, 32])
def test_what_was_wrapped_for_it_unwraps(open_custody, length):
    custody = open_custody()
    key = Secret(os.urandom(length))
    for algorithm in custody.algorithms:
        wrapped = wrap_key(key, custody.public_key, algorithm, context=CONTEXT)

        assert custody.unwrap(wrapped, algorithm, context=CONTEXT).reveal() == key.reveal()


def test_what_was_wrapped_for_another_device_key_is_one_error(open_custody, tmp_path, key_type):
    other = SoftwareCustody.open(tmp_path, key_type=key_type)  # never committed: another key
    custody = open_custody()
    algorithm = custody.algorithms[0]
    wrapped = wrap_key(Secret(os.urandom(32)), other.public_key, algorithm, context=CONTEXT)

    for bad in (wrapped, wrapped[:-1], b"", os.urandom(len(wrapped))):
        with pytest.raises(VerificationError) as refused:
            custody.unwrap(bad, algorithm, context=CONTEXT)
        assert (refused.value.code, str(refused.value)) == (
            "unwrap_failed",
            "the wrapped key does not open for this key",
        )


def test_sealed_content_opens_after_a_restart_and_looks_different_every_time(open_custody):
    custody = open_custody()
    custody.commit()
    one, other = custody.seal(b"content", purpose="state"), custody.seal(b"content", purpose="state")

    assert one != other
    assert b"content" not in one
    assert open_custody().unseal(one, purpose="state") == b"content"


def test_sealed_content_opens_for_no_other_purpose_and_not_when_changed(open_custody):
    custody = open_custody()
    sealed = custody.seal(b"content", purpose="state")
    changed = sealed[:-1] + bytes([sealed[-1] ^ 1])

    for bad, purpose in ((sealed, "other"), (changed, "state"), (sealed[:10], "state"), (b"", "state")):
        with pytest.raises(StorageError) as refused:
            custody.unseal(bad, purpose=purpose)
        assert refused.value.code == "state_damaged"


def test_files_are_for_their_owner_only(open_custody, tmp_path):
    open_custody().commit()

    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
        "device.key": 0o600,
        "storage.root": 0o600,
    }


@pytest.mark.parametrize("content", [b"", b"-----BEGIN PRIVATE KEY-----\n", os.urandom(200)])
def test_damaged_device_key_is_refused_and_stays_as_it_is(open_custody, tmp_path, content):
    open_custody().commit()
    (tmp_path / "device.key").write_bytes(content)

    with pytest.raises(StorageError) as refused:
        open_custody()

    assert refused.value.code == "state_damaged"
    assert (tmp_path / "device.key").read_bytes() == content


def test_storage_root_of_another_length_is_refused(open_custody, tmp_path):
    open_custody().commit()
    (tmp_path / "storage.root").write_bytes(b"short")

    with pytest.raises(StorageError) as refused:
        open_custody()

    assert refused.value.code == "state_damaged"
