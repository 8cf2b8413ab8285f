"""Puts a hub on the network: listening sockets, TLS, the two protocols, and an orderly end."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import signal
import socket
import ssl
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from aiohttp import web
from cryptography import x509

from local_cloud.certificates import certificate_pem
from local_cloud.twin_hub.authentication import DeviceAuthenticator, is_authority
from local_cloud.twin_hub.hub import Hub
from local_cloud.twin_hub.mqtt import DeviceProtocol
from local_cloud.twin_hub.rest import MAX_BODY, guard
from local_cloud.twin_hub.rest_identities import IdentityRoutes
from local_cloud.twin_hub.rest_twins import TwinRoutes
from local_cloud.twin_hub.service_authorization import ServiceAuthorizer
from local_cloud.twin_hub.store import Store
from local_cloud.twin_hub.throttles import Throttles
from shared.errors import StorageError, TransportError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from local_cloud.twin_hub.settings import Settings

HANDSHAKE_SECONDS = 30
"""How long a TLS handshake may take."""

_BACKLOG = 512
_END_SECONDS = 2.0

log = logging.getLogger("twin_hub")


async def serve(settings: Settings, *, ready: Callable[[int], None]) -> None:
    """Serve until SIGTERM, SIGINT or, with a lifeline, the end of standard input.

    Args:
        settings: What to serve, and where.
        ready: Called with the HTTPS port once both protocols are served.

    Raises:
        StorageError: The state or a certificate file cannot be read.
        TransportError: A port cannot be had.
    """
    ending = asyncio.Event()
    async with AsyncExitStack() as stack:
        store = _open_store(settings)
        stack.callback(store.close)
        hub = Hub(store, Throttles(settings.limits, retry_after=settings.retry_after))
        mqtt_socket = _listen(settings.address, settings.mqtt_port)
        https_socket = _listen(settings.address, settings.https_port)
        https_port: int = https_socket.getsockname()[1]
        hosts = _hosts(settings, https_port)
        await _serve_https(stack, settings, hub, https_socket, hosts)
        await _serve_mqtt(stack, settings, hub, mqtt_socket, hosts)
        await _listen_for_the_end(settings, ending)
        log.info("ready", extra={"address": settings.address, "https_port": https_port})
        ready(https_port)
        await ending.wait()
    log.info("ended")


def _open_store(settings: Settings) -> Store:
    try:
        settings.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make {settings.state}: {error.strerror}") from error
    return Store(settings.state / "hub.db", hub_name=settings.hub_name, clock=lambda: dt.datetime.now(dt.UTC))


def _listen(address: str, port: int) -> socket.socket:
    """Return a listening socket; its protocol is named, so that asyncio turns Nagle's algorithm off."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise TransportError(
            f"cannot listen on {address} port {port}: {error.strerror}",
            hint="another loopback address such as 127.0.0.7 has ports of its own",
        ) from error
    return listener


def _hosts(settings: Settings, https_port: int) -> Collection[str]:
    """Return the names that tokens may be made for, with and without the HTTPS port."""
    names = {settings.address, "localhost", *(name.lower() for name in settings.hostnames)}
    return names | {f"{name}:{https_port}" for name in names}


async def _serve_https(
    stack: AsyncExitStack, settings: Settings, hub: Hub, listener: socket.socket, hosts: Collection[str]
) -> None:
    authorizer = ServiceAuthorizer(
        hosts=hosts, service_key=settings.service_key, identity_public_key=settings.identity_public_key
    )
    app = web.Application(
        middlewares=[guard(authorizer, retry_after=settings.retry_after)], client_max_size=MAX_BODY
    )
    app.add_routes([*IdentityRoutes(hub).routes(), *TwinRoutes(hub).routes()])
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=_END_SECONDS)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.SockSite(runner, listener, ssl_context=_tls(settings), backlog=_BACKLOG).start()


async def _serve_mqtt(
    stack: AsyncExitStack, settings: Settings, hub: Hub, listener: socket.socket, hosts: Collection[str]
) -> None:
    tls, trusted = _tls(settings), _client_certificates(settings)
    tls.verify_mode = ssl.CERT_OPTIONAL
    if trusted:
        tls.load_verify_locations(cadata=certificate_pem(*trusted).decode("ascii"))
    issuers = [certificate for certificate in trusted if is_authority(certificate)]
    authenticator = DeviceAuthenticator(hosts=hosts, issuers=issuers, identity=hub.store.identity)
    server = await asyncio.get_running_loop().create_server(
        lambda: DeviceProtocol(hub, authenticator),
        sock=listener,
        ssl=tls,
        ssl_handshake_timeout=HANDSHAKE_SECONDS,
    )
    stack.callback(hub.disconnect_all, "the hub ends")
    stack.callback(server.close)


def _client_certificates(settings: Settings) -> Sequence[x509.Certificate]:
    found: list[x509.Certificate] = []
    for path in settings.client_ca:
        try:
            found += x509.load_pem_x509_certificates(path.read_bytes())
        except (OSError, ValueError) as error:
            raise StorageError(f"cannot read PEM certificates from {path}: {error}") from error
    return found


def _tls(settings: Settings) -> ssl.SSLContext:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        tls.load_cert_chain(settings.server_cert, settings.server_key)
    except (OSError, ssl.SSLError) as error:
        raise StorageError(
            f"cannot read the server certificate {settings.server_cert} with its key"
        ) from error
    return tls


async def _listen_for_the_end(settings: Settings, ending: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    if settings.stdin_lifeline:
        await loop.connect_read_pipe(lambda: _Lifeline(ending), sys.stdin)


class _Lifeline(asyncio.Protocol):
    """Ends the hub when its supervisor's end of the pipe closes, however the supervisor died."""

    def __init__(self, ending: asyncio.Event) -> None:
        self._ending = ending

    def connection_lost(self, _exc: Exception | None) -> None:
        self._ending.set()
