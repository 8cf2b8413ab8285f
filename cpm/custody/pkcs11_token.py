"""PKCS#11 custody: a device key in a token, such as a secure element, an HSM, or a TPM behind tpm2-pkcs11.

Two RSA keys are made in the token at the first start, or are found there, and neither can be taken out:

=============== ===================================================================
label           use
=============== ===================================================================
LABEL           the device key: RSA-OAEP with SHA-256, unwrapped inside the token
LABEL.storage   the storage root is derived from a signature of it, and nothing else is signed
=============== ===================================================================

A token seals nothing, and few can make symmetric keys. So the storage root is HKDF-SHA256 over the token's
RSASSA-PKCS1-v1_5 signature of a salt: that signature is deterministic and nobody can make it without the
token, which is why RFC 8937 takes secrets from one in the same way. Whoever has the disk can neither open the
CPM's state nor write one that opens; that is more than a root wrapped for a public key would give.

The token does the whole of OAEP. One that knows it with SHA-1 alone, as SoftHSM 2.6 does, is refused:
taking the padding off here would tell by its time what is wrong with it (Manger's attack).

============================ ==================================================================
file                         content
============================ ==================================================================
storage-root.pkcs11          the salt, 32 random bytes
device-key.pkcs11            the device key's SubjectPublicKeyInfo; written last (see ``Custody.commit``)
============================ ==================================================================

Tokens do not count: an old copy of the state folder is not found out.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cpm.custody.port import DeviceKeyType
from cpm.custody.storage_root import ROOT_BYTES, StorageRoot, damaged
from cpm.files import read_private, write_atomically
from shared.errors import (
    EdbError,
    FormatError,
    KeyUnavailable,
    NotFound,
    TransportError,
    VerificationError,
)
from shared.keys.wrapping import KEY_LENGTHS, WrapContext, wrap_key, wrapped_size
from shared.public_keys import PublicKey, load_public_key
from shared.types import Audience, KeyName, Secret, WrapAlgorithm

try:
    import pkcs11
    from pkcs11 import MGF, Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass
except ImportError as error:
    raise EdbError(
        "custody in a PKCS#11 token needs the package python-pkcs11",
        code="not_installed",
        hint="pip install 'enclave-device-blueprint[pkcs11]'",
    ) from error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shared.pkcs11_uri import Pkcs11Uri

KEY_FILE: Final = "device-key.pkcs11"
SALT_FILE: Final = "storage-root.pkcs11"
STORAGE_SUFFIX: Final = ".storage"

PIN_CREDENTIAL: Final = "cpm.pin"
"""Name of the systemd credential that holds the user PIN, where the URI names no file."""

MODULE_VARIABLE: Final = "CPM_PKCS11_MODULE"
"""Environment variable that names the PKCS#11 library where the URI does not."""

_MAX_PIN = 256
_SALT_BYTES = 32
_MAX_SPKI = 4096
_ROOT_LABEL = b"CPM-STORAGE-ROOT-v1\0"
_SHA256_DIGEST_INFO = bytes.fromhex("3031300d060960864801650304020105000420")  # RFC 8017 section 9.2, note 1
_OAEP_SHA256 = {
    "mechanism": Mechanism.RSA_PKCS_OAEP,
    "mechanism_param": (Mechanism.SHA256, MGF.SHA256, None),
}
_RSA_BITS = {DeviceKeyType.RSA2048: 2048, DeviceKeyType.RSA3072: 3072, DeviceKeyType.RSA4096: 4096}
_BOTH = MechanismFlag.DECRYPT | MechanismFlag.ENCRYPT, MechanismFlag.SIGN | MechanismFlag.VERIFY
_PIN_ERRORS = (
    pkcs11.exceptions.PinIncorrect,
    pkcs11.exceptions.PinInvalid,
    pkcs11.exceptions.PinLenRange,
    pkcs11.exceptions.PinLocked,
    pkcs11.exceptions.PinExpired,
)
# What says that the token did not work, whatever it was given.
_TOKEN_GONE = (
    pkcs11.exceptions.DeviceError,
    pkcs11.exceptions.DeviceMemory,
    pkcs11.exceptions.DeviceRemoved,
    pkcs11.exceptions.HostMemory,
    pkcs11.exceptions.SessionClosed,
    pkcs11.exceptions.SessionHandleInvalid,
    pkcs11.exceptions.TokenNotPresent,
    pkcs11.exceptions.UserNotLoggedIn,
)
_PROBE = WrapContext(audience=Audience("probe"), device_id="probe", name=KeyName("probe"), version=1)


