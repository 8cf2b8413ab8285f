"""Key Vault's secrets as the store of class keys (protocol section 2).

One secret holds one class key, each version of the secret one version of the key, as a compact JWE of
content type ``application/jose``. Its tags say what it is: ``cpk-key-name`` ``cpk-version`` ``cpk-floor``
``cpk-algorithm``; and ``cpk-request`` which repeatable request made it, if one did. A secret's name ignores
case and takes no ``_``, so the exact key name stands in the tag, and a secret without it is no class key.

The vault has no write that only creates, so a version of a key is written in two steps: disabled and marked
``cpk-pending``; then, if the vault lists no other writer of the same version, enabled and unmarked. Of two
writers the second one to write sees the first, so at most one of them gets through; if both see each other,
neither does, both withdraw and tell so. Nobody ever reads a version that is not enabled.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError
from azure.keyvault.secrets import SecretClient

from functions.adapters.key_vault import VaultRetryPolicy, vault_errors
from shared.errors import Conflict, FormatError, NotFound
from shared.keys.store import ALGORITHM_BITS, ClassKeyState
from shared.types import MAX_KEY_VERSION, KeyName, parse_key_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from azure.core.credentials import TokenCredential
    from azure.keyvault.secrets import SecretProperties

CONTENT_TYPE = "application/jose"
NAME_TAG = "cpk-key-name"
VERSION_TAG = "cpk-version"
FLOOR_TAG = "cpk-floor"
ALGORITHM_TAG = "cpk-algorithm"
PENDING_TAG = "cpk-pending"
REQUEST_TAG = "cpk-request"

PENDING_SECONDS = 60
"""A writer that has not got through for so long has died: it stands in nobody's way any more."""

_LOG = logging.getLogger(__name__)
_FLOOR_ROUNDS = 4
_PENDING, _WITHDRAWN = "pending", "withdrawn"
_DIGITS = re.compile(r"[0-9]{1,10}")
_HASH_DIGITS = 8


def secret_name(name: KeyName) -> str:
    """Return the name of a class key's secret (protocol section 1).

    Example:
        >>> secret_name(KeyName("my_confidential_app"))
        'ck-my-confidential-app-d5b45890'
    """
    plain = name.lower().replace("_", "-")
    if plain == name:
        return f"ck-{name}"
    return f"ck-{plain}-{hashlib.sha256(name.encode()).hexdigest()[:_HASH_DIGITS]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """One version of a secret that holds one version of a class key."""

    name: KeyName
    number: int
    floor: int
    algorithm: str
    secret_version: str
    is_enabled: bool = True
    request: str | None = None


class SecretClassKeyStore:
    """A :class:`shared.keys.store.ClassKeyStore` in a vault's secrets.

    Args:
        client: Of the vault.
    """

    def __init__(self, client: SecretClient) -> None:
        self._client = client

    @classmethod
    def connect(
        cls, vault_url: str, credential: TokenCredential, *, verify_challenge: bool
    ) -> SecretClassKeyStore:
        """Return a store in this vault; one serves all threads."""
        client = SecretClient(
            vault_url,
            credential,
            verify_challenge_resource=verify_challenge,
            retry_policy=VaultRetryPolicy(),
        )
        return cls(client)

    def states(self) -> Mapping[KeyName, ClassKeyState]:
        """Return every class key's state from one paged listing; see the port."""
        with vault_errors("listing class keys"):
            listed = list(self._client.list_properties_of_secrets())
        found: dict[KeyName, ClassKeyState] = {}
        for properties in listed:
            entry = _read_entry(properties, where="listing class keys")
            if entry is None or properties.name != secret_name(entry.name):
                continue
            # A listing shows a secret's newest version alone; if nobody may read that one, the others count.
            entries = [entry] if entry.is_enabled else self._entries(entry.name)
            if any(each.is_enabled for each in entries):
                found[entry.name] = _state(entries)
        return found

    def state(self, name: KeyName) -> ClassKeyState:
        """Return one class key's state; see the port."""
        return _state(self._known_entries(name))

    def create(self, name: KeyName, envelope: str, *, algorithm: str, request: str | None = None) -> None:
        """Store version 1; see the port."""
        if any(not _is_pending(properties) for properties in self._listed(name)):
            raise Conflict(f"class key {name} exists", code="key_exists", hint="rotate it instead")
        entry = _Entry(name=name, number=1, floor=1, algorithm=algorithm, secret_version="", request=request)
        if not self._write(entry, envelope):
            raise Conflict(
                f"class key {name} is being created by somebody else", code="key_exists", hint="look again"
            )

    def add_version(
        self, name: KeyName, envelope: str, *, version: int, algorithm: str, request: str | None = None
    ) -> None:
        """Store the next version; see the port."""
        state = _state(self._known_entries(name))
        if version != state.latest + 1:
            raise Conflict(
                f"class key {name}: version {version} does not follow {state.latest}", code="version_exists"
            )
        entry = _Entry(
            name=name,
            number=version,
            floor=state.floor,
            algorithm=algorithm,
            secret_version="",
            request=request,
        )
        if not self._write(entry, envelope):
            raise Conflict(
                f"class key {name}: version {version} is there, disabled, or is being made by somebody else",
                code="version_exists",
            )
        # A floor that was raised between reading and writing must not be lost with the older version's tags.
        floor = self.state(name).floor
        if floor > state.floor:
            self.raise_floor(name, floor)

    def requests(self, name: KeyName) -> Mapping[int, str]:
        """Return the versions' request tags; see the port."""
        return {entry.number: entry.request for entry in self._entries(name) if entry.request is not None}

    def raise_floor(self, name: KeyName, floor: int) -> int:
        """Raise the floor in the tags of the newest version; see the port."""
        for _ in range(_FLOOR_ROUNDS):
            entries = self._known_entries(name)
            state = _state(entries)
            if not 1 <= floor - 1 <= state.latest:
                raise NotFound(f"class key {name} has no version {floor - 1}", code="key_not_found")
            wanted = max(floor, state.floor)
            newest = [entry for entry in entries if entry.is_enabled and entry.number == state.latest]
            behind = [entry for entry in newest if entry.floor < wanted]
            if not behind:
                return wanted
            for entry in behind:
                with vault_errors(f"revoking versions of class key {name}"):
                    self._client.update_secret_properties(
                        secret_name(name),
                        entry.secret_version,
                        tags=_tags(replace(entry, floor=wanted)),
                    )
        raise Conflict(f"class key {name}: its versions change too fast to raise the floor")

    def read(self, name: KeyName, version: int) -> str:
        """Return the envelope of one version; see the port."""
        entries = (each for each in self._known_entries(name) if each.is_enabled and each.number == version)
        entry = next(entries, None)
        if entry is None:
            raise NotFound(f"class key {name} has no version {version}", code="key_not_found")
        with vault_errors(f"reading class key {name}"):
            secret = self._client.get_secret(secret_name(name), entry.secret_version)
        return secret.value or ""

    def _known_entries(self, name: KeyName) -> list[_Entry]:
        entries = self._entries(name)
        if not any(entry.is_enabled for entry in entries):
            raise NotFound(f"class key {name} does not exist", code="key_not_found")
        return entries

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
            raise Conflict(
                f"class key {name}: the secret {secret_name(name)} holds something else", code="name_taken"
            )
        return listed

    def _entries(self, name: KeyName) -> list[_Entry]:
        """Return the versions that got through, also those that were disabled since; unreadable ones not.

        Raises:
            Conflict: ``name_taken``.
        """
        written = [properties for properties in self._listed(name) if not _is_pending(properties)]
        read = (_read_entry(properties, where=f"class key {name}") for properties in written)
        return [entry for entry in read if entry is not None]

    def _write(self, entry: _Entry, envelope: str) -> bool:
        """Write a version in two steps; say whether it got through.

        Raises:
            Conflict: ``key_deleted``.
        """
        secret, tags = secret_name(entry.name), _tags(entry)
        with vault_errors(f"storing class key {entry.name}"):
            try:
                made = self._client.set_secret(
                    secret,
                    envelope,
                    enabled=False,
                    content_type=CONTENT_TYPE,
                    tags={**tags, PENDING_TAG: _PENDING},
                ).properties
            except ResourceExistsError as error:
                raise Conflict(
                    f"class key {entry.name} was deleted and can still be recovered",
                    code="key_deleted",
                    hint=f"recover or purge the secret {secret}",
                ) from error
            if any(_is_rival(other, made) for other in self._listed(entry.name)):
                withdrawn = {**tags, PENDING_TAG: _WITHDRAWN}
                self._client.update_secret_properties(secret, made.version, tags=withdrawn)
                return False
            self._client.update_secret_properties(secret, made.version, enabled=True, tags=tags)
            return True


