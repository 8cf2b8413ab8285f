"""What every store of class keys and every key encryption key keeps: one suite, run on each adapter."""

import secrets
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from azure.keyvault.keys import KeyClient
from azure.keyvault.secrets import SecretClient
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from simulators.vault import MemoryClassKeyStore, SoftwareKek

from functions.adapters.key_vault import VaultKek, make_key_client
from functions.adapters.key_vault_entries import secret_name
from functions.adapters.key_vault_secrets import SecretClassKeyStore
from functions.class_keys import ClassKeys
from shared.errors import Conflict, KeyUnavailable, NotFound, VerificationError
from shared.keys.envelope import parse_envelope
from shared.keys.store import VersionState
from shared.rollout import WHOLE, Rollout
from shared.types import KeyName

AES256 = "aes-gcm-256"
ACTIVE, REVOKED, ABORTED, DISABLED, EXPIRED, NOT_YET_VALID = (
    VersionState.ACTIVE,
    VersionState.REVOKED,
    VersionState.ABORTED,
    VersionState.DISABLED,
    VersionState.EXPIRED,
    VersionState.NOT_YET_VALID,
)


def versions(state):
    """Return each version's state by its number."""
    return {each.version: each.state for each in state.versions}


def moment(**delta):
    """Return a time from now, to the second, as a vault keeps it."""
    return datetime.now(UTC).replace(microsecond=0) + timedelta(**delta)


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
    state = store.state(name)
    assert (state.floor, state.algorithm, versions(state), state.current) == (1, AES256, {1: ACTIVE}, 1)
    assert state.versions[0].expires_at is None
    assert abs(state.versions[0].created_at - datetime.now(UTC)) < timedelta(minutes=5)
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
    state = store.state(name)
    assert (state.latest, state.floor, state.algorithm, state.current) == (3, 1, "aes-gcm-128", 3)
    assert versions(state) == {1: ACTIVE, 2: ACTIVE, 3: ACTIVE}


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
    assert (store.state(name).floor, store.state(name).current) == (2, 3)
    assert versions(store.state(name)) == {1: REVOKED, 2: ACTIVE, 3: ACTIVE}
    assert store.raise_floor(name, 4) == 4
    assert store.raise_floor(name, 3) == 4
    state = store.states()[name]
    assert (state.latest, state.floor, state.current) == (3, 4, None)
    assert set(versions(state).values()) == {REVOKED}
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
        lambda store, name: store.replace_envelope(name, "x", version=1),
        lambda store, name: store.delete(name),
        lambda store, name: store.recover(name),
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


def test_an_expired_version_is_shown_as_such_and_stays_readable(store, name):
    store.create(name, "one", algorithm=AES256, expires_at=moment(days=1))
    store.add_version(name, "two", version=2, algorithm=AES256, expires_at=moment(minutes=-1))
    state = store.state(name)
    assert versions(state) == {1: ACTIVE, 2: EXPIRED}
    assert state.current is None  # never back to an older one
    assert state.versions[0].expires_at > datetime.now(UTC)
    assert store.states()[name] == state
    assert store.read(name, 2) == "two"


def test_another_envelope_takes_the_place_of_the_old_one_and_changes_nothing_else(store, name):
    store.create(name, "one", algorithm=AES256, expires_at=moment(days=1))
    store.add_version(name, "two", version=2, algorithm=AES256)
    store.raise_floor(name, 2)
    before = store.state(name)
    store.replace_envelope(name, "one again", version=1)
    store.replace_envelope(name, "two again", version=2)
    store.replace_envelope(name, "two once more", version=2)
    assert [store.read(name, version) for version in (1, 2)] == ["one again", "two once more"]
    assert store.state(name) == before
    assert store.states()[name] == before
    store.add_version(name, "three", version=3, algorithm=AES256)
    assert store.state(name).current == 3


def test_a_version_that_is_not_there_has_no_envelope_to_replace(store, name):
    store.create(name, "one", algorithm=AES256)
    with pytest.raises(NotFound):
        store.replace_envelope(name, "two", version=2)
    assert store.state(name).latest == 1


