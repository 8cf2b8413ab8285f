"""Every call of the vault: within this instance's rate, and again after what may pass."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from azure.core.pipeline.policies import RetryPolicy, SansIOHTTPPolicy
from azure.core.rest import HttpRequest, HttpResponse

from functions import deadline
from functions.call_rates import CallRates, VaultCall, seconds_asked
from shared.errors import TransportError

if TYPE_CHECKING:
    from azure.core.pipeline import PipelineRequest, PipelineResponse

MAX_WAIT_SECONDS = 60.0
"""Longest wait between two attempts."""

_TOO_MANY_REQUESTS = 429
_RETRIES = 6


def vault_options(rates: CallRates | None) -> dict[str, Any]:
    """Return the options of an SDK's client of the vault.

    Args:
        rates: Shared by all clients of one vault; None for a client by itself, without a limit.
    """
    return {
        "retry_policy": VaultRetryPolicy(),
        "custom_hook_policy": VaultRatePolicy(rates if rates is not None else CallRates("vault")),
    }


class VaultRetryPolicy(RetryPolicy[HttpRequest, HttpResponse]):
    """The SDK's policy, with two differences.

    It also retries a throttled POST that tells no time to wait (unwrap, sign). And it waits as long as the
    vault asks, else a jittered back-off, at most a minute and no longer than the function may still take.
    """

    def __init__(self) -> None:
        super().__init__(retry_total=_RETRIES, retry_status=_RETRIES)

    def _is_method_retryable(
        self,
        settings: dict[str, Any],
        request: Any,  # noqa: ANN401 - the overridden method is generic in it
        response: Any = None,  # noqa: ANN401 - as above
    ) -> bool:
        throttled = response is not None and response.status_code == _TOO_MANY_REQUESTS
        return throttled or bool(super()._is_method_retryable(settings, request, response))

    def sleep(
        self,
        settings: dict[str, Any],
        transport: Any,  # noqa: ANN401 - as above
        response: Any = None,  # noqa: ANN401 - as above
    ) -> None:
        """Wait before the next attempt.

        Raises:
            TransportError: ``vault_unavailable``; that would take too long.
        """
        asked = seconds_asked(response.http_response.headers) if response is not None else None
        backoff = random.uniform(0.5, 1.0) * 2.0 ** (len(settings["history"]) - 1)  # noqa: S311 - jitter
        seconds = min(backoff if asked is None else asked, MAX_WAIT_SECONDS)
        if seconds > deadline.remaining():
            raise TransportError(
                f"the vault is to be asked again in {seconds:.0f} s, which is too late",
                code="vault_unavailable",
                retry_after=math.ceil(seconds),
            )
        transport.sleep(seconds)


class VaultRatePolicy(SansIOHTTPPolicy[HttpRequest, HttpResponse]):
    """Lets each request wait for its turn, retries and pages of listings included.

    Args:
        rates: Of this instance.
    """

    def __init__(self, rates: CallRates) -> None:
        super().__init__()
        self._rates = rates

    def on_request(self, request: PipelineRequest[HttpRequest]) -> None:
        """Wait for the turn.

        Raises:
            BusyError: It comes too late.
        """
        self._rates.take(call_of(request.http_request))

    def on_response(
        self, request: PipelineRequest[HttpRequest], response: PipelineResponse[HttpRequest, HttpResponse]
    ) -> None:
        """Hold everybody back if the vault had enough."""
        if response.http_response.status_code == _TOO_MANY_REQUESTS:
            asked = seconds_asked(response.http_response.headers)
            self._rates.refused(call_of(request.http_request), asked)


def call_of(request: HttpRequest) -> VaultCall:
    """Return what the vault counts a request as."""
    action = urlsplit(request.url).path.rpartition("/")[2]
    match request.method, action:
        case "GET", _:
            return VaultCall.READ
        case "POST", "sign":
            return VaultCall.SIGN
        case "POST", "unwrapkey":
            return VaultCall.UNWRAP
        case _:
            return VaultCall.WRITE
