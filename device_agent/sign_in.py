"""How the agent signs in to its hub, chosen by which settings are given; exactly one way.

=====================================================  ====================================================
settings                                               way
=====================================================  ====================================================
``connection_string`` or ``connection_string_file``    with a symmetric key
``hub_host``, ``device_id`` and both client files      with an X.509 client certificate
``provisioning_id_scope``,                             by the Device Provisioning Service, which names the
``provisioning_registration_id`` and either            hub; the same credential then signs in there
``provisioning_key_file`` or both client files
none of them, in a module of IoT Edge                  by Edge's workload API
=====================================================  ====================================================

The client files are ``client_certificate_file`` and ``client_key_file``.
The client certificate's key is not the CPM's device key, which never leaves the CPM: it only opens the
connection. Its files are read anew for every connection, so whoever renews them need not tell the agent.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from device_agent.setting_values import read_text, warn_if_shared
from shared.errors import FormatError
from shared.types import DeviceId, Secret, parse_device_id

if TYPE_CHECKING:
    from collections.abc import Mapping

EDGE_VARIABLES = (
    "IOTEDGE_WORKLOADURI",
    "IOTEDGE_IOTHUBHOSTNAME",
    "IOTEDGE_GATEWAYHOSTNAME",
    "IOTEDGE_DEVICEID",
    "IOTEDGE_MODULEID",
    "IOTEDGE_MODULEGENERATIONID",
    "IOTEDGE_APIVERSION",
)
"""What IoT Edge gives a module; the first one alone says that the agent is one."""

PROVISIONING_HOST = "global.azure-devices-provisioning.net"

CONNECTION_STRING = frozenset({"connection_string", "connection_string_file"})
CLIENT_FILES = frozenset({"client_certificate_file", "client_key_file"})
DIRECT = frozenset({"hub_host"})
PROVISIONING = frozenset(
    {
        "provisioning_host",
        "provisioning_id_scope",
        "provisioning_registration_id",
        "provisioning_key_file",
    }
)
NAMES = CONNECTION_STRING | CLIENT_FILES | DIRECT | PROVISIONING | {"device_id"}
"""Every setting that says how to sign in."""

_MAX_SECRET_BYTES = 4096
_HOST = re.compile(r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]{0,62})(\.[A-Za-z0-9]([A-Za-z0-9-]{0,62}))*")
_ID_SCOPE = re.compile(r"[A-Za-z0-9]{1,64}")
# The service's own grammar, in lower case, without what its topics could not carry.
_REGISTRATION_ID = re.compile(r"[a-z0-9]([a-z0-9\-._:]{0,126}[a-z0-9\-])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionString:
    """``HostName=…;DeviceId=…[;ModuleId=…];SharedAccessKey=…``, as the hub gives it."""

    device_id: DeviceId
    text: Secret

    @property
    def hosts(self) -> tuple[str, ...]:
        """Whom the agent connects to."""
        parts = connection_parts(self.text.reveal().decode())
        return (parts.get("GatewayHostName") or parts["HostName"],)


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeModule:
    """What IoT Edge knows; the agent has no credential of its own."""

    device_id: DeviceId
    gateway: str

    @property
    def hosts(self) -> tuple[str, ...]:
        """Whom the agent connects to."""
        return (self.gateway,)


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedKey:
    """A symmetric key, base64."""

    key: Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientCertificate:
    """PEM files: the chain, leaf first, and the leaf's private key."""

    certificate_file: Path
    key_file: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Direct:
    """A hub that is known, and a client certificate that it trusts."""

    device_id: DeviceId
    host: str
    credential: ClientCertificate

    @property
    def hosts(self) -> tuple[str, ...]:
        """Whom the agent connects to."""
        return (self.host,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Provisioned:
    """A hub that the Device Provisioning Service names.

    The service chooses the hub and not the device: it must assign ``device_id``, which the CPM is pinned to.
    """

    device_id: DeviceId
    service_host: str
    id_scope: str
    registration_id: str
    credential: SharedKey | ClientCertificate

    @property
    def hosts(self) -> tuple[str, ...]:
        """Whom the agent connects to first; the hub is known after that."""
        return (self.service_host,)


SignIn = ConnectionString | EdgeModule | Direct | Provisioned


def parse_sign_in(values: Mapping[str, str], environment: Mapping[str, str]) -> SignIn:
    """Choose the way that the settings describe.

    Args:
        values: The settings that are given.
        environment: The process's, for IoT Edge.

    Raises:
        FormatError: No way, more than one, or one that is incomplete; names settings and shows no value.
    """
    given = NAMES & values.keys()
    ways = [way for way in (CONNECTION_STRING, DIRECT, PROVISIONING) if given & way]
    if len(ways) > 1:
        raise FormatError(f"{', '.join(sorted(given))}: expected one way to sign in, found {len(ways)}")
    if given & CONNECTION_STRING:
        _only(given, CONNECTION_STRING, "a connection string")
        return _connection_string(values)
    if given & DIRECT:
        return _direct(values)
    if given & PROVISIONING:
        return _provisioned(values)
    if given:
        raise FormatError(f"{', '.join(sorted(given))}: expected hub_host or provisioning_id_scope beside it")
    return _edge_module(environment)


def _only(given: frozenset[str], allowed: frozenset[str], way: str) -> None:
    if odd := given - allowed:
        raise FormatError(f"{', '.join(sorted(odd))}: not used with {way}")


def _required(values: Mapping[str, str], names: tuple[str, ...], way: str) -> None:
    if missing := [name for name in names if not values.get(name)]:
        raise FormatError(f"{', '.join(missing)}: missing, and needed with {way}")


def _connection_string(values: Mapping[str, str]) -> ConnectionString:
    text, where = values.get("connection_string"), "connection_string"
    file = values.get("connection_string_file")
    if text is not None and file is not None:
        raise FormatError("connection_string and connection_string_file: expected one of them, found both")
    if file is not None:
        text, where = _secret_text(Path(file)), f"connection_string_file {file}"
    text = text or ""
    return ConnectionString(device_id=device_of(text, where=where), text=Secret(text.encode()))


def _direct(values: Mapping[str, str]) -> Direct:
    _required(values, ("device_id", "client_certificate_file", "client_key_file"), "hub_host")
    return Direct(
        device_id=parse_device_id(values["device_id"], where="device_id"),
        host=parse_host(values["hub_host"], where="hub_host"),
        credential=_client_certificate(values),
    )


def _provisioned(values: Mapping[str, str]) -> Provisioned:
    way = "provisioning"
    _required(values, ("provisioning_id_scope", "provisioning_registration_id"), way)
    key_file = values.get("provisioning_key_file")
    if (key_file is not None) == bool(CLIENT_FILES & values.keys()):
        raise FormatError(
            "provisioning_key_file, or client_certificate_file and client_key_file: expected one of the two"
        )
    if key_file is None:
        _required(values, ("client_certificate_file", "client_key_file"), way)
    registration_id = values["provisioning_registration_id"]
    if not _REGISTRATION_ID.fullmatch(registration_id):
        raise FormatError("provisioning_registration_id: expected 1 to 128 of a-z 0-9 - . _ :")
    if not _ID_SCOPE.fullmatch(values["provisioning_id_scope"]):
        raise FormatError("provisioning_id_scope: expected letters and digits")
    return Provisioned(
        device_id=parse_device_id(values.get("device_id", registration_id), where="device_id"),
        service_host=parse_host(
            values.get("provisioning_host", PROVISIONING_HOST), where="provisioning_host"
        ),
        id_scope=values["provisioning_id_scope"],
        registration_id=registration_id,
        credential=_client_certificate(values)
        if key_file is None
        else SharedKey(key=Secret(_secret_text(Path(key_file)).encode())),
    )


def _client_certificate(values: Mapping[str, str]) -> ClientCertificate:
    key_file = Path(values["client_key_file"])
    if key_file.exists():
        warn_if_shared(key_file)
    return ClientCertificate(certificate_file=Path(values["client_certificate_file"]), key_file=key_file)


def _secret_text(path: Path) -> str:
    text = read_text(path, limit=_MAX_SECRET_BYTES).strip()
    warn_if_shared(path)
    return text


def parse_host(value: object, *, where: str) -> str:
    """Read a host name or an IPv4 address; the SDK's ports are fixed, so it carries none.

    Raises:
        FormatError: It is neither.
    """
    if isinstance(value, str) and _HOST.fullmatch(value):
        return value
    raise FormatError(f"{where}: expected a host name without a port")


def connection_parts(connection_string: str) -> dict[str, str]:
    """Return the fields of a connection string, unchecked."""
    return dict(part.split("=", 1) for part in connection_string.split(";") if "=" in part)


def device_of(connection_string: str, *, where: str) -> DeviceId:
    """Return the device, or ``device/module``, of a connection string that signs in with a symmetric key.

    Raises:
        FormatError: A part is missing; the message names parts and shows no value.
    """
    parts = connection_parts(connection_string)
    missing = [name for name in ("HostName", "DeviceId", "SharedAccessKey") if not parts.get(name)]
    if missing:
        raise FormatError(f"{where}: expected a device's connection string; {', '.join(missing)} missing")
    module = parts.get("ModuleId")
    name = parts["DeviceId"] if module is None else f"{parts['DeviceId']}/{module}"
    return parse_device_id(name, where=f"{where}: DeviceId")


def _edge_module(environment: Mapping[str, str]) -> EdgeModule:
    if EDGE_VARIABLES[0] not in environment:
        raise FormatError("connection_string or connection_string_file: expected one of them, found none")
    missing = [name for name in EDGE_VARIABLES if not environment.get(name)]
    if missing:
        raise FormatError(f"IoT Edge's environment: {', '.join(missing)} missing")
    module = f"{environment['IOTEDGE_DEVICEID']}/{environment['IOTEDGE_MODULEID']}"
    return EdgeModule(
        device_id=parse_device_id(module, where="IOTEDGE_DEVICEID/IOTEDGE_MODULEID"),
        gateway=environment["IOTEDGE_GATEWAYHOSTNAME"],
    )
