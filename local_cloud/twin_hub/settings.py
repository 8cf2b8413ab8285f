"""What the hub is started with: command line in, one frozen object out."""

from __future__ import annotations

import argparse
import ipaddress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from local_cloud.twin_hub.sas import is_shared_access_key
from local_cloud.twin_hub.throttles import RETRY_AFTER, Limit, Operation, limits_of_tier
from shared.errors import SettingsError
from shared.twin.capacity import HubTier

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_PORT = 65535
_LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that the hub needs to know; the names are those of its options."""

    state: Path
    address: str
    mqtt_port: int
    https_port: int
    server_cert: Path
    server_key: Path
    client_ca: Sequence[Path]
    service_key: str = field(repr=False)
    identity_public_key: bytes | None
    hostnames: Sequence[str]
    hub_name: str
    limits: Mapping[Operation, Limit]
    retry_after: int
    stdin_lifeline: bool
    log_level: str


def parse_settings(arguments: Sequence[str]) -> Settings:
    """Read the command line and the key files that it names.

    Raises:
        SettingsError: What is wrong, all of it together.
        SystemExit: The command line itself cannot be read, or help was asked for.
    """
    options = _parser().parse_args(arguments)
    problems: list[str] = []
    if not _is_address(options.address):
        problems.append(f"--address: expected an IP address, found {options.address!r}")
    problems += [
        f"{option}: expected 0 to {MAX_PORT}, found {port}"
        for option, port in (("--mqtt-port", options.mqtt_port), ("--https-port", options.https_port))
        if not 0 <= port <= MAX_PORT
    ]
    key_data = _read(options.service_key_file, "--service-key-file", problems) or b""
    service_key = key_data.decode("latin-1").strip()
    if not is_shared_access_key(service_key):
        problems.append("--service-key-file: expected base64 of 16 to 64 bytes")
    identity_public_key = None
    if options.identity_public_key_file is not None:
        identity_public_key = _read(options.identity_public_key_file, "--identity-public-key", problems)
    if problems:
        raise SettingsError(problems)
    return Settings(
        state=options.state,
        address=options.address,
        mqtt_port=options.mqtt_port,
        https_port=options.https_port,
        server_cert=options.server_cert,
        server_key=options.server_key,
        client_ca=options.client_ca,
        service_key=service_key,
        identity_public_key=identity_public_key,
        hostnames=options.hostname,
        hub_name=options.hub_name,
        limits={
            **limits_of_tier(None if options.tier is None else HubTier(options.tier)),
            **dict(options.throttle),
        },
        retry_after=options.retry_after,
        stdin_lifeline=options.stdin_lifeline,
        log_level=options.log_level,
    )


_DESCRIPTION = "An embedded emulator of Azure IoT Hub's twins. Prints 'ready https=PORT' when it serves."
_CLIENT_CA_HELP = "PEM issuers of devices' certificates, or self-signed ones of single devices; repeatable"
_IDENTITY_HELP = "PEM key that access tokens are verified with; without it there are none"

_OPERATIONS = {operation.value.replace(" ", "-"): operation for operation in Operation}
_LIMIT = "OPERATION=CALLS/SECONDS"
_THROTTLE_HELP = f"another limit than the tier's for one of {', '.join(_OPERATIONS)}; repeatable"
_RETRY_AFTER_HELP = "what a throttled caller is asked to wait (default: %(default)s)"


def _throttle(text: str) -> tuple[Operation, Limit]:
    name, _, limit = text.partition("=")
    calls, _, seconds = limit.partition("/")
    numbers = calls.isdecimal() and seconds.isdecimal() and int(calls) and int(seconds)
    if name not in _OPERATIONS or not numbers:
        raise argparse.ArgumentTypeError(f"expected {_LIMIT}, found {text!r}")
    return _OPERATIONS[name], Limit(calls=int(calls), seconds=int(seconds))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m local_cloud.twin_hub", description=_DESCRIPTION, allow_abbrev=False
    )
    add, add_file = parser.add_argument, partial(parser.add_argument, type=Path, metavar="FILE")
    add("--state", type=Path, required=True, metavar="DIR", help="where hub.db is kept; made if need be")
    add("--address", default="127.0.0.1", metavar="IP", help="where to listen (default: %(default)s)")
    add("--mqtt-port", type=int, default=8883, metavar="PORT", help="MQTT over TLS (default: %(default)s)")
    add("--https-port", type=int, default=0, metavar="PORT", help="service endpoint; 0, the default: any")
    add_file("--server-cert", required=True, help="PEM chain, leaf first")
    add_file("--server-key", required=True, help="PEM private key")
    add_file("--client-ca", action="append", default=[], help=_CLIENT_CA_HELP)
    add_file("--service-key-file", required=True, help="base64 key of the policy 'service'")
    add_file("--identity-public-key", dest="identity_public_key_file", help=_IDENTITY_HELP)
    add("--hostname", action="append", default=[], metavar="NAME", help="a further name; repeatable")
    add("--hub-name", default="local-hub", metavar="NAME", help="as events name it (default: %(default)s)")
    add("--tier", choices=[tier.value for tier in HubTier], help="throttle as one unit of it (default: not)")
    add("--throttle", type=_throttle, action="append", default=[], metavar=_LIMIT, help=_THROTTLE_HELP)
    add("--retry-after", type=int, default=RETRY_AFTER, metavar="SECONDS", help=_RETRY_AFTER_HELP)
    add("--stdin-lifeline", action="store_true", help="end when standard input ends")
    add("--log-level", default="INFO", choices=_LOG_LEVELS, help="default: %(default)s")
    return parser


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _read(path: Path, option: str, problems: list[str]) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError as error:
        problems.append(f"{option}: cannot read {path}: {error.strerror}")
        return None
