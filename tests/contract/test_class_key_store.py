"""What every store of class keys and every key encryption key keeps: one suite, run on each adapter."""

import secrets
from concurrent.futures import ThreadPoolExecutor

import pytest
from azure.keyvault.secrets import SecretClient
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from simulators.vault import MemoryClassKeyStore, SoftwareKek

from functions.adapters.key_vault import VaultKek, make_key_client
from functions.adapters.key_vault_secrets import SecretClassKeyStore, secret_name
from functions.class_keys import ClassKeys
from shared.errors import Conflict, NotFound, VerificationError
from shared.keys.store import ClassKeyState
from shared.types import KeyName

AES256 = "aes-gcm-256"


@pytest.fixture(params=["memory", "key_vault"])
def adapters(request):
    """A store and its KEK."""
    if request.param == "memory":
        return MemoryClassKeyStore(), SoftwareKek()
    cloud = request.getfixturevalue("live_cloud")
    keys = make_key_client(cloud.vault_url, cloud.credential, verify_challenge=False)
    store = SecretClassKeyStore.connect(cloud.vault_url, cloud.credential, verify_challenge=False)
    return store, VaultKek(keys, "class-key-kek")


@pytest.fixture
def store(adapters):
    return adapters[0]


@pytest.fixture
def kek(adapters):
    return adapters[1]


@pytest.fixture
def name():
    """A name that no other test uses: the vault is shared."""
    return KeyName(f"my_App_{secrets.token_hex(4)}")


def test_what_was_created_is_read_back_and_listed(store, name):
    store.create(name, "an envelope", algorithm=AES256)
    assert store.read(name, 1) == "an envelope"
    state = ClassKeyState(latest=1, floor=1, algorithm=AES256)
    assert store.state(name) == state
    assert store.states()[name] == state


def test_creating_never_overwrites(store, name):
    store.create(name, "first", algorithm=AES256)
    with pytest.raises(Conflict) as caught:
        store.create(name, "second", algorithm=AES256)
    assert caught.value.code == "key_exists"
    assert store.read(name, 1) == "first"


def test_names_that_differ_in_case_or_dash_alone_are_different_keys(store, name):
    others = [KeyName(name.lower()), KeyName(name.replace("_", "-")), name]
    for other in others:
        store.create(other, f"of {other}", algorithm=AES256)
    assert [store.read(other, 1) for other in others] == [f"of {other}" for other in others]
    assert set(others) <= set(store.states())


def test_versions_follow_each_other_and_older_ones_stay(store, name):
    store.create(name, "one", algorithm=AES256)
    store.add_version(name, "two", version=2, algorithm=AES256)
    store.add_version(name, "three", version=3, algorithm="aes-gcm-128")
    assert [store.read(name, version) for version in (1, 2, 3)] == ["one", "two", "three"]
    assert store.state(name) == ClassKeyState(latest=3, floor=1, algorithm="aes-gcm-128")


def test_what_asked_for_a_version_stays_with_it(store, name):
    assert store.requests(name) == {}
    store.create(name, "one", algorithm=AES256, request="first")
    store.add_version(name, "two", version=2, algorithm=AES256)
    store.add_version(name, "three", version=3, algorithm=AES256, request="third")
    store.raise_floor(name, 4)
    assert store.requests(name) == {1: "first", 3: "third"}


@pytest.mark.parametrize("version", [1, 2, 4])
def test_a_version_that_does_not_follow_is_a_conflict(store, name, version):
    store.create(name, "one", algorithm=AES256)
    store.add_version(name, "two", version=2, algorithm=AES256)
    with pytest.raises(Conflict) as caught:
        store.add_version(name, "another", version=version, algorithm=AES256)
    assert caught.value.code == "version_exists"
    assert store.state(name).latest == 2


