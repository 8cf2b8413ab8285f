"""The agent's settings: from a TOML file and from the environment, ``DEVICE_AGENT_<NAME>``, which goes first.

==========================  =====================================================  =======================
name                        meaning                                                default
==========================  =====================================================  =======================
``connection_string``       of the device or module; a secret                      none: IoT Edge's module
``connection_string_file``  a file that holds it, readable by the agent alone      none
``ca_file``                 PEM roots to trust for the hub                         the system's
``certificate_file``        the device certificate, PEM or DER, leaf first         none
``cpm_socket``              the CPM's Unix socket                                  ``/run/cpm/cpm.sock``
``state_dir``               the agent's own folder                                 ``/var/lib/device-agent``
``log_level``               ``DEBUG INFO WARNING ERROR``                           ``INFO``
==========================  =====================================================  =======================

An unknown name, in the file or behind the prefix, is an error. All problems are told together, and no message
shows a connection string.
"""

from __future__ import annotations

import logging
import stat
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shared.certificates import MAX_TRUST_BYTES, TrustStore
from shared.errors import FormatError, SettingsError
from shared.types import DeviceId, Secret, parse_device_id
from shared.wire.cpm_channel import DEFAULT_SOCKET, SOCKET_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

PREFIX = "DEVICE_AGENT_"
"""What the names of the agent's environment variables begin with."""

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

NAMES = frozenset(
    {
        "connection_string",
        "connection_string_file",
        "ca_file",
        "certificate_file",
        "cpm_socket",
        "state_dir",
        "log_level",
    }
)
"""Every setting."""

_DEFAULT_STATE_DIR = "/var/lib/device-agent"
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_MAX_CONFIG_BYTES = 64 * 1024
_MAX_SECRET_BYTES = 4096

_log = logging.getLogger("device_agent")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The agent's settings, checked.

    Args:
        device_id: The device, or ``device/module``.
        connection_string: None for a module that IoT Edge signs in.
        ca_pem: PEM roots to trust for the hub; None trusts the system's.
        certificate_file: The device certificate; need not be there yet.
        cpm_socket: The CPM's Unix socket.
        state_dir: The agent's own folder.
        log_level: As :mod:`logging` names it.
    """

    device_id: DeviceId
    connection_string: Secret | None
    ca_pem: str | None
    certificate_file: Path | None
    cpm_socket: str
    state_dir: Path
    log_level: str


def load_settings(config: Path | None, environment: MutableMapping[str, str]) -> Settings:
    """Read the settings once; the connection string is taken out of ``environment``.

    Args:
        config: The TOML file, if there is one.
        environment: The process's environment.

    Raises:
        SettingsError: With every problem that was found.
    """
    problems: list[str] = []
    values = _file_values(config, problems)
    for variable in [name for name in environment if name.startswith(PREFIX)]:
        name = variable.removeprefix(PREFIX).lower()
        if name in NAMES:
            values[name] = environment[variable]
        else:
            problems.append(f"{variable}: no such setting")
    environment.pop(f"{PREFIX}CONNECTION_STRING", None)
    return _checked(values, environment, problems)


def _file_values(config: Path | None, problems: list[str]) -> dict[str, str]:
    if config is None:
        return {}
    try:
        document = tomllib.loads(_read(config, _MAX_CONFIG_BYTES))
    except FormatError as error:
        problems.append(str(error))
        return {}
    except tomllib.TOMLDecodeError:
        # Its message may quote the line, and the line may hold the connection string.
        problems.append(f"{config}: not TOML")
        return {}
    problems += [f"{config}: {name[:64]}: no such setting" for name in document if name not in NAMES]
    problems += [
        f"{config}: {name}: expected text, found {type(value).__name__}"
        for name, value in document.items()
        if name in NAMES and not isinstance(value, str)
    ]
    values = {name: value for name, value in document.items() if name in NAMES and isinstance(value, str)}
    if "connection_string" in values:
        _warn_if_shared(config)
    return values


def _checked(values: Mapping[str, str], environment: Mapping[str, str], problems: list[str]) -> Settings:
    connection_string, device_id = _identity(values, environment, problems)
    level = values.get("log_level", "INFO").upper()
    if level not in _LEVELS:
        problems.append(f"log_level: expected one of {' '.join(_LEVELS)}, found {level[:32]!r}")
    ca_pem = _ca_pem(values.get("ca_file"), problems)
    if problems or device_id is None:
        raise SettingsError(problems)
    certificate = values.get("certificate_file")
    return Settings(
        device_id=device_id,
        connection_string=connection_string,
        ca_pem=ca_pem,
        certificate_file=None if certificate is None else Path(certificate),
        cpm_socket=values.get("cpm_socket") or environment.get(SOCKET_VARIABLE) or DEFAULT_SOCKET,
        state_dir=Path(values.get("state_dir", _DEFAULT_STATE_DIR)),
        log_level=level,
    )


def _identity(
    values: Mapping[str, str], environment: Mapping[str, str], problems: list[str]
) -> tuple[Secret | None, DeviceId | None]:
    text, where = values.get("connection_string"), "connection_string"
    file = values.get("connection_string_file")
    if text is not None and file is not None:
        problems.append("connection_string and connection_string_file: expected one of them, found both")
        return None, None
    try:
        if file is not None:
            text, where = _read(Path(file), _MAX_SECRET_BYTES).strip(), f"connection_string_file {file}"
            _warn_if_shared(Path(file))
        if text is not None:
            return Secret(text.encode()), device_of(text, where=where)
        return None, _edge_module(environment)
    except FormatError as error:
        problems.append(str(error))
        return None, None


def device_of(connection_string: str, *, where: str) -> DeviceId:
    """Return the device, or ``device/module``, of a connection string that signs in with a symmetric key.

    Raises:
        FormatError: A part is missing; the message names parts and shows no value.
    """
    parts = dict(part.split("=", 1) for part in connection_string.split(";") if "=" in part)
    missing = [name for name in ("HostName", "DeviceId", "SharedAccessKey") if not parts.get(name)]
    if missing:
        raise FormatError(f"{where}: expected a device's connection string; {', '.join(missing)} missing")
    module = parts.get("ModuleId")
    name = parts["DeviceId"] if module is None else f"{parts['DeviceId']}/{module}"
    return parse_device_id(name, where=f"{where}: DeviceId")


def _edge_module(environment: Mapping[str, str]) -> DeviceId:
    if EDGE_VARIABLES[0] not in environment:
        raise FormatError("connection_string or connection_string_file: expected one of them, found none")
    missing = [name for name in EDGE_VARIABLES if not environment.get(name)]
    if missing:
        raise FormatError(f"IoT Edge's environment: {', '.join(missing)} missing")
    module = f"{environment['IOTEDGE_DEVICEID']}/{environment['IOTEDGE_MODULEID']}"
    return parse_device_id(module, where="IOTEDGE_DEVICEID/IOTEDGE_MODULEID")


def _ca_pem(path: str | None, problems: list[str]) -> str | None:
    if path is None:
        return None
    try:
        text = _read(Path(path), MAX_TRUST_BYTES)
        TrustStore.from_pem(text.encode(), where=f"ca_file {path}")
    except FormatError as error:
        problems.append(str(error))
        return None
    return text


def _read(path: Path, limit: int) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > limit:
        raise FormatError(f"{path}: expected at most {limit} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: expected UTF-8 text") from error


def _warn_if_shared(path: Path) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        _log.warning("secret_readable_by_others", extra={"file": str(path), "mode": f"{mode:04o}"})
