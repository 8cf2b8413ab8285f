"""The agent's settings: from a TOML file and from the environment, ``DEVICE_AGENT_<NAME>``, which goes first.

How to sign in to the hub is the table in :mod:`device_agent.sign_in`. Everything else:

==========================  =====================================================  =======================
name                        meaning                                                default
==========================  =====================================================  =======================
``ca_file``                 PEM roots to trust for the hub                         the system's
``certificate_file``        the device certificate, PEM or DER, leaf first         with a renewal command
                                                                                   ``device.pem`` in
                                                                                   ``state_dir``, else none
``device_roots_file``       PEM roots that ``check`` holds the certificate to      none
``renewal_command``         program and arguments that print a new certificate     none
``renewal_fraction``        of its lifetime after which it is renewed              0.66
``cpm_socket``              the CPM's Unix socket                                  ``/run/cpm/cpm.sock``
``cpm_tool``                the reference ``cpk-tool``, in place of the socket     none
``audience``                with ``cpm_tool``: what a release must say             none
``release_keys_file``       with ``cpm_tool``: PEM, who may sign releases          none
``state_dir``               the agent's own folder                                 ``/var/lib/device-agent``
``health_file``             JSON of how it is doing                                none
``metrics_port``            TCP port for Prometheus; 0 takes a free one            none
``metrics_address``         where that port listens                                ``127.0.0.1``
``log_level``               ``DEBUG INFO WARNING ERROR``                           ``INFO``
==========================  =====================================================  =======================

An unknown name, in the file or behind the prefix, is an error. All problems are told together, and no message
shows a secret.
"""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from device_agent import sign_in
from device_agent.setting_values import PREFIX, read_text, read_values
from shared.errors import FormatError, SettingsError
from shared.strict_json import loads
from shared.types import Audience, DeviceId, parse_audience
from shared.wire.cpm_channel import DEFAULT_SOCKET, SOCKET_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, MutableMapping

    from cryptography.hazmat.primitives.asymmetric import ec

    from device_agent.sign_in import SignIn

__all__ = ["NAMES", "PREFIX", "Settings", "load_settings"]

NAMES = sign_in.NAMES | {
    "ca_file",
    "certificate_file",
    "device_roots_file",
    "renewal_command",
    "renewal_fraction",
    "cpm_socket",
    "cpm_tool",
    "audience",
    "release_keys_file",
    "state_dir",
    "health_file",
    "metrics_port",
    "metrics_address",
    "log_level",
}
"""Every setting."""

_SECRETS = frozenset({"connection_string"})
_DEFAULT_STATE_DIR = "/var/lib/device-agent"
_DEFAULT_FRACTION = 0.66
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_MAX_ARGUMENTS = 64
_MAX_RELEASE_KEYS = 8
_MAX_PORT = 65535
_MAX_ROOTS_BYTES = 512 * 1024
_PEM_END = "-----END PUBLIC KEY-----"

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewal:
    """How a device certificate is renewed.

    Args:
        command: Program and arguments.
        fraction: Of a certificate's lifetime after which it is renewed.
    """

    command: tuple[str, ...]
    fraction: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceTool:
    """The reference ``cpk-tool``, and what releases are judged by in its CPM's place.

    Args:
        path: The executable.
        audience: The deployment.
        release_keys: Who may sign releases.
    """

    path: Path
    audience: Audience
    release_keys: tuple[ec.EllipticCurvePublicKey, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Where Prometheus may ask."""

    address: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The agent's settings, checked.

    Args:
        sign_in: How it signs in to its hub.
        ca_pem: PEM roots to trust for the hub; None trusts the system's.
        certificate_file: The device certificate; need not be there yet.
        device_roots: PEM roots of device certificates.
        renewal: None leaves renewing to others.
        cpm_socket: The CPM's Unix socket.
        reference_tool: In its place; None for a CPM with a socket.
        state_dir: The agent's own folder.
        health_file: None writes none.
        metrics: None opens no port.
        log_level: As :mod:`logging` names it.
    """

    sign_in: SignIn
    ca_pem: str | None
    certificate_file: Path | None
    device_roots: str | None
    renewal: Renewal | None
    cpm_socket: str
    reference_tool: ReferenceTool | None
    state_dir: Path
    health_file: Path | None
    metrics: Metrics | None
    log_level: str

    @property
    def device_id(self) -> DeviceId:
        """The device, or ``device/module``."""
        return self.sign_in.device_id


def load_settings(config: Path | None, environment: MutableMapping[str, str]) -> Settings:
    """Read the settings once; a connection string is taken out of ``environment``.

    Args:
        config: The TOML file, if there is one.
        environment: The process's environment.

    Raises:
        SettingsError: With every problem that was found.
    """
    problems: list[str] = []
    values = read_values(config, environment, names=NAMES, secrets=_SECRETS, problems=problems)
    return _checked(values, environment, problems)


def _checked(values: Mapping[str, str], environment: Mapping[str, str], problems: list[str]) -> Settings:
    def attempt(parse: Callable[[], _Value]) -> _Value | None:
        try:
            return parse()
        except FormatError as error:
            problems.append(str(error))
            return None

    way = attempt(lambda: sign_in.parse_sign_in(values, environment))
    level = attempt(lambda: _level(values.get("log_level", "INFO")))
    ca_pem = attempt(lambda: _roots(values, "ca_file"))
    device_roots = attempt(lambda: _roots(values, "device_roots_file"))
    renewal = attempt(lambda: _renewal(values))
    tool = attempt(lambda: _reference_tool(values))
    metrics = attempt(lambda: _metrics(values))
    if problems or way is None or level is None:
        raise SettingsError(problems)
    state_dir = Path(values.get("state_dir", _DEFAULT_STATE_DIR))
    return Settings(
        sign_in=way,
        ca_pem=ca_pem,
        certificate_file=_path(values, "certificate_file") or (state_dir / "device.pem" if renewal else None),
        device_roots=device_roots,
        renewal=renewal,
        cpm_socket=values.get("cpm_socket") or environment.get(SOCKET_VARIABLE) or DEFAULT_SOCKET,
        reference_tool=tool,
        state_dir=state_dir,
        health_file=_path(values, "health_file"),
        metrics=metrics,
        log_level=level,
    )


def _path(values: Mapping[str, str], name: str) -> Path | None:
    return Path(values[name]) if name in values else None


def _level(value: str) -> str:
    if value.upper() not in _LEVELS:
        raise FormatError(f"log_level: expected one of {' '.join(_LEVELS)}, found {value[:32]!r}")
    return value.upper()


def _roots(values: Mapping[str, str], name: str) -> str | None:
    if name not in values:
        return None
    text = read_text(Path(values[name]), limit=_MAX_ROOTS_BYTES)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError) as error:
        raise FormatError(f"{name} {values[name]}: expected PEM certificates") from error
    return text


