"""The hub's memory: identities, twins, sessions and change events in one SQLite file.

There is one writer, the event loop's thread, and the file is locked against a second process. Every write
is one transaction, committed before memory changes and before anybody is answered; after a kill at any
moment the file holds each write wholly or not at all. (Write-ahead log without a flush per commit: what a
power cut may take is the last moments, never consistency.)

Reads come from memory: a twin is parsed once, when the hub starts or when it changes.
"""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from local_cloud.files import PRIVATE
from local_cloud.twin_hub.documents import Json, Section, TwinChange, TwinDocument, TwinUpdate
from local_cloud.twin_hub.events import EventLog
from local_cloud.twin_hub.faults import Fault, HubError
from local_cloud.twin_hub.identities import Identity, IdentityRequest
from shared.errors import StorageError
from shared.types import DeviceId

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

SCHEMA_VERSION = 1
"""Version of the tables, in SQLite's ``user_version``."""

ANY = "*"
"""The ETag that matches whatever is there."""

_LOCK_SECONDS = 5.0  # a hub that was killed a moment ago may still be ending

_SCHEMA = f"""
BEGIN;
CREATE TABLE IF NOT EXISTS identity(id TEXT PRIMARY KEY, document TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS twin(id TEXT PRIMARY KEY, document TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS session(id TEXT PRIMARY KEY, document TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS event(seq INTEGER PRIMARY KEY AUTOINCREMENT, document TEXT NOT NULL);
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""


class Store:
    """Identities, twins, sessions and events.

    Args:
        path: The database file; made, readable by its owner alone, if it is not there.
        hub_name: As events name the hub.
        clock: Returns the time, in UTC.

    Raises:
        StorageError: The file cannot be opened, is damaged, or another hub holds it.
    """

    def __init__(self, path: Path, *, hub_name: str, clock: Callable[[], dt.datetime]) -> None:
        self._clock = clock
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE))
            self._database = _open(path)
            self._identities = {
                DeviceId(key): Identity.from_json(key, document) for key, document in self._rows("identity")
            }
            self._twins = {DeviceId(key): _twin_from_json(document) for key, document in self._rows("twin")}
            self._sessions = {
                DeviceId(key): frozenset(document["filters"]) for key, document in self._rows("session")
            }
            self.events = EventLog(self._database, hub_name=hub_name)
        except (OSError, sqlite3.Error, HubError, ValueError, KeyError, TypeError) as error:
            raise StorageError(
                f"cannot open {path}: {error}", hint="is another hub running on the same state?"
            ) from error

    def close(self) -> None:
        """Fold the log into the file and let go of it."""
        self._database.close()

    def __contains__(self, key: DeviceId) -> bool:
        return key in self._identities

    def identity(self, key: DeviceId) -> Identity:
        """Return an identity.

        Raises:
            HubError: ``DeviceNotFound`` or ``ModuleNotFound``.
        """
        found = self._identities.get(key)
        if found is None:
            fault = Fault.MODULE_NOT_FOUND if "/" in key else Fault.DEVICE_NOT_FOUND
            raise HubError(fault, f"{key}: not registered")
        return found

    def identity_keys(self) -> Sequence[DeviceId]:
        """Return the keys of all identities, sorted."""
        return sorted(self._identities)

    def create_identity(self, key: DeviceId, request: IdentityRequest) -> Identity:
        """Register a device, or a module of a registered device, with an empty twin.

        Raises:
            HubError: It exists, or the module's device does not.
        """
        if key in self._identities:
            fault = Fault.MODULE_EXISTS if "/" in key else Fault.DEVICE_EXISTS
            raise HubError(fault, f"{key}: already registered")
        identity, twin = Identity.create(key, request), TwinDocument()
        if identity.module is not None:
            self.identity(identity.device)
        with self._transaction():
            self._put("identity", key, identity.to_json())
            self._put("twin", key, _twin_to_json(twin))
        self._identities[key], self._twins[key] = identity, twin
        return identity

    def update_identity(self, key: DeviceId, request: IdentityRequest, *, if_match: str) -> Identity:
        """Change an identity.

        Raises:
            HubError: It does not exist, or its ETag is another one.
        """
        before = self.identity(key)
        _check_etag(key, if_match, before.etag)
        identity = before.changed(request)
        with self._transaction():
            self._put("identity", key, identity.to_json())
        self._identities[key] = identity
        return identity

    def delete_identity(self, key: DeviceId, *, if_match: str) -> Sequence[DeviceId]:
        """Forget an identity with its modules, twins and sessions, and return all keys that went.

        Raises:
            HubError: It does not exist, or its ETag is another one.
        """
        _check_etag(key, if_match, self.identity(key).etag)
        gone = [known for known in self._identities if known == key or known.startswith(f"{key}/")]
        with self._transaction():
            for table in ("identity", "twin", "session"):
                self._database.executemany(
                    f"DELETE FROM {table} WHERE id = ?",  # noqa: S608 - a literal of this loop
                    [(known,) for known in gone],
                )
        for known in gone:
            del self._identities[known], self._twins[known]
            self._sessions.pop(known, None)
        return gone

    def twin(self, key: DeviceId) -> TwinDocument:
        """Return a twin.

        Raises:
            HubError: The identity does not exist.
        """
        self.identity(key)
        return self._twins[key]

    def patch_reported(self, key: DeviceId, patch: object) -> TwinDocument:
        """Apply what the device reports.

        Raises:
            HubError: Not found, not an object, or a limit is broken; nothing was changed.
        """
        change = self.twin(key).patch_reported(patch, at=self._clock())
        self._commit_twin(key, change, operation="updateTwin")
        return change.twin

    def update_twin(
        self, key: DeviceId, update: TwinUpdate, *, if_match: str = ANY, replacing: bool = False
    ) -> TwinChange:
        """Apply what a back end writes.

        Raises:
            HubError: Not found, another ETag, or a limit is broken; nothing was changed.
        """
        before = self.twin(key)
        _check_etag(key, if_match, before.etag)
        change = before.update(update, at=self._clock(), replacing=replacing)
        self._commit_twin(key, change, operation="replaceTwin" if replacing else "updateTwin")
        return change

    def session(self, key: DeviceId) -> frozenset[str] | None:
        """Return the subscriptions of a persistent session, or ``None`` if there is none."""
        return self._sessions.get(key)

    def save_session(self, key: DeviceId, filters: frozenset[str]) -> None:
        """Keep a session's subscriptions."""
        with self._transaction():
            self._put("session", key, {"filters": sorted(filters)})
        self._sessions[key] = filters

    def forget_session(self, key: DeviceId) -> None:
        """Drop a session; none is no error."""
        with self._transaction():
            self._database.execute("DELETE FROM session WHERE id = ?", (key,))
        self._sessions.pop(key, None)

    def _commit_twin(self, key: DeviceId, change: TwinChange, *, operation: str) -> None:
        with self._transaction():
            self._put("twin", key, _twin_to_json(change.twin))
            self.events.append(key, operation=operation, body=change.event, at=self._clock())
        self._twins[key] = change.twin
        self.events.announce()

    def _put(self, table: str, key: DeviceId, document: Json) -> None:
        text = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
        statement = f"INSERT OR REPLACE INTO {table} VALUES(?, ?)"
        self._database.execute(statement, (key, text))

    def _rows(self, table: str) -> Iterator[tuple[str, dict[str, Any]]]:
        statement = f"SELECT id, document FROM {table}"  # noqa: S608 - a literal of this module
        for key, text in self._database.execute(statement):
            yield key, json.loads(text)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Commit what is done inside, or nothing of it.

        Raises:
            StorageError: SQLite refused.
        """
        try:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            if self._database.in_transaction:
                self._database.rollback()
            raise StorageError(f"the hub's database refused a write: {error}") from error


def _open(path: Path) -> sqlite3.Connection:
    """Open the database for this process alone, with its tables."""
    database = sqlite3.connect(path, isolation_level=None, timeout=_LOCK_SECONDS)
    database.execute("PRAGMA locking_mode = EXCLUSIVE")
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")
    (found,) = database.execute("PRAGMA user_version").fetchone()
    if found not in (0, SCHEMA_VERSION):
        raise sqlite3.DatabaseError(f"expected tables of version {SCHEMA_VERSION}, found {found}")
    database.executescript(_SCHEMA)
    return database


def _check_etag(key: DeviceId, if_match: str, etag: str) -> None:
    if if_match not in (ANY, etag):
        raise HubError(Fault.PRECONDITION_FAILED, f"{key}: expected ETag {if_match[:64]}, found {etag}")


def _twin_to_json(twin: TwinDocument) -> Json:
    return {
        "tags": twin.tags,
        "desired": _section_to_json(twin.desired),
        "reported": _section_to_json(twin.reported),
        "revision": twin.revision,
        "version": twin.version,
    }


def _section_to_json(section: Section) -> Json:
    return {"values": section.values, "metadata": section.metadata, "version": section.version}


def _twin_from_json(document: dict[str, Any]) -> TwinDocument:
    return TwinDocument(
        tags=document["tags"],
        desired=Section(**document["desired"]),
        reported=Section(**document["reported"]),
        revision=document["revision"],
        version=document["version"],
    )
