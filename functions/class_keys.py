"""Class keys: made, imported, rotated, revoked and opened (protocol section 2).

A class key exists in clear for as long as it is sealed or wrapped, and in a cache of at most a minute, so
that the vault is asked once for a version and pass and never for each device.
"""

from __future__ import annotations

import secrets
import threading
import time
from typing import TYPE_CHECKING

from shared.errors import FormatError, VerificationError
from shared.keys.envelope import open_envelope, parse_envelope, seal_envelope
from shared.keys.wrapping import KEY_LENGTHS
from shared.types import KeyName, Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from shared.keys.store import ClassKeyState, ClassKeyStore, KeyEncryptionKey

CACHE_SECONDS = 60.0
"""How long an opened class key stays in memory at most (protocol section 2)."""


class ClassKeys:
    """The class keys of a deployment; may be used from several threads.

    Args:
        store: Where their envelopes rest.
        kek: What the envelopes are sealed under.
        monotonic: A clock in seconds that never goes back.
        random: Gives key material.
    """

    def __init__(
        self,
        store: ClassKeyStore,
        kek: KeyEncryptionKey,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._store = store
        self._kek = kek
        self._monotonic = monotonic
        self._random = random
        self._lock = threading.Lock()
        self._opened: dict[tuple[KeyName, int], tuple[Secret, float]] = {}

    def states(self) -> Mapping[KeyName, ClassKeyState]:
        """Return every class key's state."""
        return self._store.states()

    def state(self, name: KeyName) -> ClassKeyState:
        """Return one class key's state.

        Raises:
            NotFound: ``key_not_found``.
        """
        return self._store.state(name)

    def requests(self, name: KeyName) -> Mapping[int, str]:
        """Return by version which request made it, where that was noted; empty if there is no such key."""
        return self._store.requests(name)

    def provision(self, name: KeyName, *, bits: int, request: str | None = None) -> None:
        """Make version 1 of a new class key of ``bits`` random bits; ``request`` is noted with it.

        Raises:
            Conflict: ``key_exists`` and the other codes of the store's ``create``.
        """
        self._create(name, Secret(self._random(bits // 8)), request=request)

    def import_key(
        self, name: KeyName, wrapped: bytes, *, kid: str | None, request: str | None = None
    ) -> int:
        """Take a key as version 1 of a new class key.

        Args:
            name: The new class key's.
            wrapped: The key under the KEK's public half, RSA-OAEP-256.
            kid: The KEK version that it was wrapped under; None means the current one.
            request: Is noted with the version.

        Returns:
            Its strength in bits.

        Raises:
            FormatError: ``wrapped_key_invalid``, it does not unwrap, or to no key of 16, 24 or 32 bytes.
            Conflict: As for :meth:`provision`.
        """
        try:
            key = self._kek.unwrap(kid if kid is not None else self._kek.current().kid, wrapped)
        except VerificationError as error:
            raise FormatError(
                "/wrapped_key: does not unwrap under the key encryption key", code="wrapped_key_invalid"
            ) from error
        if len(key) not in KEY_LENGTHS:
            raise FormatError(
                f"/wrapped_key: expected a key of 16, 24 or 32 bytes, found {len(key)}",
                code="wrapped_key_invalid",
            )
        self._create(name, key, request=request)
        return len(key) * 8

    def rotate(self, name: KeyName, *, request: str | None = None) -> int:
        """Make the next version of a class key, as long as the newest one; return the version.

        ``request`` is noted with it.

        Raises:
            NotFound: ``key_not_found``.
            Conflict: Somebody else made that version first.
        """
        state = self._store.state(name)
        version = state.latest + 1
        key = Secret(self._random(state.key_bytes))
        envelope = seal_envelope(key, kek=self._kek.current(), name=name, version=version)
        self._store.add_version(name, envelope, version=version, algorithm=state.algorithm, request=request)
        return version

    def revoke(self, name: KeyName, version: int) -> int:
        """Revoke a version and all older ones; return the floor, the lowest version that is left.

        What this process has opened is forgotten; other instances forget it within :data:`CACHE_SECONDS`, and
        ask for the floor before they wrap anything.

        Raises:
            NotFound: ``key_not_found``; there is no such key or version.
        """
        floor = self._store.raise_floor(name, version + 1)
        with self._lock:
            self._opened.clear()
        return floor

    def open(self, name: KeyName, version: int) -> Secret:
        """Return a version of a class key in clear; that it may be used is the caller's to check.

        Raises:
            NotFound: ``key_not_found``.
            VerificationError: The envelope is malformed, another key's, another version's, sealed under
                another KEK, or does not hold.
        """
        with self._lock:
            now = self._monotonic()
            self._opened = {held: entry for held, entry in self._opened.items() if entry[1] > now}
            if (name, version) not in self._opened:
                key = self._unseal(name, version)
                self._opened[name, version] = (key, now + CACHE_SECONDS)
            return self._opened[name, version][0]

    def _unseal(self, name: KeyName, version: int) -> Secret:
        text = self._store.read(name, version)
        try:
            envelope = parse_envelope(text, where=f"class key {name} version {version}")
        except FormatError as error:
            raise VerificationError(str(error), code="envelope_malformed") from error
        # The cheap comparison first: what is another key's envelope is not worth asking the vault.
        if (envelope.name, envelope.version) != (name, version):
            raise VerificationError(
                f"class key {name} version {version}: found the envelope of {envelope.name} "
                f"version {envelope.version}"
            )
        cek = self._kek.unwrap(envelope.kid, envelope.encrypted_cek)
        return open_envelope(envelope, cek, name=name, version=version)

    def _create(self, name: KeyName, key: Secret, *, request: str | None) -> None:
        envelope = seal_envelope(key, kek=self._kek.current(), name=name, version=1)
        self._store.create(name, envelope, algorithm=f"aes-gcm-{len(key) * 8}", request=request)
