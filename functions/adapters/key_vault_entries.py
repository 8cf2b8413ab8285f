"""What the tags and attributes of a secret's versions say about a class key (protocol section 2).

=================== ======================================================================================
tag                 what
=================== ======================================================================================
``cpk-key-name``    the class key's exact name; a secret without it is no class key
``cpk-version``     which version of the class key this secret version holds
``cpk-envelope``    which envelope of that version, from 2; missing for the first one
``cpk-floor``       a floor; the highest one that stands anywhere in the secret is the key's
``cpk-algorithm``   ``aes-gcm-128`` and so on
``cpk-request``     which repeatable request made the version, where one did
``cpk-rollout``     how far a staged version is on its way to the fleet (:mod:`shared.rollout`)
``cpk-pending``     the write has not got through: ``pending`` or ``withdrawn``; such a version is never read
=================== ======================================================================================

A version's newest envelope is the one that is read, and its ``exp``, ``nbf`` and rollout count. A rollout
goes on by another envelope, so that of two who move it one alone gets through. Disabling any of a
version's envelopes disables the version: whoever disables the one that he sees means all of them.
"""

from __future__ import annotations

import hashlib
import logging
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from shared.errors import FormatError
from shared.keys.store import ALGORITHM_BITS, ClassKeyState, ClassKeyVersion, VersionState
from shared.rollout import Rollout, read_rollout
from shared.types import MAX_KEY_VERSION, KeyName, parse_key_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from azure.keyvault.secrets import SecretProperties

NAME_TAG = "cpk-key-name"
VERSION_TAG = "cpk-version"
ENVELOPE_TAG = "cpk-envelope"
FLOOR_TAG = "cpk-floor"
ALGORITHM_TAG = "cpk-algorithm"
REQUEST_TAG = "cpk-request"
ROLLOUT_TAG = "cpk-rollout"
PENDING_TAG = "cpk-pending"
PENDING, WITHDRAWN = "pending", "withdrawn"

_LOG = logging.getLogger(__name__)
_DIGITS = re.compile(r"[0-9]{1,10}")
_HASH_DIGITS = 8
_BEFORE_ALL = datetime.min.replace(tzinfo=UTC)


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
class Entry:
    """One version of a secret: one envelope of one version of a class key.

    Args:
        name: The class key's.
        number: The class key's version.
        envelope: From 1; counts how often the version was sealed anew.
        floor: The floor that its tag tells.
        algorithm: Of the class key.
        secret_version: The secret version's id; empty before it is written.
        is_enabled: Whether the vault gives it out.
        created_at: When the vault stored it, aware.
        not_before: From when on it is valid, aware; None for always.
        expires_at: Until when it is valid, aware; None for ever.
        request: What is noted of the request that made the version.
        rollout: How far the version is on its way to the fleet; None if it went to all at once.
    """

    name: KeyName
    number: int
    floor: int
    algorithm: str
    envelope: int = 1
    secret_version: str = ""
    is_enabled: bool = True
    created_at: datetime = _BEFORE_ALL
    not_before: datetime | None = None
    expires_at: datetime | None = None
    request: str | None = None
    rollout: Rollout | None = None

    def tags(self) -> dict[str, str]:
        """Return the tags that say all this."""
        tags = {
            NAME_TAG: self.name,
            VERSION_TAG: str(self.number),
            FLOOR_TAG: str(self.floor),
            ALGORITHM_TAG: self.algorithm,
        }
        if self.envelope != 1:
            tags[ENVELOPE_TAG] = str(self.envelope)
        if self.request is not None:
            tags[REQUEST_TAG] = self.request
        if self.rollout is not None:
            tags[ROLLOUT_TAG] = self.rollout.text()
        return tags


def is_pending(properties: SecretProperties) -> bool:
    """Say whether a secret version is one whose writing has not got through."""
    return PENDING_TAG in (properties.tags or {})


