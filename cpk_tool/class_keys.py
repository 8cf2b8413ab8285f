"""Class keys on the command line: from the WrapKey service, or from a file for tests."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cpk_tool.key_files import FileKeyStore
from cpk_tool.options import FILE_KEY_SOURCE, HTTP_KEY_SOURCE, add_wrap_key_service, location
from cpk_tool.output import UsageError, warn
from cpk_tool.passphrase import add_passphrase
from shared.cpk.planning import ClassKey
from shared.errors import KeyUnavailable, NotFound

if TYPE_CHECKING:
    import argparse

    from shared.cpk.opening import KeyReference
    from shared.types import KeyName, Secret

HTTP, FILE = "http", "file"
CLIENT_PASSPHRASE = "--client-key-passphrase"  # noqa: S105 - an option's name
"""Names the options that a passphrase for ``--client-key`` comes by."""


def add_class_key_source(parser: argparse.ArgumentParser) -> None:
    """Declare where class keys come from."""
    group = parser.add_argument_group("class key")
    group.add_argument(
        "-e",
        "--encryption-key-method",
        choices=(HTTP, FILE),
        help="where the class key comes from; by default http if -k is an address, else file, for tests",
    )
    group.add_argument(
        "-k",
        "--key-store",
        type=location,
        metavar="URL_OR_FILE",
        help=(
            f"WrapKey endpoint (else ${HTTP_KEY_SOURCE}), or a JSON object of key name to base64 key "
            f"(else ${FILE_KEY_SOURCE})"
        ),
    )
    add_wrap_key_service(parser)
    client = parser.add_argument_group("this machine's own key, with the method http")
    client.add_argument("--client-key", type=Path, metavar="FILE", help="RSA private key in PEM")
    client.add_argument("--client-cert", type=Path, metavar="FILE", help="its chain in PEM, leaf first")
    add_passphrase(client, CLIENT_PASSPHRASE, what="the passphrase of the client key")


def client_problems(options: argparse.Namespace) -> list[str]:
    """Return what is wrong with the options of :func:`add_class_key_source`, one line each."""
    return together(options, "client_key", "client_cert")


def together(options: argparse.Namespace, first: str, second: str) -> list[str]:
    """Return the problem of two options of which one is given without the other."""
    given = [name for name in (first, second) if getattr(options, name) is not None]
    names = " and ".join(f"--{name.replace('_', '-')}" for name in (first, second))
    return [f"expected {names} together, found one of them"] if len(given) == 1 else []


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySource:
    """Where class keys come from.

    Attributes:
        options: The command line.
        method: ``http`` or ``file``.
        store: Endpoint or file.
    """

    options: argparse.Namespace
    method: str
    store: str

    @classmethod
    def of(cls, options: argparse.Namespace) -> KeySource:
        """Return the source that the command line or the environment names.

        Raises:
            UsageError: There is none.
        """
        given: str | None = options.key_store
        method: str | None = options.encryption_key_method
        if method is None and given is not None:
            method = _method_of(given)
        elif method is None:
            method = HTTP if os.environ.get(HTTP_KEY_SOURCE) else FILE
        variable = HTTP_KEY_SOURCE if method == HTTP else FILE_KEY_SOURCE
        store = given or os.environ.get(variable)
        if not store:
            what = "a WrapKey endpoint" if method == HTTP else "a key file"
            raise UsageError(f"expected {what} in -k or ${variable}, found neither")
        return cls(options=options, method=method, store=store)

    def at(self, store: str | None) -> KeySource:
        """Return another source, reached in the same way; this one if ``store`` is None."""
        if store is None:
            return self
        return KeySource(options=self.options, method=_method_of(store), store=store)

    def to_seal(self, name: KeyName) -> ClassKey:
        """Return the class key to seal a new package under, the newest version.

        Raises:
            NotFound: The file has none of this name.
            EdbError: As for :func:`cpk_tool.wrapped_class_key.fetch_class_key`.
        """
        if self.method == HTTP:
            return self._fetch(name, version=None)
        warn("a class key in a file is for tests only")
        try:
            return ClassKey(name=name, version=None, key=FileKeyStore.load(Path(self.store)).get(name))
        except KeyUnavailable as error:
            raise NotFound(str(error)) from error

    def to_open(self, reference: KeyReference) -> Secret:
        """Return the class key that a package wants.

        Raises:
            KeyUnavailable: The file has none of this name.
            EdbError: As for :func:`cpk_tool.wrapped_class_key.fetch_class_key`.
        """
        if self.method == HTTP:
            return self._fetch(reference.name, version=reference.version).key
        return FileKeyStore.load(Path(self.store)).get(reference.name)

    def _fetch(self, name: KeyName, *, version: int | None) -> ClassKey:
        from cpk_tool.wrapped_class_key import (  # noqa: PLC0415 - the HTTP client is slow to import
            fetch_class_key,
        )

        return fetch_class_key(self.options, self.store, name, version=version)


def _method_of(store: str) -> str:
    return HTTP if "://" in store else FILE
