"""Which custody a CPM uses: one word of its settings, such as ``software`` or ``tpm2:device:/dev/tpmrm0``.

===================== ======================================================================
word                  custody
===================== ======================================================================
``software``          files of the state folder (:mod:`cpm.custody.software`)
``tpm2[:TCTI]``       a TPM 2.0 (:mod:`cpm.custody.tpm`), ``device:/dev/tpmrm0`` if none is named
``pkcs11:…``          a PKCS#11 token (:mod:`cpm.custody.pkcs11_token`), named by its URI (RFC 7512)
===================== ======================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cpm.custody.port import DeviceKeyType
from shared.errors import Conflict, FormatError

if TYPE_CHECKING:
    from pathlib import Path

    from cpm.custody.port import Custody
    from shared.pkcs11_uri import Pkcs11Uri

DEFAULT_TCTI: Final = "device:/dev/tpmrm0"
DEFAULT_PCRS: Final = (7,)
"""PCR 7 holds the state of Secure Boot: whose software the firmware starts, not which version of it."""

PCR_COUNT: Final = 24

_RSA_OF_A_TPM = frozenset({DeviceKeyType.RSA2048, DeviceKeyType.RSA3072})
_RSA = frozenset({*_RSA_OF_A_TPM, DeviceKeyType.RSA4096})
_KEY_FILES: Final = {"software": "device.key", "tpm2": "device-key.tpm", "pkcs11": "device-key.pkcs11"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftwareChoice:
    """Custody in files."""

    name = "software"


@dataclass(frozen=True, slots=True, kw_only=True)
class TpmChoice:
    """Custody in a TPM 2.0.

    Args:
        tcti: How the TPM is reached, as tpm2-tss names it.
        pcrs: Which PCRs of the SHA-256 bank the storage root is sealed to, ascending. They count at the first
            start and when it is sealed again. None leaves them as they are, at first :data:`DEFAULT_PCRS`.
    """

    name = "tpm2"
    tcti: str = DEFAULT_TCTI
    pcrs: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pkcs11Choice:
    """Custody in a PKCS#11 token.

    Args:
        uri: The device key in it; it has a label.
    """

    name = "pkcs11"
    uri: Pkcs11Uri


CustodyChoice = SoftwareChoice | TpmChoice | Pkcs11Choice


def parse_custody(
    text: str, *, pcrs: tuple[int, ...] | None, key_type: DeviceKeyType, where: str
) -> CustodyChoice:
    """Read which custody is wanted.

    Args:
        text: As in the table of this module.
        pcrs: For a TPM; None if none were chosen.
        key_type: That the custody must be able to make.
        where: What it was given as, for messages.

    Raises:
        FormatError: It is none of them, or makes no such key.
    """
    kind, colon, rest = text.partition(":")
    match kind:
        case "software" if not colon:
            return SoftwareChoice()
        case "tpm2" if rest or not colon:
            _check_key_type(key_type, _RSA_OF_A_TPM, where=f"{where} tpm2")
            return TpmChoice(tcti=rest or DEFAULT_TCTI, pcrs=pcrs)
        case "pkcs11":
            _check_key_type(key_type, _RSA, where=f"{where} pkcs11")
            from shared.pkcs11_uri import Pkcs11Uri  # noqa: PLC0415 - few devices have a token

            uri = Pkcs11Uri.parse(text, where=where)
            if not uri.label:
                raise FormatError(f"{where}: expected object=LABEL in the URI, for the keys that are made")
            return Pkcs11Choice(uri=uri)
        case _:
            raise FormatError(f"{where}: expected software, tpm2[:TCTI] or pkcs11:URI, found {text[:64]!r}")


def parse_pcrs(text: str, *, where: str) -> tuple[int, ...]:
    """Read a list of PCRs such as ``0,2,7``, or ``none``.

    Raises:
        FormatError: It is neither.
    """
    if text == "none":
        return ()
    numbers = text.split(",")
    if not all(number.isascii() and number.isdigit() and int(number) < PCR_COUNT for number in numbers):
        raise FormatError(f"{where}: expected PCRs of 0 to {PCR_COUNT - 1}, such as 0,2,7, or none")
    return tuple(sorted({int(number) for number in numbers}))


def open_custody(choice: CustodyChoice, folder: Path, *, key_type: DeviceKeyType) -> Custody:
    """Open the custody over a state folder; at the first start it is made.

    Args:
        choice: Which one.
        folder: The state folder; it exists, and the caller holds its lock.
        key_type: For a new device key; one that exists is used whatever its kind.

    Raises:
        Conflict: ``state_of_another``; the folder belongs to another kind of custody.
        StorageError: ``state_damaged``, ``state_exposed``, ``platform_changed``, or the disk refused.
        VerificationError: ``rollback``, as :class:`cpm.custody.port.MonotonicCounter` says.
        TransportError: ``custody_unavailable``.
        EdbError: ``not_installed``; the package that it needs is missing.
    """
    for name, file in _KEY_FILES.items():
        if name != choice.name and (folder / file).exists():
            raise Conflict(
                f"{folder}: expected a state folder of custody {choice.name}, found one of {name}",
                code="state_of_another",
                hint="a device key stays where it was made: start with an empty folder and enrol again",
            )
    match choice:
        case SoftwareChoice():
            from cpm.custody.software import SoftwareCustody  # noqa: PLC0415 - only what is used is loaded

            return SoftwareCustody.open(folder, key_type=key_type)
        case TpmChoice():
            from cpm.custody.tpm import TpmCustody  # noqa: PLC0415 - an optional package

            pcrs = DEFAULT_PCRS if choice.pcrs is None else choice.pcrs
            return TpmCustody.open(folder, tcti=choice.tcti, pcrs=pcrs, key_type=key_type)
        case Pkcs11Choice():
            from cpm.custody.pkcs11_token import TokenCustody  # noqa: PLC0415 - an optional package

            return TokenCustody.open(folder, uri=choice.uri, key_type=key_type)


def _check_key_type(key_type: DeviceKeyType, makes: frozenset[DeviceKeyType], *, where: str) -> None:
    if key_type not in makes:
        names = ", ".join(sorted(each.value for each in makes))
        raise FormatError(f"{where}: expected --key-type {names}, found {key_type.value}")