def read_name(properties: SecretProperties) -> KeyName | None:
    """Return the class key that a secret says to hold, if it is the secret of that class key."""
    try:
        name = parse_key_name((properties.tags or {}).get(NAME_TAG), where="tag")
    except FormatError:
        return None
    return name if properties.name == secret_name(name) else None


def read_entry(properties: SecretProperties, *, where: str) -> Entry | None:
    """Read a secret version; None if its tags make no sense, which is logged.

    Args:
        properties: From a listing; has our name tag.
        where: What is being read, for the log.
    """
    tags = properties.tags or {}
    try:
        return Entry(
            name=parse_key_name(tags.get(NAME_TAG), where=where),
            number=_number(tags.get(VERSION_TAG), where=where),
            envelope=_number(tags.get(ENVELOPE_TAG, "1"), where=where),
            floor=_number(tags.get(FLOOR_TAG), where=where),
            algorithm=_algorithm(tags.get(ALGORITHM_TAG), where=where),
            secret_version=properties.version or "",
            is_enabled=properties.enabled is True,
            created_at=properties.created_on or _BEFORE_ALL,
            not_before=properties.not_before,
            expires_at=properties.expires_on,
            request=tags.get(REQUEST_TAG),
            rollout=_rollout(tags.get(ROLLOUT_TAG), where=where),
        )
    except FormatError as error:
        _LOG.warning("class_key_unreadable", extra={"secret": properties.name, "detail": str(error)})
        return None


def envelopes_of(entries: Iterable[Entry], number: int) -> list[Entry]:
    """Return the envelopes of one version, the one that is read last.

    Of two with one number, which two writers of one version could leave when one of them stood still for a
    minute, the one that was begun later got through first, and is the one that was read since.
    """
    own = [entry for entry in entries if entry.number == number]
    return sorted(own, key=lambda entry: (entry.envelope, entry.created_at, entry.secret_version))


def state_of(entries: Sequence[Entry], *, now: datetime) -> ClassKeyState:
    """Return the state that a key's entries amount to.

    Args:
        entries: At least one, all of one class key.
        now: What expiry is judged by, aware.
    """
    floor = max(entry.floor for entry in entries)
    numbers = sorted({entry.number for entry in entries})
    versions = tuple(_version(envelopes_of(entries, number), floor, now) for number in numbers)
    newest = envelopes_of(entries, numbers[-1])[-1]
    return ClassKeyState(floor=floor, algorithm=newest.algorithm, versions=versions)


def _version(envelopes: Sequence[Entry], floor: int, now: datetime) -> ClassKeyVersion:
    read = envelopes[-1]
    return ClassKeyVersion(
        version=read.number,
        state=_version_state(envelopes, floor, now),
        created_at=envelopes[0].created_at,
        expires_at=read.expires_at,
        rollout=read.rollout,
    )


def _version_state(envelopes: Sequence[Entry], floor: int, now: datetime) -> VersionState:
    read = envelopes[-1]
    if read.number < floor:
        return VersionState.REVOKED
    if read.rollout is not None and read.rollout.is_aborted:
        return VersionState.ABORTED
    if not all(entry.is_enabled for entry in envelopes):
        return VersionState.DISABLED
    if read.expires_at is not None and now >= read.expires_at:
        return VersionState.EXPIRED
    if read.not_before is not None and now < read.not_before:
        return VersionState.NOT_YET_VALID
    return VersionState.ACTIVE


def _number(text: str | None, *, where: str) -> int:
    if text is None or not _DIGITS.fullmatch(text) or not 1 <= int(text) <= MAX_KEY_VERSION + 1:
        raise FormatError(f"{where}: a tag holds no version")
    return int(text)


def _rollout(text: str | None, *, where: str) -> Rollout | None:
    return None if text is None else read_rollout(text, where=where)


def _algorithm(text: str | None, *, where: str) -> str:
    if text not in ALGORITHM_BITS:
        raise FormatError(f"{where}: a tag holds no algorithm of a class key")
    return text