def test_a_deleted_key_is_gone_keeps_its_name_and_comes_back_as_it_was(store, name):
    store.create(name, "one", algorithm=AES256)
    store.add_version(name, "two", version=2, algorithm=AES256)
    store.raise_floor(name, 3)
    before = store.state(name)
    until = store.delete(name)
    assert until > datetime.now(UTC)
    assert store.delete(name) > datetime.now(UTC)  # once more, and nothing more
    assert name not in store.states()
    with pytest.raises(NotFound):
        store.state(name)
    with pytest.raises(Conflict) as caught:
        store.create(name, "another", algorithm=AES256)
    assert caught.value.code == "key_deleted"
    store.recover(name)
    store.recover(name)
    assert store.state(name) == before
    assert store.read(name, 2) == "two"


STAGED = Rollout(stages=(100, WHOLE), pause_on_errors=200)


def staged(store, name):
    """Make a class key whose version 2 is on its way to the fleet."""
    store.create(name, "one", algorithm=AES256)
    store.add_version(name, "two", version=2, algorithm=AES256, expires_at=moment(days=1), rollout=STAGED)


def test_a_staged_version_is_there_for_whom_it_reaches_and_current_for_nobody(store, name):
    staged(store, name)
    state = store.state(name)
    assert (state.latest, state.current, state.staged.version) == (2, 1, 2)
    assert versions(state) == {1: ACTIVE, 2: ACTIVE}
    assert [each.rollout for each in state.versions] == [None, STAGED]
    assert store.states()[name] == state
    assert store.read(name, 2) == "two"


def test_a_rollout_goes_through_its_stages_and_changes_nothing_else(store, name):
    staged(store, name)
    before = store.state(name)
    store.set_rollout(name, STAGED.advanced(), version=2, expected=STAGED)
    after = store.state(name)
    assert after.staged.rollout == STAGED.advanced()
    assert (after.floor, after.current, after.versions[0]) == (1, 1, before.versions[0])
    assert after.versions[1].expires_at == before.versions[1].expires_at
    assert store.read(name, 2) == "two"
    store.set_rollout(name, STAGED.finished(), version=2, expected=STAGED.advanced())
    state = store.state(name)
    assert (state.current, state.staged, state.unfinished) == (2, None, None)
    store.add_version(name, "three", version=3, algorithm=AES256)
    assert store.state(name).current == 3


def test_a_rollout_that_is_somewhere_else_is_not_moved(store, name):
    staged(store, name)
    store.set_rollout(name, STAGED.advanced(), version=2, expected=STAGED)
    for version, expected in ((2, STAGED), (1, STAGED)):
        with pytest.raises(Conflict) as caught:
            store.set_rollout(name, STAGED.aborted(), version=version, expected=expected)
        assert caught.value.code == "rollout_changed"
    assert store.state(name).staged.rollout == STAGED.advanced()


def test_an_aborted_version_is_never_read_again_and_the_next_one_follows_it(store, name):
    staged(store, name)
    store.set_rollout(name, STAGED.aborted(), version=2, expected=STAGED)
    state = store.state(name)
    assert (versions(state), state.current, state.staged) == ({1: ACTIVE, 2: ABORTED}, 1, None)
    with pytest.raises(KeyUnavailable) as caught:
        store.read(name, 2)
    assert caught.value.code == "key_aborted"
    store.add_version(name, "three", version=3, algorithm=AES256)
    assert (store.state(name).latest, store.state(name).current) == (3, 3)
    store.raise_floor(name, 3)
    assert versions(store.state(name)) == {1: REVOKED, 2: REVOKED, 3: ACTIVE}


def test_a_rollout_outlives_new_envelopes_revocations_deletion_and_recovery(store, name):
    staged(store, name)
    store.set_rollout(name, STAGED.advanced(), version=2, expected=STAGED)
    before = store.state(name)
    store.replace_envelope(name, "two again", version=2)
    assert store.state(name) == before
    store.raise_floor(name, 2)
    assert store.state(name).staged.rollout == STAGED.advanced()
    store.delete(name)
    store.recover(name)
    assert store.state(name).staged.rollout == STAGED.advanced()
    store.raise_floor(name, 3)
    state = store.state(name)
    assert (state.current, state.staged, state.unfinished) == (None, None, None)


