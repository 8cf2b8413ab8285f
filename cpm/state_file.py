"""The state folder: locked by one process, its state sealed by the custody and replaced atomically.

============== ==================================================================
name           content
============== ==================================================================
lock           empty; locked (``flock``) as long as a CPM uses the folder
state.sealed   :mod:`cpm.state`'s document, sealed by the custody
packages/      sealed payloads (:mod:`cpm.sealed_store`)
============== ==================================================================

The custody keeps its own files beside these.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from cpm.files import PRIVATE_FILE, prepare_folder, read_private, storage_errors, write_atomically
from cpm.state import State, decode_state, encode_state
from shared.errors import Conflict, StorageError

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from cpm.custody.port import Custody
    from shared.types import Audience, DeviceId

STATE_FILE: Final = "state.sealed"
LOCK_FILE: Final = "lock"

MAX_STATE_BYTES: Final = 64 << 20
"""Longest sealed state that is read."""

_PURPOSE = "state"


@dataclass(frozen=True, slots=True)
class LockedFolder:
    """A state folder that this process alone uses, until it is closed or the process ends.

    Args:
        path: The folder.
        lock: File descriptor of the locked file.
    """

    path: Path
    lock: int

    @classmethod
    def open(cls, path: Path) -> Self:
        """Make the folder if it is missing, and lock it.

        Raises:
            Conflict: ``state_locked``; another CPM uses it.
            StorageError: Others may write to it, or the disk refused.
        """
        prepare_folder(path)
        with storage_errors(f"cannot lock {path / LOCK_FILE}"):
            lock = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, PRIVATE_FILE)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                os.close(lock)
                raise Conflict(f"another cpm uses the state folder {path}", code="state_locked") from error
        return cls(path, lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.lock)


class StateFile:
    """The current state, in memory and on disk. Not locked by itself: one thread at a time.

    Args:
        folder: The state folder, locked.
        custody: Seals the document.
        state: What the disk holds.
    """

    def __init__(self, *, folder: Path, custody: Custody, state: State) -> None:
        self._path = folder / STATE_FILE
        self._custody = custody
        self._state = state

    @classmethod
    def open(cls, folder: Path, custody: Custody, *, audience: Audience, device_id: DeviceId) -> Self:
        """Read the state; at the first start, write an empty one and then commit the custody's fresh key.

        Args:
            folder: The state folder, locked.
            custody: Seals the document.
            audience: The deployment that the state must belong to.
            device_id: The device that the state must belong to.

        Raises:
            StorageError: ``state_damaged`` if it is missing, changed or cut, or the device key that belongs
                to it is missing; ``state_format``; nothing was changed.
            Conflict: ``state_of_another``; it belongs to another deployment or device.
        """
        path = folder / STATE_FILE
        sealed = read_private(path, most=MAX_STATE_BYTES)
        if sealed is None:
            return cls._create(folder, custody, State(audience=audience, device_id=device_id))
        state = decode_state(custody.unseal(sealed, purpose=_PURPOSE))
        if (state.audience, state.device_id) != (audience, device_id):
            raise Conflict(
                f"{path}: expected the state of device {device_id} in {audience}, "
                f"found that of {state.device_id} in {state.audience}",
                code="state_of_another",
                hint="give each device a state folder of its own",
            )
        if custody.fresh and state != State(audience=audience, device_id=device_id):
            raise StorageError(
                f"{folder}: the device key is missing beside {STATE_FILE}", code="state_damaged"
            )
        custody.commit()
        return cls(folder=folder, custody=custody, state=state)

    @classmethod
    def _create(cls, folder: Path, custody: Custody, state: State) -> Self:
        if not custody.fresh:
            raise StorageError(
                f"{folder / STATE_FILE} is missing beside the device key",
                code="state_damaged",
                hint="restore the whole state folder, or start with an empty one and enrol the device again",
            )
        created = cls(folder=folder, custody=custody, state=state)
        created.save(state)
        custody.commit()
        return created

    @property
    def state(self) -> State:
        """What was saved last."""
        return self._state

    def save(self, state: State) -> None:
        """Replace the state on disk and then in memory.

        Raises:
            StorageError: The disk refused; the old state stays.
        """
        write_atomically(self._path, self._custody.seal(encode_state(state), purpose=_PURPOSE))
        self._state = state
