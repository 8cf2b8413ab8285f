"""Class keys in memory: how long, how often the vault is asked, what does not open, what is sealed anew."""

from __future__ import annotations

import datetime as dt

import pytest
from simulators.cloud import APP

from functions.class_keys import CACHE_SECONDS, ClassKeys
from functions.token_bucket import BusyError
from shared.errors import Conflict, KeyUnavailable, NotFound, VerificationError
from shared.keys.envelope import parse_envelope


@pytest.fixture
def keys(cloud):
    cloud.class_keys.provision(APP, bits=256)
    return cloud.class_keys


def test_an_opened_key_is_kept_for_a_minute_at_most(cloud, keys):
    keys.open(APP, 1)
    cloud.wait(seconds=59)
    keys.open(APP, 1)
    assert cloud.kek.unwraps == 1
    cloud.wait(seconds=1)
    keys.open(APP, 1)
    assert cloud.kek.unwraps == 2


def test_revoking_forgets_what_was_opened(cloud, keys):
    keys.open(APP, 1)
    keys.revoke(APP, 1)
    keys.open(APP, 1)
    assert cloud.kek.unwraps == 2


def test_a_key_that_nobody_asks_for_again_is_forgotten_in_time(cloud):
    clock = [0.0]
    keys = ClassKeys(cloud.store, cloud.kek, monotonic=lambda: clock[0])
    keys.provision(APP, bits=256)
    keys.open(APP, 1)
    sweeper = keys._sweeper
    assert sweeper.interval == CACHE_SECONDS
    clock[0] = CACHE_SECONDS
    sweeper.function()  # what its timer does
    sweeper.cancel()
    assert keys._opened == {}


def test_what_another_instance_revoked_is_chosen_by_none_though_it_lies_open(cloud, keys):
    other = ClassKeys(cloud.store, cloud.kek, monotonic=cloud.seconds)
    other.open(APP, 1)
    keys.rotate(APP)
    keys.revoke(APP, 1)
    with pytest.raises(KeyUnavailable) as caught:
        other.choose(APP, 1)
    assert caught.value.code == "key_revoked"
    assert other.choose(APP, None) == 2


def test_deleting_forgets_what_was_opened(cloud, keys):
    keys.open(APP, 1)
    keys.revoke(APP, 1)
    keys.open(APP, 1)
    keys.delete(APP)
    assert keys._opened == {}


class TestChoosing:
    def test_without_a_version_it_is_the_newest(self, cloud, keys):
        keys.rotate(APP)
        assert (keys.choose(APP, None), keys.choose(APP, 1)) == (2, 1)

    def test_an_expired_version_is_chosen_for_nobody(self, cloud):
        keys = ClassKeys(cloud.store, cloud.kek, lifetime=dt.timedelta(days=30), now=lambda: cloud.at)
        keys.provision(APP, bits=256)
        assert cloud.store.state(APP).versions[0].expires_at == cloud.at + dt.timedelta(days=30)
        cloud.wait(days=30, seconds=-1)
        assert keys.choose(APP, None) == 1
        cloud.wait(seconds=1)
        for version in (None, 1):
            with pytest.raises(KeyUnavailable, match="is expired") as caught:
                keys.choose(APP, version)
            assert caught.value.code == "key_expired"
        keys.rotate(APP)
        assert keys.choose(APP, None) == 2

    def test_a_disabled_version_is_chosen_for_nobody_and_the_older_one_only_by_its_number(self, cloud, keys):
        keys.rotate(APP)
        cloud.store.disabled.add((APP, 2))
        with pytest.raises(KeyUnavailable) as caught:
            keys.choose(APP, None)
        assert caught.value.code == "key_disabled"
        assert keys.choose(APP, 1) == 1

    def test_before_its_time_a_version_leaves_the_older_one_in_use(self, cloud, keys):
        keys.rotate(APP)
        cloud.store.not_before[APP, 2] = cloud.at + dt.timedelta(hours=1)
        assert keys.choose(APP, None) == 1
        with pytest.raises(KeyUnavailable) as caught:
            keys.choose(APP, 2)
        assert caught.value.code == "key_not_yet_valid"
        cloud.wait(hours=1)
        assert keys.choose(APP, None) == 2

    def test_what_is_not_there_is_not_found(self, keys):
        for name, version in ((APP, 2), ("nobody", None)):
            with pytest.raises(NotFound):
                keys.choose(name, version)


