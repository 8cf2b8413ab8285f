"""A key vault in memory: envelopes, a real RSA key that they are sealed under, a real key that signs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature

from shared.errors import Conflict, NotFound, VerificationError
from shared.keys.envelope import Kek
from shared.keys.store import ClassKeyState
from shared.types import KeyName, Secret

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


OAEP = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)


class MemoryClassKeyStore:
    """A :class:`shared.keys.store.ClassKeyStore`.

    Attributes:
        envelopes: What rests, by name and version; tests tamper with it.
        reads: How often an envelope was read.
        listings: How often all keys were listed.
    """

    def __init__(self) -> None:
        self.envelopes: dict[KeyName, dict[int, str]] = {}
        self.reads = 0
        self.listings = 0
        self._algorithms: dict[KeyName, str] = {}
        self._floors: dict[KeyName, int] = {}
        self._requests: dict[KeyName, dict[int, str]] = {}

    def states(self) -> Mapping[KeyName, ClassKeyState]:
        self.listings += 1
        return {name: self.state(name) for name in self.envelopes}

    def state(self, name: KeyName) -> ClassKeyState:
        self._known(name)
        latest = max(self.envelopes[name])
        return ClassKeyState(latest=latest, floor=self._floors[name], algorithm=self._algorithms[name])

    def create(self, name: KeyName, envelope: str, *, algorithm: str, request: str | None = None) -> None:
        if name in self.envelopes:
            raise Conflict(f"{name}: the class key exists", code="key_exists")
        self.envelopes[name] = {1: envelope}
        self._algorithms[name] = algorithm
        self._floors[name] = 1
        self._note(name, 1, request)

    def add_version(
        self, name: KeyName, envelope: str, *, version: int, algorithm: str, request: str | None = None
    ) -> None:
        if version != self.state(name).latest + 1:
            raise Conflict(f"{name}: version {version} does not follow", code="version_exists")
        self.envelopes[name][version] = envelope
        self._algorithms[name] = algorithm
        self._note(name, version, request)

    def requests(self, name: KeyName) -> Mapping[int, str]:
        return dict(self._requests.get(name, {}))

    def raise_floor(self, name: KeyName, floor: int) -> int:
        self._known(name)
        if floor - 1 not in self.envelopes[name]:
            raise NotFound(f"{name}: no version {floor - 1}", code="key_not_found")
        self._floors[name] = max(self._floors[name], floor)
        return self._floors[name]

    def read(self, name: KeyName, version: int) -> str:
        self.reads += 1
        self._known(name)
        if version not in self.envelopes[name]:
            raise NotFound(f"{name}: no version {version}", code="key_not_found")
        return self.envelopes[name][version]

    def _note(self, name: KeyName, version: int, request: str | None) -> None:
        if request is not None:
            self._requests.setdefault(name, {})[version] = request

    def _known(self, name: KeyName) -> None:
        if name not in self.envelopes:
            raise NotFound(f"{name}: no such class key", code="key_not_found")


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
