"""Class keys: made, imported, rotated, revoked, sealed anew, deleted and opened (protocol section 2).

A class key exists in clear for as long as it is sealed or wrapped, and in a cache of at most a minute, so
that the vault is asked once for a version and pass and never for each device.

Whether a version may be used is asked of the store each time, and never remembered: the cache saves opening
an envelope, not asking for the floor.
"""

from __future__ import annotations

import hmac
import logging
import secrets
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from functions import telemetry
from functions.token_bucket import BusyError
from shared.errors import Conflict, FormatError, KeyUnavailable, NotFound, VerificationError
from shared.keys.envelope import open_envelope, parse_envelope, seal_envelope
from shared.keys.store import VersionState
from shared.keys.wrapping import KEY_LENGTHS
from shared.types import KeyName, Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from shared.keys.envelope import Envelope, Kek
    from shared.keys.store import ClassKeyState, ClassKeyStore, ClassKeyVersion, KeyEncryptionKey
    from shared.rollout import Rollout

CACHE_SECONDS = 60.0
"""How long an opened class key stays in memory at most (protocol section 2)."""

REWRAP_LIMIT = 100
"""Envelopes that one call of :meth:`ClassKeys.rewrap` seals anew at most: about half a minute's work."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrapped:
    """What sealing envelopes anew came to.

    Args:
        rewrapped: How many were sealed under the current KEK version.
        remaining: How many are still sealed under an older one.
        kid: The current KEK version's full id.
    """

    rewrapped: int
    remaining: int
    kid: str


class ClassKeys:
    """The class keys of a deployment; may be used from several threads.

    Args:
        store: Where their envelopes rest.
        kek: What the envelopes are sealed under.
        lifetime: How long a new version is valid; None for ever.
        now: Tells the time that a lifetime begins at, aware.
        monotonic: A clock in seconds that never goes back.
        random: Gives key material.
    """

    def __init__(
        self,
        store: ClassKeyStore,
        kek: KeyEncryptionKey,
        *,
        lifetime: timedelta | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._store = store
        self._kek = kek
        self._lifetime = lifetime
        self._now = now
        self._monotonic = monotonic
        self._random = random
        self._lock = threading.Lock()
        self._opened: dict[tuple[KeyName, int], tuple[Secret, float]] = {}
        self._sweeper: threading.Timer | None = None

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

    def rotate(self, name: KeyName, *, request: str | None = None, rollout: Rollout | None = None) -> int:
        """Make the next version of a class key, as long as the newest one; return the version.

        Args:
            name: The class key's.
            request: Is noted with the version.
            rollout: How it goes to the fleet; None for to all at once.

        Raises:
            NotFound: ``key_not_found``.
            Conflict: Somebody else made that version first; ``rollout_unfinished``, the newest one is not
                there for all yet.
        """
        state = self._store.state(name)
        if state.unfinished is not None:
            raise _unfinished(name, state.unfinished.version)
        version = state.latest + 1
        key = Secret(self._random(state.key_bytes))
        envelope = seal_envelope(key, kek=self._kek.current(), name=name, version=version)
        self._store.add_version(
            name,
            envelope,
            version=version,
            algorithm=state.algorithm,
            expires_at=self._expiry(),
            request=request,
            rollout=rollout,
        )
        return version

    def move_rollout(
        self, name: KeyName, *, version: int, stage: int, move: Callable[[Rollout], Rollout]
    ) -> Rollout:
        """Take a rollout further, or end it; return it as it is then.

        Args:
            name: The class key's.
            version: Whose rollout it is.
            stage: Where the caller has found it; of two who found it there, one moves it.
            move: Returns what it is to be.

        Raises:
            NotFound: ``key_not_found``.
            Conflict: ``rollout_changed``, it is somewhere else, or is over.
            KeyUnavailable: ``key_disabled``; see the store.
        """
        found = self._store.state(name).unfinished
        if found is None or found.rollout is None or (found.version, found.rollout.stage) != (version, stage):
            where = "there is none" if found is None else f"found {_place(found)}"
            raise Conflict(
                f"class key {name}: expected a rollout of version {version} in stage {stage}, {where}",
                code="rollout_changed",
                hint="look again: somebody else may be at it",
            )
        moved = move(found.rollout)
        self._store.set_rollout(name, moved, version=version, expected=found.rollout)
        return moved

    def revoke(self, name: KeyName, version: int) -> int:
        """Revoke a version and all older ones; return the floor, the lowest version that is left.

        What this process has opened is forgotten; other instances forget it within :data:`CACHE_SECONDS`, and
        ask for the floor before they wrap anything.

        While a version goes to the fleet in stages, the one that all others still have cannot be revoked
        without it: they would hold nothing, and builds get nothing.

        Raises:
            NotFound: ``key_not_found``; there is no such key or version.
            Conflict: ``rollout_unfinished``; see above.
        """
        state = self._store.state(name)
        staged, common = state.unfinished, state.newest_finished
        if staged is not None and common is not None and common.version <= version < staged.version:
            raise _unfinished(name, staged.version)
        floor = self._store.raise_floor(name, version + 1)
        self._forget()
        return floor

    def delete(self, name: KeyName) -> datetime | None:
        """Delete a class key that is revoked as a whole; it can be recovered for a while.

        Returns:
            Until when it can be recovered, aware; None if the store does not say.

        Raises:
            NotFound: ``key_not_found``; there is none, and none was deleted.
            Conflict: ``key_in_use``, a version of it is not revoked.
        """
        try:
            state = self._store.state(name)
        except NotFound:
            return self._store.delete(name)  # deleted before, or never there: the store knows
        if state.latest >= state.floor:
            raise Conflict(
                f"class key {name}: version {state.latest} is not revoked; {state.floor} is the lowest left",
                code="key_in_use",
                hint="revoke its newest version first",
            )
        until = self._store.delete(name)
        self._forget()
        return until

    def recover(self, name: KeyName) -> None:
        """Bring a deleted class key back, revoked as it was; one that is there stays as it is.

        Raises:
            NotFound: ``key_not_found``; there is none, and none was deleted.
        """
        self._store.recover(name)

    def rewrap(self, name: KeyName | None = None, *, limit: int = REWRAP_LIMIT) -> Rewrapped:
        """Seal envelopes that rest under an older KEK version under the current one.

        Each is read until its successor has been stored, opened again and found to hold the same key; a call
        that was cut off is finished by the next. Versions that are revoked stay as they are: nobody needs
        them, and they go with the KEK version that they rest under. So do those that were aborted.

        Args:
            name: One class key; None for all.
            limit: Most envelopes to seal anew; the others are counted.

        Raises:
            NotFound: ``key_not_found``.
        """
        kek = self._kek.current()
        states = self._store.states() if name is None else {name: self._store.state(name)}
        rewrapped = remaining = 0
        for key_name, version in _in_use(states):
            try:
                text = self._store.read(key_name, version)
                if _parse(text, key_name, version).kid == kek.kid:
                    continue
                if rewrapped < limit:
                    self._rewrap(text, key_name, version, kek)
                    rewrapped += 1
                    continue
            except BusyError:
                pass  # the next call goes on
            except (Conflict, KeyUnavailable, NotFound, VerificationError) as error:
                # One key's fault stops no other's; what cannot be reached at all does, and is told.
                detail = {"key_name": key_name, "key_version": version, "code": error.code}
                _LOG.warning("rewrap_failed", extra={**detail, "detail": str(error)})
            remaining += 1
        return Rewrapped(rewrapped=rewrapped, remaining=remaining, kid=kek.kid)

    def choose(self, name: KeyName, version: int | None) -> int:
        """Return the version to wrap: the one asked for, or the current one; asks the store every time.

        A staged version is wrapped for who asks for it by number alone: not every device can open it yet.

        Raises:
            NotFound: ``key_not_found``; there is no such class key or version.
            KeyUnavailable: ``key_revoked``, ``key_aborted``, ``key_disabled``, ``key_expired`` or
                ``key_not_yet_valid``.
        """
        state = self._store.state(name)
        number = version or (state.newest_finished or state.versions[0]).version
        found = state.version(number)
        if found is None:
            raise NotFound(f"class key {name} has no version {number}", code="key_not_found")
        if found.state is VersionState.ACTIVE:
            return number
        why = found.state.value.replace("_", " ")
        raise KeyUnavailable(f"class key {name} version {number} is {why}", code=f"key_{found.state.value}")

    def open(self, name: KeyName, version: int) -> Secret:
        """Return a version of a class key in clear; that it may be used is the caller's to check.

        Raises:
            NotFound: ``key_not_found``.
            VerificationError: The envelope is malformed, another key's, another version's, sealed under
                another KEK, or does not hold.
        """
        with self._lock:
            held, until = self._opened.get((name, version), (None, 0.0))
            if held is not None and self._monotonic() < until:
                telemetry.add(telemetry.KEY_CACHE, result="hit")
                return held
            telemetry.add(telemetry.KEY_CACHE, result="miss")
            self._drop_old()
            key = self._unseal(name, version)
            self._opened[name, version] = (key, self._monotonic() + CACHE_SECONDS)
            self._sweep_later()
            return key

    def _drop_old(self) -> None:
        now = self._monotonic()
        self._opened = {held: entry for held, entry in self._opened.items() if entry[1] > now}

    def _sweep_later(self) -> None:
        """See to it that keys are forgotten in time even if nobody ever asks for one again."""
        if self._sweeper is None and self._opened:
            soonest = min(until for _, until in self._opened.values())
            self._sweeper = threading.Timer(max(0.0, soonest - self._monotonic()), self._sweep)
            self._sweeper.daemon = True
            self._sweeper.start()

    def _sweep(self) -> None:
        with self._lock:
            self._sweeper = None
            self._drop_old()
            self._sweep_later()

    def _forget(self) -> None:
        with self._lock:
            self._opened.clear()

    def _unseal(self, name: KeyName, version: int) -> Secret:
        return self._open_text(self._store.read(name, version), name, version)

    def _open_text(self, text: str, name: KeyName, version: int) -> Secret:
        envelope = _parse(text, name, version)
        # The cheap comparison first: what is another key's envelope is not worth asking the vault.
        if (envelope.name, envelope.version) != (name, version):
            raise VerificationError(
                f"class key {name} version {version}: found the envelope of {envelope.name} "
                f"version {envelope.version}"
            )
        cek = self._kek.unwrap(envelope.kid, envelope.encrypted_cek)
        return open_envelope(envelope, cek, name=name, version=version)

    def _rewrap(self, old: str, name: KeyName, version: int, kek: Kek) -> None:
        key = self._open_text(old, name, version)
        text = seal_envelope(key, kek=kek, name=name, version=version)
        # What is stored is what will be read: that the vault opens it is seen before, not after.
        if not hmac.compare_digest(self._open_text(text, name, version).reveal(), key.reveal()):
            raise VerificationError(f"class key {name} version {version}: sealing it anew changed it")
        self._store.replace_envelope(name, text, version=version)

    def _create(self, name: KeyName, key: Secret, *, request: str | None) -> None:
        envelope = seal_envelope(key, kek=self._kek.current(), name=name, version=1)
        algorithm = f"aes-gcm-{len(key) * 8}"
        self._store.create(name, envelope, algorithm=algorithm, expires_at=self._expiry(), request=request)

    def _expiry(self) -> datetime | None:
        return None if self._lifetime is None else self._now() + self._lifetime


def _parse(text: str, name: KeyName, version: int) -> Envelope:
    try:
        return parse_envelope(text, where=f"class key {name} version {version}")
    except FormatError as error:
        raise VerificationError(str(error), code="envelope_malformed") from error


def _in_use(states: Mapping[KeyName, ClassKeyState]) -> Iterator[tuple[KeyName, int]]:
    """Return every version that is neither revoked nor aborted, in order."""
    for name, state in sorted(states.items()):
        for version in state.versions:
            if version.state not in {VersionState.REVOKED, VersionState.ABORTED}:
                yield name, version.version


def _unfinished(name: KeyName, version: int) -> Conflict:
    return Conflict(
        f"class key {name}: version {version} is not there for all devices yet",
        code="rollout_unfinished",
        hint="finish or abort its rollout first",
    )


def _place(version: ClassKeyVersion) -> str:
    stage = None if version.rollout is None else version.rollout.stage
    return f"version {version.version} in stage {stage}"
