"""The vault over HTTPS: challenge, token, role, then the call; every refusal in Azure's shape.

A first request comes without a token and is answered with a challenge (401); the SDK then asks its
credential for a token and sends the request again.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from aiohttp import web

from local_cloud import tokens
from local_cloud.key_vault import roles
from local_cloud.key_vault.errors import VaultError, bad_parameter
from local_cloud.key_vault.requests import VaultRequest
from shared import strict_json
from shared.errors import FormatError, VerificationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from local_cloud.key_vault.objects import Route
    from local_cloud.key_vault.throttle import Throttle

MAX_BODY = 128 * 1024
"""Bytes of a request body: a secret of the largest size, escaped, with its tags."""

_log = logging.getLogger(__name__)
# The SDK reads the authority's path as a tenant; nothing is ever fetched from it.
_CHALLENGE = f'Bearer authorization="https://login.local.invalid/local", resource="{tokens.VAULT_AUDIENCE}"'
_HEADERS = {"x-ms-keyvault-service-version": "local", "x-ms-keyvault-region": "local"}


def application(
    routes: Iterable[Route], *, identity_public_key: bytes, throttle: Throttle | None = None
) -> web.Application:
    """Return the vault's web application.

    Args:
        routes: Its calls.
        identity_public_key: PEM of the key that tokens are verified with.
        throttle: Refuses calls when there are too many; None lets all through.
    """
    served = web.Application(client_max_size=MAX_BODY, middlewares=[_refusals])
    # Resources match in the order they are added: fixed segments go before a version, or it would take them.
    for route in sorted(routes, key=lambda route: "{version" in route.path):
        served.router.add_route(route.method, route.path, _handler(route, identity_public_key, throttle))
    return served


def _handler(
    route: Route, identity_public_key: bytes, throttle: Throttle | None
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        subject = _subject(request, identity_public_key)
        if throttle is not None:
            throttle.take()
        roles.require(subject, route.permission)
        if "api-version" not in request.query:
            raise bad_parameter("api-version must be specified")
        parsed = VaultRequest(
            path=request.match_info, query=dict(request.query), body=await _json_body(request)
        )
        # In a thread: making an RSA key takes a second, and each change waits for the disk.
        answer = await asyncio.to_thread(route.handle, parsed)
        if answer is None:
            return web.Response(status=204, headers=_HEADERS)
        return web.json_response(answer, headers=_HEADERS)

    return handle


def _subject(request: web.Request, identity_public_key: bytes) -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme != "Bearer" or not token:
        raise VaultError(401, "Unauthorized", "AKV10000: Request is missing a Bearer or PoP token.")
    try:
        claims = tokens.verify(token, identity_public_key, audience=tokens.VAULT_AUDIENCE)
    except VerificationError as error:
        raise VaultError(401, "Unauthorized", f"AKV10022: Invalid token: {error}") from error
    return str(claims["sub"])


async def _json_body(request: web.Request) -> dict[str, object]:
    data = await request.read()
    if not data:
        return {}
    try:
        body = strict_json.loads(data, where="request body")
    except FormatError as error:
        raise bad_parameter(str(error)) from error
    if not isinstance(body, dict):
        raise bad_parameter("The request body must be a JSON object")
    return body


@web.middleware
async def _refusals(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Turn every refusal, aiohttp's own included, into Azure's error document."""
    try:
        return await handler(request)
    except VaultError as error:
        refusal = error
    except web.HTTPException as error:
        refusal = VaultError(error.status, error.reason.replace(" ", ""), error.reason)
    except Exception:  # noqa: BLE001 - the outermost loop of a call: answered and logged
        _log.exception("call_failed", extra={"method": request.method, "path": request.path})
        refusal = VaultError(500, "InternalServerError", "The vault failed; its log says why.")
    headers = dict(_HEADERS)
    if refusal.status == web.HTTPUnauthorized.status_code:
        headers["WWW-Authenticate"] = _CHALLENGE
    _log.info(
        "call_refused",
        extra={
            "method": request.method,
            "path": request.path,
            "status": refusal.status,
            "code": refusal.inner or refusal.code,
        },
    )
    return web.json_response(refusal.document(), status=refusal.status, headers=headers)
