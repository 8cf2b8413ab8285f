"""The client of the reference CPM, through the reference ``cpk-tool`` as a subprocess.

The reference CPM cannot judge a release, so this client does, with release keys pinned in the agent's
settings. That is weaker: whoever can change the agent, its settings or its memory, root above all, can plant
keys and undo revocations, where a CPM that judges by itself would refuse. What stays: class keys are wrapped
for the CPM's device key, and nobody here can open them.

What the reference does, and what follows (see also ``docs/guides/device.md``):

* ``pub-key`` does not ping, and a trusted application that was never pinged has no key. ``sync`` pings before
  it looks for the key that it was to bring; without one it then fails and changes nothing: that is the ping.
* A failure may end with status 0. What counts is what a success prints.
* There is one slot for class keys, and its name is ignored. So a release of more than one key is refused.
* The device key lives as long as the application is loaded, and so do class keys; when the key changes, what
  was released is gone. A class key cannot be taken back; it goes with the next load.
* Only RSAES-PKCS1-v1_5 can be opened. How that failed is not told apart.
* The wrapped key stands in argv, where every process of the device can read it. It is wrapped.

One command runs at a time, under a lock, with a time limit and a limit for its output.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from device_agent.bounded_command import Finished, run_command
from device_agent.cpm_client import AppliedRelease, CpmStatus, DeviceKey, HeldKey
from device_agent.reference_memory import Memory, ReferenceMemory
from shared.encoding import decode_base64, encode_base64
from shared.errors import FormatError, StorageError, TransportError, VerificationError
from shared.public_keys import KeyKind, PublicKey, load_public_key
from shared.release.verifying import Expectation, Verdict, verify_release
from shared.types import WrapAlgorithm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric import ec

    from shared.release.document import Release
    from shared.types import Audience, DeviceId, KeyName

COMMAND_SECONDS = 60.0
"""Longest that a command may take; the reference's first one makes an RSA key in the trusted application."""

INSTALL_SECONDS = 600.0
"""Longest that installing may take; the reference takes 6 MiB at most."""

MAX_OUTPUT = 64 * 1024
"""Bytes that a command may write; the longest honest answer is an RSA-4096 key in base64, 736 characters."""

