"""Files that hold secrets: read only if nobody else can read them."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from shared.errors import FormatError, VerificationError

STANDARD_INPUT = Path("-")
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def read_secret(path: Path, *, most: int) -> bytes:
    """Return the bytes of a file that its owner alone can read, or of standard input for ``-``.

    Args:
        path: The file. A pipe, as of a shell's ``<(…)``, is taken as it is.
        most: Longest content in bytes.

    Raises:
        VerificationError: ``file_mode``, somebody else may read or write it, or owns it.
        FormatError: It is longer, or no file at all.
        OSError: It cannot be read.
    """
    if path == STANDARD_INPUT:
        data = sys.stdin.buffer.read(most + 1)
    else:
        with path.open("rb", buffering=0) as file:  # unbuffered: no copy stays behind
            _check(os.fstat(file.fileno()), path)
            data = _read(file.fileno(), most + 1)
    if len(data) > most:
        raise FormatError(f"{path}: expected at most {most} bytes, found more")
    return data


def _check(found: os.stat_result, path: Path) -> None:
    if stat.S_ISFIFO(found.st_mode):
        return
    if not stat.S_ISREG(found.st_mode):
        raise FormatError(f"{path}: expected a file, found something else")
    if found.st_uid not in {os.geteuid(), 0}:
        raise VerificationError(
            f"{path}: expected a file of your own, found another user's", code="file_mode"
        )
    mode = stat.S_IMODE(found.st_mode)
    if mode & _OTHERS:
        raise VerificationError(
            f"{path}: expected a file that only its owner can read, found mode {mode:04o}",
            code="file_mode",
            hint=f"chmod 600 {path}",
        )


def _read(descriptor: int, most: int) -> bytes:
    """Return up to ``most`` bytes; a pipe gives them in pieces."""
    data = b""
    while len(data) < most and (piece := os.read(descriptor, most - len(data))):
        data += piece
    return data
