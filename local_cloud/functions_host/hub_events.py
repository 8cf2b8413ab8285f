"""The event log of the local twin hub, read by long poll over TLS with the function app's own identity."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import aiohttp

from local_cloud import tokens
from local_cloud.functions_host.identity import SUBJECT
from local_cloud.functions_host.twin_events import HubEvent
from shared.errors import TransportError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence

WAIT_SECONDS = 30
"""Seconds that a poll waits for an event."""

_GRACE = 10
_TOKEN_SECONDS = 3600
_TOKEN_MARGIN = 300


class TwinHubEvents:
    """Reads ``GET /local/events`` of the twin hub.

    Args:
        hub_url: The hub's service endpoint, ``https://host:port``.
        identity_key: PEM of the key that signs access tokens.
        context: Trusts the hub's certificate.
    """

    def __init__(self, hub_url: str, *, identity_key: bytes, context: ssl.SSLContext) -> None:
        self._url = f"{hub_url}/local/events"
        self._identity_key = identity_key
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context),
            timeout=aiohttp.ClientTimeout(total=WAIT_SECONDS + _GRACE),
        )
        self._token, self._token_ends = "", 0.0

    async def read(self, *, after: int, limit: int) -> tuple[Sequence[HubEvent], int]:
        """Wait for events behind ``after``, as :class:`EventSource` says."""
        query = {"after": str(after), "wait_seconds": str(WAIT_SECONDS), "max": str(limit)}
        headers = {"Authorization": f"Bearer {self._fresh_token()}"}
        try:
            async with self._session.get(self._url, params=query, headers=headers) as answer:
                if answer.status != HTTPStatus.OK:
                    raise TransportError(f"the twin hub answered its events with {answer.status}")
                document = await answer.json()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise TransportError(f"the twin hub's events: {type(error).__name__}: {error}") from error
        return [_event(item) for item in document["events"]], document["last"]

    async def close(self) -> None:
        """Close the connection."""
        await self._session.close()

    def _fresh_token(self) -> str:
        if time.time() > self._token_ends - _TOKEN_MARGIN:
            self._token_ends = time.time() + _TOKEN_SECONDS
            self._token = tokens.mint(
                self._identity_key, audience=tokens.HUB_AUDIENCE, subject=SUBJECT, lifetime=_TOKEN_SECONDS
            )
        return self._token


def _event(item: dict[str, Any]) -> HubEvent:
    return HubEvent(
        sequence=item["seq"],
        body=item["body"],
        properties=item["properties"],
        system_properties=item["system_properties"],
    )
