"""Key Vault's secrets as the store of class keys (protocol section 2).

One secret holds one class key, each version of the secret one envelope of one version of it, as a compact JWE
of content type ``application/jose``; :mod:`functions.adapters.key_vault_entries` tells what the tags mean.

The vault has no write that only creates, and none that depends on what is there. So:

- A new envelope is written in two steps: disabled and marked ``cpk-pending``; then, if the vault lists no
  other writer of the same envelope, enabled and unmarked. Of two writers the second one to write sees the
  first, so at most one of them gets through; if both see each other, neither does, both withdraw and tell so.
  Nobody ever reads what is still marked, and what a writer that died left marked stands in nobody's way after
  a minute.
- A secret version's tags are written by its own writer until it is unmarked, and afterwards by nobody but
  who revokes that very version. All who do write the same, so no revocation can undo another.

Every change becomes visible with its last call, and every call before it changes nothing that is read.
"""

from __future__ import annotations

import datetime as dt
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError
from azure.keyvault.secrets import SecretClient

from functions.adapters.key_vault import vault_errors
from functions.adapters.key_vault_entries import (
    ENVELOPE_TAG,
    NAME_TAG,
    PENDING,
    PENDING_TAG,
    VERSION_TAG,
    WITHDRAWN,
    Entry,
    envelopes_of,
    is_pending,
    read_entry,
    read_name,
    secret_name,
    state_of,
)
from functions.adapters.vault_calls import vault_options
from shared.errors import Conflict, KeyUnavailable, NotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from azure.core.credentials import TokenCredential
    from azure.keyvault.secrets import DeletedSecret, SecretProperties

    from functions.call_rates import CallRates
    from shared.keys.store import ClassKeyState
    from shared.rollout import Rollout
    from shared.types import KeyName

CONTENT_TYPE = "application/jose"

PENDING_SECONDS = 60
"""A writer that has not got through for so long has died: it stands in nobody's way any more."""

_NO_ENVELOPE = "aborted"
"""Value of the secret version that tells of an aborted rollout; the envelope stands in the one before."""

_LISTINGS_AT_ONCE = 8
_LOG = logging.getLogger(__name__)


def _utc_now() -> datetime:
    return dt.datetime.now(dt.UTC)


