"""A signing key in a PKCS#11 token: a smart card, an HSM, or SoftHSM.

The token signs what it is given; digests are made here. RSASSA-PKCS1-v1_5 therefore gets the DigestInfo of
RFC 8017 section 9.2, and ECDSA the digest alone.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from shared.cpk.schemes import SignatureScheme
from shared.cpk.signing import PSS_SALT_SIZE, Role, to_be_signed
from shared.cpk.signing_keys import VerificationKey, load_verification_key
from shared.errors import EdbError, FormatError, KeyUnavailable, NotFound, TransportError

try:
    import pkcs11
    from pkcs11 import MGF, Attribute, KeyType, Mechanism, ObjectClass
except ImportError as error:
    raise EdbError(
        "a signing key in a PKCS#11 token needs the package python-pkcs11",
        code="not_installed",
        hint="pip install 'enclave-device-blueprint[pkcs11]'",
    ) from error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from shared.pkcs11_uri import Pkcs11Uri
    from shared.types import Secret

MODULE_VARIABLE = "CPK_PKCS11_MODULE"
"""Environment variable that names the PKCS#11 library where neither URI nor option does."""

_SHA256_DIGEST_INFO = bytes.fromhex("3031300d060960864801650304020105000420")  # RFC 8017 section 9.2, note 1
_MECHANISMS: Mapping[SignatureScheme, tuple[Mechanism, object]] = {
    SignatureScheme.RSA_PKCS1V15: (Mechanism.RSA_PKCS, None),
    SignatureScheme.RSA_PSS: (Mechanism.RSA_PKCS_PSS, (Mechanism.SHA256, MGF.SHA256, PSS_SALT_SIZE)),
    SignatureScheme.ECDSA_P256: (Mechanism.ECDSA, None),
    SignatureScheme.ECDSA_P384: (Mechanism.ECDSA, None),
    SignatureScheme.ED25519: (Mechanism.EDDSA, None),
    SignatureScheme.ML_DSA_65: (Mechanism.ML_DSA, None),
}
_CURVES: Mapping[bytes, type[ec.EllipticCurve]] = {
    bytes.fromhex("06082a8648ce3d030107"): ec.SECP256R1,
    bytes.fromhex("06052b81040022"): ec.SECP384R1,
}
_OCTET_STRING = 0x04
_ED25519_SIZE = 32
_PIN_ERRORS = (
    pkcs11.exceptions.PinIncorrect,
    pkcs11.exceptions.PinInvalid,
    pkcs11.exceptions.PinLenRange,
    pkcs11.exceptions.PinLocked,
    pkcs11.exceptions.PinExpired,
)


