"""Connections of the functions host: bounded in number and patience, and silent about what they carried.

A client that connects and says nothing, or half of something, costs a descriptor for a while and nobody
else anything. What cannot be read as HTTP is neither logged nor sent back: a function key may stand in it.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

if TYPE_CHECKING:
    import socket
    import ssl

    from aiohttp.web_request import BaseRequest

_log = logging.getLogger("functions_host")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """What a connection may take.

    Attributes:
        connections: Open at once; further ones are dropped.
        line_bytes: Of the request line, and of each header.
        headers: Number of them.
        handshake_seconds: For TLS.
        idle_seconds: Until a whole request head has come: the first one, and each that follows.
    """

    connections: int = 512
    line_bytes: int = 8190
    headers: int = 100
    handshake_seconds: float = 10.0
    idle_seconds: float = 30.0


async def listen(
    runner: web.AppRunner,
    listener: socket.socket,
    *,
    context: ssl.SSLContext | None,
    limits: ConnectionLimits,
) -> asyncio.Server:
    """Serve a runner's application on a socket; the runner's own clean-up ends the connections.

    Args:
        runner: Set up.
        listener: Listens.
        context: TLS; None serves in clear.
        limits: What a connection may take.
    """
    loop, server = asyncio.get_running_loop(), runner.server
    if server is None:
        raise ValueError("the runner was not set up")
    return await loop.create_server(
        lambda: _Connection(server, loop, limits),
        sock=listener,
        ssl=context,
        ssl_handshake_timeout=limits.handshake_seconds if context is not None else None,
    )


class _Connection(web.RequestHandler):
    """One connection."""

    __slots__ = ("_most", "_server")

    def __init__(self, server: web.Server, loop: asyncio.AbstractEventLoop, limits: ConnectionLimits) -> None:
        super().__init__(
            server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type] # None is no log: it would hold keys
            keepalive_timeout=limits.idle_seconds,
            max_line_size=limits.line_bytes,
            max_field_size=limits.line_bytes,
            max_headers=limits.headers,
        )
        self._server = server
        self._most = limits.connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if len(self._server.connections) > self._most:
            _log.warning("connection_dropped", extra={"connections": self._most})
            self.force_close()

    def handle_error(
        self,
        request: BaseRequest,
        status: int = HTTPStatus.INTERNAL_SERVER_ERROR,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is no HTTP with a status alone."""
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return super().handle_error(request, status, exc, message)
        if isinstance(exc, LineTooLong):
            status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        _log.warning("request_malformed", extra={"error": type(exc).__name__, "status": int(status)})
        response = web.Response(status=status)
        response.force_close()
        return response
