"""Passphrases and PINs: from a file, a file descriptor or the terminal; never an argument or a variable."""

from __future__ import annotations

import getpass
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cpk_tool.key_files import read_small
from cpk_tool.output import UsageError
from shared.types import Secret

if TYPE_CHECKING:
    import argparse

MAX_PASSPHRASE = 1024
"""Longest passphrase, in bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassphraseSource:
    """Where one passphrase comes from, if it is needed.

    Attributes:
        what: What it opens, for the prompt and for messages.
        option: The option's name without what it ends in, ``--pin``.
        file: File whose first line it is.
        fd: Open file descriptor whose first line it is.
    """

    what: str
    option: str
    file: Path | None = None
    fd: int | None = None

    @classmethod
    def of(cls, options: argparse.Namespace, option: str, *, what: str) -> PassphraseSource:
        """Return the source that the options ``--OPTION-file`` and ``--OPTION-fd`` name."""
        name = option.removeprefix("--").replace("-", "_")
        return cls(
            what=what,
            option=option,
            file=getattr(options, f"{name}_file"),
            fd=getattr(options, f"{name}_fd"),
        )

    def ask(self) -> Secret:
        """Return the passphrase, UTF-8.

        Raises:
            UsageError: There is none, it is too long, or there is neither a source nor a terminal.
            OSError: The source cannot be read.
        """
        if self.file is not None:
            return self._first_line(read_small(self.file), str(self.file))
        if self.fd is not None:
            return self._first_line(self._read_fd(self.fd), f"{self.option}-fd")
        return self._first_line(self._prompt(), "terminal")

    def _first_line(self, data: bytes, where: str) -> Secret:
        line = data.split(b"\n", 1)[0].removesuffix(b"\r")
        if not 0 < len(line) <= MAX_PASSPHRASE:
            raise UsageError(f"{where}: expected a line of 1 to {MAX_PASSPHRASE} bytes, found {len(line)}")
        return Secret(line)

    def _read_fd(self, fd: int) -> bytes:
        data = bytearray()
        try:
            while len(data) <= MAX_PASSPHRASE and b"\n" not in data:
                part = os.read(fd, MAX_PASSPHRASE)
                if not part:
                    break
                data += part
        except OSError as error:
            raise UsageError(
                f"{self.option}-fd: expected a file descriptor that is open for reading, found {fd}"
            ) from error
        return bytes(data)

    def _prompt(self) -> bytes:
        # Without a terminal getpass would read standard input and show it.
        try:
            os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
        except OSError as error:
            raise UsageError(
                f"{self.what}: expected a secret to open it, and there is no terminal to ask for one",
                hint=f"give it with {self.option}-file or {self.option}-fd",
            ) from error
        try:
            return getpass.getpass(f"{self.what}: ").encode()
        except EOFError as error:
            raise UsageError(f"{self.what}: expected a secret, the terminal gave none") from error


def add_passphrase(group: argparse._ArgumentGroup, option: str, *, what: str) -> None:
    """Declare ``OPTION-file`` and ``OPTION-fd``, of which at most one is given."""
    sources = group.add_mutually_exclusive_group()
    sources.add_argument(
        f"{option}-file", type=Path, metavar="FILE", help=f"holds {what} in its first line; else a prompt"
    )
    sources.add_argument(f"{option}-fd", type=int, metavar="N", help="the same, from an open file descriptor")