class TokenSigningKey:
    """A :class:`cpk_tool.signing_keys.port.SigningKey` whose private half stays in the token.

    Args:
        uri: Which key.
        module: Path of the PKCS#11 library where the URI names none.
        pin: Gives the user PIN.

    Raises:
        NotFound: No such library, token or key.
        KeyUnavailable: The token refused the PIN or the key.
        FormatError: Several tokens or keys fit, or the key signs no packages.
    """

    is_reproducible = False

    def __init__(self, uri: Pkcs11Uri, *, module: str | None, pin: Callable[[], Secret]) -> None:
        self._where = f"pkcs11 key {uri.label or (uri.key_id or b'').hex()}"
        library = _load(uri.module or module or os.environ.get(MODULE_VARIABLE))
        token = self._token(library, uri)
        with self._errors("opening the token"):
            self._session: Any = token.open(user_pin=pin().reveal().decode())
        try:
            self._key = self._find(ObjectClass.PRIVATE_KEY, uri)
            self.public_key = self._public_key(uri)
        except BaseException:
            self.close()
            raise

    def sign(self, scheme: SignatureScheme, digest: bytes, role: Role) -> bytes:
        """Let the token sign; see the port."""
        data = to_be_signed(scheme, digest, role)
        if scheme is SignatureScheme.RSA_PKCS1V15:
            data = _SHA256_DIGEST_INFO + data
        mechanism, parameters = _MECHANISMS[scheme]
        with self._errors(f"signing the {role.value} with {scheme.value}"):
            return bytes(self._key.sign(data, mechanism=mechanism, mechanism_param=parameters))

    def close(self) -> None:
        """Log out."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _token(self, library: Any, uri: Pkcs11Uri) -> Any:  # noqa: ANN401 - the library's own, without types
        with self._errors("looking for the token"):
            tokens = [
                token
                for token in library.get_tokens(token_label=uri.token)
                if (uri.serial is None or token.serial.decode("ascii", "replace").strip() == uri.serial)
                and (uri.slot_id is None or token.slot.slot_id == uri.slot_id)
            ]
        if not tokens:
            raise NotFound(f"{self._where}: no token fits token, serial and slot-id of --sign-key")
        if len(tokens) > 1:
            raise FormatError(f"{self._where}: expected one token that fits, found {len(tokens)}")
        return tokens[0]

    def _find(self, kind: ObjectClass, uri: Pkcs11Uri) -> Any:  # noqa: ANN401 - as above
        wanted = {Attribute.CLASS: kind, Attribute.LABEL: uri.label, Attribute.ID: uri.key_id}
        query = {name: value for name, value in wanted.items() if value is not None}
        with self._errors("looking for the key"):
            found = list(self._session.get_objects(query))
        if len(found) == 1:
            return found[0]
        if not found:
            raise NotFound(f"{self._where}: the token has no such {kind.name.lower().replace('_', ' ')}")
        raise FormatError(f"{self._where}: expected one key that fits, found {len(found)}; name its id, too")

    def _public_key(self, uri: Pkcs11Uri) -> VerificationKey | None:
        """Return the public half if the token keeps that beside the private one."""
        try:
            stored = self._find(ObjectClass.PUBLIC_KEY, uri)
        except NotFound:
            return None
        with self._errors("reading the public key"):
            public = _read_public_key(stored)
        if public is None:
            return None
        spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return load_verification_key(spki, where=self._where)

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """Translate the library's errors."""
        try:
            yield
        except _PIN_ERRORS as error:
            raise KeyUnavailable(
                f"{self._where}: the token refused the PIN: {type(error).__name__}", code="pin_refused"
            ) from error
        except pkcs11.exceptions.PKCS11Error as error:
            raise TransportError(
                f"{self._where}: {what}: {type(error).__name__}", code="token_failed"
            ) from error


def _load(module: str | None) -> Any:  # noqa: ANN401 - as above
    if module is None:
        raise NotFound(
            "pkcs11: expected the path of the token's PKCS#11 library, found none",
            code="module_unknown",
            hint=f"name it with --pkcs11-module, ${MODULE_VARIABLE} or ?module-path= in the URI; "
            "SoftHSM's is libsofthsm2.so",
        )
    try:
        return pkcs11.lib(module)
    except pkcs11.exceptions.PKCS11Error as error:
        raise NotFound(
            f"pkcs11: {module}: expected a PKCS#11 library: {error}", code="module_unknown"
        ) from error


def _read_public_key(
    stored: Any,  # noqa: ANN401 - as above
) -> rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | None:
    kind = stored[Attribute.KEY_TYPE]
    if kind is KeyType.RSA:
        modulus, exponent = (stored[name] for name in (Attribute.MODULUS, Attribute.PUBLIC_EXPONENT))
        return rsa.RSAPublicNumbers(
            int.from_bytes(exponent, "big"), int.from_bytes(modulus, "big")
        ).public_key()
    if kind not in {KeyType.EC, KeyType.EC_EDWARDS}:
        return None
    point = _unwrapped(stored[Attribute.EC_POINT])
    if kind is KeyType.EC_EDWARDS:
        return ed25519.Ed25519PublicKey.from_public_bytes(point) if len(point) == _ED25519_SIZE else None
    curve = _CURVES.get(bytes(stored[Attribute.EC_PARAMS]))
    return ec.EllipticCurvePublicKey.from_encoded_point(curve(), point) if curve is not None else None


def _unwrapped(point: bytes) -> bytes:
    """Return a point without the OCTET STRING around it that most tokens write."""
    head = 2
    if len(point) > head and point[0] == _OCTET_STRING and point[1] == len(point) - head:
        return bytes(point[head:])
    return bytes(point)
