"""Identities of devices and modules: who may connect, and by which proof.

An identity's key in every table is its :data:`~shared.types.DeviceId`: ``device``, or ``device/module``.
"""

from __future__ import annotations

import base64
import enum
import re
import secrets
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from local_cloud.twin_hub.faults import Fault, HubError
from local_cloud.twin_hub.sas import is_shared_access_key
from shared.types import DeviceId

if TYPE_CHECKING:
    from local_cloud.twin_hub.documents import Json

Choice = TypeVar("Choice", bound=enum.Enum)

NEVER = "0001-01-01T00:00:00Z"
"""How the service writes a time that has not come."""

MAX_STATUS_REASON = 128
"""Characters of the reason for a status."""

_THUMBPRINT = re.compile(r"[0-9A-F]{40}|[0-9A-F]{64}")
_KEY_BYTES = 32


class AuthenticationKind(enum.Enum):
    """How an identity proves itself."""

    SAS = "sas"
    THUMBPRINT = "selfSigned"
    CERTIFICATE_AUTHORITY = "certificateAuthority"


class Status(enum.Enum):
    """Whether a device may connect."""

    ENABLED = "enabled"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Authentication:
    """An identity's kind of proof with what it is compared against."""

    kind: AuthenticationKind
    keys: tuple[str | None, str | None] = field(default=(None, None), repr=False)
    thumbprints: tuple[str | None, str | None] = (None, None)

    @classmethod
    def parse(cls, value: object) -> Authentication:
        """Read the ``authentication`` of an identity; SAS keys that are not given are made.

        Raises:
            HubError: ``ArgumentInvalid``.
        """
        document = _object(value, where="authentication")
        kind = _choice(AuthenticationKind, document.get("type"), AuthenticationKind.SAS, where="type")
        symmetric = _object(document.get("symmetricKey"), where="symmetricKey")
        thumbprint = _object(document.get("x509Thumbprint"), where="x509Thumbprint")
        if kind is AuthenticationKind.SAS:
            return cls(
                kind=kind, keys=(_sas_key(symmetric, "primaryKey"), _sas_key(symmetric, "secondaryKey"))
            )
        if kind is AuthenticationKind.THUMBPRINT:
            pair = (
                _thumbprint(thumbprint, "primaryThumbprint"),
                _thumbprint(thumbprint, "secondaryThumbprint"),
            )
            if pair == (None, None):
                raise _invalid("x509Thumbprint: expected at least one thumbprint")
            return cls(kind=kind, thumbprints=pair)
        return cls(kind=kind)

    def to_json(self) -> Json:
        """Return it as the service writes it."""
        return {
            "type": self.kind.value,
            "symmetricKey": {"primaryKey": self.keys[0], "secondaryKey": self.keys[1]},
            "x509Thumbprint": self.thumbprint_json(),
        }

    def thumbprint_json(self) -> Json:
        """Return the thumbprints as the service writes them."""
        return {"primaryThumbprint": self.thumbprints[0], "secondaryThumbprint": self.thumbprints[1]}


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityRequest:
    """What a back end may say about an identity."""

    authentication: Authentication
    status: Status = Status.ENABLED
    status_reason: str | None = None
    is_edge: bool = False
    managed_by: str | None = None

    @classmethod
    def parse(cls, value: object) -> IdentityRequest:
        """Read the body of an identity PUT, or one entry of a bulk call.

        Raises:
            HubError: ``ArgumentInvalid``.
        """
        document = _object(value, where="identity")
        capabilities = _object(document.get("capabilities"), where="capabilities")
        is_edge = capabilities.get("iotEdge") or False
        if not isinstance(is_edge, bool):
            raise _invalid("capabilities/iotEdge: expected a boolean")
        return cls(
            authentication=Authentication.parse(document.get("authentication")),
            status=_choice(Status, document.get("status"), Status.ENABLED, where="status"),
            status_reason=_short_text(document.get("statusReason"), where="statusReason"),
            is_edge=is_edge,
            managed_by=_short_text(document.get("managedBy"), where="managedBy"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A device or a module that the hub knows."""

    key: DeviceId
    generation_id: str
    etag: str
    request: IdentityRequest

    @classmethod
    def create(cls, key: DeviceId, request: IdentityRequest) -> Identity:
        """Return a new identity with its own generation."""
        generation = str(time.time_ns() // 100)
        return cls(key=key, generation_id=generation, etag=_new_etag(), request=request)

    def changed(self, request: IdentityRequest) -> Identity:
        """Return the identity after a change, under a new ETag."""
        return replace(self, request=request, etag=_new_etag())

    @property
    def device(self) -> DeviceId:
        """The device that it is, or belongs to."""
        return DeviceId(self.key.partition("/")[0])

    @property
    def module(self) -> str | None:
        """The module's id, if it is a module."""
        return self.key.partition("/")[2] or None

    @property
    def authentication(self) -> Authentication:
        """How it proves itself."""
        return self.request.authentication

    def to_json(self) -> Json:
        """Return it as the service writes it, without what only a connection knows."""
        document: Json = {"deviceId": self.device, "generationId": self.generation_id, "etag": self.etag}
        if self.module is not None:
            document |= {"moduleId": self.module, "managedBy": self.request.managed_by}
        else:
            document |= {
                "status": self.request.status.value,
                "statusReason": self.request.status_reason,
                "statusUpdatedTime": NEVER,
                "capabilities": {"iotEdge": self.request.is_edge},
            }
        return document | {"cloudToDeviceMessageCount": 0, "authentication": self.authentication.to_json()}

    @classmethod
    def from_json(cls, key: str, document: Json) -> Identity:
        """Read back what :meth:`to_json` wrote.

        Raises:
            HubError: It did not.
        """
        return cls(
            key=DeviceId(key),
            generation_id=str(document["generationId"]),
            etag=str(document["etag"]),
            request=IdentityRequest.parse(document),
        )


def _new_etag() -> str:
    return base64.b64encode(secrets.token_bytes(8)).decode("ascii")


def _object(value: object, *, where: str) -> Json:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _invalid(f"{where}: expected an object, found {type(value).__name__}")
    return value


def _choice(kind: type[Choice], value: object, default: Choice, *, where: str) -> Choice:
    for choice in kind:
        if choice.value == value:
            return choice
    if value is None:
        return default
    known = ", ".join(str(choice.value) for choice in kind)
    raise _invalid(f"{where}: expected one of {known}, found {str(value)[:32]!r}")


def _sas_key(symmetric: Json, name: str) -> str:
    value = symmetric.get(name)
    if value is None:
        return base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode("ascii")
    if isinstance(value, str) and is_shared_access_key(value):
        return value
    raise _invalid(f"symmetricKey/{name}: expected base64 of 16 to 64 bytes")


def _thumbprint(thumbprint: Json, name: str) -> str | None:
    value = thumbprint.get(name)
    if value is None or value == "":
        return None
    if isinstance(value, str) and _THUMBPRINT.fullmatch(value.upper()):
        return value.upper()
    raise _invalid(f"x509Thumbprint/{name}: expected 40 or 64 hex digits")


def _short_text(value: object, *, where: str) -> str | None:
    if value is None or (isinstance(value, str) and len(value) <= MAX_STATUS_REASON):
        return value
    raise _invalid(f"{where}: expected text of at most {MAX_STATUS_REASON} characters")


def _invalid(message: str) -> HubError:
    return HubError(Fault.ARGUMENT_INVALID, message)
