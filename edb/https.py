"""Calls of the key service over TLS: limits, retries that cannot do a thing twice, refusals as errors.

TLS is required and verified. No proxy is taken from the environment and no redirect followed. Function key
and token go into headers and are never shown.
"""

from __future__ import annotations

import enum
import json
import ssl
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import httpx

from shared import strict_json
from shared.errors import EdbError, FormatError, TransportError
from shared.wire.problems import refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from edb.settings import Connection

MAX_ANSWER: Final = 16 << 20
"""Largest answer that is read, in bytes."""

PAUSES: Final = (0.5, 2.0, 5.0)
"""Seconds before the second, third and last attempt."""

LONGEST_PAUSE: Final = 60.0
"""Seconds that ``Retry-After`` can ask for at most."""

_TIMEOUT = httpx.Timeout(60.0, connect=10.0)
_SUCCESS = range(200, 300)
_OVERLOADED: Final = frozenset({429, 503})  # turned away before anything was done
_UNAUTHORIZED_HINT = (
    "give the function key in $EDB_FUNCTION_KEY, --function-key-file or --cloud; a token with --entra"
)


class Again(enum.Enum):
    """When a call that failed on its way may be made once more."""

    ALWAYS = "always"
    """Making it twice is making it once: it reads, or it bears an ``Idempotency-Key``."""

    UNSENT = "unsent"
    """Only if it never left: no connection came about, or the service turned it away."""

    NEVER = "never"
    """The refusal is the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A successful answer: its status, headers and body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def document(self, where: str) -> dict[str, object]:
        """Return the body as a JSON object.

        Raises:
            FormatError: It is none.
        """
        value = strict_json.loads(self.body, where=where)
        if not isinstance(value, dict):
            raise FormatError(f"{where}: expected a JSON object, found {type(value).__name__}")
        return value


def idempotency_key() -> dict[str, str]:
    """Return the header that makes every attempt of one call the same call."""
    return {"Idempotency-Key": uuid.uuid4().hex}


class HttpsClient:
    """A connection to the key service; a context manager.

    Args:
        connection: Where to, and as whom.
        pause: Waits for seconds.

    Raises:
        FormatError: The roots are not PEM certificates.
        EdbError: No Entra token can be had.
    """

    def __init__(self, connection: Connection, *, pause: Callable[[float], None] = time.sleep) -> None:
        self._connection = connection
        self._pause = pause
        self._client = httpx.Client(
            base_url=connection.url,
            verify=_tls(connection),
            timeout=_TIMEOUT,
            trust_env=False,
            headers=_credentials(connection),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def call(
        self,
        method: str,
        path: str,
        *,
        again: Again,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, object] | bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Make a call, again if it failed on its way and may be made again.

        Args:
            method: GET, POST or PUT.
            path: Below the address, quoted: ``/api/keys``.
            again: When it may be made again.
            params: The query.
            body: A JSON object, or bytes of JSON that go out as they are.
            headers: Further ones.

        Raises:
            EdbError: The service refused, as :func:`shared.wire.problems.refusal` tells.
            TransportError: It could not be reached, or failed every time.
            FormatError: Its answer is too long, or no HTTP.
        """
        content = json.dumps(body).encode() if not isinstance(body, bytes | None) else body
        request = self._client.build_request(
            method,
            path,
            params=dict(params or {}),
            content=content,
            headers={"content-type": "application/json", **(headers or {})},
        )
        for pause in PAUSES:
            try:
                return self._send(request)
            except TransportError as error:
                if not _may_repeat(error, again):
                    raise
                self._pause(min(error.retry_after or pause, LONGEST_PAUSE))
        return self._send(request)

    def _send(self, request: httpx.Request) -> Answer:
        where = f"{request.method} {request.url.copy_with(query=None)}"
        try:
            response = self._client.send(request, stream=True)
            try:
                body = _read_limited(response, where)
            finally:
                response.close()
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise _unreachable(where, error) from error
        except httpx.TransportError as error:
            raise TransportError(f"{where}: no answer: {_reason(error)}", code="no_answer") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise FormatError(f"{where}: its answer cannot be read: {type(error).__name__}") from error
        if response.status_code in _SUCCESS:
            return Answer(status=response.status_code, headers=response.headers, body=body)
        told = refusal(
            response.status_code,
            body,
            where=where,
            unauthorized_hint=_UNAUTHORIZED_HINT,
            retry_after=response.headers.get("retry-after"),
        )
        if isinstance(told, TransportError) and response.status_code in _OVERLOADED:
            raise _NotDoneError(str(told), code=told.code, hint=told.hint, retry_after=told.retry_after)
        raise told


class _NotDoneError(TransportError):
    """No connection came about, or the service turned the call away: nothing was done."""


def _may_repeat(error: TransportError, again: Again) -> bool:
    if again is Again.NEVER or error.code == "tls":
        return False
    return again is Again.ALWAYS or isinstance(error, _NotDoneError)


def _unreachable(where: str, error: httpx.TransportError) -> TransportError:
    reason = _reason(error)
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        return _NotDoneError(
            f"{where}: its certificate is not trusted: {reason}",
            code="tls",
            hint="--ca-file names the roots to trust; --cloud knows a local cloud's",
        )
    return _NotDoneError(f"{where}: cannot be reached: {reason}", code="unreachable")


def _reason(error: Exception) -> str:
    """Return what went wrong; the exceptions' texts hold no header and no body."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _read_limited(response: httpx.Response, where: str) -> bytes:
    data = bytearray()
    for part in response.iter_bytes():
        data += part
        if len(data) > MAX_ANSWER:
            raise FormatError(f"{where}: expected an answer of at most {MAX_ANSWER} bytes, found more")
    return bytes(data)


def _tls(connection: Connection) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=connection.ca_file)
    except ssl.SSLError as error:
        raise FormatError(f"{connection.ca_file}: expected PEM certificates, found none") from error


def _credentials(connection: Connection) -> dict[str, str]:
    headers = {"accept": "application/json, application/problem+json"}
    if connection.function_key is not None:
        headers["x-functions-key"] = connection.function_key.reveal().decode("ascii")
    if connection.scope is not None:
        headers["authorization"] = f"Bearer {_entra_token(connection.scope)}"
    return headers


def _entra_token(scope: str) -> str:
    """Return a token of whoever is signed in here: workload or managed identity, ``az login``, or another."""
    from azure.core.exceptions import ClientAuthenticationError  # noqa: PLC0415 - seldom needed, slow
    from azure.identity import CredentialUnavailableError, DefaultAzureCredential  # noqa: PLC0415 - as above

    try:
        with DefaultAzureCredential() as credential:
            return credential.get_token(scope).token
    except (ClientAuthenticationError, CredentialUnavailableError) as error:
        raise EdbError(
            f"no Entra ID token for {scope}: nobody is signed in here that may have one",
            code="unauthorized",
            hint="az login, or run where a managed identity is",
        ) from error