def test_a_floor_rises_stays_and_outlives_rotation(store, name):
    store.create(name, "one", algorithm=AES256)
    store.add_version(name, "two", version=2, algorithm=AES256)
    assert store.raise_floor(name, 2) == 2
    assert store.raise_floor(name, 2) == 2
    store.add_version(name, "three", version=3, algorithm=AES256)
    assert store.state(name) == ClassKeyState(latest=3, floor=2, algorithm=AES256)
    assert store.raise_floor(name, 4) == 4
    assert store.raise_floor(name, 3) == 4
    assert store.states()[name] == ClassKeyState(latest=3, floor=4, algorithm=AES256)
    assert store.read(name, 1) == "one"


def test_a_version_that_is_not_there_cannot_be_revoked(store, name):
    store.create(name, "one", algorithm=AES256)
    with pytest.raises(NotFound):
        store.raise_floor(name, 3)
    assert store.state(name).floor == 1


@pytest.mark.parametrize(
    "operation",
    [
        lambda store, name: store.state(name),
        lambda store, name: store.read(name, 1),
        lambda store, name: store.add_version(name, "x", version=1, algorithm=AES256),
        lambda store, name: store.raise_floor(name, 2),
    ],
)
def test_an_unknown_key_is_not_found(store, name, operation):
    with pytest.raises(NotFound) as caught:
        operation(store, name)
    assert caught.value.code == "key_not_found"


def test_an_unknown_version_is_not_found(store, name):
    store.create(name, "one", algorithm=AES256)
    with pytest.raises(NotFound):
        store.read(name, 2)


def test_the_kek_unwraps_what_was_encrypted_for_it(kek):
    current = kek.current()
    oaep = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
    secret = kek.unwrap(current.kid, current.public_key.encrypt(b"k" * 32, oaep))
    assert secret.reveal() == b"k" * 32


def test_what_was_not_encrypted_for_the_kek_does_not_unwrap(kek):
    with pytest.raises(VerificationError) as caught:
        kek.unwrap(kek.current().kid, bytes(256))
    assert caught.value.code == "unwrap_failed"


@pytest.mark.parametrize(
    "change",
    [
        lambda kid: kid.replace("class-key-kek", "release-signing"),
        lambda kid: f"https://evil.test/{kid}",
        lambda kid: kid.rpartition("/")[0] + "/",
        lambda kid: kid + "/../../release-signing/1",
        lambda _kid: "",
    ],
)
def test_no_other_key_is_ever_asked(kek, change):
    with pytest.raises(VerificationError) as caught:
        kek.unwrap(change(kek.current().kid), bytes(256))
    assert caught.value.code == "foreign_kek"


def test_class_keys_live_through_their_whole_life_on_it(store, kek, name):
    keys = ClassKeys(store, kek)
    keys.provision(name, bits=192)
    first = keys.open(name, 1).reveal()
    assert keys.rotate(name) == 2
    assert keys.revoke(name, 1) == 2
    fresh = ClassKeys(store, kek)
    assert fresh.open(name, 1).reveal() == first
    assert (len(first), len(fresh.open(name, 2))) == (24, 24)