class TokenCustody:
    """A :class:`cpm.custody.port.Custody` in a token; see the module. Make one with :meth:`open`."""

    def __init__(
        self, *, folder: Path, token: _Token, root: StorageRoot, public_key: PublicKey, fresh: bool
    ) -> None:
        self._folder = folder
        self._token = token
        self._root = root
        self._public_key = public_key
        self._fresh = fresh

    @classmethod
    def open(cls, folder: Path, *, uri: Pkcs11Uri, key_type: DeviceKeyType) -> TokenCustody:
        """Find the keys in the token; at the first start, make those that are missing.

        Args:
            folder: The state folder; it exists, and the caller holds its lock.
            uri: The device key.
            key_type: For a new device key: RSA.

        Raises:
            StorageError: ``state_damaged`` or ``state_exposed``.
            NotFound: No such library, token or PIN; or the keys are gone.
            KeyUnavailable: ``pin_refused``; ``unsupported_token`` if it cannot do what it must, or a key of
                it could be taken out.
            TransportError: ``custody_unavailable``.
        """
        spki = read_private(folder / KEY_FILE, most=_MAX_SPKI)
        salt = read_private(folder / SALT_FILE, most=_SALT_BYTES)
        if spki is not None and salt is None:
            raise damaged(f"{folder / SALT_FILE} is missing beside {KEY_FILE}")
        if salt is not None and len(salt) != _SALT_BYTES:
            raise damaged(f"{folder / SALT_FILE}: expected {_SALT_BYTES} bytes, found {len(salt)}")
        token = _Token(uri, make=_RSA_BITS[key_type] if spki is None else None)
        try:
            public_key = token.public_key()
            _check_same(spki, public_key, where=str(folder / KEY_FILE))
            if salt is None:
                salt = os.urandom(_SALT_BYTES)
                write_atomically(folder / SALT_FILE, salt)
            root = StorageRoot(token.storage_root(salt))
            custody = cls(folder=folder, token=token, root=root, public_key=public_key, fresh=spki is None)
            custody._check_unwrapping()
        except BaseException:
            token.close()
            raise
        return custody

    @property
    def public_key(self) -> PublicKey:
        """The device key's public half."""
        return self._public_key

    @property
    def algorithms(self) -> tuple[WrapAlgorithm, ...]:
        """RSA-OAEP-256 alone."""
        return (WrapAlgorithm.RSA_OAEP_256,)

    @property
    def fresh(self) -> bool:
        """Whether this state folder did not yet belong to the device key."""
        return self._fresh

    @property
    def counter(self) -> None:
        """Tokens do not count."""
        return

    def commit(self) -> None:
        """Write down which device key the folder belongs to; see the port."""
        if self._fresh:
            write_atomically(self._folder / KEY_FILE, self._public_key.spki)
            self._fresh = False

    def unwrap(self, wrapped: bytes, algorithm: WrapAlgorithm, *, context: WrapContext) -> Secret:  # noqa: ARG002 - RSA binds no context
        """Open a class key inside the token; see the port."""
        opened = b""
        expected = wrapped_size(self._public_key, WrapAlgorithm.RSA_OAEP_256, ROOT_BYTES)
        if algorithm is WrapAlgorithm.RSA_OAEP_256 and len(wrapped) == expected:
            opened = self._token.decrypt(wrapped)
        if len(opened) not in KEY_LENGTHS:
            raise VerificationError("the wrapped key does not open for this key", code="unwrap_failed")
        return Secret(opened)

    def seal(self, content: bytes, *, purpose: str) -> bytes:
        """Seal ``content`` under the storage root; see the port."""
        return self._root.seal(content, purpose=purpose)

    def unseal(self, sealed: bytes, *, purpose: str) -> bytes:
        """Return what :meth:`seal` was given; see the port."""
        return self._root.unseal(sealed, purpose=purpose)

    def close(self) -> None:
        """Log out."""
        self._token.close()

    def _check_unwrapping(self) -> None:
        """Unwrap something once, so that a token that cannot is told at the start and not by a release."""
        key = Secret(os.urandom(ROOT_BYTES))
        wrapped = wrap_key(key, self._public_key, WrapAlgorithm.RSA_OAEP_256, context=_PROBE)
        if not hmac.compare_digest(self._token.decrypt(wrapped), key.reveal()):
            raise KeyUnavailable(
                f"{self._token.where}: the token does not do RSA-OAEP with SHA-256",
                code="unsupported_token",
                hint="tpm2-pkcs11 does, SoftHSM 2.6 and older do not",
            )


