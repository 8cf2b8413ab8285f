"""What every store of the policy document keeps, and what the floor in the vault keeps."""

import json
import secrets

import pytest
from azure.keyvault.secrets import SecretClient
from simulators.policy_floor import MemoryFloor

from functions.adapters.policy_blob import BlobPolicyStore
from functions.adapters.policy_file import FilePolicyStore
from functions.adapters.policy_floor import VaultPolicyFloor
from shared.errors import Conflict, FormatError, NotFound, VerificationError
from shared.policy.document import MAX_POLICY_BYTES, load_policy
from shared.policy.floor import FLOOR_NONE


@pytest.fixture(params=["file", "simulated", "azurite"])
def store(request, tmp_path, make_container):
    if request.param == "file":
        return FilePolicyStore(tmp_path / "policy.json")
    url, credential = make_container(request.param)
    return BlobPolicyStore.connect(f"{url}/policy.json", credential)


def test_there_is_none_until_one_is_written(store):
    with pytest.raises(NotFound) as caught:
        store.read(unless=None)
    assert caught.value.code == "policy_missing"


def test_what_is_written_is_read_back_once(store):
    etag = store.write(b"one", etag=None)
    stored = store.read(unless=None)
    assert (stored.data, stored.etag) == (b"one", etag)
    assert store.read(unless=etag) is None
    assert etag.startswith('"')
    assert etag.endswith('"')


def test_it_is_replaced_by_who_knows_what_he_replaces(store):
    first = store.write(b"one", etag=None)
    second = store.write(b"two", etag=first)
    assert second != first
    assert store.read(unless=first).data == b"two"


@pytest.mark.parametrize("etag", [None, '"0x0"'])
def test_and_by_nobody_else(store, etag):
    store.write(b"one", etag=None)
    with pytest.raises(Conflict) as caught:
        store.write(b"two", etag=etag)
    assert caught.value.code == "policy_changed"
    assert store.read(unless=None).data == b"one"


def test_a_document_that_is_too_long_is_read_far_enough_to_be_refused(store):
    store.write(b"x" * (MAX_POLICY_BYTES + 1000), etag=None)
    with pytest.raises(FormatError, match="expected a policy of at most"):
        load_policy(store.read(unless=None).data, where="policy")


def test_a_file_that_is_not_the_apps_to_write_is_told(tmp_path):
    folder = tmp_path / "package"
    folder.mkdir()
    store = FilePolicyStore(folder / "policy.json")
    etag = store.write(b"one", etag=None)
    folder.chmod(0o500)
    try:
        try:
            (folder / "probe").touch()
        except PermissionError:
            with pytest.raises(Conflict) as caught:
                store.write(b"two", etag=etag)
            assert caught.value.code == "policy_read_only"
        else:
            pytest.skip("this user may write anywhere")
    finally:
        folder.chmod(0o700)


def policy(serial, name="p"):
    document = {"version": "1.0.0", "id": name, "serial": serial, "rules": []}
    return load_policy(json.dumps(document).encode(), where="policy")


@pytest.fixture(params=["memory", "key_vault"])
def floor(request):
    if request.param == "memory":
        return MemoryFloor()
    cloud = request.getfixturevalue("live_cloud")
    client = SecretClient(cloud.vault_url, cloud.credential, verify_challenge_resource=False)
    return VaultPolicyFloor(client, name=f"policy-floor-{secrets.token_hex(4)}")


def test_the_floor_is_none_rises_and_never_falls(floor):
    assert floor.read() == FLOOR_NONE
    floor.raise_to(policy(7))
    floor.raise_to(policy(12))
    floor.raise_to(policy(9))
    assert floor.read().serial == 12
    assert floor.read().digests == {policy(12).digest}


def test_the_floor_admits_itself_and_what_is_above(floor):
    floor.raise_to(policy(7))
    for good in (policy(7), policy(8), policy(8, "other")):
        floor.read().admit(good, where="policy")


@pytest.mark.parametrize(
    ("refused", "code"), [(policy(6), "policy_rollback"), (policy(7, "other"), "policy_serial_reused")]
)
def test_the_floor_refuses_what_is_older_and_other_bytes_of_its_serial(floor, refused, code):
    floor.raise_to(policy(7))
    with pytest.raises(VerificationError) as caught:
        floor.read().admit(refused, where="policy")
    assert caught.value.code == code


def test_two_documents_of_one_serial_admit_neither(floor):
    floor.raise_to(policy(7))
    floor.raise_to(policy(7, "other"))
    for either in (policy(7), policy(7, "other")):
        with pytest.raises(VerificationError):
            floor.read().admit(either, where="policy")
    floor.read().admit(policy(8), where="policy")


def test_a_floor_in_the_vault_that_cannot_be_read_admits_nothing(live_cloud):
    client = SecretClient(live_cloud.vault_url, live_cloud.credential, verify_challenge_resource=False)
    name = f"policy-floor-{secrets.token_hex(4)}"
    client.set_secret(name, "7", tags={"cpk-policy-serial": "seven"})
    with pytest.raises(VerificationError) as caught:
        VaultPolicyFloor(client, name=name).read()
    assert caught.value.code == "policy_floor_unreadable"
