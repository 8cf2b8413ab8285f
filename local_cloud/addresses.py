"""Which loopback address a local cloud lives on, and who else is there.

The device SDK's port is fixed, so two clouds on one machine need two addresses: 127.0.0.1, 127.0.0.2, and
so on. A cloud claims its address for as long as it runs, so that two that start at once do not choose the
same one. Device connection strings, key identifiers and the server certificate hold the address: once
chosen, a cloud keeps it.
"""

from __future__ import annotations

import errno
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

from local_cloud.serving import listening_socket, require_loopback
from shared.errors import Conflict, TransportError

if TYPE_CHECKING:
    from collections.abc import Iterable

MQTT_PORT = 8883
"""The port that ``azure-iot-device`` connects to; it takes no other."""

LAST_CANDIDATE = 64
"""How far the search for a free address goes: 127.0.0.64."""

PATIENCE_SECONDS = 15.0
"""How long to wait for the ports of a cloud that is just ending."""

_LISTEN_STATE = "0A"
_PAUSE = 0.1


class AddressClaim:
    """Holds an address for this process; the kernel gives it back however the process ends.

    Args:
        address: The loopback address.

    Raises:
        Conflict: ``address_claimed``: another local cloud holds it.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.bind(f"\0local-cloud:{address}")  # an abstract name: it leaves no file behind
        except OSError as error:
            self._socket.close()
            raise Conflict(f"another local cloud runs on {address}", code="address_claimed") from error

    def release(self) -> None:
        """Give the address back."""
        self._socket.close()


def claim_first_free(port: int = MQTT_PORT) -> AddressClaim:
    """Claim the lowest loopback address on which a port is free.

    Raises:
        TransportError: There is none; the message says what is in the way.
    """
    for last in range(1, LAST_CANDIDATE + 1):
        address = f"127.0.0.{last}"
        try:
            return claim(address, [port])
        except (Conflict, TransportError):
            continue
    if _wildcard_listener(port):
        raise TransportError(
            f"port {port} is taken on every address: another program listens on it without naming one",
            code="address_in_use",
            hint=f"find it with: ss -ltnp 'sport = :{port}' and end it, or let it listen on one address",
        )
    raise TransportError(
        f"no loopback address from 127.0.0.1 to 127.0.0.{LAST_CANDIDATE} has port {port} free",
        code="address_in_use",
        hint="name another one with --address",
    )


def claim(address: str, ports: Iterable[int], *, patience: float = 0.0) -> AddressClaim:
    """Claim an address on which these ports are free.

    Args:
        address: An IPv4 loopback address.
        ports: What must be free.
        patience: Seconds to wait for a cloud that is just ending.

    Raises:
        SettingsError: It is not a loopback address.
        Conflict: Another local cloud holds it.
        TransportError: A port is taken.
    """
    require_loopback(address)
    wanted, deadline = list(ports), time.monotonic() + patience
    while True:
        try:
            return _claim(address, wanted)
        except (Conflict, TransportError):
            if time.monotonic() >= deadline:
                raise
            time.sleep(_PAUSE)


def _claim(address: str, ports: list[int]) -> AddressClaim:
    held = AddressClaim(address)
    try:
        for port in ports:
            _require_free(address, port)
    except TransportError:
        held.release()
        raise
    return held


def _require_free(address: str, port: int) -> None:
    try:
        listening_socket(address, port).close()
    except TransportError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE:
            everywhere = " (it listens on every address)" if _wildcard_listener(port) else ""
            raise TransportError(
                f"port {port} on {address} is taken by another program{everywhere}",
                code="address_in_use",
                hint=f"find it with: ss -ltnp 'sport = :{port}'",
            ) from error
        raise


def _wildcard_listener(port: int) -> bool:
    """Tell whether a program listens on a port without naming an address, as far as Linux tells."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            _, local, _, state = line.split()[:4]
            host, _, number = local.rpartition(":")
            if state == _LISTEN_STATE and int(number, 16) == port and set(host) == {"0"}:
                return True
    return False
