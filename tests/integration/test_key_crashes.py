"""A crash between any two calls to the vault, in every operation on class keys.

The calls of an operation are numbered; for each number the process dies, once before the vault hears of that
call and once after it did and before the answer came. Then a new process looks: what could be read still can,
and nothing that was revoked came back. It repeats the operation at once, which goes through or says what
stands in its way, and repeats it when dead writers have given way, which goes through.
"""

from __future__ import annotations

import itertools
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import requests
from azure.core.exceptions import ResourceNotFoundError
from azure.keyvault.keys import KeyClient
from azure.keyvault.secrets import SecretClient
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from simulators.killing_transport import Fate, Killed, KillingTransport
from simulators.vault_process import VaultProcess

from functions.adapters.key_vault import VaultKek
from functions.adapters.key_vault_entries import secret_name
from functions.adapters.key_vault_secrets import PENDING_SECONDS, SecretClassKeyStore
from functions.class_keys import ClassKeys
from local_cloud.vault_keys import KEK_NAME
from shared.errors import Conflict, EdbError, NotFound
from shared.keys.envelope import parse_envelope, seal_envelope
from shared.keys.store import VersionState
from shared.rollout import WHOLE, Rollout
from shared.types import KeyName, Secret

if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.keys.envelope import Kek

IMPORTED = bytes(range(32))
STAGES = Rollout(stages=(100, 1000, WHOLE))
GIVE_WAY = -1.0
"""Seconds after which a dead writer has given way, for the process that comes a minute later."""


SESSION = requests.Session()


class Process:
    """The function app as it works with a vault, until it dies."""

    def __init__(self, vault: VaultProcess, fate: Fate | None = None, pending: float = PENDING_SECONDS):
        self.fate = fate or Fate()
        transport = {"transport": KillingTransport(self.fate, str(vault.ca_file), SESSION)}
        options = {**transport, "verify_challenge_resource": False, "retry_total": 0}
        self.secrets = SecretClient(vault.url, vault.function_app, **options)
        self.store = SecretClassKeyStore(self.secrets, pending_seconds=pending)
        self.kek = VaultKek(KeyClient(vault.url, vault.function_app, **options), KEK_NAME)
        self.keys = ClassKeys(self.store, self.kek)


