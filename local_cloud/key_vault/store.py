"""The vault's objects in SQLite: named, versioned, with soft delete; every change is durable.

A name stands for one key or one secret and has one or more versions; the newest is the current one. Names
ignore case, as in Azure. Deleting keeps everything until it is purged; meanwhile the name cannot be used
again.
"""

from __future__ import annotations

import enum
import json
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from local_cloud.database import Database
from local_cloud.key_vault.errors import VaultError
from shared.types import Secret

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping
    from pathlib import Path

RECOVERABLE_DAYS = 7
"""Days that a deleted object can be recovered; nothing is purged by time here."""

_DAY = 86400

_SCHEMA = """
CREATE TABLE IF NOT EXISTS objects (
    kind TEXT NOT NULL,
    name TEXT NOT NULL COLLATE NOCASE,
    deleted_at INTEGER,
    PRIMARY KEY (kind, name)
) STRICT;
CREATE TABLE IF NOT EXISTS versions (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    name TEXT NOT NULL COLLATE NOCASE,
    version TEXT NOT NULL UNIQUE,
    enabled INTEGER NOT NULL,
    not_before INTEGER,
    expires INTEGER,
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL,
    tags TEXT NOT NULL,
    detail TEXT NOT NULL,
    material BLOB NOT NULL,
    FOREIGN KEY (kind, name) REFERENCES objects (kind, name) ON DELETE CASCADE
) STRICT;
CREATE INDEX IF NOT EXISTS versions_by_name ON versions (kind, name, sequence);
"""

_COLUMNS = (
    "o.name, v.sequence, v.version, v.enabled, v.not_before, v.expires, v.created, v.updated, "
    "v.tags, v.detail, v.material, o.deleted_at"
)
_NEWEST = (
    f"SELECT {_COLUMNS} FROM objects o JOIN versions v ON v.sequence = "  # noqa: S608 - a constant
    "(SELECT MAX(sequence) FROM versions WHERE kind = o.kind AND name = o.name) "
)


class Kind(enum.Enum):
    """What a name stands for."""

    KEY = "key"
    SECRET = "secret"  # noqa: S105 - a kind of object, no password


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """When a version may be used, Unix seconds; ``None`` is no bound."""

    enabled: bool = True
    not_before: int | None = None
    expires: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One version of a key or secret.

    ``detail`` holds what its kind adds to it; ``material`` is the private key or the value. ``deleted_at``
    is the moment of the object's soft delete, Unix seconds.
    """

    name: str
    sequence: int
    version: str
    attributes: Attributes
    created: int
    updated: int
    tags: Mapping[str, str]
    detail: Mapping[str, object]
    material: Secret
    deleted_at: int | None

    @property
    def purge_at(self) -> int:
        """When Azure would purge it, Unix seconds."""
        return (self.deleted_at or 0) + RECOVERABLE_DAYS * _DAY


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What an update sets; ``None`` leaves the old value."""

    enabled: bool | None = None
    not_before: int | None = None
    expires: int | None = None
    tags: Mapping[str, str] | None = None
    detail: Mapping[str, object] | None = None


