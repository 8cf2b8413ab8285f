import hashlib

import pytest

from local_cloud.key_vault import keys, roles
from local_cloud.key_vault.errors import VaultError
from local_cloud.key_vault.key_calls import KeyCalls
from local_cloud.key_vault.keys import KeyOperation, KeyType
from local_cloud.key_vault.requests import VaultRequest
from local_cloud.key_vault.roles import Permission
from local_cloud.key_vault.secret_calls import SecretCalls
from local_cloud.key_vault.store import Attributes, Change, Kind, Store
from local_cloud.key_vault.throttle import Throttle
from shared.types import Secret

EVERYTHING = frozenset(KeyOperation)


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "vault.db")
    yield store
    store.close()


def add(store, name, value=b"v", kind=Kind.SECRET):
    detail = {"contentType": None} if kind is Kind.SECRET else {"kty": "EC", "key_ops": ["sign"]}
    return store.add(
        kind, name, material=Secret(value), detail=detail, attributes=Attributes(), tags={"a": "b"}
    )


def inner(call):
    with pytest.raises(VaultError) as caught:
        call()
    return caught.value.inner


def test_the_function_app_uses_keys_and_keeps_secrets_and_does_nothing_else():
    assert {
        permission.value for permission in Permission if permission in roles.ASSIGNMENTS["function-app"]
    } == {
        *("keys/get", "keys/list", "keys/wrapKey", "keys/unwrapKey", "keys/sign", "keys/verify"),
        *("secrets/get", "secrets/list", "secrets/set", "secrets/update"),
        *("secrets/delete", "secrets/recover"),
    }


@pytest.mark.parametrize("permission", list(Permission))
def test_the_operator_may_do_everything_and_a_stranger_nothing(permission):
    roles.require("operator", permission)
    assert inner(lambda: roles.require("stranger", permission)) == "ForbiddenByRbac"


def test_every_permission_guards_a_call(store):
    routes = KeyCalls(store, "https://v").routes() + SecretCalls(store, "https://v").routes()
    assert {route.permission for route in routes} == set(Permission)
    calls = [(route.method, route.path) for route in routes]
    assert len(calls) == len(set(calls))


@pytest.mark.parametrize(
    ("attributes", "refused"),
    [
        (Attributes(), {}),
        (Attributes(not_before=100, expires=101), {}),
        (Attributes(enabled=False), dict.fromkeys(KeyOperation, "KeyDisabled")),
        (
            Attributes(expires=100),
            dict.fromkeys((KeyOperation.SIGN, KeyOperation.WRAP, KeyOperation.ENCRYPT), "KeyExpired"),
        ),
        (
            Attributes(not_before=101),
            dict.fromkeys((KeyOperation.SIGN, KeyOperation.WRAP, KeyOperation.ENCRYPT), "KeyNotYetValid"),
        ),
    ],
)
def test_a_key_is_used_within_its_validity_and_opens_what_it_sealed_beyond(attributes, refused):
    found = {}
    for operation in KeyOperation:
        try:
            keys.check_permitted(operation, EVERYTHING, attributes, now=100)
        except VaultError as error:
            found[operation] = error.inner
    assert found == refused


def test_an_operation_that_the_key_was_not_made_for_is_refused():
    operations = EVERYTHING - {KeyOperation.UNWRAP}
    refusal = inner(lambda: keys.check_permitted(KeyOperation.UNWRAP, operations, Attributes(), now=0))
    assert refusal == "KeyOperationForbidden"


@pytest.mark.parametrize("algorithm", ["RSA-OAEP", "RSA1_5", "A256KW", "", "RSA-OAEP-512"])
def test_weak_and_unknown_encryption_is_not_offered(algorithm):
    key = keys.generate(KeyType.RSA, size=2048, curve=None)
    for call in (keys.encrypt, keys.decrypt):
        with pytest.raises(VaultError, match="not supported for this key"):
            call(key, algorithm, bytes(256))


def test_a_failed_unwrap_never_says_why():
    key = keys.generate(KeyType.RSA, size=2048, curve=None)
    wrapped = keys.encrypt(key, "RSA-OAEP-256", b"key")
    for value in (bytes(256), wrapped[:-1], wrapped[:-1] + bytes([wrapped[-1] ^ 1]), b""):
        with pytest.raises(VaultError, match=r"^The parameter is incorrect\.$"):
            keys.decrypt(key, "RSA-OAEP-256", value)


