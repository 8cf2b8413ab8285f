"""What the servers of the local cloud share: a loopback listener, a ready line, an end with the parent.

A server prints one line beginning ``ready`` on standard output once it answers, and ends on SIGTERM,
SIGINT, or when its standard input closes: the parent holds the other end of that pipe, so that no server
outlives it, however the parent died.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import signal
import socket
import ssl
import sys
from typing import TYPE_CHECKING

from shared.errors import SettingsError, TransportError

if TYPE_CHECKING:
    from pathlib import Path

_BACKLOG = 128


def listening_socket(address: str, port: int) -> socket.socket:
    """Return a TCP socket that listens on a loopback address.

    Args:
        address: An IPv4 loopback address; nothing else is ever bound.
        port: The port, or 0 for any free one.

    Raises:
        SettingsError: The address is not an IPv4 loopback address.
        TransportError: ``address_in_use``, or the system refused for another reason.
    """
    require_loopback(address)
    # Naming the protocol matters: without IPPROTO_TCP asyncio leaves Nagle's algorithm on, 40 ms for each
    # call.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        taken = error.errno == errno.EADDRINUSE
        raise TransportError(
            f"cannot listen on {address}:{port}: {error.strerror}", code="address_in_use" if taken else None
        ) from error
    listener.setblocking(False)
    return listener


def require_loopback(address: str) -> None:
    """Refuse an address that another machine could reach.

    Raises:
        SettingsError: It is not an IPv4 loopback address.
    """
    try:
        loopback = ipaddress.IPv4Address(address).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise SettingsError(
            [f"address: expected an IPv4 loopback address such as 127.0.0.7, found {address!r}"]
        )


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Return a TLS 1.2+ server context.

    Args:
        certificate: PEM chain, leaf first.
        key: Its private key, PEM.

    Raises:
        SettingsError: A file is missing, or the two do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError([f"server certificate {certificate}: {error}"]) from error
    return context


def announce(line: str) -> None:
    """Print the line on standard output at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def until_stopped(*, stdin_lifeline: bool) -> None:
    """Wait for SIGTERM, SIGINT or, with ``stdin_lifeline``, the end of standard input."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if not stdin_lifeline:
        await stop.wait()
        return
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    ended = asyncio.ensure_future(_end_of(reader))
    signalled = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({ended, signalled}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        ended.cancel()
        signalled.cancel()
        transport.close()


async def _end_of(reader: asyncio.StreamReader) -> None:
    while await reader.read(4096):
        pass
