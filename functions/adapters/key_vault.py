"""Key Vault's keys: the KEK that class keys rest under, and the key that signs releases.

Private halves never leave the vault, which may be a Managed HSM. A key of another kind, size or use than it
must be is refused before anything is sealed under it or signed with it. The SDK wraps and verifies locally
and asks the vault to unwrap and to sign; this adapter wraps nothing with it (``wrap_key`` under a symmetric
HSM key loses data silently).
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from azure.core.exceptions import AzureError, HttpResponseError, ResourceNotFoundError
from azure.keyvault.keys import KeyClient, KeyType
from azure.keyvault.keys.crypto import KeyWrapAlgorithm, SignatureAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from functions import telemetry
from functions.adapters.expiring import Expiring
from functions.adapters.vault_calls import vault_options
from functions.call_rates import seconds_asked
from shared.errors import EdbError, KeyUnavailable, TransportError, VerificationError
from shared.keys.envelope import Kek
from shared.types import Secret

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from azure.core.credentials import TokenCredential
    from azure.keyvault.keys import JsonWebKey, KeyVaultKey
    from azure.keyvault.keys.crypto import CryptographyClient

    from functions.call_rates import CallRates

KEY_CACHE_SECONDS = 300.0
"""How long the release key's id and public keys are used before the vault is asked again."""

KEK_BITS = 3072
"""Fewest bits of the key encryption key."""

KEK_OPERATIONS = frozenset({"wrapKey", "unwrapKey"})
"""What the key encryption key does, no more and no less."""

RELEASE_OPERATIONS = frozenset({"sign", "verify"})
"""What the release key does at most; it must sign."""

_BAD_REQUEST, _UNAUTHORIZED, _FORBIDDEN, _CONFLICT = 400, 401, 403, 409
_VERSION = re.compile(r"[0-9A-Za-z]{1,127}")


@contextmanager
def vault_errors(what: str) -> Iterator[None]:
    """Translate the SDK's errors.

    Args:
        what: What is being done, for the message.

    Raises:
        KeyUnavailable: ``vault_forbidden``; the app's identity lacks a role.
        TransportError: Everything else that is not handled inside.
    """
    with telemetry.call("vault", what), _translated(what):
        yield


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except HttpResponseError as error:
        if error.status_code in {_UNAUTHORIZED, _FORBIDDEN}:
            raise KeyUnavailable(
                f"{what}: the vault refused with {error.status_code}", code="vault_forbidden"
            ) from error
        raise TransportError(
            f"{what}: the vault answered {error.status_code}",
            code="vault_unavailable",
            retry_after=seconds_asked(getattr(error.response, "headers", None) or {}),
        ) from error
    except AzureError as error:
        raise TransportError(f"{what}: {type(error).__name__}", code="vault_unavailable") from error


def make_key_client(
    vault_url: str, credential: TokenCredential, *, verify_challenge: bool, rates: CallRates | None = None
) -> KeyClient:
    """Return a client of the vault's keys; one serves all threads."""
    return KeyClient(
        vault_url, credential, verify_challenge_resource=verify_challenge, **vault_options(rates)
    )


class VaultKek:
    """A :class:`shared.keys.store.KeyEncryptionKey`: an RSA key of the vault, any version of it.

    Args:
        client: Of the vault.
        name: The key's name.
    """

    def __init__(self, client: KeyClient, name: str) -> None:
        self._client = client
        self._name = name
        self._prefix = f"{client.vault_url.rstrip('/')}/keys/{name}/"

    def current(self) -> Kek:
        """Return the current version, asked for every time: a rotated KEK seals the very next class key."""
        with vault_errors("reading the key encryption key"):
            key = self._client.get_key(self._name)
        check_kek(key)
        return Kek(kid=str(key.id), public_key=_rsa_public_key(key.key, str(key.id)))

    def unwrap(self, kid: str, encrypted_key: bytes) -> Secret:
        """Let the vault unwrap; see the port."""
        version = kid.removeprefix(self._prefix)
        if not kid.startswith(self._prefix) or not _VERSION.fullmatch(version):
            raise VerificationError(
                f"the envelope names {kid[:128]!r}, expected a version of {self._prefix}", code="foreign_kek"
            )
        with vault_errors("unwrapping a class key"):
            try:
                client = self._client.get_cryptography_client(self._name, key_version=version)
                result = client.unwrap_key(KeyWrapAlgorithm.rsa_oaep_256, encrypted_key)
            except ResourceNotFoundError as error:
                raise VerificationError(f"the vault has no {kid}", code="unwrap_failed") from error
            except HttpResponseError as error:
                if error.status_code != _BAD_REQUEST:
                    raise
                raise VerificationError(f"{kid} does not unwrap it", code="unwrap_failed") from error
        return Secret(result.key)