_PINGED_WITHOUT_KEY = "device-agent-ping"
_DONE = b"Done."
_PASSED = (b"Digest check PASSED.", b"Signature check PASSED.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pins:
    """What a release is judged by.

    Args:
        device_id: Whom it must be for.
        audience: The deployment that it must come from.
        release_keys: Who may sign it.
    """

    device_id: DeviceId
    audience: Audience
    release_keys: Sequence[ec.EllipticCurvePublicKey]


class ReferenceCpm:
    """A :class:`~device_agent.cpm_client.CpmClient` over the reference ``cpk-tool``.

    Args:
        tool: The executable.
        pins: What releases are judged by.
        folder: Where it remembers the last release and keeps its lock.
        clock: Unix seconds.
        seconds: Longest that a command may take.
    """

    def __init__(
        self,
        tool: Path,
        *,
        pins: Pins,
        folder: Path,
        clock: Callable[[], float] = time.time,
        seconds: float = COMMAND_SECONDS,
    ) -> None:
        self._tool, self._pins, self._clock, self._seconds = tool, pins, clock, seconds
        self._memory = ReferenceMemory(folder / "reference-cpm.json")
        self._lock_file = folder / "reference-cpm.lock"

    @property
    def judges_releases(self) -> bool:
        """See :attr:`~device_agent.cpm_client.CpmClient.judges_releases`."""
        return False

    def identify(self) -> DeviceKey:
        """See :meth:`~device_agent.cpm_client.CpmClient.identify`.

        Raises:
            FormatError: The tool printed something that is no RSA key.
        """
        with self._turn():
            return self._identify()

    def status(self) -> CpmStatus:
        """See :meth:`~device_agent.cpm_client.CpmClient.status`; key check values are not known here.

        Raises:
            StorageError: ``state_damaged``; what was remembered cannot be read.
        """
        with self._turn():
            key, memory = self._identify(), self._memory.load()
        held = memory.keys if memory.fingerprint == key.fingerprint else {}
        return CpmStatus(
            device_id=self._pins.device_id,
            fingerprint=key.fingerprint,
            sequence=memory.sequence,
            keys={name: HeldKey(version=version, kcv=None) for name, version in held.items()},
            packages={},
        )

    def apply_release(self, release: bytes, wrapped: Mapping[KeyName, bytes]) -> AppliedRelease:
        """See :meth:`~device_agent.cpm_client.CpmClient.apply_release`; judged here, not by the CPM.

        Raises:
            VerificationError: As for :func:`~shared.release.verifying.verify_release`; besides
                ``unsupported_algorithm``, ``storage_full`` for more than one key, ``unwrap_failed``.
        """
        with self._turn():
            key, memory = self._identify(), self._memory.load()
            verdict, stated = verify_release(
                release, wrapped, self._pins.release_keys, self._expected(key, memory)
            )
            versions = {name: released.version for name, released in stated.keys.items()}
            if verdict is Verdict.ALREADY_APPLIED and memory.fingerprint == key.fingerprint:
                return AppliedRelease(sequence=stated.sequence, applied=False, versions=versions)
            _check_possible(stated)
            for name in stated.keys:
                self._sync(name, wrapped[name], key)
            self._memory.save(_after(memory, stated, release, key))
            return AppliedRelease(sequence=stated.sequence, applied=True, versions=versions)

    def install_application_key(self, name: KeyName, wrapped: bytes) -> None:
        """See :meth:`~device_agent.cpm_client.CpmClient.install_application_key`.

        Raises:
            VerificationError: ``rollback`` once a release was applied; ``unwrap_failed``.
        """
        with self._turn():
            key, memory = self._identify(), self._memory.load()
            if memory.sequence:
                raise VerificationError(
                    "a key without a release is no longer taken: this device has applied one", code="rollback"
                )
            self._sync(name, wrapped, key)
            self._memory.save(replace(memory, fingerprint=key.fingerprint, keys={name: 1}))

    def install_package(self, package: Path) -> None:
        """See :meth:`~device_agent.cpm_client.CpmClient.install_package`.

        Raises:
            FormatError: There is no such file.
            VerificationError: ``verification_failed``; the tool did not say that both checks passed.
        """
        if not package.is_file():
            raise FormatError(f"{package}: cannot be read: no such file")
        with self._turn():
            self._ping()
            done = self._run("install", "-p", str(package.resolve()), seconds=INSTALL_SECONDS)
        if done.status != 0 or not all(passed in done.stdout for passed in _PASSED):
            raise VerificationError(
                f"{package}: the reference tool did not confirm digest and signature (status {done.status})",
                hint="it may be installed all the same: the reference ends a deployment whatever it found",
            )

    # The tool

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait for no other command: one that is refused is tried again by whoever asked.

        Raises:
            TransportError: ``cpm_unavailable``; another process has its turn.
            StorageError: The lock cannot be made.
        """
        try:
            lock = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageError(f"{self._lock_file}: {error.strerror}", code="state_unusable") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _unavailable("another command is using the reference cpm") from error
        else:
            yield
        finally:
            os.close(lock)

    def _run(self, *arguments: str, seconds: float | None = None) -> Finished:
        try:
            return run_command(
                [str(self._tool), *arguments], seconds=seconds or self._seconds, limit=MAX_OUTPUT
            )
        except TransportError as error:
            raise _unavailable(str(error)) from error

    def _ping(self) -> None:
        self._run("sync", "-a", _PINGED_WITHOUT_KEY, "-m", "commandline")  # fails, as it should

    def _identify(self) -> DeviceKey:
        self._ping()
        done = self._run("pub-key")
        if done.status != 0 or not done.stdout.strip():
            raise _unavailable(f"the reference tool knows no device key (status {done.status})")
        key = _rsa_key(done.stdout)
        return DeviceKey(spki=key.spki, fingerprint=key.fingerprint, algorithms=(WrapAlgorithm.RSA1_5,))

    def _sync(self, name: KeyName, wrapped: bytes, key: DeviceKey) -> None:
        done = self._run("sync", "-a", name, "-m", "commandline", "-k", encode_base64(wrapped))
        # Asked again whatever came of it: that tells a cpm that went away from a key that does not open, and
        # one that was loaded anew meanwhile, and has forgotten the key, from one that holds it.
        if self._identify().fingerprint != key.fingerprint:
            raise _unavailable("the reference cpm was loaded anew just now")
        if done.status != 0 or done.stdout.split()[-1:] != [_DONE]:
            raise VerificationError(
                f"the reference cpm did not take the class key {name}", code="unwrap_failed"
            )

    def _expected(self, key: DeviceKey, memory: Memory) -> Expectation:
        now = min(max(int(self._clock()), 0, memory.issued_at), _YEAR_9999)
        return Expectation(
            audience=self._pins.audience,
            device_id=self._pins.device_id,
            fingerprint=key.fingerprint,
            at=datetime.fromtimestamp(now, UTC),
            last_sequence=memory.sequence,
            last_digest=memory.digest,
            floors=memory.floors,
        )


_YEAR_9999 = 253_402_300_799


def _rsa_key(printed: bytes) -> PublicKey:
    """Read what ``pub-key`` prints: base64 of DER, as SPKI; PKCS#1, as the CPM itself gives it, is taken too.

    Raises:
        FormatError: It is no RSA key that the protocol knows.
    """
    where = "cpk-tool pub-key"
    try:
        text = printed.decode("ascii")
    except UnicodeDecodeError as error:
        raise FormatError(f"{where}: expected base64") from error
    der = decode_base64(text, where=where)
    try:
        loaded = load_der_public_key(der)  # takes both forms
    except (ValueError, UnsupportedAlgorithm) as error:
        raise FormatError(f"{where}: expected a DER public key, found {len(der)} other bytes") from error
    if not isinstance(loaded, rsa.RSAPublicKey):
        raise FormatError(f"{where}: expected an RSA key")
    spki = loaded.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    pkcs1 = loaded.public_bytes(Encoding.DER, PublicFormat.PKCS1)
    if der not in {spki, pkcs1}:
        raise FormatError(f"{where}: the public key is not in canonical DER")
    key = load_public_key(spki, where=where)
    if key.kind is not KeyKind.RSA:
        raise FormatError(f"{where}: expected an RSA key, found {key.kind.value}")
    return key


def _check_possible(release: Release) -> None:
    for name, key in release.keys.items():
        if key.algorithm is not WrapAlgorithm.RSA1_5:
            raise VerificationError(
                f"release: key {name} is wrapped with {key.algorithm.value}; the reference opens RSA1_5 only",
                code="unsupported_algorithm",
            )
    if len(release.keys) > 1:
        raise VerificationError(
            f"release: {len(release.keys)} keys, and the reference cpm holds one", code="storage_full"
        )


def _after(memory: Memory, release: Release, cose: bytes, key: DeviceKey) -> Memory:
    floors = dict(memory.floors)
    for name, floor in release.floors.items():
        floors[name] = max(floor, floors.get(name, 1))
    return Memory(
        fingerprint=key.fingerprint,
        sequence=release.sequence,
        digest=hashlib.sha256(cose).digest(),
        issued_at=max(memory.issued_at, release.issued_at),
        floors=floors,
        keys={name: released.version for name, released in release.keys.items()},
    )


def _unavailable(message: str) -> TransportError:
    return TransportError(message, code="cpm_unavailable")