def _is_pending(properties: SecretProperties) -> bool:
    return PENDING_TAG in (properties.tags or {})


def _is_rival(other: SecretProperties, mine: SecretProperties) -> bool:
    """Say whether another version of a secret claims the same version of the key."""
    tags, own_tags = other.tags or {}, mine.tags or {}
    if other.version == mine.version or tags.get(VERSION_TAG) != own_tags.get(VERSION_TAG):
        return False
    if tags.get(PENDING_TAG) != _PENDING:
        return PENDING_TAG not in tags
    if other.created_on is None or mine.created_on is None:
        return True
    return mine.created_on - other.created_on <= dt.timedelta(seconds=PENDING_SECONDS)


def _state(entries: list[_Entry]) -> ClassKeyState:
    """Return the state that a key's versions amount to; a floor counts even if its version was disabled."""
    newest = max((entry for entry in entries if entry.is_enabled), key=lambda entry: entry.number)
    return ClassKeyState(
        latest=newest.number, floor=max(entry.floor for entry in entries), algorithm=newest.algorithm
    )


def _tags(entry: _Entry) -> dict[str, str]:
    return {
        NAME_TAG: entry.name,
        VERSION_TAG: str(entry.number),
        FLOOR_TAG: str(entry.floor),
        ALGORITHM_TAG: entry.algorithm,
        **({} if entry.request is None else {REQUEST_TAG: entry.request}),
    }


def _read_entry(properties: SecretProperties, *, where: str) -> _Entry | None:
    """Read a secret version's tags; None if it is no class key, or not readable as one."""
    tags = properties.tags or {}
    if NAME_TAG not in tags:
        return None
    try:
        return _Entry(
            name=parse_key_name(tags[NAME_TAG], where=where),
            number=_number(tags.get(VERSION_TAG), where=where),
            floor=_number(tags.get(FLOOR_TAG), where=where),
            algorithm=_algorithm(tags.get(ALGORITHM_TAG), where=where),
            secret_version=properties.version or "",
            is_enabled=properties.enabled is True,
            request=tags.get(REQUEST_TAG),
        )
    except FormatError as error:
        _LOG.warning("class_key_unreadable", extra={"secret": properties.name, "detail": str(error)})
        return None


def _number(text: str | None, *, where: str) -> int:
    if text is None or not _DIGITS.fullmatch(text) or not 1 <= int(text) <= MAX_KEY_VERSION + 1:
        raise FormatError(f"{where}: a tag holds no version")
    return int(text)


def _algorithm(text: str | None, *, where: str) -> str:
    if text not in ALGORITHM_BITS:
        raise FormatError(f"{where}: a tag holds no algorithm of a class key")
    return text