class SecretClassKeyStore:
    """A :class:`shared.keys.store.ClassKeyStore` in a vault's secrets.

    Args:
        client: Of the vault.
        now: Tells the time that ``exp`` and ``nbf`` are judged by, aware.
        pending_seconds: See :data:`PENDING_SECONDS`.
    """

    def __init__(
        self,
        client: SecretClient,
        *,
        now: Callable[[], datetime] = _utc_now,
        pending_seconds: float = PENDING_SECONDS,
    ) -> None:
        self._client = client
        self._now = now
        self._pending = dt.timedelta(seconds=pending_seconds)

    @classmethod
    def connect(
        cls,
        vault_url: str,
        credential: TokenCredential,
        *,
        verify_challenge: bool,
        rates: CallRates | None = None,
    ) -> SecretClassKeyStore:
        """Return a store in this vault; one serves all threads."""
        client = SecretClient(
            vault_url, credential, verify_challenge_resource=verify_challenge, **vault_options(rates)
        )
        return cls(client)

    def states(self) -> Mapping[KeyName, ClassKeyState]:
        """Return every class key's state; see the port.

        A listing of secrets shows the newest version of each alone, so the versions of every class key are
        listed too, some keys at a time.
        """
        with vault_errors("listing class keys"):
            listed = [read_name(properties) for properties in self._client.list_properties_of_secrets()]
        names = [name for name in listed if name is not None]
        with ThreadPoolExecutor(_LISTINGS_AT_ONCE) as pool:
            found = zip(names, pool.map(self._readable_entries, names), strict=True)
            return {name: state_of(entries, now=self._now()) for name, entries in found if entries}

    def state(self, name: KeyName) -> ClassKeyState:
        """Return one class key's state; see the port."""
        return state_of(self._known_entries(name), now=self._now())

    def create(
        self,
        name: KeyName,
        envelope: str,
        *,
        algorithm: str,
        expires_at: datetime | None = None,
        request: str | None = None,
    ) -> None:
        """Store version 1; see the port."""
        if any(not is_pending(properties) for properties in self._listed(name)):
            raise Conflict(f"class key {name} exists", code="key_exists", hint="rotate it instead")
        entry = Entry(
            name=name, number=1, floor=1, algorithm=algorithm, expires_at=expires_at, request=request
        )
        if not self._write(entry, envelope):
            raise Conflict(
                f"class key {name} is being created by somebody else",
                code="key_exists",
                hint=f"look again; what a crash left behind gives way after {PENDING_SECONDS} seconds",
            )

    def add_version(
        self,
        name: KeyName,
        envelope: str,
        *,
        version: int,
        algorithm: str,
        expires_at: datetime | None = None,
        request: str | None = None,
        rollout: Rollout | None = None,
    ) -> None:
        """Store the next version; see the port."""
        state = self.state(name)
        if version != state.latest + 1:
            raise Conflict(
                f"class key {name}: version {version} does not follow {state.latest}", code="version_exists"
            )
        entry = Entry(
            name=name,
            number=version,
            floor=state.floor,
            algorithm=algorithm,
            expires_at=expires_at,
            request=request,
            rollout=rollout,
        )
        if not self._write(entry, envelope):
            raise _being_made(name, version)

    def set_rollout(self, name: KeyName, rollout: Rollout, *, version: int, expected: Rollout) -> None:
        """Store how far a rollout is, with the version's next envelope; see the port.

        Tags of a version that is read are not written anew: who did could undo a revocation, which does.
        """
        envelopes = self._envelopes(name, version)
        old = envelopes[-1]
        if old.rollout != expected:
            raise _moved(name, version)
        # What is aborted has to end also if the vault does not give it out.
        envelope = _NO_ENVELOPE if rollout.is_aborted else self._read(name, version, envelopes)
        if not self._write(replace(old, envelope=old.envelope + 1, rollout=rollout), envelope):
            raise _moved(name, version)

    def replace_envelope(self, name: KeyName, envelope: str, *, version: int) -> None:
        """Store a version's next envelope; see the port."""
        old = self._envelopes(name, version)[-1]
        if not self._write(replace(old, envelope=old.envelope + 1), envelope):
            raise _being_made(name, version)

    def requests(self, name: KeyName) -> Mapping[int, str]:
        """Return what the versions' tags note; see the port."""
        return {entry.number: entry.request for entry in self._entries(name) if entry.request is not None}

    def raise_floor(self, name: KeyName, floor: int) -> int:
        """Raise the floor in the tags of the version just below it; see the port."""
        entries = self._known_entries(name)
        highest = max(entry.floor for entry in entries)
        below = envelopes_of(entries, floor - 1)
        if not below:
            raise NotFound(f"class key {name} has no version {floor - 1}", code="key_not_found")
        if highest >= floor:
            return highest
        tags = replace(below[-1], floor=floor).tags()
        with vault_errors(f"revoking class key {name}"):
            self._client.update_secret_properties(secret_name(name), below[-1].secret_version, tags=tags)
        return floor

    def read(self, name: KeyName, version: int) -> str:
        """Return the envelope of one version; see the port."""
        return self._read(name, version, self._envelopes(name, version))

    def _read(self, name: KeyName, version: int, envelopes: Sequence[Entry]) -> str:
        rollout = envelopes[-1].rollout
        if rollout is not None and rollout.is_aborted:
            raise KeyUnavailable(f"class key {name} version {version} was aborted", code="key_aborted")
        if not all(entry.is_enabled for entry in envelopes):
            raise KeyUnavailable(f"class key {name} version {version} is disabled", code="key_disabled")
        with vault_errors(f"reading class key {name}"):
            secret = self._client.get_secret(secret_name(name), envelopes[-1].secret_version)
        return secret.value or ""

    def delete(self, name: KeyName) -> datetime | None:
        """Soft-delete the secret; see the port."""
        if not self._listed(name):
            deleted = self._deleted(name)
            if deleted is None:
                raise _unknown(name)
            return deleted.scheduled_purge_date
        with vault_errors(f"deleting class key {name}"):
            return self._client.begin_delete_secret(secret_name(name)).result().scheduled_purge_date

    def recover(self, name: KeyName) -> None:
        """Undo the soft delete of the secret; see the port."""
        if self._deleted(name) is None:
            self._known_entries(name)
            return
        with vault_errors(f"recovering class key {name}"):
            self._client.begin_recover_deleted_secret(secret_name(name))

    def _deleted(self, name: KeyName) -> DeletedSecret | None:
        """Return the deleted secret of a class key, or None if there is none.

        Raises:
            Conflict: ``name_taken``.
        """
        with vault_errors(f"looking up the deleted class key {name}"):
            try:
                deleted = self._client.get_deleted_secret(secret_name(name))
            except ResourceNotFoundError:
                return None
        if (deleted.properties.tags or {}).get(NAME_TAG) != name:
            raise _taken(name)
        return deleted

    def _envelopes(self, name: KeyName, version: int) -> list[Entry]:
        envelopes = envelopes_of(self._known_entries(name), version)
        if not envelopes:
            raise NotFound(f"class key {name} has no version {version}", code="key_not_found")
        return envelopes

    def _known_entries(self, name: KeyName) -> list[Entry]:
        entries = self._entries(name)
        if not entries:
            raise _unknown(name)
        return entries

    def _readable_entries(self, name: KeyName) -> list[Entry]:
        try:
            return self._entries(name)
        except Conflict as error:  # one secret that somebody wrote over hides no other class key
            _LOG.warning("class_key_unreadable", extra={"secret": secret_name(name), "detail": str(error)})
            return []

    def _entries(self, name: KeyName) -> list[Entry]:
        """Return what got through, also if it was disabled since; what cannot be read is left out.

        Raises:
            Conflict: ``name_taken``.
        """
        written = [properties for properties in self._listed(name) if not is_pending(properties)]
        read = (read_entry(properties, where=f"class key {name}") for properties in written)
        return [entry for entry in read if entry is not None]

    def _listed(self, name: KeyName) -> list[SecretProperties]:
        """Return every version of a class key's secret; empty if there is no such secret.

        Raises:
            Conflict: ``name_taken``.
        """
        with vault_errors(f"looking up class key {name}"):
            try:
                listed = list(self._client.list_properties_of_secret_versions(secret_name(name)))
            except ResourceNotFoundError:
                return []
        if any((properties.tags or {}).get(NAME_TAG) != name for properties in listed):
            raise _taken(name)
        return listed

    def _write(self, entry: Entry, envelope: str) -> bool:
        """Write an envelope in two steps; say whether it got through.

        Raises:
            Conflict: ``key_deleted``.
        """
        secret = secret_name(entry.name)
        with vault_errors(f"storing class key {entry.name}"):
            try:
                made = self._client.set_secret(
                    secret,
                    envelope,
                    enabled=False,
                    content_type=CONTENT_TYPE,
                    tags={**entry.tags(), PENDING_TAG: PENDING},
                    not_before=entry.not_before,
                    expires_on=entry.expires_at,
                ).properties
            except ResourceExistsError as error:
                raise Conflict(
                    f"class key {entry.name} was deleted and can still be recovered",
                    code="key_deleted",
                    hint=f"recover it, or purge the secret {secret}",
                ) from error
            if self._has_rival(entry, made):
                self._withdraw(entry, made)
                return False
            through = self._client.update_secret_properties(
                secret, made.version, enabled=True, tags=entry.tags()
            )
            if _took(through) > self._pending and self._has_rival(entry, made):
                self._withdraw(entry, made)  # it was taken for dead, and somebody else got through meanwhile
                return False
            return True

    def _has_rival(self, entry: Entry, mine: SecretProperties) -> bool:
        return any(self._is_rival(other, mine) for other in self._listed(entry.name))

    def _is_rival(self, other: SecretProperties, mine: SecretProperties) -> bool:
        """Say whether another secret version claims the same envelope."""
        if other.version == mine.version or _claim(other) != _claim(mine):
            return False
        pending = (other.tags or {}).get(PENDING_TAG)
        if pending != PENDING:
            return pending is None
        if other.created_on is None or mine.created_on is None:
            return True
        return mine.created_on - other.created_on <= self._pending

    def _withdraw(self, entry: Entry, made: SecretProperties) -> None:
        tags = {**entry.tags(), PENDING_TAG: WITHDRAWN}
        self._client.update_secret_properties(secret_name(entry.name), made.version, enabled=False, tags=tags)