class TestVaultAlone:
    """What only a vault that others write to can get into."""

    @pytest.fixture
    def client(self, live_cloud):
        return SecretClient(live_cloud.vault_url, live_cloud.credential, verify_challenge_resource=False)

    @pytest.fixture
    def vault(self, client):
        return SecretClassKeyStore(client)

    def test_a_secret_of_somebody_else_is_never_touched(self, client, vault, name):
        client.set_secret(secret_name(name), "somebody's password")
        for operation in (
            lambda: vault.create(name, "mine", algorithm=AES256),
            lambda: vault.state(name),
            lambda: vault.add_version(name, "mine", version=1, algorithm=AES256),
        ):
            with pytest.raises(Conflict) as caught:
                operation()
            assert caught.value.code == "name_taken"
        assert client.get_secret(secret_name(name)).value == "somebody's password"
        assert name not in vault.states()

    def test_a_secret_whose_tags_cannot_be_read_does_not_hide_the_others(self, client, vault, name):
        vault.create(name, "mine", algorithm=AES256)
        broken = KeyName(f"broken-{name}")
        client.set_secret(secret_name(broken), "x", tags={"cpk-key-name": broken, "cpk-version": "first"})
        assert name in vault.states()
        assert broken not in vault.states()

    def test_a_class_key_that_was_moved_under_another_secret_is_not_listed(self, client, vault, name):
        vault.create(name, "mine", algorithm=AES256)
        tags = client.get_secret(secret_name(name)).properties.tags
        client.set_secret(f"ck-moved-{secrets.token_hex(4)}", "mine", tags={**tags, "cpk-version": "9"})
        assert vault.states()[name].latest == 1

    def test_what_is_written_is_tagged_as_the_protocol_says(self, client, vault, name):
        vault.create(name, "mine", algorithm=AES256)
        properties = client.get_secret(secret_name(name)).properties
        assert properties.content_type == "application/jose"
        assert properties.tags == {
            "cpk-key-name": name,
            "cpk-version": "1",
            "cpk-floor": "1",
            "cpk-algorithm": AES256,
        }

    def test_of_racing_creations_at_most_one_succeeds_and_its_key_is_the_one_that_is_read(self, vault, name):
        def create(number):
            try:
                vault.create(name, f"envelope {number}", algorithm=AES256)
            except Conflict as error:
                return error.code
            return "created"

        with ThreadPoolExecutor(4) as pool:
            outcomes = list(pool.map(create, range(4)))
        assert set(outcomes) <= {"created", "key_exists"}
        if (
            "created" not in outcomes
        ):  # all saw each other: nobody's key is there, and the next one gets through
            vault.create(name, "envelope 0", algorithm=AES256)
            outcomes[0] = "created"
        assert outcomes.count("created") == 1
        assert vault.read(name, 1) == f"envelope {outcomes.index('created')}"
        assert vault.states()[name].latest == 1

    def test_a_writer_that_is_still_at_it_holds_the_others_off(self, client, vault, name):
        tags = {"cpk-key-name": name, "cpk-version": "1", "cpk-floor": "1", "cpk-algorithm": AES256}
        pending = {**tags, "cpk-pending": "pending"}
        client.set_secret(secret_name(name), "another's", enabled=False, tags=pending)
        with pytest.raises(Conflict):
            vault.create(name, "mine", algorithm=AES256)
        with pytest.raises(NotFound):
            vault.read(name, 1)
        assert name not in vault.states()

    def test_a_loser_as_the_newest_version_hides_neither_key_nor_floor(self, client, vault, name):
        vault.create(name, "one", algorithm=AES256)
        vault.raise_floor(name, 2)
        tags = {"cpk-key-name": name, "cpk-version": "2", "cpk-floor": "1", "cpk-algorithm": AES256}
        withdrawn = {**tags, "cpk-pending": "withdrawn"}
        client.set_secret(secret_name(name), "a loser's", enabled=False, tags=withdrawn)
        assert vault.states()[name] == ClassKeyState(latest=1, floor=2, algorithm=AES256)
        vault.add_version(name, "two", version=2, algorithm=AES256)
        assert vault.read(name, 2) == "two"
        assert vault.states()[name] == ClassKeyState(latest=2, floor=2, algorithm=AES256)

    def test_a_disabled_version_is_gone_is_not_made_again_and_its_floor_still_counts(
        self, client, vault, name
    ):
        vault.create(name, "one", algorithm=AES256)
        vault.add_version(name, "two", version=2, algorithm=AES256)
        vault.raise_floor(name, 2)
        newest = client.get_secret(secret_name(name)).properties.version
        client.update_secret_properties(secret_name(name), newest, enabled=False)
        revoked = ClassKeyState(latest=1, floor=2, algorithm=AES256)
        assert vault.state(name) == revoked
        assert vault.states()[name] == revoked
        with pytest.raises(NotFound):
            vault.read(name, 2)
        with pytest.raises(Conflict):
            vault.add_version(name, "again", version=2, algorithm=AES256)
