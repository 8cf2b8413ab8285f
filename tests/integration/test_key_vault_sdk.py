"""The key vault process, over TLS, through the unmodified Azure SDKs."""

import base64
import hashlib
import secrets
import signal
import ssl
import stat
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import datetime

import httpx
import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
    ServiceRequestError,
)
from azure.keyvault.keys import KeyClient, KeyOperation
from azure.keyvault.keys.crypto import CryptographyClient, KeyWrapAlgorithm, SignatureAlgorithm
from azure.keyvault.secrets import SecretClient
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from local_cloud import tokens
from local_cloud.certificates import create_authority, issue_server


class Credential:
    """A credential with one principal's token, made with the identity key."""

    def __init__(self, identity_key, subject, *, audience=tokens.VAULT_AUDIENCE, lifetime=600):
        self._token = tokens.mint(identity_key, audience=audience, subject=subject, lifetime=lifetime)
        self.scopes = []

    def get_token(self, *scopes, **_):
        self.scopes.append(scopes)
        return AccessToken(self._token, int(time.time()) + 600)


class Vault:
    """A vault process and the clients that know how to reach it."""

    def __init__(self, folder):
        self.folder = folder
        self.port = 0
        key = ec.generate_private_key(ec.SECP256R1())
        self.identity_key = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        root = create_authority("Test Root", days=2)
        certificate, server_key = issue_server(root, ["127.0.0.1"])
        files = {
            "ca.pem": root.certificate_pem,
            "server.pem": certificate,
            "server.key": server_key,
            "identity.pem": key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            ),
        }
        for name, data in files.items():
            (folder / name).write_bytes(data)
        self.process = None

    def start(self):
        command = [sys.executable, "-m", "local_cloud.key_vault", "--state", self.folder / "vault"]
        command += ["--address", "127.0.0.1", "--port", str(self.port)]
        command += ["--server-cert", self.folder / "server.pem", "--server-key", self.folder / "server.key"]
        command += ["--identity-public-key", self.folder / "identity.pem", "--stdin-lifeline"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        assert line.startswith("ready url=https://127.0.0.1:")
        self.url = line.strip().removeprefix("ready url=")
        self.port = int(self.url.rpartition(":")[2])

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(timeout=120)

    def stop(self):
        if self.process.poll() is None:
            self.process.communicate(timeout=120)  # closes its standard input

    def options(self):
        return {"connection_verify": str(self.folder / "ca.pem"), "verify_challenge_resource": False}

    def credential(self, subject="operator", **options):
        return Credential(self.identity_key, subject, **options)

    def keys(self, subject="operator", **options):
        return KeyClient(self.url, self.credential(subject, **options), retry_total=0, **self.options())

    def secrets(self, subject="operator"):
        return SecretClient(self.url, self.credential(subject), retry_total=0, **self.options())

    def crypto(self, key, subject="operator"):
        return CryptographyClient(key, self.credential(subject), retry_total=0, **self.options())


@contextmanager
def running(folder):
    vault = Vault(folder)
    vault.start()
    try:
        yield vault
    finally:
        vault.stop()


@pytest.fixture(scope="module")
def vault(tmp_path_factory):
    with running(tmp_path_factory.mktemp("vault")) as vault:
        yield vault


@pytest.fixture
def name():
    return f"n-{secrets.token_hex(4)}"


def refusal(call):
    with pytest.raises(HttpResponseError) as caught:
        call()
    inner = (caught.value.error.innererror or {}).get("code")
    return caught.value.status_code, caught.value.error.code, inner


def test_the_sdk_answers_the_challenge_and_asks_for_the_vaults_own_scope(vault):
    credential = vault.credential()
    client = KeyClient(vault.url, credential, **vault.options())
    next(iter(client.list_properties_of_keys()), None)
    assert credential.scopes == [("https://vault.azure.net/.default",)]


def test_a_key_encryption_key_unwraps_only_in_the_vault_and_only_with_the_version_it_was_wrapped_for(
    vault, name
):
    keys = vault.keys()
    old = keys.create_rsa_key(
        name,
        size=3072,
        hardware_protected=True,
        key_operations=[KeyOperation.wrap_key, KeyOperation.unwrap_key],
        tags={"use": "kek"},
    )
    assert (old.key_type, old.key_operations, old.properties.tags) == (
        "RSA-HSM",
        ["wrapKey", "unwrapKey"],
        {"use": "kek"},
    )
    wrapped = vault.crypto(old).wrap_key(KeyWrapAlgorithm.rsa_oaep_256, b"k" * 32)
    new = keys.rotate_key(name)
    assert new.properties.version != old.properties.version
    assert (new.key_type, new.key_operations, new.properties.tags) == (
        "RSA-HSM",
        ["wrapKey", "unwrapKey"],
        {"use": "kek"},
    )
    unwrapped = vault.crypto(old.id, "function-app").unwrap_key(
        KeyWrapAlgorithm.rsa_oaep_256, wrapped.encrypted_key
    )
    assert unwrapped.key == b"k" * 32
    status, code, _ = refusal(
        lambda: vault.crypto(new).unwrap_key(KeyWrapAlgorithm.rsa_oaep_256, wrapped.encrypted_key)
    )
    assert (status, code) == (400, "BadParameter")


@pytest.mark.parametrize(
    ("curve", "algorithm", "hash_type"),
    [
        (ec.SECP256R1(), SignatureAlgorithm.es256, hashes.SHA256()),
        (ec.SECP384R1(), SignatureAlgorithm.es384, hashes.SHA384()),
        (ec.SECP521R1(), SignatureAlgorithm.es512, hashes.SHA512()),
    ],
    ids=["P-256", "P-384", "P-521"],
)
def test_a_signature_of_the_vault_verifies_under_the_public_key(vault, name, curve, algorithm, hash_type):
    key = vault.keys().create_ec_key(name, curve=f"P-{curve.key_size}", hardware_protected=True)
    digest = hashlib.new(hash_type.name, b"release").digest()
    signature = vault.crypto(key, "function-app").sign(algorithm, digest).signature
    half = (curve.key_size + 7) // 8
    assert len(signature) == 2 * half
    point = [int.from_bytes(part, "big") for part in (key.key.x, key.key.y)]
    public = ec.EllipticCurvePublicNumbers(*point, curve).public_key()
    parts = [int.from_bytes(part, "big") for part in (signature[:half], signature[half:])]
    public.verify(utils.encode_dss_signature(*parts), digest, ec.ECDSA(utils.Prehashed(hash_type)))
    remote = vault.crypto(key.id)
    assert remote.verify(algorithm, digest, signature).is_valid
    assert not remote.verify(algorithm, bytes(len(digest)), signature).is_valid


@pytest.mark.parametrize("algorithm", [SignatureAlgorithm.rs256, SignatureAlgorithm.ps256])
def test_rsa_keys_sign(vault, name, algorithm):
    key = vault.keys().create_rsa_key(name)
    digest = hashlib.sha256(b"text").digest()
    signature = vault.crypto(key).sign(algorithm, digest).signature
    assert vault.crypto(key).verify(algorithm, digest, signature).is_valid  # verified by the SDK itself


def test_a_key_does_only_what_its_operations_say(vault, name):
    key = vault.keys().create_rsa_key(name, key_operations=["sign", "verify"])
    assert refusal(lambda: vault.crypto(key.id).unwrap_key("RSA-OAEP-256", bytes(256))) == (
        403,
        "Forbidden",
        "KeyOperationForbidden",
    )
    vault.keys().update_key_properties(name, key_operations=["wrapKey", "unwrapKey"])
    wrapped = vault.crypto(key.id).wrap_key(KeyWrapAlgorithm.rsa_oaep_256, b"k").encrypted_key
    assert vault.crypto(key.id, "function-app").unwrap_key(KeyWrapAlgorithm.rsa_oaep_256, wrapped).key == b"k"


def test_a_disabled_key_does_nothing(vault, name):
    key = vault.keys().create_ec_key(name)
    vault.keys().update_key_properties(name, enabled=False)
    digest = hashlib.sha256(b"text").digest()
    assert refusal(lambda: vault.crypto(key.id).sign(SignatureAlgorithm.es256, digest))[2] == "KeyDisabled"


@pytest.mark.parametrize(
    ("bounds", "inner"),
    [
        ({"expires_on": "2020-01-02T00:00:00Z"}, "KeyExpired"),
        ({"not_before": "2099-01-02T00:00:00Z"}, "KeyNotYetValid"),
    ],
)
def test_outside_its_validity_a_key_signs_nothing_but_still_verifies(vault, name, bounds, inner):
    keys = vault.keys()
    key = keys.create_ec_key(name)
    digest = hashlib.sha256(b"text").digest()
    signature = vault.crypto(key.id).sign(SignatureAlgorithm.es256, digest).signature
    keys.update_key_properties(name, **{bound: _moment(text) for bound, text in bounds.items()})
    # Past the SDK, which would refuse by itself.
    assert _call(vault, f"/keys/{name}//verify", alg="ES256", digest=digest, value=signature) == {
        "value": True
    }
    assert (
        _call(vault, f"/keys/{name}//sign", alg="ES256", value=digest)["error"]["innererror"]["code"] == inner
    )


def test_secrets_keep_their_versions_tags_and_content_type(vault, name):
    client = vault.secrets("function-app")
    first = client.set_secret(name, "one", content_type="application/jose", tags={"cpk-key-name": "a_b"})
    second = client.set_secret(name, "two")
    assert client.get_secret(name).value == "two"
    old = client.get_secret(name, first.properties.version)
    assert (old.value, old.properties.content_type, old.properties.tags) == (
        "one",
        "application/jose",
        {"cpk-key-name": "a_b"},
    )
    versions = [item.version for item in client.list_properties_of_secret_versions(name)]
    assert versions == [first.properties.version, second.properties.version]
    changed = client.update_secret_properties(name, second.properties.version, tags={"cpk-floor": "2"})
    assert changed.tags == {"cpk-floor": "2"}
    assert client.get_secret(name).properties.tags == {"cpk-floor": "2"}
    assert client.get_secret(name.upper()).value == "two"


def test_lists_come_in_pages_and_hold_every_name_once(tmp_path):
    with running(tmp_path) as vault:
        client = vault.secrets()
        names = {f"s{number:02}" for number in range(30)}
        for item in names:
            client.set_secret(item, "v")
        pages = [[item.name for item in page] for page in client.list_properties_of_secrets().by_page()]
        assert [len(page) for page in pages] == [25, 5]
        assert sorted(pages[0] + pages[1]) == sorted(names)
        small = client.list_properties_of_secrets(max_page_size=7).by_page()
        assert [len(list(page)) for page in small] == [7, 7, 7, 7, 2]
        for _ in range(27):
            client.set_secret("s00", "again")
        assert len(list(client.list_properties_of_secret_versions("s00"))) == 28


def test_a_disabled_secret_is_not_read(vault, name):
    client = vault.secrets()
    version = client.set_secret(name, "v").properties.version
    client.update_secret_properties(name, version, enabled=False)
    assert refusal(lambda: client.get_secret(name)) == (403, "Forbidden", "SecretDisabled")


def test_a_secret_over_25_kib_is_refused_and_changes_nothing(vault, name):
    client = vault.secrets()
    client.set_secret(name, "x" * 25 * 1024)
    assert refusal(lambda: client.set_secret(name, "x" * (25 * 1024 + 1)))[:2] == (400, "BadParameter")
    assert len(list(client.list_properties_of_secret_versions(name))) == 1


def test_deleting_keeps_the_name_until_it_is_recovered_or_purged(vault, name):
    client = vault.secrets()
    client.set_secret(name, "v")
    deleted = client.begin_delete_secret(name).result()
    assert (deleted.scheduled_purge_date - deleted.deleted_date).days == 7
    assert name in [item.name for item in client.list_deleted_secrets()]
    with pytest.raises(ResourceNotFoundError):
        client.get_secret(name)
    with pytest.raises(ResourceExistsError) as caught:
        client.set_secret(name, "w")
    assert caught.value.error.innererror["code"] == "ObjectIsDeletedButRecoverable"
    client.begin_recover_deleted_secret(name).result()
    assert client.get_secret(name).value == "v"
    client.begin_delete_secret(name).result()
    client.purge_deleted_secret(name)
    with pytest.raises(ResourceNotFoundError):
        client.get_deleted_secret(name)
    assert client.set_secret(name, "new").value == "new"
    assert len(list(client.list_properties_of_secret_versions(name))) == 1


def test_deleted_keys_are_listed_recovered_and_purged(vault, name):
    client = vault.keys()
    client.create_ec_key(name)
    client.begin_delete_key(name).result()
    assert name in [item.name for item in client.list_deleted_keys()]
    assert name not in [item.name for item in client.list_properties_of_keys()]
    client.begin_recover_deleted_key(name).result()
    assert client.get_key(name).name == name
    client.begin_delete_key(name).result()
    client.purge_deleted_key(name)
    with pytest.raises(ResourceNotFoundError):
        client.get_key(name)


def test_the_function_app_makes_and_deletes_no_key_and_purges_nothing(vault, name):
    vault.keys().create_ec_key(name)
    vault.secrets().set_secret(name, "v")
    keys, secret = vault.keys("function-app"), vault.secrets("function-app")
    for call in (
        lambda: keys.create_rsa_key(f"{name}-2"),
        lambda: keys.rotate_key(name),
        lambda: keys.update_key_properties(name, enabled=False),
        lambda: keys.begin_delete_key(name),
        lambda: secret.purge_deleted_secret(name),
    ):
        assert refusal(call) == (403, "Forbidden", "ForbiddenByRbac")
    assert keys.get_key(name).properties.enabled
    assert secret.get_secret(name).value == "v"


def test_a_stranger_may_do_nothing(vault):
    assert refusal(lambda: list(vault.keys("stranger").list_properties_of_keys()))[2] == "ForbiddenByRbac"


@pytest.mark.parametrize("options", [{"audience": tokens.HUB_AUDIENCE}, {"lifetime": -5}])
def test_a_token_for_somebody_else_or_expired_opens_nothing(vault, options):
    with pytest.raises(ClientAuthenticationError) as caught:
        list(vault.keys(**options).list_properties_of_keys())
    assert caught.value.status_code == 401


def test_a_token_that_another_key_signed_opens_nothing(vault):
    other = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    client = KeyClient(vault.url, Credential(other, "operator"), retry_total=0, **vault.options())
    with pytest.raises(ClientAuthenticationError):
        client.get_key("any")


def test_a_client_that_does_not_trust_the_local_root_sends_nothing(vault):
    client = KeyClient(vault.url, vault.credential(), verify_challenge_resource=False, retry_total=0)
    with pytest.raises(ServiceRequestError):
        client.get_key("any")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/keys/na_me/create", {"kty": "RSA"}),
        ("/keys/bad/create", {}),
        ("/keys/bad/create", {"kty": "oct-HSM"}),
        ("/keys/bad/create", {"kty": "RSA", "key_size": 1024}),
        ("/keys/bad/create", {"kty": "RSA", "key_size": "2048"}),
        ("/keys/bad/create", {"kty": "EC", "crv": "P-192"}),
        ("/keys/bad/create", {"kty": "EC", "key_ops": ["fly"]}),
        ("/keys/bad/create", {"kty": "EC", "tags": {"a": 1}}),
        ("/keys/bad/create", {"kty": "EC", "attributes": {"exp": -1}}),
        ("/keys/bad/create", {"kty": "EC", "attributes": {"enabled": 1}}),
        ("/keys/bad/create", [1]),
    ],
)
def test_a_malformed_request_is_a_bad_parameter_and_makes_nothing(vault, path, body):
    answer = _call(vault, path, raw=body)
    assert answer["error"]["code"] == "BadParameter"
    with pytest.raises(ResourceNotFoundError):
        vault.keys().get_key("bad")


