"""A key vault in memory: envelopes, a real RSA key that they are sealed under, a real key that signs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature

from shared.errors import Conflict, KeyUnavailable, NotFound, VerificationError
from shared.keys.envelope import Kek
from shared.keys.store import ClassKeyState, ClassKeyVersion, VersionState
from shared.types import KeyName, Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from shared.rollout import Rollout

OAEP = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)


class MemoryClassKeyStore:
    """A :class:`shared.keys.store.ClassKeyStore`.

    Args:
        now: Tells the time that expiry is judged by, aware.

    Attributes:
        envelopes: What rests, by name and version; tests tamper with it.
        deleted: What was deleted and can be recovered.
        disabled: Versions that are, as ``(name, version)``; tests add to it.
        not_before: When a version's time comes; tests add to it.
        reads: How often an envelope was read.
        listings: How often all keys were listed.
    """

    def __init__(self, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.envelopes: dict[KeyName, dict[int, str]] = {}
        self.deleted: dict[KeyName, dict[int, str]] = {}
        self.disabled: set[tuple[KeyName, int]] = set()
        self.not_before: dict[tuple[KeyName, int], datetime] = {}
        self.reads = 0
        self.listings = 0
        self._now = now
        self._algorithms: dict[KeyName, str] = {}
        self._floors: dict[KeyName, int] = {}
        self._created: dict[tuple[KeyName, int], datetime] = {}
        self._expiry: dict[tuple[KeyName, int], datetime | None] = {}
        self._requests: dict[KeyName, dict[int, str]] = {}
        self._rollouts: dict[tuple[KeyName, int], Rollout] = {}

    def states(self) -> Mapping[KeyName, ClassKeyState]:
        self.listings += 1
        return {name: self.state(name) for name in self.envelopes}

    def state(self, name: KeyName) -> ClassKeyState:
        self._known(name)
        return ClassKeyState(
            floor=self._floors[name],
            algorithm=self._algorithms[name],
            versions=tuple(self._version(name, number) for number in sorted(self.envelopes[name])),
        )

    def _version(self, name: KeyName, number: int) -> ClassKeyVersion:
        key = (name, number)
        now, expires_at, begins = self._now(), self._expiry[key], self.not_before.get(key)
        rollout = self._rollouts.get(key)
        if number < self._floors[name]:
            state = VersionState.REVOKED
        elif rollout is not None and rollout.is_aborted:
            state = VersionState.ABORTED
        elif key in self.disabled:
            state = VersionState.DISABLED
        elif expires_at is not None and now >= expires_at:
            state = VersionState.EXPIRED
        elif begins is not None and now < begins:
            state = VersionState.NOT_YET_VALID
        else:
            state = VersionState.ACTIVE
        return ClassKeyVersion(
            version=number,
            state=state,
            created_at=self._created[key],
            expires_at=expires_at,
            rollout=rollout,
        )

    def create(
        self,
        name: KeyName,
        envelope: str,
        *,
        algorithm: str,
        expires_at: datetime | None = None,
        request: str | None = None,
    ) -> None:
        if name in self.envelopes:
            raise Conflict(f"{name}: the class key exists", code="key_exists")
        if name in self.deleted:
            raise Conflict(f"{name}: the class key was deleted", code="key_deleted")
        self.envelopes[name] = {}
        self._floors[name] = 1
        self._add(name, 1, envelope, algorithm, expires_at)
        self._note(name, 1, request)

    def add_version(
        self,
        name: KeyName,
        envelope: str,
        *,
        version: int,
        algorithm: str,
        expires_at: datetime | None = None,
        request: str | None = None,
        rollout: Rollout | None = None,
    ) -> None:
        if version != self.state(name).latest + 1:
            raise Conflict(f"{name}: version {version} does not follow", code="version_exists")
        self._add(name, version, envelope, algorithm, expires_at)
        self._note(name, version, request)
        if rollout is not None:
            self._rollouts[name, version] = rollout

    def set_rollout(self, name: KeyName, rollout: Rollout, *, version: int, expected: Rollout) -> None:
        self._known(name, version)
        if self._rollouts.get((name, version)) != expected:
            raise Conflict(f"{name}: the rollout of version {version} has moved", code="rollout_changed")
        if not rollout.is_aborted:
            self.read(name, version)
        self._rollouts[name, version] = rollout

    def requests(self, name: KeyName) -> Mapping[int, str]:
        return dict(self._requests.get(name, {})) if name in self.envelopes else {}

    def _note(self, name: KeyName, version: int, request: str | None) -> None:
        if request is not None:
            self._requests.setdefault(name, {})[version] = request

    def _add(
        self, name: KeyName, version: int, envelope: str, algorithm: str, expires_at: datetime | None
    ) -> None:
        self.envelopes[name][version] = envelope
        self._algorithms[name] = algorithm
        self._created[name, version] = self._now().replace(microsecond=0)
        self._expiry[name, version] = expires_at

    def replace_envelope(self, name: KeyName, envelope: str, *, version: int) -> None:
        self._known(name, version)
        self.envelopes[name][version] = envelope

    def raise_floor(self, name: KeyName, floor: int) -> int:
        self._known(name, floor - 1)
        self._floors[name] = max(self._floors[name], floor)
        return self._floors[name]

    def read(self, name: KeyName, version: int) -> str:
        self.reads += 1
        self._known(name, version)
        rollout = self._rollouts.get((name, version))
        if rollout is not None and rollout.is_aborted:
            raise KeyUnavailable(f"{name}: version {version} was aborted", code="key_aborted")
        if (name, version) in self.disabled:
            raise KeyUnavailable(f"{name}: version {version} is disabled", code="key_disabled")
        return self.envelopes[name][version]

    def delete(self, name: KeyName) -> datetime | None:
        if name in self.envelopes:
            self.deleted[name] = self.envelopes.pop(name)
        elif name not in self.deleted:
            self._known(name)
        return self._now() + timedelta(days=7)

    def recover(self, name: KeyName) -> None:
        if name in self.deleted:
            self.envelopes[name] = self.deleted.pop(name)
        self._known(name)

    def _known(self, name: KeyName, version: int | None = None) -> None:
        if name not in self.envelopes:
            raise NotFound(f"{name}: no such class key", code="key_not_found")
        if version is not None and version not in self.envelopes[name]:
            raise NotFound(f"{name}: no version {version}", code="key_not_found")


class SoftwareKek:
    """A :class:`shared.keys.store.KeyEncryptionKey`; ``unwraps`` counts how often it was asked."""

    BASE = "https://vault.test/keys/class-key-kek/"

    def __init__(self) -> None:
        self._versions = [rsa.generate_private_key(public_exponent=65537, key_size=2048)]
        self.unwraps = 0

    def rotate(self) -> None:
        self._versions.append(rsa.generate_private_key(public_exponent=65537, key_size=2048))

    def current(self) -> Kek:
        return Kek(kid=f"{self.BASE}{len(self._versions)}", public_key=self._versions[-1].public_key())

    def unwrap(self, kid: str, encrypted_key: bytes) -> Secret:
        number = kid.removeprefix(self.BASE)
        if not kid.startswith(self.BASE) or not number.isdecimal() or int(number) > len(self._versions):
            raise VerificationError("the envelope names another key encryption key", code="foreign_kek")
        self.unwraps += 1
        try:
            return Secret(self._versions[int(number) - 1].decrypt(encrypted_key, OAEP))
        except ValueError as error:
            raise VerificationError("the vault cannot unwrap it", code="unwrap_failed") from error


class SoftwareSigner:
    """A :class:`shared.twin.ports.ReleaseSigner`; ``signatures`` counts how often it signed."""

    def __init__(self) -> None:
        self._versions = [ec.generate_private_key(ec.SECP256R1())]
        self.signatures = 0

    def rotate(self) -> None:
        self._versions.append(ec.generate_private_key(ec.SECP256R1()))

    def key_id(self) -> str:
        return f"https://vault.test/keys/release-signing/{len(self._versions)}"

    def public_keys(self) -> Sequence[ec.EllipticCurvePublicKey]:
        return [key.public_key() for key in self._versions]

    def sign(self, digest: bytes, *, key_id: str) -> bytes:
        self.signatures += 1
        private_key = self._versions[int(key_id.rpartition("/")[2]) - 1]
        der = private_key.sign(digest, ec.ECDSA(Prehashed(hashes.SHA256())))
        r, s = decode_dss_signature(der)
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")