def _claim(properties: SecretProperties) -> tuple[str | None, str]:
    tags = properties.tags or {}
    return tags.get(VERSION_TAG), tags.get(ENVELOPE_TAG, "1")


def _took(properties: SecretProperties) -> dt.timedelta:
    """Return how long the vault saw a write take from its first step to its last."""
    if properties.created_on is None or properties.updated_on is None:
        return dt.timedelta.max
    return properties.updated_on - properties.created_on


def _unknown(name: KeyName) -> NotFound:
    return NotFound(f"class key {name} does not exist", code="key_not_found")


def _taken(name: KeyName) -> Conflict:
    return Conflict(
        f"class key {name}: the secret {secret_name(name)} holds something else", code="name_taken"
    )


def _moved(name: KeyName, version: int) -> Conflict:
    return Conflict(
        f"class key {name}: the rollout of version {version} is not where it was expected, or is being moved",
        code="rollout_changed",
        hint=f"look again; what a crash left behind gives way after {PENDING_SECONDS} seconds",
    )


def _being_made(name: KeyName, version: int) -> Conflict:
    return Conflict(
        f"class key {name}: version {version} is there, or is being made by somebody else",
        code="version_exists",
        hint=f"look again; what a crash left behind gives way after {PENDING_SECONDS} seconds",
    )
