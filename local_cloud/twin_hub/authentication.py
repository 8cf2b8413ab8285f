"""Whether a client that sends CONNECT is the device that it says it is.

The user name is ``{host}/{client id}/?api-version=…``; the client id is ``device`` or ``device/module``.
The proof is a shared access signature in the password, or the TLS client certificate: its thumbprint, or
an issuer among the hub's client CAs and the identity as common name. TLS has already validated the
certificate's path.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import NameOID

from local_cloud.twin_hub.identities import AuthenticationKind, Status
from local_cloud.twin_hub.mqtt_codec import ReturnCode
from local_cloud.twin_hub.sas import parse_sas, verify_sas
from shared.errors import EdbError, FormatError, VerificationError
from shared.types import parse_device_id

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from local_cloud.twin_hub.identities import Authentication, Identity
    from local_cloud.twin_hub.mqtt_codec import Connect
    from shared.types import DeviceId


class ConnectRefusedError(EdbError):
    """A client is not let in.

    Args:
        message: Why; for the hub's log, never for the client.
        return_code: What the client is told.
    """

    default_code = "connect_refused"

    def __init__(self, message: str, *, return_code: ReturnCode) -> None:
        super().__init__(message)
        self.return_code = return_code


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """A client that has proved its identity; ``expires_at`` is the end of its token in Unix time."""

    key: DeviceId
    expires_at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceAuthenticator:
    """Knows what a client must prove.

    Args:
        hosts: Host names that the hub answers to, in lower case.
        issuers: Certificates of the authorities that a CA-signed device may be certified by, each directly.
        identity: Finds an identity, or raises.
    """

    hosts: Collection[str]
    issuers: Sequence[x509.Certificate] = field(repr=False)
    identity: Callable[[DeviceId], Identity]

    def admit(self, connect: Connect, *, certificate: bytes | None, now: float) -> Admitted:
        """Return who the client is.

        Args:
            connect: What it sent.
            certificate: DER of its TLS certificate, if it has one that TLS trusts.
            now: Unix time.

        Raises:
            ConnectRefusedError: With the return code for the client.
        """
        host = self._check_user_name(connect)
        try:
            key = parse_device_id(connect.client_id, where="client id")
            identity, device = self.identity(key), self.identity(_device_of(key))
        except EdbError as error:
            raise _refused(f"unknown identity: {error}") from error
        if device.request.status is not Status.ENABLED:
            raise _refused(f"{key}: disabled")
        kind = identity.authentication.kind
        if kind is AuthenticationKind.SAS:
            return Admitted(key=key, expires_at=_check_sas(key, connect, identity, host=host, now=now))
        if certificate is None:
            raise _refused(f"{key}: no client certificate")
        if kind is AuthenticationKind.THUMBPRINT:
            _check_thumbprint(key, certificate, identity.authentication)
        else:
            self._check_issued(key, certificate)
        return Admitted(key=key)

    def _check_user_name(self, connect: Connect) -> str:
        """Return the host in the user name."""
        host, _, rest = (connect.user_name or "").partition("/")
        client_id, _, query = rest.rpartition("/?")
        try:
            api_version = parse_qs(query, max_num_fields=16).get("api-version")
        except ValueError:
            api_version = None
        if client_id != connect.client_id or not api_version:
            raise ConnectRefusedError(
                "user name: expected '{host}/{client id}/?api-version=…'",
                return_code=ReturnCode.BAD_CREDENTIALS,
            )
        if host.lower() not in self.hosts:
            raise ConnectRefusedError(
                f"user name: no hub {host[:64]!r} here", return_code=ReturnCode.BAD_CREDENTIALS
            )
        return host.lower()

    def _check_issued(self, key: DeviceId, der: bytes) -> None:
        try:
            certificate = x509.load_der_x509_certificate(der)
        except ValueError as error:
            raise _refused(f"{key}: client certificate cannot be read") from error
        # TLS trusts self-signed certificates of single devices, too: those prove their own device alone.
        if is_authority(certificate) or not any(_issued(certificate, issuer) for issuer in self.issuers):
            raise _refused(f"{key}: client certificate is not issued by one of the hub's client CAs")
        subject = certificate.subject
        names = [attribute.value for attribute in subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        if names != [key]:
            raise _refused(f"{key}: client certificate has another common name")


def is_authority(certificate: x509.Certificate) -> bool:
    """Say whether a certificate may issue others: it has basic constraints that say so."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _check_sas(key: DeviceId, connect: Connect, identity: Identity, *, host: str, now: float) -> int:
    """Return when the token ends."""
    device, _, module = key.partition("/")
    resource = f"{host}/devices/{device}" + (f"/modules/{module}" if module else "")
    keys = [text for text in identity.authentication.keys if text is not None]
    try:
        token = parse_sas((connect.password or b"").decode("ascii"))
        verify_sas(token, keys=keys, resources={resource}, now=now)
    except (UnicodeDecodeError, FormatError, VerificationError) as error:
        raise _refused(f"{key}: shared access signature rejected") from error
    return token.expires_at


def _check_thumbprint(key: DeviceId, certificate: bytes, authentication: Authentication) -> None:
    thumbprints = {
        hashlib.sha1(certificate, usedforsecurity=False).hexdigest().upper(),  # IoT Hub's first form
        hashlib.sha256(certificate).hexdigest().upper(),
    }
    if not thumbprints & set(authentication.thumbprints):
        raise _refused(f"{key}: client certificate has another thumbprint")


def _device_of(key: DeviceId) -> DeviceId:
    return parse_device_id(key.partition("/")[0], where="client id")


def _refused(message: str) -> ConnectRefusedError:
    return ConnectRefusedError(message, return_code=ReturnCode.NOT_AUTHORIZED)