class World:
    """A vault whose KEK was rotated once."""

    def __init__(self, vault: VaultProcess) -> None:
        self.vault = vault
        operator = vault.keys()
        usage = ["wrapKey", "unwrapKey"]
        operator.create_rsa_key(KEK_NAME, size=3072, hardware_protected=True, key_operations=usage)
        self.old_kek: Kek = Process(vault).kek.current()
        operator.rotate_key(KEK_NAME)
        self.kek: Kek = Process(vault).kek.current()

    def process(self, fate: Fate | None = None, *, pending: float = PENDING_SECONDS) -> Process:
        return Process(self.vault, fate, pending)

    def purge(self, name: KeyName) -> None:
        """Take a class key out of the vault for good: what lists all of them would get slower and slower."""
        operator = SecretClient(
            self.vault.url,
            self.vault.operator,
            transport=KillingTransport(Fate(), str(self.vault.ca_file), SESSION),
            verify_challenge_resource=False,
        )
        with suppress(ResourceNotFoundError):  # deleted before
            operator.begin_delete_secret(secret_name(name))
        operator.purge_deleted_secret(secret_name(name))

    def wrapped(self) -> bytes:
        oaep = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
        return self.kek.public_key.encrypt(IMPORTED, oaep)

    def seal_under_old_kek(self, name: KeyName, *, versions: int) -> None:
        store = self.process().store
        for version in range(1, versions + 1):
            key = Secret(secrets.token_bytes(32))
            text = seal_envelope(key, kek=self.old_kek, name=name, version=version)
            if version == 1:
                store.create(name, text, algorithm="aes-gcm-256")
            else:
                store.add_version(name, text, version=version, algorithm="aes-gcm-256")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    vault = VaultProcess(tmp_path_factory.mktemp("vault"))
    yield World(vault)
    vault.close()


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation, and what is true when it is done.

    Args:
        prepare: Makes what it needs.
        act: Does it.
        is_done: Whether it was done, to a key that is there.
        may_report: Codes of the errors that a repeated call may tell.
        changes: Calls to the vault that it makes to change something, at least.
    """

    prepare: Callable[[World, KeyName], None]
    act: Callable[[World, Process, KeyName], object]
    is_done: Callable[[World, Process, KeyName], bool]
    may_report: frozenset[str] = frozenset()
    changes: int = 1


def _nothing(_world, _name):
    pass


def _two_versions(world, name):
    keys = world.process().keys
    keys.provision(name, bits=256)
    keys.rotate(name)


def _two_versions_one_revoked(world, name):
    _two_versions(world, name)
    world.process().keys.revoke(name, 1)


def _revoked(world, name):
    _two_versions(world, name)
    world.process().keys.revoke(name, 2)


def _staged(world, name):
    keys = world.process().keys
    keys.provision(name, bits=256)
    keys.rotate(name, rollout=STAGES)


def _move(process, name, move):
    return process.keys.move_rollout(name, version=2, stage=0, move=move)


def _deleted(world, name):
    _revoked(world, name)
    world.process().keys.delete(name)


def _opens(process, name, version, expected=None):
    key = process.keys.open(name, version).reveal()
    return len(key) == 32 and expected in (None, key)


def _is_deleted(process, name):
    try:
        process.store.state(name)
    except NotFound:
        return process.secrets.get_deleted_secret(secret_name(name)).recovery_id is not None
    return False


def _kids(process, name):
    versions = [each.version for each in process.store.state(name).versions]
    return {parse_envelope(process.store.read(name, version), where="test").kid for version in versions}


OPERATIONS = {
    "provision": Operation(
        prepare=_nothing,
        act=lambda _, process, name: process.keys.provision(name, bits=256),
        is_done=lambda _, process, name: process.store.state(name).latest == 1 and _opens(process, name, 1),
        may_report=frozenset({"key_exists"}),
        changes=2,
    ),
    "import": Operation(
        prepare=_nothing,
        act=lambda world, process, name: process.keys.import_key(name, world.wrapped(), kid=None),
        is_done=lambda _, process, name: (
            process.store.state(name).latest == 1 and _opens(process, name, 1, IMPORTED)
        ),
        may_report=frozenset({"key_exists"}),
        changes=2,
    ),
    "rotate": Operation(
        prepare=_two_versions_one_revoked,
        act=lambda _, process, name: process.keys.rotate(name),
        is_done=lambda _, process, name: (
            process.store.state(name).latest >= 3
            and process.store.state(name).floor == 2
            and _opens(process, name, process.store.state(name).latest)
        ),
        may_report=frozenset({"version_exists"}),
        changes=2,
    ),
    "rotate in stages": Operation(
        prepare=_two_versions_one_revoked,
        act=lambda _, process, name: process.keys.rotate(name, rollout=STAGES),
        is_done=lambda _, process, name: (
            process.store.state(name).current == 2
            and process.store.state(name).staged.rollout == STAGES
            and _opens(process, name, 3)
        ),
        may_report=frozenset({"version_exists", "rollout_unfinished"}),
        changes=2,
    ),
    "advance": Operation(
        prepare=_staged,
        act=lambda _, process, name: _move(process, name, Rollout.advanced),
        is_done=lambda _, process, name: (
            process.store.state(name).staged.rollout == STAGES.advanced() and _opens(process, name, 2)
        ),
        may_report=frozenset({"rollout_changed"}),
        changes=2,
    ),
    "abort": Operation(
        prepare=_staged,
        act=lambda _, process, name: _move(process, name, Rollout.aborted),
        is_done=lambda _, process, name: (
            process.store.state(name).versions[1].state is VersionState.ABORTED
            and process.store.state(name).current == 1
        ),
        may_report=frozenset({"rollout_changed"}),
        changes=2,
    ),
    "revoke": Operation(
        prepare=_two_versions,
        act=lambda _, process, name: process.keys.revoke(name, 1),
        is_done=lambda _, process, name: process.store.state(name).floor == 2,
    ),
    "rewrap": Operation(
        prepare=lambda world, name: world.seal_under_old_kek(name, versions=2),
        act=lambda _, process, name: process.keys.rewrap(name),
        is_done=lambda world, process, name: (
            _kids(process, name) == {world.kek.kid} and process.keys.rewrap(name).remaining == 0
        ),
        changes=4,
    ),
    "delete": Operation(
        prepare=_revoked,
        act=lambda _, process, name: process.keys.delete(name),
        is_done=lambda _, process, name: _is_deleted(process, name),
    ),
    "recover": Operation(
        prepare=_deleted,
        act=lambda _, process, name: process.keys.recover(name),
        is_done=lambda _, process, name: process.store.state(name).floor == 3,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What a new process sees of a class key: its floor, each version in clear, and what was aborted."""

    floor: int
    keys: dict[int, bytes]
    aborted: frozenset[int]

    @classmethod
    def of(cls, world: World, name: KeyName) -> Snapshot | None:
        process = world.process()
        try:
            state = process.store.state(name)
        except NotFound:
            return None
        assert process.store.states()[name] == state
        aborted = {each.version for each in state.versions if each.state is VersionState.ABORTED}
        readable = [each.version for each in state.versions if each.version not in aborted]
        keys = {version: process.keys.open(name, version).reveal() for version in readable}
        return cls(floor=state.floor, keys=keys, aborted=frozenset(aborted))

    def is_kept_by(self, later: Snapshot) -> bool:
        kept = {version: key for version, key in self.keys.items() if version not in later.aborted}
        return (
            later.floor >= self.floor and self.aborted <= later.aborted and kept.items() <= later.keys.items()
        )


