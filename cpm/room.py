"""How much of the disk the sealed payloads may take: reserved before a byte is written, under one lock."""

from __future__ import annotations

import threading

from shared.errors import StorageError


class Room:
    """An account of bytes; what is reserved and what is stored count alike.

    Args:
        quota: Most bytes; None for no limit but the disk's.
    """

    def __init__(self, quota: int | None = None) -> None:
        self.quota = quota
        self._used = 0
        self._lock = threading.Lock()

    @property
    def used(self) -> int:
        """Bytes that are stored or reserved."""
        return self._used

    def take(self, count: int) -> None:
        """Reserve bytes.

        Raises:
            StorageError: ``storage_full``; nothing was reserved.
        """
        with self._lock:
            if self.quota is not None and self._used + count > self.quota:
                raise StorageError(
                    f"sealed payloads: {self._used} of {self.quota} bytes are used, {count} more do not fit",
                    code="storage_full",
                    hint="uninstall a package, or start cpm serve with a greater --quota",
                )
            self._used += count

    def count(self, count: int) -> None:
        """Enter bytes that are there already, beyond the quota if need be."""
        with self._lock:
            self._used += count

    def give_back(self, count: int) -> None:
        """Free bytes that were taken."""
        with self._lock:
            self._used -= count
