"""Class keys in memory: how long, how often the vault is asked, what does not open."""

from __future__ import annotations

import pytest
from simulators.cloud import APP

from shared.errors import VerificationError


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
