"""Whether a hub can be reached, step by step: its name, its port, its certificate.

Each step needs the one before; the first that fails is the one to look at.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import TYPE_CHECKING

from device_agent.findings import Finding, failed, ok, skipped

if TYPE_CHECKING:
    from collections.abc import Iterator

MQTT_PORT = 8883
"""MQTT over TLS, the SDK's one port."""

STEP_SECONDS = 15.0
"""Longest wait for a connection, and for a handshake."""


def reach(host: str, *, ca_pem: str | None, port: int = MQTT_PORT) -> Iterator[Finding]:
    """Try to reach a server, and say how far that went.

    Args:
        host: Its name.
        ca_pem: Roots to trust; None trusts the system's.
        port: Where it listens.
    """
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        yield failed(
            "hub_name",
            f"{host} has no address: {error.strerror or error}",
            hint="is the name right, and does this device reach a DNS server",
        )
        yield skipped("hub_port", "its name is not known")
        yield skipped("hub_certificate", "its name is not known")
        return
    yield ok("hub_name", f"{host} is {addresses[0][4][0]}")
    with contextlib.ExitStack() as stack:
        try:
            connection = stack.enter_context(socket.create_connection((host, port), timeout=STEP_SECONDS))
        except OSError as error:
            yield failed(
                "hub_port",
                f"{host} port {port} cannot be reached: {error.strerror or error}",
                hint=f"does a firewall keep TCP port {port} closed",
            )
            yield skipped("hub_certificate", "its port is not open")
            return
        yield ok("hub_port", f"{host} port {port} is open")
        yield _handshake(connection, host, ca_pem)


def _handshake(connection: socket.socket, host: str, ca_pem: str | None) -> Finding:
    context = ssl.create_default_context(cadata=ca_pem)
    try:
        with context.wrap_socket(connection, server_hostname=host) as tls:
            return ok("hub_certificate", f"{host} proves its name with {tls.version()}")
    except ssl.SSLCertVerificationError as error:
        return failed(
            "hub_certificate",
            f"the certificate of {host} is not trusted: {error.verify_message}",
            hint="is ca_file the hub's root, and is the device's clock right",
        )
    except OSError as error:
        return failed("hub_certificate", f"no TLS with {host}: {error.strerror or type(error).__name__}")
