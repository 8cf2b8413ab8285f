"""The managed identity of the function app: the App Service endpoint that ``ManagedIdentityCredential`` asks.

It listens on loopback in plain HTTP, as the platform's does, and answers whoever knows its secret header:
the app in this process, which is told both through the environment. Tokens are signed with the local
cloud's identity key.
"""

from __future__ import annotations

import hmac
import secrets
import time
from typing import TYPE_CHECKING

from aiohttp import web

from local_cloud import serving, tokens

if TYPE_CHECKING:
    from collections.abc import Mapping

SUBJECT = "function-app"
"""Who the function app is, in the tokens it gets."""

TOKEN_SECONDS = 3600
"""Life of a token."""

API_VERSION = "2019-08-01"
"""The one version of the endpoint that is spoken."""

_PATH = "/msi/token"
_AUDIENCES = (tokens.HUB_AUDIENCE, tokens.VAULT_AUDIENCE)


class IdentityEndpoint:
    """Serves access tokens to the function app.

    Args:
        identity_key: PEM of the key that signs them.
        address: Loopback address to listen on.
    """

    def __init__(self, identity_key: bytes, address: str) -> None:
        self._identity_key = identity_key
        self._address = address
        self._header = secrets.token_urlsafe(32)
        self._runner: web.AppRunner | None = None

    async def start(self) -> Mapping[str, str]:
        """Listen, and return the settings that lead the app's credential here."""
        application = web.Application()
        application.router.add_get(_PATH, self._token)
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        listener = serving.listening_socket(self._address, 0)
        await web.SockSite(self._runner, listener).start()
        port = listener.getsockname()[1]
        return {
            "IDENTITY_ENDPOINT": f"http://{self._address}:{port}{_PATH}",
            "IDENTITY_HEADER": self._header,
        }

    async def close(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _token(self, request: web.Request) -> web.Response:
        given = request.headers.get("X-IDENTITY-HEADER", "")
        if not hmac.compare_digest(given.encode(), self._header.encode()):
            return _refusal(401, "the header X-IDENTITY-HEADER is missing or wrong")
        if request.query.get("api-version") != API_VERSION:
            return _refusal(400, f"expected api-version {API_VERSION}")
        resource = request.query.get("resource", "").rstrip("/")
        if resource not in _AUDIENCES:
            return _refusal(400, f"the identity has no access beyond {' and '.join(_AUDIENCES)}")
        expires = int(time.time()) + TOKEN_SECONDS
        token = tokens.mint(self._identity_key, audience=resource, subject=SUBJECT, lifetime=TOKEN_SECONDS)
        document = {
            "access_token": token,
            "expires_on": str(expires),
            "resource": resource,
            "token_type": "Bearer",
        }
        return web.json_response(document, headers={"Cache-Control": "no-store"})


def _refusal(status: int, message: str) -> web.Response:
    return web.json_response({"statusCode": status, "message": message}, status=status)