@pytest.mark.parametrize(
    ("key_type", "algorithm", "size"),
    [
        (KeyType.EC, "ES256", 31),
        (KeyType.EC, "ES256", 33),
        (KeyType.EC, "ES384", 48),
        (KeyType.EC, "RS256", 32),
        (KeyType.RSA, "ES256", 32),
        (KeyType.RSA, "RS256", 33),
        (KeyType.RSA, "XS256", 32),
        (KeyType.RSA, "RS1", 20),
    ],
)
def test_only_a_digest_that_fits_is_signed(key_type, algorithm, size):
    key = keys.generate(key_type, size=None, curve=None)
    with pytest.raises(VaultError):
        keys.sign(key, algorithm, bytes(size))


def test_a_changed_or_shortened_signature_does_not_verify():
    key = keys.generate(KeyType.EC, size=None, curve=None)
    digest = hashlib.sha256(b"text").digest()
    signature = keys.sign(key, "ES256", digest)
    assert keys.verify(key, "ES256", digest, signature)
    for other in (signature[:-1], b"", bytes(64), signature[:-1] + bytes([signature[-1] ^ 1])):
        assert not keys.verify(key, "ES256", digest, other)


@pytest.mark.parametrize("key_type", list(KeyType))
def test_rotation_makes_another_key_of_the_same_kind(key_type):
    old = keys.generate(key_type, size=3072 if key_type.is_rsa else None, curve=None)
    new = keys.generate_like(old, key_type)
    assert keys.public_jwk(new).keys() == keys.public_jwk(old).keys()
    assert (new.key_size, new.public_key() == old.public_key()) == (old.key_size, False)


def test_key_material_shows_in_no_representation(store):
    assert "hidden" not in repr(add(store, "name", b"hidden"))
    assert "hidden" not in repr(VaultRequest(body={"value": "hidden"}))


def test_names_ignore_case_and_kinds_do_not_mix(store):
    first = add(store, "Name", b"1")
    second = add(store, "nAME", b"2")
    add(store, "name", b"3", Kind.KEY)
    assert (first.name, second.name) == ("Name", "Name")
    assert store.get(Kind.SECRET, "NAME").material.reveal() == b"2"
    assert len(store.versions(Kind.SECRET, "name", after=0, limit=9)) == 2


def test_an_update_changes_what_it_names_and_nothing_else(store):
    add(store, "name")
    changed = store.update(Kind.SECRET, "name", "", Change(expires=9, detail={"contentType": "t"}))
    assert (changed.attributes, changed.tags) == (Attributes(expires=9), {"a": "b"})
    changed = store.update(Kind.SECRET, "name", "", Change(enabled=False, tags={}))
    assert (changed.attributes, changed.tags) == (Attributes(enabled=False, expires=9), {})
    assert changed.detail == {"contentType": "t"}


def test_a_version_of_another_name_is_not_found(store):
    version = add(store, "one").version
    add(store, "two")
    with pytest.raises(VaultError, match="was not found") as caught:
        store.get(Kind.SECRET, "two", version)
    assert caught.value.status == 404


def test_purging_leaves_nothing_of_the_value_on_the_disk(store, tmp_path):
    add(store, "name", b"value-to-be-purged")
    store.delete(Kind.SECRET, "name")
    store.purge(Kind.SECRET, "name")
    store.close()
    assert b"value-to-be-purged" not in (tmp_path / "vault.db").read_bytes()


@pytest.mark.parametrize(
    "request_",
    [
        VaultRequest(path={"name": ""}),
        VaultRequest(path={"name": "a_b"}),
        VaultRequest(path={"name": "a" * 128}),
        VaultRequest(path={"name": "a/b"}),
        VaultRequest(path={"name": "a\n"}),
    ],
)
def test_a_name_that_azure_would_refuse_is_refused(request_):
    with pytest.raises(VaultError, match="invalid name"):
        _ = request_.name


@pytest.mark.parametrize("size", ["0", "26", "-1", "x", "", "99999999999999999999", "٣"])
def test_a_page_has_1_to_25_items(size):
    with pytest.raises(VaultError, match="maxresults"):
        _ = VaultRequest(query={"maxresults": size}).page_size


@pytest.mark.parametrize("text", ["a+b", "a/b", "YQ==", "a", 1, None])
def test_octets_are_base64url_without_padding(text):
    with pytest.raises(VaultError, match="value"):
        VaultRequest(body={"value": text}).octets("value")
    assert VaultRequest(body={"value": "_-8"}).octets("value") == b"\xff\xef"


def test_a_throttled_vault_lets_calls_through_again_when_the_window_has_moved_on():
    clock = [0.0]
    throttle = Throttle(calls=2, seconds=10, monotonic=lambda: clock[0])

    def answer():
        try:
            throttle.take()
        except VaultError as error:
            return error.status
        return "served"

    answers = []
    for clock[0] in (0.0, 5.0, 9.9, 10.0, 14.0, 15.0):
        answers.append(answer())
    assert answers == ["served", "served", 429, "served", 429, "served"]
