"""HTTP functions: a request becomes the SDK's, the function's answer becomes the response.

The caller's key is checked before the body is read, and the body is read before the request takes the place
of another one: a slow client waits for itself alone. The query's ``code`` is a key: it is taken out before
the function or any log could see it. A function that fails is answered with 500 and an empty body.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from aiohttp import web
from azure.functions.meta import Datum
from multidict import CIMultiDict

from local_cloud.functions_host.access_keys import AccessKeys, AuthLevel
from local_cloud.functions_host.definitions import RETURN, FunctionDefinition
from local_cloud.functions_host.routing import Match, Router, compile_route
from shared.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from local_cloud.functions_host.invoker import Invoker

MAX_BODY = 4 * 1024 * 1024
"""Bytes of a request's body."""

BODY_SECONDS = 30.0
"""How long a body may take to come."""

_KEY_HEADER, _KEY_QUERY = "x-functions-key", "code"
# Framing is this server's own.
_OWN_HEADERS = frozenset({"content-length", "transfer-encoding", "connection", "date", "server"})


def presented_key(request: web.Request) -> str | None:
    """Return the function key that a caller presents; the header wins over the query."""
    return request.headers.get(_KEY_HEADER) or request.query.get(_KEY_QUERY)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLimits:
    """What requests may take.

    Attributes:
        body_bytes: Of one body.
        body_seconds: Until all of it has come.
        concurrent: Functions that run at once.
        outstanding: Those that run or wait to; further requests are answered with 429.
    """

    body_bytes: int = MAX_BODY
    body_seconds: float = BODY_SECONDS
    concurrent: int = 100
    outstanding: int = 200


class HttpFunctions:
    """All HTTP functions of the app.

    Args:
        functions: Those that HTTP triggers.
        route_prefix: First part of every route.
        keys: Who may call what.
        invoker: Calls them.
        limits: What requests may take.

    Raises:
        FormatError: A route or an authorization level is wrong, or two routes collide.
    """

    def __init__(
        self,
        functions: Iterable[FunctionDefinition],
        *,
        route_prefix: str,
        keys: AccessKeys,
        invoker: Invoker,
        limits: RequestLimits,
    ) -> None:
        self._functions = {function.name: function for function in functions}
        self._levels = {name: _auth_level(function) for name, function in self._functions.items()}
        self._router = Router(
            compile_route(
                function.name,
                function.trigger.text("route", function.name),
                _methods(function),
                prefix=route_prefix,
            )
            for function in self._functions.values()
        )
        self._keys = keys
        self._invoker = invoker
        self._limits = limits
        self._room = asyncio.Semaphore(limits.concurrent)
        self._outstanding = 0

    async def handle(self, request: web.Request) -> web.Response:
        """Answer a request."""
        match = self._router.match(request.rel_url.raw_path, request.method)
        if match is None:
            return web.Response(status=404)
        if match.function is None:
            return web.Response(status=405, headers={"Allow": ", ".join(sorted(match.allowed))})
        if not self._keys.permits(self._levels[match.function], match.function, presented_key(request)):
            return web.Response(status=401)
        return await self._admit(self._functions[match.function], request, match)

    async def _admit(self, function: FunctionDefinition, request: web.Request, match: Match) -> web.Response:
        """Read a request's body, wait for its turn, and call its function."""
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                body = await _read(request, self._limits.body_bytes)
        except TimeoutError:
            return _closing(HTTPStatus.REQUEST_TIMEOUT)
        if body is None:
            return _closing(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        if self._outstanding >= self._limits.outstanding:
            return web.Response(status=HTTPStatus.TOO_MANY_REQUESTS, headers={"Retry-After": "1"})
        self._outstanding += 1
        try:
            async with self._room:
                return await self._call(function, request, match, body)
        finally:
            self._outstanding -= 1

    async def _call(
        self, function: FunctionDefinition, request: web.Request, match: Match, body: bytes
    ) -> web.Response:
        outcome = await self._invoker.invoke(
            function,
            _datum(request, match, body),
            trace_parent=request.headers.get("traceparent", ""),
        )
        if outcome.error is not None:
            return web.Response(status=500)
        return _response(outcome.results)


async def _read(request: web.Request, limit: int) -> bytes | None:
    """Return the body; None if it is longer than the limit, of which no more is read."""
    if (request.content_length or 0) > limit:
        return None
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > limit:
            return None
    return bytes(body)


def _closing(status: HTTPStatus) -> web.Response:
    """Return an answer after which the connection ends, for what is left of its body would be a request."""
    response = web.Response(status=status)
    response.force_close()
    return response


def _auth_level(function: FunctionDefinition) -> AuthLevel:
    text = function.trigger.text("authLevel", "FUNCTION").upper()
    try:
        return AuthLevel(text)
    except ValueError as error:
        raise FormatError(f"function {function.name}: unknown authorization level {text!r:.32}") from error


def _methods(function: FunctionDefinition) -> list[str]:
    methods = function.trigger.members.get("methods")
    return [str(method) for method in methods] if isinstance(methods, list) else []


def _datum(request: web.Request, match: Match, body: bytes) -> Datum:
    query = {name: ",".join(request.query.getall(name)) for name in request.query if name != _KEY_QUERY}
    url = f"https://{request.host}{request.rel_url.raw_path}" + (f"?{urlencode(query)}" if query else "")
    headers = {
        name.lower(): ", ".join(request.headers.getall(name))
        for name in request.headers
        if name.lower() != _KEY_HEADER
    }
    value = {
        "method": _text(request.method),
        "url": _text(url),
        "headers": {name: _text(text) for name, text in headers.items()},
        "query": {name: _text(text) for name, text in query.items()},
        "params": {name: _text(text) for name, text in match.parameters.items()},
        "body": Datum(body, "bytes"),
    }
    return Datum(value, "http")


def _text(value: str) -> Datum:
    return Datum(value, "string")


def _response(results: Mapping[str, Datum]) -> web.Response:
    """Return what the platform makes of a function's return value."""
    returned = results.get(RETURN)
    if returned is None:
        return web.Response(status=204)
    if returned.type != "http":
        return web.Response(text=str(returned.value))
    value = returned.value
    headers = CIMultiDict(
        (name, text.value) for name, text in value["headers"].items() if name.lower() not in _OWN_HEADERS
    )
    for cookie in value.get("cookies") or ():
        for morsel in cookie.values():
            headers.add("Set-Cookie", morsel.OutputString())
    return web.Response(status=int(value["status_code"].value), body=value["body"].value, headers=headers)
