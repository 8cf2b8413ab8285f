"""The roots that certificates must lead to, with revocation lists that are read again when they change.

A revocation list is stale within days, so its file is looked at for each use; the roots are part of the
deployment and read once. A file that cannot be read leaves the last good lists in use, until they are stale
themselves and refuse whatever they would have had to vouch for.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from shared.errors import FormatError
from shared.revocation import MAX_CRL_BYTES, load_revocation_lists

if TYPE_CHECKING:
    from pathlib import Path

    from shared.certificate_paths import TrustStore

_LOG = logging.getLogger(__name__)
_Stamp = tuple[int, int, int]


class TrustSource:
    """Gives the trust store as it is now; may be used from several threads.

    Args:
        trust: The roots, and the lists as they were read at the start.
        path: The file of the lists; None if there is none.
    """

    def __init__(self, trust: TrustStore, path: Path | None) -> None:
        self._trust = trust
        self._path = path
        self._lock = threading.Lock()
        self._seen: _Stamp | None = None

    def current(self) -> TrustStore:
        """Return the roots with the newest lists that could be read."""
        if self._path is None:
            return self._trust
        with self._lock:
            try:
                self._read_if_changed(self._path)
            except (OSError, FormatError) as error:
                _LOG.error("revocation_lists_unreadable", extra={"detail": str(error)})
            return self._trust

    def _read_if_changed(self, path: Path) -> None:
        status = path.stat()
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        if stamp == self._seen:
            return
        self._seen = stamp  # before it is read: a bad file is complained of once, not for each device
        with path.open("rb") as stream:
            data = stream.read(MAX_CRL_BYTES + 1)
        self._trust = replace(self._trust, revocations=load_revocation_lists(data, where="EDB_CRL_FILE"))
