"""The two keys in the vault: of the right kind or refused, in a vault of their own, in one that throttles."""

from __future__ import annotations

import hashlib
import secrets

import pytest
from azure.keyvault.secrets import SecretClient
from simulators.vault_process import VaultProcess

from functions.adapters.key_vault import (
    VaultKek,
    VaultReleaseSigner,
    check_kek,
    check_release_key,
)
from functions.adapters.key_vault_secrets import SecretClassKeyStore
from functions.adapters.vault_calls import vault_options
from functions.class_keys import ClassKeys
from local_cloud.vault_keys import KEK_NAME, RELEASE_KEY_NAME, ensure_vault_keys
from shared.errors import KeyUnavailable
from shared.keys.envelope import parse_envelope
from shared.types import KeyName

WRAPPING, SIGNING = ["wrapKey", "unwrapKey"], ["sign"]


@pytest.fixture(scope="module")
def vault(tmp_path_factory):
    vault = VaultProcess(tmp_path_factory.mktemp("vault"))
    yield vault
    vault.close()


@pytest.fixture
def name():
    return f"k-{secrets.token_hex(4)}"


def store_in(vault) -> SecretClassKeyStore:
    client = SecretClient(
        vault.url,
        vault.function_app,
        connection_verify=str(vault.ca_file),
        verify_challenge_resource=False,
        **vault_options(None),
    )
    return SecretClassKeyStore(client)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"size": 3072, "hardware_protected": False, "key_operations": WRAPPING}, "found RSA of 3072 bits"),
        ({"size": 2048, "hardware_protected": True, "key_operations": WRAPPING}, "RSA-HSM of 2048 bits"),
        (
            {"size": 3072, "hardware_protected": True, "key_operations": [*WRAPPING, "sign"]},
            "for sign, unwrapKey, wrapKey",
        ),
        ({"size": 3072, "hardware_protected": True, "key_operations": ["unwrapKey"]}, "for unwrapKey$"),
        ({"size": 3072, "hardware_protected": True}, "for decrypt, encrypt, sign"),
    ],
)
def test_a_kek_of_another_kind_size_or_use_seals_nothing(vault, name, options, found):
    keys = vault.keys()
    keys.create_rsa_key(name, **options)
    with pytest.raises(KeyUnavailable, match=found) as caught:
        VaultKek(keys, name).current()
    assert caught.value.code == "key_unfit"
    class_keys = ClassKeys(store_in(vault), VaultKek(keys, name))
    with pytest.raises(KeyUnavailable):
        class_keys.provision(KeyName(name), bits=256)
    assert KeyName(name) not in class_keys.states()


def test_an_ec_key_is_no_kek(vault, name):
    keys = vault.keys()
    keys.create_ec_key(name, hardware_protected=True)
    with pytest.raises(KeyUnavailable, match="EC-HSM of 0 bits"):
        VaultKek(keys, name).current()


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"curve": "P-256", "hardware_protected": False, "key_operations": SIGNING}, "found EC on P-256"),
        ({"curve": "P-384", "hardware_protected": True, "key_operations": SIGNING}, "EC-HSM on P-384"),
        ({"curve": "P-256", "hardware_protected": True, "key_operations": ["verify"]}, "for verify$"),
    ],
)
def test_a_release_key_of_another_kind_or_use_signs_nothing(vault, name, options, found):
    keys = vault.keys()
    keys.create_ec_key(name, **options)
    with pytest.raises(KeyUnavailable, match=found) as caught:
        VaultReleaseSigner(keys, name).key_id()
    assert caught.value.code == "key_unfit"


def test_a_release_key_may_verify_as_well(vault, name):
    keys = vault.keys()
    keys.create_ec_key(name, hardware_protected=True, key_operations=["sign", "verify"])
    assert VaultReleaseSigner(keys, name).key_id().startswith(f"{vault.url}/keys/{name}/")


def test_a_larger_kek_is_as_good(vault, name):
    keys = vault.keys()
    keys.create_rsa_key(name, size=4096, hardware_protected=True, key_operations=WRAPPING)
    assert VaultKek(keys, name).current().public_key.key_size == 4096


def test_what_the_local_cloud_makes_on_its_first_start_is_fit_and_made_once(tmp_path):
    vault = VaultProcess(tmp_path)
    try:
        options = {"identity_key": vault.operator._key, "ca_file": vault.ca_file}
        first = ensure_vault_keys(vault.url, **options)
        keys = vault.keys()
        kek, release = keys.get_key(KEK_NAME), keys.get_key(RELEASE_KEY_NAME)
        check_kek(kek)
        check_release_key(release)
        assert (len(kek.key.n) * 8, kek.key_operations, release.key_operations) == (3072, WRAPPING, SIGNING)
        assert ensure_vault_keys(vault.url, **options) == first
        assert keys.get_key(KEK_NAME).id == kek.id
    finally:
        vault.close()


def test_keys_in_a_vault_of_their_own_serve_class_keys_in_another(vault, tmp_path):
    hsm = VaultProcess(tmp_path)
    try:
        ensure_vault_keys(hsm.url, identity_key=hsm.operator._key, ca_file=hsm.ca_file)
        keys = hsm.keys()
        store, app = store_in(vault), KeyName(f"app-{secrets.token_hex(4)}")
        class_keys = ClassKeys(store, VaultKek(keys, KEK_NAME))
        class_keys.provision(app, bits=256)
        assert parse_envelope(store.read(app, 1), where="test").kid.startswith(f"{hsm.url}/keys/{KEK_NAME}/")
        assert len(class_keys.open(app, 1)) == 32
        signer = VaultReleaseSigner(keys, RELEASE_KEY_NAME)
        assert len(signer.sign(hashlib.sha256(b"x").digest(), key_id=signer.key_id())) == 64
    finally:
        hsm.close()


def test_a_vault_that_throttles_delays_and_loses_nothing(tmp_path):
    vault = VaultProcess(tmp_path, "--throttle", "4/1")
    try:
        store = store_in(vault)
        names = [KeyName(f"app-{number}") for number in range(3)]
        for name in names:
            store.create(name, "an envelope", algorithm="aes-gcm-256")
        assert [store.read(name, 1) for name in names] == ["an envelope"] * 3
        assert set(store.states()) == set(names)
    finally:
        vault.close()