def test_what_was_answered_survives_kill_9(tmp_path):
    with running(tmp_path) as vault:
        key = vault.keys().create_ec_key("signer")
        vault.secrets().set_secret("s", "kept", tags={"a": "b"})
        vault.kill()
        vault.start()
        digest = hashlib.sha256(b"text").digest()
        signature = vault.crypto(key.id).sign(SignatureAlgorithm.es256, digest).signature
        assert vault.crypto(key).verify(SignatureAlgorithm.es256, digest, signature).is_valid
        found = vault.secrets().get_secret("s")
        assert (found.value, found.properties.tags) == ("kept", {"a": "b"})
        modes = [stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "vault").iterdir()]
        assert set(modes) == {0o600}


def test_the_vault_ends_when_its_lifeline_closes(tmp_path):
    with running(tmp_path) as vault:
        vault.process.stdin.close()
        assert vault.process.wait(timeout=120) == 0


def _moment(text):
    return datetime.fromisoformat(text)


def _call(vault, path, *, raw=None, **members):
    """POST without the SDK's own checks; bytes are written as base64url."""
    body = raw
    if raw is None:
        body = {
            name: base64.urlsafe_b64encode(value).rstrip(b"=").decode() if isinstance(value, bytes) else value
            for name, value in members.items()
        }
    token = vault.credential().get_token().token
    context = ssl.create_default_context(cafile=vault.folder / "ca.pem")
    answer = httpx.post(
        f"{vault.url}{path}?api-version=2025-07-01",
        json=body,
        headers={"Authorization": f"Bearer {token}"},
        verify=context,
    )
    return answer.json()