def _check_same(spki: bytes | None, public_key: PublicKey, *, where: str) -> None:
    if spki is not None and spki != public_key.spki:
        raise damaged(f"{where}: the token holds another device key")


class _Token:
    """A token that this process is logged in to.

    The PIN is asked for once: a login holds for all sessions of a process. Each use of a key has a session of
    its own, because a failed one leaves the session of some libraries busy for ever.

    Args:
        uri: The device key.
        make: Bits of the keys to make if they are missing; None if they must be there.
    """

    def __init__(self, uri: Pkcs11Uri, *, make: int | None) -> None:
        self.where = f"pkcs11 key {uri.label}"
        self._uri = uri
        self._lock = threading.Lock()
        library = _load(uri.module or os.environ.get(MODULE_VARIABLE))
        self._token = self._find_token(library)
        pin = _read_pin(uri)
        if make is not None:
            self._make_missing(library, pin, bits=make)
        with self._errors("logging in"):
            self._login: Any = self._token.open(user_pin=pin)

    def public_key(self) -> PublicKey:
        """Return the device key's public half, and insist that the private one cannot be taken out."""
        with self._key(self._device) as key:
            for attribute, wanted in ((Attribute.SENSITIVE, True), (Attribute.EXTRACTABLE, False)):
                if key[attribute] is not wanted:
                    raise KeyUnavailable(
                        f"{self.where}: {attribute.name}: expected {wanted}, as for what stays in a token",
                        code="unsupported_token",
                    )
            modulus, exponent = (
                int.from_bytes(key[name], "big") for name in (Attribute.MODULUS, Attribute.PUBLIC_EXPONENT)
            )
        public = rsa.RSAPublicNumbers(exponent, modulus).public_key()
        spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        try:
            return load_public_key(spki, where=self.where)
        except FormatError as error:
            raise KeyUnavailable(str(error), code="unsupported_token") from error

    def decrypt(self, wrapped: bytes) -> bytes:
        """Return what was wrapped, or nothing if it does not open."""
        with self._key(self._device) as key:
            try:
                return bytes(key.decrypt(wrapped, **_OAEP_SHA256))
            except _TOKEN_GONE:
                raise
            except pkcs11.exceptions.PKCS11Error:
                return b""

    def storage_root(self, salt: bytes) -> Secret:
        """Return the storage root that belongs to a salt."""
        digest = hashlib.sha256(_ROOT_LABEL + salt).digest()
        with self._key(self._storage) as key:
            signature = key.sign(_SHA256_DIGEST_INFO + digest, mechanism=Mechanism.RSA_PKCS)
        hkdf = HKDF(algorithm=hashes.SHA256(), length=ROOT_BYTES, salt=salt, info=_ROOT_LABEL)
        return Secret(hkdf.derive(bytes(signature)))

    def close(self) -> None:
        """Log out."""
        login, self._login = self._login, None
        if login is not None:
            with contextlib.suppress(pkcs11.exceptions.PKCS11Error):
                login.close()

    @property
    def _device(self) -> dict[Attribute, object]:
        wanted = {Attribute.LABEL: self._uri.label, Attribute.ID: self._uri.key_id}
        return {name: value for name, value in wanted.items() if value is not None}

    @property
    def _storage(self) -> dict[Attribute, object]:
        return {Attribute.LABEL: f"{self._uri.label}{STORAGE_SUFFIX}"}

    @contextlib.contextmanager
    def _key(self, wanted: dict[Attribute, object]) -> Iterator[Any]:
        """Find a private key in a session of its own."""
        with self._lock, self._errors("using a key"), self._token.open() as session:
            found = list(session.get_objects({**wanted, Attribute.CLASS: ObjectClass.PRIVATE_KEY}))
            if len(found) != 1:
                raise NotFound(
                    f"{self.where}: expected one private key {wanted[Attribute.LABEL]!r} in the token, "
                    f"found {len(found)}"
                )
            yield found[0]

    def _make_missing(self, library: Any, pin: str, *, bits: int) -> None:  # noqa: ANN401 - the library's own
        """Make what is missing; each in a login of its own, so that a small token has room for it."""
        decrypt, sign = _BOTH
        if "tpm2-software" in library.manufacturer_id:  # its RSA keys do both, and it refuses to make others
            decrypt = sign = decrypt | sign
        for wanted, uses in ((self._device, decrypt), (self._storage, sign)):
            with self._errors("making a key"), self._token.open(rw=True, user_pin=pin) as session:
                if not list(session.get_objects({**wanted, Attribute.CLASS: ObjectClass.PRIVATE_KEY})):
                    session.generate_keypair(
                        KeyType.RSA,
                        bits,
                        id=wanted.get(Attribute.ID) or os.urandom(8),
                        label=wanted[Attribute.LABEL],
                        store=True,
                        capabilities=uses,
                    )

    def _find_token(self, library: Any) -> Any:  # noqa: ANN401 - as above
        with self._errors("looking for the token"):
            tokens = [
                token
                for token in library.get_tokens(token_label=self._uri.token)
                if (self._uri.serial is None or _text(token.serial) == self._uri.serial)
                and (self._uri.slot_id is None or token.slot.slot_id == self._uri.slot_id)
            ]
        if len(tokens) != 1:
            raise NotFound(
                f"{self.where}: expected one token that fits token, serial and slot-id, found {len(tokens)}"
            )
        return tokens[0]

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except _PIN_ERRORS as error:
            raise KeyUnavailable(
                f"{self.where}: the token refused the PIN: {type(error).__name__}", code="pin_refused"
            ) from error
        except pkcs11.exceptions.PKCS11Error as error:
            raise TransportError(
                f"{self.where}: {what}: {type(error).__name__}", code="custody_unavailable"
            ) from error


