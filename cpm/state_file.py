"""The state folder: locked by one process, its state sealed by the custody and replaced atomically.

============== ==================================================================
name           content
============== ==================================================================
lock           empty; locked (``flock``) as long as a CPM uses the folder
state.sealed   :mod:`cpm.state`'s document, sealed by the custody
packages/      sealed payloads (:mod:`cpm.sealed_store`)
============== ==================================================================

The custody keeps its own files beside these.

Every state that is written has a generation, sealed with it. Where the custody counts (a TPM does), the
generation is what tells an old copy of the folder from the newest. One rule and two steps do it; ADR 0012 has
the proof.

- *Save*: write the state as generation ``c+1``, then raise the counter from ``c`` to ``c+1``, then answer.
- *Open*: at counter ``c``, accept generation ``c``, or ``c+1`` which a crash kept from being counted, and no
  other: ``rollback``. Then save the accepted state twice. A crash can leave a state behind that was written
  and never counted; after the two steps the counter is beyond it, and no copy of it is ever accepted again.

An error in between leaves it open which of the two states the disk holds: the next save does the two steps
first.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from cpm.files import PRIVATE_FILE, prepare_folder, read_private, storage_errors, write_atomically
from cpm.state import State, decode_state, encode_state
from shared.errors import Conflict, StorageError, VerificationError

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
_GENERATION_BYTES = 8


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
        self._generation = 0
        self._settled = False

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
            VerificationError: ``rollback``; it is an older copy.
            TransportError: ``custody_unavailable``.
        """
        path = folder / STATE_FILE
        sealed = read_private(path, most=MAX_STATE_BYTES)
        if sealed is None:
            return cls._create(folder, custody, State(audience=audience, device_id=device_id))
        content = custody.unseal(sealed, purpose=_PURPOSE)
        generation = int.from_bytes(content[:_GENERATION_BYTES], "big")
        state = decode_state(content[_GENERATION_BYTES:])
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
        opened = cls(folder=folder, custody=custody, state=state)
        opened._accept(generation)
        custody.commit()
        return opened

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
        """Replace the state on disk, count it, and then replace it in memory.

        Raises:
            StorageError: The disk refused; the old state stays.
            TransportError: ``custody_unavailable``; it could not be counted, and the old state stays.
            VerificationError: ``rollback``; the counter is gone.
        """
        if not self._settled:
            self._settle()
        self._settled = False
        self._write(state)
        self._state = state
        self._settled = True

    def _accept(self, generation: int) -> None:
        """Check a state's generation against the counter, and leave no other state acceptable."""
        counter = self._custody.counter
        self._generation = generation
        if counter is not None:
            counted = counter.read()
            if generation not in {counted, counted + 1}:
                raise VerificationError(
                    f"{self._path}: expected generation {counted} or {counted + 1} of the counter, "
                    f"found {generation}: it is not the newest state of this device",
                    code="rollback",
                    hint="put the newest state folder back, or start with an empty one and enrol again",
                )
            self._settle()

    def _settle(self) -> None:
        """Write the state in memory until whatever an interrupted save left behind can never be accepted."""
        counter = self._custody.counter
        if counter is not None:
            self._generation = counter.read()
            self._write(self._state)
            self._write(self._state)
        self._settled = True

    def _write(self, state: State) -> None:
        """Write a state as the next generation, and count it."""
        generation = self._generation + 1
        content = generation.to_bytes(_GENERATION_BYTES, "big") + encode_state(state)
        write_atomically(self._path, self._custody.seal(content, purpose=_PURPOSE))
        if self._custody.counter is not None:
            self._custody.counter.increment()
        self._generation = generation
