"""SQLite as the local cloud keeps its state: durable when a call returns, owned by one process, private.

Write-ahead log and full synchronisation: what was answered survives ``kill -9`` and a power cut.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from shared.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PRAGMAS = (
    "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; "
    "PRAGMA foreign_keys = ON; PRAGMA secure_delete = ON;"
)


class Database:
    """One SQLite file, safe to use from several threads.

    Args:
        path: The file; made, readable by its owner alone, if it is not there.
        schema: SQL that makes the tables that are not there.

    Raises:
        StorageError: The file cannot be opened or is no database.
    """

    def __init__(self, path: Path, schema: str) -> None:
        self._lock = threading.Lock()
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._connection.executescript(_PRAGMAS + schema)
        except (OSError, sqlite3.Error) as error:
            raise StorageError(f"cannot open {path}: {error}") from error

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Hold the file for a change: all of it, or nothing if the block raises."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Hold the file for reading."""
        with self._lock:
            yield self._connection
