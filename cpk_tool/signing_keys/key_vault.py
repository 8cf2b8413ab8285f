"""A signing key in Azure Key Vault, which signs and never gives the key away.

The identity is found by ``DefaultAzureCredential``: a pipeline's workload identity, a managed identity, the
environment, or ``az login``. It needs the actions ``keys/read`` and ``keys/sign`` on the key, which the role
Key Vault Crypto User has.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cpk_tool.output import UsageError
from shared.cpk.schemes import SignatureScheme
from shared.cpk.signing_keys import VerificationKey, load_verification_key
from shared.errors import EdbError, FormatError, KeyUnavailable, NotFound, TransportError

try:
    from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError
    from azure.keyvault.keys import JsonWebKey, KeyClient
    from azure.keyvault.keys.crypto import SignatureAlgorithm
except ImportError as error:
    raise EdbError(
        "a signing key in Key Vault needs the packages azure-keyvault-keys and azure-identity",
        code="not_installed",
        hint="pip install 'enclave-device-blueprint[tool]'",
    ) from error

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from azure.core.credentials import TokenCredential

    from shared.cpk.signing import Role

_PATH = re.compile(r"/keys/([0-9A-Za-z-]{1,127})(?:/([0-9A-Za-z]{1,127}))?")
_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND = 401, 403, 404
_CURVES: Mapping[str, type[ec.EllipticCurve]] = {"P-256": ec.SECP256R1, "P-384": ec.SECP384R1}
_ALGORITHMS: Mapping[SignatureScheme, SignatureAlgorithm] = {
    SignatureScheme.RSA_PKCS1V15: SignatureAlgorithm.rs256,
    SignatureScheme.RSA_PSS: SignatureAlgorithm.ps256,
    SignatureScheme.ECDSA_P256: SignatureAlgorithm.es256,
    SignatureScheme.ECDSA_P384: SignatureAlgorithm.es384,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultKeyName:
    """``https://HOST[:PORT]/keys/NAME[/VERSION]``, taken apart; ``version`` is ``None`` for the newest."""

    vault: str
    name: str
    version: str | None

    @classmethod
    def parse(cls, url: str) -> VaultKeyName:
        """Take a key's identifier apart.

        Raises:
            UsageError: It is none.
        """
        try:
            parts = urlsplit(url)
            plain = parts.port is None or parts.port > 0
        except ValueError:
            plain = False
        match = _PATH.fullmatch(parts.path) if plain else None
        if (
            match is None
            or parts.scheme != "https"
            or not parts.hostname
            or parts.username is not None
            or parts.query
            or parts.fragment
        ):
            raise UsageError(f"--sign-key: expected https://VAULT/keys/NAME or …/NAME/VERSION, found {url!r}")
        return cls(vault=f"https://{parts.netloc}", name=match[1], version=match[2])


class VaultSigningKey:
    """A :class:`cpk_tool.signing_keys.port.SigningKey` whose private half stays in the vault.

    Args:
        url: The key's identifier.
        credential: Who asks; by default whoever this machine is.
        verify_challenge: Whether the vault's address has to lie under the domain that its challenge names, so
            that a stranger's address gets no token.

    Raises:
        UsageError: The identifier is none.
        KeyUnavailable: The vault refused, or this machine has no identity.
        NotFound: The vault has no such key.
        TransportError: The vault cannot be reached.
        FormatError: The key signs no packages.
    """

    is_reproducible = False

    def __init__(
        self, url: str, *, credential: TokenCredential | None = None, verify_challenge: bool = True
    ) -> None:
        name = VaultKeyName.parse(url)
        self._where = url
        self._client = KeyClient(
            name.vault,
            credential if credential is not None else _default_credential(),
            verify_challenge_resource=verify_challenge,
        )
        with self._errors("reading the key"):
            key = self._client.get_key(name.name, name.version)
        self.public_key = _public_key(key.key, url)
        # The version whose public half was read signs, even if the key is rotated meanwhile.
        self._signer = self._client.get_cryptography_client(name.name, key_version=key.properties.version)

    def sign(self, scheme: SignatureScheme, digest: bytes, role: Role) -> bytes:
        """Let the vault sign; see the port."""
        algorithm = _ALGORITHMS.get(scheme)
        if algorithm is None:
            raise FormatError(
                f"{self._where}: expected a scheme of {', '.join(each.value for each in _ALGORITHMS)}, "
                f"found {scheme.value}, which Key Vault does not sign"
            )
        with self._errors(f"signing the {role.value}"):
            return self._signer.sign(algorithm, digest).signature

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """Translate the SDK's errors."""
        try:
            yield
        except ClientAuthenticationError as error:
            raise KeyUnavailable(
                f"{self._where}: {what}: no identity that the vault takes: {_first_line(error)}",
                code="vault_forbidden",
                hint="run `az login`, or give the pipeline a workload identity",
            ) from error
        except HttpResponseError as error:
            raise self._refusal(what, error) from error
        except (AzureError, ValueError) as error:  # a challenge for another domain is a ValueError
            raise TransportError(
                f"{self._where}: {what}: {_first_line(error)}", code="vault_unavailable"
            ) from error

    def _refusal(self, what: str, error: HttpResponseError) -> EdbError:
        status = error.status_code
        message = f"{self._where}: {what}: the vault answered {status}: {_first_line(error)}"
        if status in {_UNAUTHORIZED, _FORBIDDEN}:
            return KeyUnavailable(
                message,
                code="vault_forbidden",
                hint="the identity needs the role Key Vault Crypto User on the key",
            )
        return (
            NotFound(message) if status == _NOT_FOUND else TransportError(message, code="vault_unavailable")
        )


def _default_credential() -> TokenCredential:
    from azure.identity import DefaultAzureCredential  # noqa: PLC0415 - slow to import

    return DefaultAzureCredential()


def _public_key(jwk: JsonWebKey, where: str) -> VerificationKey:
    """Return the public half of a key of the vault (RFC 7518 section 6)."""
    parts: dict[str, Any] = {name: getattr(jwk, name, None) for name in ("n", "e", "x", "y", "crv")}
    numbers = {name: int.from_bytes(part, "big") for name, part in parts.items() if isinstance(part, bytes)}
    curve = _CURVES.get(parts["crv"])
    try:
        if {"n", "e"} <= numbers.keys():
            public: Any = rsa.RSAPublicNumbers(numbers["e"], numbers["n"]).public_key()
        elif {"x", "y"} <= numbers.keys() and curve is not None:
            public = ec.EllipticCurvePublicNumbers(numbers["x"], numbers["y"], curve()).public_key()
        else:
            raise FormatError(f"{where}: expected an RSA key, or an EC key on P-256 or P-384")
    except ValueError as error:
        raise FormatError(f"{where}: the vault's public key is no key") from error
    spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return load_verification_key(spki, where=where)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