@pytest.mark.parametrize(
    "operation",
    [
        lambda store, name: store.set_rollout(name, STAGED.advanced(), version=1, expected=STAGED),
        lambda store, name: (
            store.create(name, "one", algorithm=AES256),
            store.set_rollout(name, STAGED.advanced(), version=2, expected=STAGED),
        ),
    ],
)
def test_a_version_that_is_not_there_has_no_rollout(store, name, operation):
    with pytest.raises(NotFound) as caught:
        operation(store, name)
    assert caught.value.code == "key_not_found"


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
        assert versions(vault.states()[name]) == {1: REVOKED}
        vault.add_version(name, "two", version=2, algorithm=AES256)
        assert vault.read(name, 2) == "two"
        assert versions(vault.states()[name]) == {1: REVOKED, 2: ACTIVE}

    def test_a_disabled_version_is_given_to_nobody_is_not_made_again_and_its_floor_still_counts(
        self, client, vault, name
    ):
        vault.create(name, "one", algorithm=AES256)
        vault.add_version(name, "two", version=2, algorithm=AES256)
        vault.raise_floor(name, 2)
        newest = client.get_secret(secret_name(name)).properties.version
        client.update_secret_properties(secret_name(name), newest, enabled=False)
        state = vault.state(name)
        assert (versions(state), state.current) == ({1: REVOKED, 2: DISABLED}, None)
        assert vault.states()[name] == state
        with pytest.raises(KeyUnavailable) as caught:
            vault.read(name, 2)
        assert caught.value.code == "key_disabled"
        with pytest.raises(Conflict):
            vault.add_version(name, "again", version=2, algorithm=AES256)
        vault.add_version(name, "three", version=3, algorithm=AES256)
        assert vault.state(name).current == 3

    def test_disabling_any_envelope_of_a_version_disables_the_version(self, client, vault, name):
        vault.create(name, "one", algorithm=AES256)
        first = client.get_secret(secret_name(name)).properties.version
        vault.replace_envelope(name, "one again", version=1)
        client.update_secret_properties(secret_name(name), first, enabled=False)
        assert versions(vault.state(name)) == {1: DISABLED}
        client.update_secret_properties(secret_name(name), first, enabled=True)
        assert versions(vault.state(name)) == {1: ACTIVE}

    def test_until_its_time_has_come_a_version_leaves_the_older_one_in_use(self, client, vault, name):
        vault.create(name, "one", algorithm=AES256)
        vault.add_version(name, "two", version=2, algorithm=AES256)
        newest = client.get_secret(secret_name(name)).properties.version
        client.update_secret_properties(secret_name(name), newest, not_before=moment(days=1))
        state = vault.state(name)
        assert (versions(state), state.current) == ({1: ACTIVE, 2: NOT_YET_VALID}, 1)

    def test_what_an_operator_set_on_a_version_outlives_its_new_envelope(self, client, vault, name):
        vault.create(name, "one", algorithm=AES256)
        newest = client.get_secret(secret_name(name)).properties.version
        bounds = {"not_before": moment(hours=-1), "expires_on": moment(hours=1)}
        client.update_secret_properties(secret_name(name), newest, **bounds)
        before = vault.state(name)
        vault.replace_envelope(name, "one again", version=1)
        assert vault.state(name) == before
        assert before.versions[0].expires_at == bounds["expires_on"]

    def test_a_staged_version_is_never_there_without_its_rollout(self, client, vault, name):
        staged(vault, name)
        versions_of_secret = list(client.list_properties_of_secret_versions(secret_name(name)))
        assert {
            each.tags.get("cpk-rollout") for each in versions_of_secret if each.tags["cpk-version"] == "2"
        } == {"staged:0:100,10000:200:10000"}

    def test_of_two_who_move_a_rollout_at_once_at_most_one_does(self, vault, name):
        staged(vault, name)

        def move(rollout):
            try:
                vault.set_rollout(name, rollout, version=2, expected=STAGED)
            except Conflict as error:
                return error.code
            return "moved"

        moves = [STAGED.advanced(), STAGED.advanced(), STAGED.aborted(), STAGED.finished()]
        with ThreadPoolExecutor(4) as pool:
            outcomes = list(pool.map(move, moves))
        assert set(outcomes) <= {"moved", "rollout_changed"}
        assert outcomes.count("moved") <= 1
        found = vault.state(name).versions[1].rollout
        assert found == (moves[outcomes.index("moved")] if "moved" in outcomes else STAGED)

    def test_a_revocation_and_a_move_of_the_rollout_never_undo_each_other(self, vault, name):
        staged(vault, name)
        with ThreadPoolExecutor(2) as pool:
            revoked = pool.submit(vault.raise_floor, name, 3)
            moved = pool.submit(vault.set_rollout, name, STAGED.advanced(), version=2, expected=STAGED)
            revoked.result(), moved.result()
        assert versions(vault.state(name)) == {1: REVOKED, 2: REVOKED}
        assert vault.state(name).versions[1].rollout == STAGED.advanced()

    def test_a_disabled_version_is_given_to_nobody_and_can_only_be_aborted(self, client, vault, name):
        staged(vault, name)
        newest = client.get_secret(secret_name(name)).properties.version
        client.update_secret_properties(secret_name(name), newest, enabled=False)
        state = vault.state(name)
        assert (state.current, state.staged, state.unfinished.version) == (1, None, 2)
        with pytest.raises(KeyUnavailable) as caught:
            vault.set_rollout(name, STAGED.advanced(), version=2, expected=STAGED)
        assert caught.value.code == "key_disabled"
        vault.set_rollout(name, STAGED.aborted(), version=2, expected=STAGED)
        assert versions(vault.state(name)) == {1: ACTIVE, 2: ABORTED}

    def test_a_rollout_that_cannot_be_read_reaches_nobody(self, client, vault, name):
        staged(vault, name)
        newest = client.get_secret(secret_name(name)).properties
        client.update_secret_properties(
            secret_name(name), newest.version, tags={**newest.tags, "cpk-rollout": "staged:everybody"}
        )
        state = vault.state(name)
        assert (state.latest, state.current, state.staged) == (1, 1, None)

    def test_revocations_of_two_versions_at_once_never_undo_each_other(self, vault, name):
        vault.create(name, "one", algorithm=AES256)
        for version in range(2, 5):
            vault.add_version(name, "more", version=version, algorithm=AES256)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda version: vault.raise_floor(name, version + 1), (3, 1, 4, 2)))
        assert vault.state(name).floor == 5

    def test_of_racing_new_envelopes_what_is_read_is_one_of_them(self, vault, name):
        vault.create(name, "old", algorithm=AES256)

        def replace(number):
            try:
                vault.replace_envelope(name, f"new {number}", version=1)
            except Conflict:
                return False
            return True

        with ThreadPoolExecutor(3) as pool:
            through = list(pool.map(replace, range(3)))
        expected = [f"new {number}" for number in range(3) if through[number]] or ["old"]
        assert vault.read(name, 1) in expected
        assert versions(vault.state(name)) == {1: ACTIVE}

    def test_a_secret_that_somebody_wrote_over_hides_no_other_key(self, client, vault, name):
        vault.create(name, "mine", algorithm=AES256)
        other = KeyName(f"other-{name}")
        vault.create(other, "mine", algorithm=AES256)
        client.set_secret(secret_name(other), "somebody's password")
        client.set_secret(secret_name(other), "x", tags={"cpk-key-name": other})
        states = vault.states()
        assert (name in states, other in states) == (True, False)

    def test_the_next_class_key_is_sealed_under_a_rotated_kek_and_the_others_follow(self, live_cloud, name):
        keys = make_key_client(live_cloud.vault_url, live_cloud.credential, verify_challenge=False)
        store = SecretClassKeyStore.connect(
            live_cloud.vault_url, live_cloud.credential, verify_challenge=False
        )
        class_keys = ClassKeys(store, VaultKek(keys, "class-key-kek"))
        class_keys.provision(name, bits=256)
        first = class_keys.open(name, 1).reveal()
        operator = KeyClient(live_cloud.vault_url, live_cloud.operator, verify_challenge_resource=False)
        kid = operator.rotate_key("class-key-kek").id
        class_keys.rotate(name)

        def kids():
            return [parse_envelope(store.read(name, version), where="test").kid for version in (1, 2)]

        assert [each == kid for each in kids()] == [False, True]
        done = class_keys.rewrap(name)
        assert (done.rewrapped, done.remaining, done.kid) == (1, 0, kid)
        assert kids() == [kid, kid]
        assert ClassKeys(store, VaultKek(keys, "class-key-kek")).open(name, 1).reveal() == first
        assert class_keys.rewrap(name).rewrapped == 0