def _read_pin(uri: Pkcs11Uri) -> str:
    """Return the first line of the file, or of the systemd credential, that holds the PIN."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    path = uri.pin_file or (folder and str(Path(folder) / PIN_CREDENTIAL))
    if not path:
        raise NotFound(
            f"pkcs11 key {uri.label}: expected the token's PIN, found none",
            code="pin_unknown",
            hint=f"?pin-source=file:/PATH in the URI, or LoadCredential={PIN_CREDENTIAL}:/PATH in the unit",
        )
    try:
        with Path(path).open("rb") as file:
            line = file.readline(_MAX_PIN + 2).rstrip(b"\r\n")
        if not 0 < len(line) <= _MAX_PIN:
            raise FormatError(f"{path}: expected a PIN of 1 to {_MAX_PIN} bytes, found {len(line)}")
        return line.decode()
    except OSError as error:
        raise NotFound(f"{path}: {error.strerror}", code="pin_unknown") from error
    except UnicodeDecodeError:  # its message holds the bytes
        raise FormatError(f"{path}: expected a PIN in UTF-8") from None


def _load(module: str | None) -> Any:  # noqa: ANN401 - as above
    if module is None:
        raise NotFound(
            "pkcs11: expected the path of the token's PKCS#11 library, found none",
            code="module_unknown",
            hint=f"name it with ?module-path= in the URI, or ${MODULE_VARIABLE}",
        )
    try:
        return pkcs11.lib(module)
    except pkcs11.exceptions.PKCS11Error as error:
        raise NotFound(
            f"pkcs11: {module}: expected a PKCS#11 library: {error}", code="module_unknown"
        ) from error


def _text(value: bytes) -> str:
    return value.decode("ascii", "replace").strip()
