"""Fetch a certificate that a package names by URL, for those who asked for it by host.

The URL is hostile: whoever wrote the package chose it. So it is fetched only over HTTPS, only from a host
that the user allowed by name, and only if every address of that host is a public one; the connection goes to
an address that was looked at, not to what the name means a moment later. No redirect is followed, no proxy
asked, no more than a chain's worth of bytes read, and nothing waits longer than a few seconds. What comes
back is trusted no more than an embedded certificate: it still needs a valid path to a root.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import re
import socket
import ssl
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from shared.certificates import MAX_CHAIN_BYTES
from shared.errors import FormatError, PolicyDenied, TransportError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

TIMEOUT_SECONDS = 10.0
"""How long the whole fetch may take."""

_HTTPS_PORT = 443
_OK = 200
_HEADERS = {"accept-encoding": "identity", "connection": "close", "user-agent": "cpk-tool"}
_MAX_URL = 2048
_HOST = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)+")


class Network(Protocol):
    """What this needs of the network."""

    def resolve(self, host: str, port: int) -> list[str]:
        """Return every address of a host; ``OSError`` if there is none."""

    def connect(self, address: str, port: int, *, seconds: float) -> socket.socket:
        """Connect to an address, or raise ``OSError``."""


class SystemNetwork:
    """This machine's resolver and sockets."""

    def resolve(self, host: str, port: int) -> list[str]:
        """Ask the system's resolver."""
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(entry[4][0]) for entry in found))

    def connect(self, address: str, port: int, *, seconds: float) -> socket.socket:
        """Open a TCP connection; ``address`` is a number, so that nothing is resolved again."""
        return socket.create_connection((address, port), timeout=seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateFetcher:
    """Fetches certificates from allowed hosts.

    Attributes:
        hosts: Host names, lower case, whose certificates may be fetched.
        ca_file: PEM roots for TLS; ``None`` for the system's.
        network: The way there.
        seconds: How long it may take.
    """

    hosts: Collection[str]
    ca_file: Path | None = None
    network: Network
    seconds: float = TIMEOUT_SECONDS

    def fetch(self, url: str) -> bytes:
        """Return what lies at ``url``: certificates, as yet neither parsed nor trusted.

        Raises:
            PolicyDenied: ``fetch_refused``; the URL, its host or one of its addresses is not allowed.
            TransportError: It cannot be reached, or answers anything but 200.
            FormatError: The answer is too long.
        """
        host, port, path = self._allowed(url)
        address = self._public_address(host, port)
        tls = self._tls()
        try:
            plain = self.network.connect(address, port, seconds=self.seconds)
            secure = tls.wrap_socket(plain, server_hostname=host, do_handshake_on_connect=False)
            with secure, _ended_after(secure, self.seconds) as late:
                secure.do_handshake()
                connection = http.client.HTTPSConnection(host, port, context=tls)
                connection.sock = secure
                connection.request("GET", path, headers=_HEADERS)
                data = _read(connection, url)
        except (OSError, http.client.HTTPException) as error:
            raise TransportError(f"{url}: cannot be fetched: {_reason(error)}") from error
        if late.is_set():
            raise TransportError(f"{url}: cannot be fetched: it takes longer than {self.seconds:g} s")
        return data

    def _allowed(self, url: str) -> tuple[str, int, str]:
        """Return host, port and request target of a URL that may be fetched."""
        try:
            parts = urlsplit(url)
            port = parts.port or _HTTPS_PORT
        except ValueError as error:
            raise _refused(url, "it is no URL") from error
        host = parts.hostname or ""
        printable = url.isascii() and url.isprintable() and " " not in url and len(url) <= _MAX_URL
        if parts.scheme != "https" or not printable or parts.username is not None or parts.fragment:
            raise _refused(url, "expected an https:// URL without user name and fragment")
        if not _HOST.fullmatch(host):
            raise _refused(url, "expected a host name with a dot, found an address or something else")
        if host not in self.hosts:
            raise _refused(
                url,
                f"{host} is not an allowed host",
                hint=f"--fetch-certificate {host} allows it, if you know it",
            )
        return host, port, (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

    def _public_address(self, host: str, port: int) -> str:
        """Return an address of the host, all of which are public."""
        try:
            addresses = self.network.resolve(host, port)
        except OSError as error:
            raise TransportError(f"{host}: cannot be resolved: {_reason(error)}") from error
        for address in addresses:
            if not is_public(address):
                raise PolicyDenied(
                    f"{host}: expected public addresses only, found {address}", code="fetch_refused"
                )
        if not addresses:
            raise TransportError(f"{host}: cannot be resolved: it has no address")
        return addresses[0]

    def _tls(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self.ca_file)
        except ssl.SSLError as error:
            raise FormatError(f"{self.ca_file}: expected PEM certificates, found none") from error


def is_public(address: str) -> bool:
    """Tell whether an address is of the public internet, and none that leads elsewhere by a tunnel."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:  # with a zone: link-local
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        in_global_unicast = parsed in ipaddress.IPv6Network("2000::/3")
        tunnelled = parsed.sixtofour is not None or parsed.teredo is not None
        return parsed.is_global and in_global_unicast and not tunnelled
    return parsed.is_global and not parsed.is_multicast and not parsed.is_reserved


@contextlib.contextmanager
def _ended_after(sock: socket.socket, seconds: float) -> Iterator[threading.Event]:
    """End a connection whose peer lets the block wait: a byte now and then outlasts a socket timeout.

    Yields:
        Whether it was ended; what was read then may be cut off without saying so.
    """
    late = threading.Event()

    def end() -> None:
        late.set()
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()


def _read(connection: http.client.HTTPConnection, url: str) -> bytes:
    """Return the answer's body within its bounds."""
    response = connection.getresponse()
    if response.status != _OK:
        raise TransportError(f"{url}: expected status 200, found {response.status}; no redirect is followed")
    data = bytearray()
    while part := response.read1(MAX_CHAIN_BYTES + 1 - len(data)):
        data += part
        if len(data) > MAX_CHAIN_BYTES:
            raise FormatError(f"{url}: expected at most {MAX_CHAIN_BYTES} bytes, found more")
    if response.length:
        raise TransportError(f"{url}: cannot be fetched: its answer ends {response.length} bytes early")
    return bytes(data)


def _refused(url: str, reason: str, *, hint: str | None = None) -> PolicyDenied:
    return PolicyDenied(f"certificate at {url[:_MAX_URL]}: {reason}", code="fetch_refused", hint=hint)


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) else str(error)
    return (text or type(error).__name__).splitlines()[0][:200].lower()