class Store:
    """The vault's objects.

    Safe to use from several threads; each call is one transaction.

    Args:
        path: The SQLite file; made, readable by its owner alone, if it is not there.

    Raises:
        StorageError: The file cannot be opened or is no database.
    """

    def __init__(self, path: Path) -> None:
        self._database = Database(path, _SCHEMA)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def add(
        self,
        kind: Kind,
        name: str,
        *,
        material: Secret,
        detail: Mapping[str, object],
        attributes: Attributes,
        tags: Mapping[str, str],
    ) -> Version:
        """Store a new version, which becomes the current one; the name is made if it is new.

        Raises:
            VaultError: 409 while the name is deleted but recoverable.
        """
        now, version = int(time.time()), uuid.uuid4().hex
        with self._database.transaction() as database:
            found = database.execute(
                "SELECT deleted_at FROM objects WHERE kind = ? AND name = ?", (kind.value, name)
            ).fetchone()
            if found is None:
                database.execute("INSERT INTO objects (kind, name) VALUES (?, ?)", (kind.value, name))
            elif found[0] is not None:
                raise _recoverable(kind, name)
            database.execute(
                "INSERT INTO versions (kind, name, version, enabled, not_before, expires, created, updated, "
                "tags, detail, material) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    kind.value,
                    name,
                    version,
                    attributes.enabled,
                    attributes.not_before,
                    attributes.expires,
                    now,
                    now,
                    json.dumps(dict(tags)),
                    json.dumps(dict(detail)),
                    material.reveal(),
                ),
            )
            return _find(database, kind, name, version)

    def get(self, kind: Kind, name: str, version: str = "") -> Version:
        """Return a version, the current one if none is named.

        Raises:
            VaultError: 404 if there is none, or the object is deleted.
        """
        with self._database.reading() as database:
            return _find(database, kind, name, version)

    def versions(self, kind: Kind, name: str, *, after: int, limit: int) -> list[Version]:
        """Return up to ``limit`` versions of a name whose sequence is above ``after``, oldest first."""
        query = (
            f"SELECT {_COLUMNS} FROM objects o JOIN versions v ON v.kind = o.kind AND v.name = o.name "  # noqa: S608 - a constant
            "WHERE o.kind = ? AND o.name = ? AND o.deleted_at IS NULL AND v.sequence > ? "
            "ORDER BY v.sequence LIMIT ?"
        )
        return self._select(query, (kind.value, name, after, limit))

    def names(self, kind: Kind, *, deleted: bool, after: str, limit: int) -> list[Version]:
        """Return the current versions of up to ``limit`` names behind ``after``, ordered by name."""
        query = (
            f"{_NEWEST} WHERE o.kind = ? AND o.name > ? AND (o.deleted_at IS NOT NULL) = ? "
            "ORDER BY o.name LIMIT ?"
        )
        return self._select(query, (kind.value, after, deleted, limit))

    def update(self, kind: Kind, name: str, version: str, change: Change) -> Version:
        """Change a version's attributes, tags or detail, and return it.

        Raises:
            VaultError: 404 as for :meth:`get`.
        """
        with self._database.transaction() as database:
            old = _find(database, kind, name, version)
            kept = old.attributes
            database.execute(
                "UPDATE versions SET enabled = ?, not_before = ?, expires = ?, updated = ?, tags = ?, "
                "detail = ? WHERE version = ?",
                (
                    kept.enabled if change.enabled is None else change.enabled,
                    kept.not_before if change.not_before is None else change.not_before,
                    kept.expires if change.expires is None else change.expires,
                    int(time.time()),
                    json.dumps(dict(old.tags if change.tags is None else change.tags)),
                    json.dumps({**old.detail, **(change.detail or {})}),
                    old.version,
                ),
            )
            return _find(database, kind, name, old.version)

    def delete(self, kind: Kind, name: str) -> Version:
        """Soft-delete the object; its current version is returned.

        Raises:
            VaultError: 404 as for :meth:`get`.
        """
        with self._database.transaction() as database:
            _find(database, kind, name, "")
            database.execute(
                "UPDATE objects SET deleted_at = ? WHERE kind = ? AND name = ?",
                (int(time.time()), kind.value, name),
            )
            return _find_deleted(database, kind, name)

    def get_deleted(self, kind: Kind, name: str) -> Version:
        """Return the current version of a deleted object.

        Raises:
            VaultError: 404 if no such object is deleted.
        """
        with self._database.reading() as database:
            return _find_deleted(database, kind, name)

    def recover(self, kind: Kind, name: str) -> Version:
        """Undo a soft delete.

        Raises:
            VaultError: 404 if no such object is deleted.
        """
        with self._database.transaction() as database:
            _find_deleted(database, kind, name)
            database.execute(
                "UPDATE objects SET deleted_at = NULL WHERE kind = ? AND name = ?", (kind.value, name)
            )
            return _find(database, kind, name, "")

    def purge(self, kind: Kind, name: str) -> None:
        """Destroy a deleted object with all its versions.

        Raises:
            VaultError: 404 if no such object is deleted.
        """
        with self._database.transaction() as database:
            _find_deleted(database, kind, name)
            database.execute("DELETE FROM objects WHERE kind = ? AND name = ?", (kind.value, name))

    def _select(self, query: str, values: tuple[object, ...]) -> list[Version]:
        with self._database.reading() as database:
            return [_read(row) for row in database.execute(query, values)]


def _find(database: sqlite3.Connection, kind: Kind, name: str, version: str) -> Version:
    where = "WHERE o.kind = ? AND o.name = ? AND o.deleted_at IS NULL"
    row = database.execute(f"{_NEWEST} {where}", (kind.value, name)).fetchone()
    if row is not None and version:
        row = database.execute(
            f"SELECT {_COLUMNS} FROM objects o JOIN versions v ON v.kind = o.kind AND v.name = o.name "  # noqa: S608 - a constant
            f"{where} AND v.version = ?",
            (kind.value, name, version),
        ).fetchone()
    if row is None:
        shown = f"{name}/{version}" if version else name
        raise _not_found(kind, f"A {kind.value} with (name/id) {shown} was not found in this key vault.")
    return _read(row)


def _find_deleted(database: sqlite3.Connection, kind: Kind, name: str) -> Version:
    row = database.execute(
        f"{_NEWEST} WHERE o.kind = ? AND o.name = ? AND o.deleted_at IS NOT NULL", (kind.value, name)
    ).fetchone()
    if row is None:
        raise _not_found(kind, f"Deleted {kind.value.capitalize()} not found: {name}")
    return _read(row)


def _not_found(kind: Kind, message: str) -> VaultError:
    return VaultError(404, f"{kind.value.capitalize()}NotFound", message)


def _recoverable(kind: Kind, name: str) -> VaultError:
    return VaultError(
        409,
        "Conflict",
        f"{kind.value.capitalize()} {name} is currently in a deleted but recoverable state, and its name "
        f"cannot be reused; in this state, the {kind.value} can only be recovered or purged.",
        inner="ObjectIsDeletedButRecoverable",
    )


def _read(row: tuple[Any, ...]) -> Version:
    (
        name,
        sequence,
        version,
        enabled,
        not_before,
        expires,
        created,
        updated,
        tags,
        detail,
        material,
        deleted,
    ) = row
    return Version(
        name=name,
        sequence=sequence,
        version=version,
        attributes=Attributes(enabled=bool(enabled), not_before=not_before, expires=expires),
        created=created,
        updated=updated,
        tags=json.loads(tags),
        detail=json.loads(detail),
        material=Secret(material),
        deleted_at=deleted,
    )