class VaultReleaseSigner:
    """A :class:`shared.twin.ports.ReleaseSigner`: an EC P-256 key of the vault.

    Args:
        client: Of the vault.
        name: The key's name.
    """

    def __init__(self, client: KeyClient, name: str) -> None:
        self._client = client
        self._name = name
        self._key_id = Expiring(self._fetch_id, seconds=KEY_CACHE_SECONDS)
        self._public_keys = Expiring(self._fetch_public_keys, seconds=KEY_CACHE_SECONDS)
        self._signers: dict[str, CryptographyClient] = {}

    def key_id(self) -> str:
        """Return the current version's id; asked for at most five minutes ago."""
        return self._key_id.get()

    def public_keys(self) -> Sequence[ec.EllipticCurvePublicKey]:
        """Return the enabled versions' public halves; asked for at most five minutes ago."""
        return self._public_keys.get()

    def sign(self, digest: bytes, *, key_id: str) -> bytes:
        """Let the vault sign; see the port."""
        with vault_errors("signing a release"):
            signer = self._signers.get(key_id)
            if signer is None:
                version = key_id.rpartition("/")[2]
                signer = self._client.get_cryptography_client(self._name, key_version=version)
                self._signers[key_id] = signer
            return signer.sign(SignatureAlgorithm.es256, digest).signature

    def _fetch_id(self) -> str:
        with vault_errors("reading the release key"):
            key = self._client.get_key(self._name)
        check_release_key(key)
        return str(key.id)

    def _fetch_public_keys(self) -> tuple[ec.EllipticCurvePublicKey, ...]:
        with vault_errors("reading the release keys"):
            versions = [
                version.version
                for version in self._client.list_properties_of_key_versions(self._name)
                if version.enabled and version.version
            ]
            keys = [self._client.get_key(self._name, version) for version in versions]
        return tuple(_ec_public_key(key.key, str(key.id)) for key in keys)


def check_kek(key: KeyVaultKey) -> None:
    """Refuse a key encryption key that is not RSA in hardware, long enough, for wrapping alone.

    Raises:
        KeyUnavailable: ``key_unfit``.
    """
    bits = int.from_bytes(_octets(key.key, "n"), "big").bit_length()
    operations = _operations(key)
    if _kind(key) != KeyType.rsa_hsm.value or bits < KEK_BITS or operations != KEK_OPERATIONS:
        expected = f"RSA-HSM of {KEK_BITS} bits or more for unwrapKey, wrapKey alone"
        raise _unfit("key encryption key", key, expected, f"{_kind(key)} of {bits} bits")


def check_release_key(key: KeyVaultKey) -> None:
    """Refuse a release key that is not EC P-256 in hardware, for signing alone.

    Raises:
        KeyUnavailable: ``key_unfit``.
    """
    curve = _text(getattr(key.key, "crv", None))
    operations = _operations(key)
    signs_alone = "sign" in operations and operations <= RELEASE_OPERATIONS
    if _kind(key) != KeyType.ec_hsm.value or curve != "P-256" or not signs_alone:
        raise _unfit("release key", key, "EC-HSM on P-256 for sign alone", f"{_kind(key)} on {curve}")


def _unfit(what: str, key: KeyVaultKey, expected: str, found: str) -> KeyUnavailable:
    operations = ", ".join(sorted(_operations(key))) or "nothing"
    return KeyUnavailable(
        f"{what} {key.id}: expected {expected}; found {found} for {operations}",
        code="key_unfit",
        hint="make a new version of the right kind, as infra does",
    )


def _kind(key: KeyVaultKey) -> str:
    return _text(key.key_type)


def _operations(key: KeyVaultKey) -> frozenset[str]:
    return frozenset(map(_text, key.key_operations or ()))


def _text(value: object) -> str:
    """Return the text of what the SDK gives as text or, where it knows the word, as a member of an enum."""
    return str(getattr(value, "value", value))


def _rsa_public_key(key: JsonWebKey, key_id: str) -> rsa.RSAPublicKey:
    modulus, exponent = _octets(key, "n"), _octets(key, "e")
    if not modulus or not exponent:
        raise EdbError(f"{key_id}: expected an RSA key", code="key_kind")
    return rsa.RSAPublicNumbers(int.from_bytes(exponent, "big"), int.from_bytes(modulus, "big")).public_key()


def _ec_public_key(key: JsonWebKey, key_id: str) -> ec.EllipticCurvePublicKey:
    x, y = _octets(key, "x"), _octets(key, "y")
    if not x or not y or getattr(key, "crv", None) != "P-256":
        raise EdbError(f"{key_id}: expected an EC key on P-256", code="key_kind")
    numbers = ec.EllipticCurvePublicNumbers(
        int.from_bytes(x, "big"), int.from_bytes(y, "big"), ec.SECP256R1()
    )
    return numbers.public_key()


def _octets(key: JsonWebKey, name: str) -> bytes:
    value = getattr(key, name, None)
    return value if isinstance(value, bytes) else b""