class TestSealingAnew:
    def kids(self, cloud, name=APP):
        return [parse_envelope(text, where="test").kid for text in cloud.store.envelopes[name].values()]

    def test_it_moves_every_version_in_use_to_the_current_kek_and_changes_no_key(self, cloud, keys):
        keys.rotate(APP)
        before = [keys.open(APP, version).reveal() for version in (1, 2)]
        cloud.kek.rotate()
        done = keys.rewrap()
        kid = cloud.kek.current().kid
        assert (done.rewrapped, done.remaining, done.kid) == (2, 0, kid)
        assert self.kids(cloud) == [kid, kid]
        fresh = ClassKeys(cloud.store, cloud.kek)
        assert [fresh.open(APP, version).reveal() for version in (1, 2)] == before

    def test_once_it_is_done_nothing_is_sealed_again(self, cloud, keys):
        cloud.kek.rotate()
        keys.rewrap()
        asked = cloud.kek.unwraps
        assert (keys.rewrap().rewrapped, cloud.kek.unwraps) == (0, asked)

    def test_one_key_at_a_time_may_be_asked_for(self, cloud, keys):
        keys.provision("other", bits=128)
        cloud.kek.rotate()
        assert keys.rewrap("other").rewrapped == 1
        assert self.kids(cloud) != self.kids(cloud, "other")
        with pytest.raises(NotFound):
            keys.rewrap("nobody")

    def test_what_the_vaults_rate_leaves_no_time_for_remains_for_the_next_call(
        self, cloud, keys, monkeypatch
    ):
        keys.rotate(APP)
        cloud.kek.rotate()
        replaced, replace = [], cloud.store.replace_envelope

        def one_and_no_more(*arguments, **options):
            if replaced:
                raise BusyError("vault, write: too late")
            replaced.append(arguments)
            replace(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(cloud.store, "replace_envelope", one_and_no_more)
            done = keys.rewrap()
        assert (done.rewrapped, done.remaining) == (1, 1)
        done = keys.rewrap()
        assert (done.rewrapped, done.remaining) == (1, 0)

    def test_an_envelope_that_does_not_open_remains_and_stops_no_other(self, cloud, keys, caplog):
        keys.provision("other", bits=256)
        cloud.store.envelopes[APP][1] = "eyJ9.a.b.c.d"
        cloud.kek.rotate()
        done = keys.rewrap()
        assert (done.rewrapped, done.remaining) == (1, 1)
        (record,) = [each for each in caplog.records if each.message == "rewrap_failed"]
        assert (record.key_name, record.code) == (APP, "envelope_malformed")


class TestDeleting:
    def test_a_key_in_use_is_not_deleted(self, cloud, keys):
        keys.rotate(APP)
        keys.revoke(APP, 1)
        with pytest.raises(Conflict) as caught:
            keys.delete(APP)
        assert caught.value.code == "key_in_use"
        assert APP in cloud.store.envelopes

    def test_a_recovered_key_is_revoked_as_it_was_and_rotates_on(self, cloud, keys):
        keys.revoke(APP, 1)
        keys.delete(APP)
        assert APP not in keys.states()
        keys.recover(APP)
        assert (keys.state(APP).floor, keys.state(APP).current) == (2, None)
        assert keys.rotate(APP) == 2
        assert keys.choose(APP, None) == 2


def test_a_key_sealed_under_an_older_version_of_the_kek_opens(cloud, keys):
    cloud.kek.rotate()
    assert len(keys.open(APP, 1)) == 32
    keys.rotate(APP)
    assert len(keys.open(APP, 2)) == 32


def test_an_envelope_under_another_name_is_not_even_shown_to_the_vault(cloud, keys):
    keys.provision("other", bits=256)
    cloud.store.envelopes["other"][1] = cloud.store.envelopes[APP][1]
    with pytest.raises(VerificationError, match=r"found the envelope of my_confidential_app version 1"):
        keys.open("other", 1)
    assert cloud.kek.unwraps == 0


def test_an_envelope_of_another_version_does_not_open(cloud, keys):
    keys.rotate(APP)
    cloud.store.envelopes[APP][2] = cloud.store.envelopes[APP][1]
    with pytest.raises(VerificationError):
        keys.open(APP, 2)


def test_an_envelope_under_a_foreign_kek_is_not_unwrapped(cloud, keys, monkeypatch):
    monkeypatch.setattr(type(cloud.kek), "BASE", "https://vault.test/keys/another-kek/")
    with pytest.raises(VerificationError) as caught:
        keys.open(APP, 1)
    assert caught.value.code == "foreign_kek"
    assert cloud.kek.unwraps == 0


def test_what_is_no_envelope_is_told_as_such(cloud, keys):
    cloud.store.envelopes[APP][1] = "eyJ9.a.b.c.d"
    with pytest.raises(VerificationError) as caught:
        keys.open(APP, 1)
    assert caught.value.code == "envelope_malformed"


def test_two_provisions_make_two_different_keys(cloud, keys):
    keys.provision("other", bits=256)
    assert keys.open(APP, 1).reveal() != keys.open("other", 1).reveal()