def _renewal(values: Mapping[str, str]) -> Renewal | None:
    if "renewal_command" not in values:
        return None
    where = "renewal_command"
    command = loads(values[where], where=where)
    if (
        not isinstance(command, list)
        or not 1 <= len(command) <= _MAX_ARGUMENTS
        or not all(isinstance(part, str) for part in command)
        or not command[0].startswith("/")
    ):
        raise FormatError(f"{where}: expected a list of texts, the first one a program's absolute path")
    try:
        fraction = float(values.get("renewal_fraction", _DEFAULT_FRACTION))
    except ValueError:
        fraction = 0.0
    if not 0.0 < fraction < 1.0:
        raise FormatError("renewal_fraction: expected a number between 0 and 1")
    return Renewal(command=tuple(command), fraction=fraction)


def _reference_tool(values: Mapping[str, str]) -> ReferenceTool | None:
    only_with_it = ("audience", "release_keys_file")
    if "cpm_tool" not in values:
        if odd := [name for name in only_with_it if name in values]:
            raise FormatError(f"{', '.join(odd)}: only used with cpm_tool; a CPM has its own")
        return None
    if missing := [name for name in only_with_it if not values.get(name)]:
        raise FormatError(f"{', '.join(missing)}: missing, and needed with cpm_tool")
    if not values["cpm_tool"].startswith("/"):
        raise FormatError("cpm_tool: expected an absolute path")
    return ReferenceTool(
        path=Path(values["cpm_tool"]),
        audience=parse_audience(values["audience"], where="audience"),
        release_keys=_release_keys(Path(values["release_keys_file"])),
    )


def _release_keys(path: Path) -> tuple[ec.EllipticCurvePublicKey, ...]:
    # What takes much memory is loaded for those that have such a CPM.
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415

    where = f"release_keys_file {path}"
    blocks = read_text(path, limit=_MAX_ROOTS_BYTES).split(_PEM_END)
    keys = []
    for block in [text for text in blocks if text.strip()]:
        try:
            key = load_pem_public_key(f"{block}{_PEM_END}\n".encode())
        except (ValueError, UnsupportedAlgorithm) as error:
            raise FormatError(f"{where}: expected PEM public keys") from error
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise FormatError(f"{where}: expected EC P-256 keys")
        keys.append(key)
    if not 1 <= len(keys) <= _MAX_RELEASE_KEYS:
        raise FormatError(f"{where}: expected 1 to {_MAX_RELEASE_KEYS} keys, found {len(keys)}")
    return tuple(keys)


def _metrics(values: Mapping[str, str]) -> Metrics | None:
    if "metrics_port" not in values:
        if "metrics_address" in values:
            raise FormatError("metrics_address: only used with metrics_port")
        return None
    port, address = values["metrics_port"], values.get("metrics_address", "127.0.0.1")
    if not port.isascii() or not port.isdigit() or int(port[:6]) > _MAX_PORT:
        raise FormatError(f"metrics_port: expected 0 to {_MAX_PORT}")
    try:
        ipaddress.ip_address(address)
    except ValueError as error:
        raise FormatError("metrics_address: expected an IP address") from error
    return Metrics(address=address, port=int(port))
