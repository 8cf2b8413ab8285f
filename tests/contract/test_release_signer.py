"""What every signer of releases keeps: one suite, run on each adapter."""

import hashlib

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from simulators.vault import SoftwareSigner

from functions.adapters.key_vault import VaultReleaseSigner, make_key_client
from shared.errors import TransportError

MESSAGE = b"to be signed"


@pytest.fixture(params=["memory", "key_vault"])
def signer(request):
    if request.param == "memory":
        return SoftwareSigner()
    cloud = request.getfixturevalue("live_cloud")
    client = make_key_client(cloud.vault_url, cloud.credential, verify_challenge=False)
    return VaultReleaseSigner(client, "release-signing")


def verifies(key, signature, message):
    r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
    try:
        key.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def test_a_signature_is_64_bytes_and_verifies_under_one_of_its_public_keys(signer):
    signature = signer.sign(hashlib.sha256(MESSAGE).digest(), key_id=signer.key_id())
    assert len(signature) == 64
    assert any(verifies(key, signature, MESSAGE) for key in signer.public_keys())
    assert not any(verifies(key, signature, b"another") for key in signer.public_keys())


def test_public_keys_are_on_p256(signer):
    assert {key.curve.name for key in signer.public_keys()} == {"secp256r1"}


def test_a_key_id_names_a_version(signer):
    name, version = signer.key_id().rsplit("/", 2)[1:]
    assert (name, bool(version)) == ("release-signing", True)


def test_a_vault_without_the_key_is_a_transport_error(live_cloud):
    client = make_key_client(live_cloud.vault_url, live_cloud.credential, verify_challenge=False)
    with pytest.raises(TransportError):
        VaultReleaseSigner(client, "no-such-key").key_id()
