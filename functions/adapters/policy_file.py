"""The release policy in a file: replaced as a whole, its ETag the digest of its bytes."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING

from functions.policy_source import StoredPolicy
from shared.errors import Conflict, NotFound, TransportError
from shared.policy.document import MAX_POLICY_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}
_MODE = 0o644


class FilePolicyStore:
    """A :class:`functions.policy_source.PolicyStore` in a file that an editor may change as well.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, *, unless: str | None) -> StoredPolicy | None:
        """Return the document; see the port."""
        try:
            with self._path.open("rb") as file:
                data = file.read(MAX_POLICY_BYTES + 1)  # one more, so that a longer one is refused
        except FileNotFoundError as error:
            raise NotFound("there is no policy file", code="policy_missing") from error
        except OSError as error:
            raise TransportError(
                f"cannot read the policy file: {error.strerror}", code="policy_unreadable"
            ) from error
        etag = _etag(data)
        return None if etag == unless else StoredPolicy(data=data, etag=etag)

    def write(self, data: bytes, *, etag: str | None) -> str:
        """Replace the file: written beside it, flushed, renamed; see the port."""
        try:
            with self._alone():
                if self._etag() != etag:
                    raise Conflict("the policy was changed in between", code="policy_changed")
                self._replace(data)
        except OSError as error:
            if error.errno in _READ_ONLY:
                raise Conflict(
                    "the policy file is not this app's to write",
                    code="policy_read_only",
                    hint="publish it the way it was deployed",
                ) from error
            raise TransportError(
                f"cannot write the policy file: {error.strerror}", code="policy_unreadable"
            ) from error
        return _etag(data)

    def _etag(self) -> str | None:
        try:
            stored = self.read(unless=None)
        except NotFound:
            return None
        return None if stored is None else stored.etag

    def _replace(self, data: bytes) -> None:
        beside = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}")
        try:
            handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(handle)
            beside.replace(self._path)
        finally:
            beside.unlink(missing_ok=True)
        with self._folder() as folder:
            os.fsync(folder)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes of this app from writing at the same time."""
        with self._folder() as folder:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _folder(self) -> Iterator[int]:
        handle = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield handle
        finally:
            os.close(handle)


def _etag(data: bytes) -> str:
    return f'"{hashlib.sha256(data).hexdigest()}"'
