"""What the agent remembers over a restart, and the lock that keeps a second agent off the same state.

The memory only makes changes visible: a device key that is not the one reported last, a CPM that lost its
store. The twin and the CPM are the truth, so a damaged file is forgotten, and the agent starts afresh.

``agent.json`` holds ``{"fingerprint": "<hex>", "sequence": <int>}`` and is replaced atomically: write, fsync,
rename, fsync of the folder. ``agent.lock`` is held with ``flock`` as long as the agent runs.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from device_agent.files import replace_file
from shared.errors import Conflict, FormatError, StorageError
from shared.strict_json import loads

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

_log = logging.getLogger("device_agent")

_MAX_BYTES = 4096
_FINGERPRINT_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentState:
    """What is remembered.

    Args:
        fingerprint: Of the device key that was reported last; None before the first report.
        sequence: Of the last release that the CPM applied; 0 before the first.
    """

    fingerprint: bytes | None = None
    sequence: int = 0


class StateFolder:
    """The agent's own folder, locked.

    Args:
        path: The folder; made, for its owner alone, if it is not there.

    Raises:
        Conflict: ``already_running``; another agent holds the lock.
        StorageError: The folder cannot be made or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path / "agent.json"
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(path / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageError(f"state folder {path}: {error.strerror}", code="state_unusable") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise Conflict(
                f"state folder {path}: another agent uses it",
                code="already_running",
                hint="give each agent a state_dir of its own",
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the lock back."""
        os.close(self._lock)

    def load(self) -> AgentState:
        """Return what was saved last; a new state if nothing was, or if it cannot be read any more."""
        try:
            with self._file.open("rb") as file:
                return _parse(file.read(_MAX_BYTES + 1))
        except FileNotFoundError:
            return AgentState()
        except (OSError, FormatError) as error:
            _log.warning("state_damaged", extra={"file": str(self._file), "reason": str(error)})
            return AgentState()

    def save(self, state: AgentState) -> None:
        """Replace what is remembered.

        Raises:
            StorageError: The disk refused; what was saved before still stands.
        """
        fingerprint = None if state.fingerprint is None else state.fingerprint.hex()
        data = json.dumps({"fingerprint": fingerprint, "sequence": state.sequence}).encode()
        replace_file(self._file, data)


def _parse(data: bytes) -> AgentState:
    if len(data) > _MAX_BYTES:
        raise FormatError(f"agent state: expected at most {_MAX_BYTES} bytes")
    document = loads(data, where="agent state")
    if not isinstance(document, dict):
        raise FormatError("agent state: expected an object")
    fingerprint, sequence = document.get("fingerprint"), document.get("sequence")
    if type(sequence) is not int or sequence < 0:
        raise FormatError("agent state/sequence: expected a whole number")
    if fingerprint is None:
        return AgentState(sequence=sequence)
    try:
        digest = bytes.fromhex(fingerprint)
    except (TypeError, ValueError) as error:
        raise FormatError("agent state/fingerprint: expected hex") from error
    if len(digest) != _FINGERPRINT_BYTES:
        raise FormatError(f"agent state/fingerprint: expected {_FINGERPRINT_BYTES} bytes")
    return AgentState(fingerprint=digest, sequence=sequence)