def attempt(world, operation, process, name):
    """Let a process try; return the code of what it reports, or None."""
    try:
        operation.act(world, process, name)
    except EdbError as error:
        return error.code
    return None


def check_kept(world, what, name, before):
    after = Snapshot.of(world, name)
    if what == "delete" and after is None:
        return
    if before is not None:
        assert after is not None
        assert before.is_kept_by(after)


def crash_at(world, what, call, *, answered):
    """Kill an operation at one call and let others finish; say whether it lived long enough to be killed."""
    operation, name = OPERATIONS[what], KeyName(f"{what.replace(' ', '-')}-{secrets.token_hex(6)}")
    operation.prepare(world, name)
    before = Snapshot.of(world, name)
    fate = Fate(at=call, answered=answered)
    try:
        operation.act(world, world.process(fate), name)
    except Killed:
        pass
    else:
        changes = [line for line in fate.log if not line.startswith("GET") and "unwrapkey" not in line]
        assert len(changes) >= operation.changes
        return False

    check_kept(world, what, name, before)
    at_once = attempt(world, operation, world.process(), name)
    assert at_once is None or at_once in operation.may_report
    check_kept(world, what, name, before)

    later = world.process(pending=GIVE_WAY)
    reported = attempt(world, operation, later, name)
    assert reported is None or reported in operation.may_report
    assert operation.is_done(world, later, name)
    check_kept(world, what, name, before)
    world.purge(name)
    return True


@pytest.mark.timeout(600)
@pytest.mark.parametrize("answered", [False, True], ids=["before the call", "before its answer"])
@pytest.mark.parametrize("what", OPERATIONS)
def test_a_crash_at_any_call_loses_nothing_and_is_finished_by_the_next(world, what, answered):
    crashes = itertools.takewhile(
        lambda call: crash_at(world, what, call, answered=answered), itertools.count(1)
    )
    assert len(list(crashes)) >= 2


def test_nothing_is_unreadable_while_envelopes_are_sealed_anew(world):
    name = KeyName(f"read-{secrets.token_hex(6)}")
    world.seal_under_old_kek(name, versions=3)
    expected = Snapshot.of(world, name)
    done, readings = threading.Event(), []

    def read():
        while not done.is_set():
            readings.append(Snapshot.of(world, name) == expected)

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read)
        rewrapped = world.process().keys.rewrap(name)
        done.set()
        reader.result()
    assert (rewrapped.rewrapped, rewrapped.remaining) == (3, 0)
    assert readings
    assert all(readings)
    assert Snapshot.of(world, name) == expected


def test_sealing_anew_goes_on_where_its_limit_stopped_it_and_leaves_what_is_revoked(world):
    name = KeyName(f"limit-{secrets.token_hex(6)}")
    world.seal_under_old_kek(name, versions=4)
    keys = world.process().keys
    keys.revoke(name, 1)
    found = [(done.rewrapped, done.remaining) for done in (keys.rewrap(name, limit=2) for _ in range(3))]
    assert found == [(2, 1), (1, 0), (0, 0)]
    assert _kids(world.process(), name) == {world.kek.kid, world.old_kek.kid}


def test_a_disabled_version_is_told_as_remaining(world):
    name = KeyName(f"disabled-{secrets.token_hex(6)}")
    world.seal_under_old_kek(name, versions=2)
    process = world.process()
    newest = process.secrets.get_secret(secret_name(name)).properties.version
    process.secrets.update_secret_properties(secret_name(name), newest, enabled=False)
    done = process.keys.rewrap(name)
    assert (done.rewrapped, done.remaining) == (1, 1)


def test_two_operators_who_seal_anew_at_once_leave_every_key_readable(world):
    name = KeyName(f"both-{secrets.token_hex(6)}")
    world.seal_under_old_kek(name, versions=2)
    expected = Snapshot.of(world, name)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: world.process().keys.rewrap(name), range(2)))
    assert Snapshot.of(world, name) == expected
    assert world.process(pending=GIVE_WAY).keys.rewrap(name).remaining == 0
    assert Snapshot.of(world, name) == expected


def test_a_key_in_use_is_not_deleted(world):
    name = KeyName(f"used-{secrets.token_hex(6)}")
    _two_versions_one_revoked(world, name)
    with pytest.raises(Conflict) as caught:
        world.process().keys.delete(name)
    assert caught.value.code == "key_in_use"
    assert world.process().store.state(name).current == 2
