"""The host's durable state in SQLite: queue messages, event checkpoints, moments of timers.

One process owns the file. A message that was being worked on when that process died is free again at the next
start, with its try counted: delivery is at least once, as on the platform.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from local_cloud.database import Database

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MESSAGE_DAYS = 7
"""Days that a message is kept (the platform's default)."""

_DAY = 86400.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS messages (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    queue TEXT NOT NULL,
    text TEXT NOT NULL,
    inserted REAL NOT NULL,
    visible REAL NOT NULL,
    dequeue_count INTEGER NOT NULL DEFAULT 0,
    taken INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX IF NOT EXISTS messages_by_queue ON messages (queue, taken, visible);
CREATE TABLE IF NOT EXISTS checkpoints (consumer TEXT PRIMARY KEY, sequence INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS timers (function TEXT PRIMARY KEY, last REAL NOT NULL) STRICT;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A queue message that was taken; times are Unix seconds."""

    id: str
    text: str = field(repr=False)
    dequeue_count: int
    inserted: float

    @property
    def expires(self) -> float:
        """When the queue drops it."""
        return self.inserted + MESSAGE_DAYS * _DAY


class HostStore:
    """The host's state.

    Safe to use from several threads; each call is one transaction that is on the disk when it returns.

    Args:
        path: The SQLite file; made, readable by its owner alone, if it is not there.

    Raises:
        StorageError: The file cannot be opened or is no database.
    """

    def __init__(self, path: Path) -> None:
        self._database = Database(path, _SCHEMA)
        with self._database.transaction() as database:
            database.execute("UPDATE messages SET taken = 0 WHERE taken = 1")

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def put(self, messages: Sequence[tuple[str, str]]) -> None:
        """Add messages, each a queue's name and a text; all or none."""
        now = time.time()
        with self._database.transaction() as database:
            database.executemany(
                "INSERT INTO messages (id, queue, text, inserted, visible) VALUES (?, ?, ?, ?, ?)",
                [(str(uuid.uuid4()), queue, text, now, now) for queue, text in messages],
            )

    def take(self, queue: str, limit: int) -> list[Message]:
        """Take up to ``limit`` visible messages, oldest first, and count the try; drop expired ones."""
        now = time.time()
        with self._database.transaction() as database:
            database.execute(
                "DELETE FROM messages WHERE queue = ? AND taken = 0 AND inserted < ?",
                (queue, now - MESSAGE_DAYS * _DAY),
            )
            rows = database.execute(
                "SELECT sequence, id, text, dequeue_count + 1, inserted FROM messages "
                "WHERE queue = ? AND taken = 0 AND visible <= ? ORDER BY sequence LIMIT ?",
                (queue, now, limit),
            ).fetchall()
            database.executemany(
                "UPDATE messages SET taken = 1, dequeue_count = dequeue_count + 1 WHERE sequence = ?",
                [(row[0],) for row in rows],
            )
        return [Message(id=row[1], text=row[2], dequeue_count=row[3], inserted=row[4]) for row in rows]

    def delete(self, message: Message) -> None:
        """Drop a message that was worked on; nothing happens if it is gone."""
        with self._database.transaction() as database:
            database.execute("DELETE FROM messages WHERE id = ?", (message.id,))

    def give_back(self, message: Message, *, delay: float) -> None:
        """Make a taken message visible again after ``delay`` seconds."""
        with self._database.transaction() as database:
            database.execute(
                "UPDATE messages SET taken = 0, visible = ? WHERE id = ?", (time.time() + delay, message.id)
            )

    def move(self, message: Message, queue: str) -> None:
        """Put a taken message at the end of another queue, as new there."""
        now = time.time()
        with self._database.transaction() as database:
            database.execute("DELETE FROM messages WHERE id = ?", (message.id,))
            database.execute(
                "INSERT INTO messages (id, queue, text, inserted, visible) VALUES (?, ?, ?, ?, ?)",
                (message.id, queue, message.text, now, now),
            )

    def next_visible(self, queue: str) -> float | None:
        """Return when the next message that nobody took becomes visible, or ``None`` if there is none."""
        with self._database.reading() as database:
            row = database.execute(
                "SELECT MIN(visible) FROM messages WHERE queue = ? AND taken = 0", (queue,)
            ).fetchone()
        return float(row[0]) if row[0] is not None else None

    def lengths(self) -> dict[str, int]:
        """Return how many messages each queue holds, taken ones included; empty queues are not there."""
        with self._database.reading() as database:
            return dict(database.execute("SELECT queue, COUNT(*) FROM messages GROUP BY queue"))

    def checkpoint(self, consumer: str) -> int:
        """Return the sequence number up to which a consumer is done; 0 if it never was."""
        with self._database.reading() as database:
            row = database.execute(
                "SELECT sequence FROM checkpoints WHERE consumer = ?", (consumer,)
            ).fetchone()
        return int(row[0]) if row is not None else 0

    def set_checkpoint(self, consumer: str, sequence: int) -> None:
        """Remember up to which sequence number a consumer is done."""
        with self._database.transaction() as database:
            database.execute(
                "INSERT INTO checkpoints VALUES (?, ?) ON CONFLICT (consumer) DO UPDATE SET sequence = ?2",
                (consumer, sequence),
            )

    def timer(self, function: str) -> float | None:
        """Return when a timer function was last due and called, Unix seconds."""
        with self._database.reading() as database:
            row = database.execute("SELECT last FROM timers WHERE function = ?", (function,)).fetchone()
        return float(row[0]) if row is not None else None

    def set_timer(self, function: str, last: float) -> None:
        """Remember when a timer function was last due and called."""
        with self._database.transaction() as database:
            database.execute(
                "INSERT INTO timers VALUES (?, ?) ON CONFLICT (function) DO UPDATE SET last = ?2",
                (function, last),
            )
