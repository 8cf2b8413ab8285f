"""Client of the WrapKey contract (key-sharing protocol, section 3): a class key, wrapped for one public key.

TLS is required. No proxy is taken from the environment, no redirect followed. A function key goes into the
``x-functions-key`` header, or stays in the URL's query if the user put it there; neither is ever shown.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx

from cpk_tool.key_files import read_small
from cpk_tool.output import UsageError
from shared import strict_json
from shared.encoding import decode_base64, encode_base64
from shared.errors import FormatError, TransportError
from shared.types import MAX_KEY_VERSION, KeyName, WrapAlgorithm
from shared.wire.problems import refusal

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

MAX_ANSWER = 64 << 10
"""Largest answer that is read, in bytes."""

_TIMEOUT = httpx.Timeout(30.0, connect=10.0)
_OK = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class WrapKeyService:
    """Where the service is and how it is reached.

    Attributes:
        url: The endpoint as given; its query may hold a function key.
        function_key: Sent as a header if there is one.
        ca_file: PEM roots for TLS; ``None`` for ``SSL_CERT_FILE`` or the system's.
        allow_rsa1_5: Whether an answer wrapped with RSA PKCS#1 v1.5 is taken.
    """

    url: str = field(repr=False)
    function_key: str | None = field(repr=False)
    ca_file: Path | None
    allow_rsa1_5: bool

    @property
    def shown(self) -> str:
        """The endpoint without its query."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}{parts.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WrappedKey:
    """What the service answered; ``version`` is ``None`` where it does not say."""

    wrapped: bytes
    algorithm: WrapAlgorithm
    version: int | None


def service_from(options: argparse.Namespace, url: str) -> WrapKeyService:
    """Return the service that the command line names.

    Raises:
        UsageError: The URL is not https, or holds a user name.
        OSError: The function key's file cannot be read.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise UsageError("key store: expected an https:// URL, found something else") from error
    if parts.scheme not in {"https", "http"} or not parts.hostname or parts.username is not None:
        raise UsageError("key store: expected an https:// URL without user name, found something else")
    if parts.scheme == "http" and not options.insecure_http:
        raise UsageError(
            "key store: expected an https:// URL, found http://",
            hint="--insecure-http takes it; for a local test only",
        )
    function_key = os.environ.get("CPK_FUNCTION_KEY")
    if options.function_key_file is not None:
        function_key = read_small(options.function_key_file).decode("ascii", "replace")
    return WrapKeyService(
        url=url,
        function_key=_checked_function_key(function_key) if function_key else None,
        ca_file=options.ca_file,
        allow_rsa1_5=options.insecure_allow_rsa1_5,
    )


def request_wrapped_key(
    service: WrapKeyService,
    name: KeyName,
    *,
    public_key: bytes,
    certificates: bytes | None,
    version: int | None = None,
) -> WrappedKey:
    """Ask for a class key, wrapped for an RSA public key.

    Args:
        service: Where to ask.
        name: The class key's name.
        public_key: DER SubjectPublicKeyInfo of the key to wrap for.
        certificates: PEM chain for that key, leaf first, if there is one.
        version: The version wanted; by default the newest.

    Raises:
        PolicyDenied: The release policy said no.
        NotFound: The service has no such key.
        TransportError: It cannot be reached, is busy, or failed.
        FormatError: Its answer is not what the contract says.
    """
    body: dict[str, object] = {"key_name": name, "client_public_key": encode_base64(public_key)}
    if certificates is not None:
        body["client_cert"] = certificates.decode("ascii", "replace")
    if not service.allow_rsa1_5:
        body["algorithm"] = WrapAlgorithm.RSA_OAEP_256.value
    if version is not None:
        body["key_version"] = version
    status, answer = _post(service, body)
    if status != _OK:
        raise refusal(
            status,
            answer,
            where=f"{service.shown}: no class key {name}",
            unauthorized_hint="give the function key in $CPK_FUNCTION_KEY or --function-key-file",
        )
    wrapped = _parse_answer(service, answer)
    if version is not None and wrapped.version not in {version, None}:
        raise FormatError(
            f"{service.shown}: class key {name}: expected version {version}, found version {wrapped.version}"
        )
    return wrapped


def _checked_function_key(text: str) -> str:
    key = text.strip()
    if not key.isascii() or not key.isprintable():
        raise UsageError("function key: expected printable ASCII characters, found others")
    return key


def _post(service: WrapKeyService, body: dict[str, object]) -> tuple[int, bytes]:
    """Return status and body of the answer."""
    headers = {"accept": "application/json, application/problem+json"}
    if service.function_key is not None:
        headers["x-functions-key"] = service.function_key
    try:
        with (
            httpx.Client(verify=_tls(service), timeout=_TIMEOUT, trust_env=False) as client,
            client.stream("POST", service.url, json=body, headers=headers) as response,
        ):
            return response.status_code, _read_limited(response, service)
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise TransportError(f"{service.shown}: cannot be reached: {_reason(error)}") from error
    except httpx.HTTPError as error:
        raise FormatError(f"{service.shown}: its answer cannot be read: {type(error).__name__}") from error


def _tls(service: WrapKeyService) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=service.ca_file)
    except ssl.SSLError as error:
        raise FormatError(f"{service.ca_file}: expected PEM certificates, found none") from error


def _reason(error: Exception) -> str:
    """Return what went wrong; the exceptions' texts hold no header and no body."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _read_limited(response: httpx.Response, service: WrapKeyService) -> bytes:
    data = bytearray()
    for part in response.iter_bytes():
        data += part
        if len(data) > MAX_ANSWER:
            raise FormatError(
                f"{service.shown}: expected an answer of at most {MAX_ANSWER} bytes, found more"
            )
    return bytes(data)


def _parse_answer(service: WrapKeyService, answer: bytes) -> WrappedKey:
    where = service.shown
    document = strict_json.loads(answer, where=where)
    if not isinstance(document, dict):
        raise FormatError(f"{where}: expected a JSON object, found another value")
    version = document.get("key_version")
    if version is not None and (type(version) is not int or not 1 <= version <= MAX_KEY_VERSION):
        raise FormatError(f"{where}: key_version: expected 1 to {MAX_KEY_VERSION}, found something else")
    return WrappedKey(
        wrapped=decode_base64(document.get("wrapped_key"), where=f"{where}: wrapped_key"),
        algorithm=_algorithm(service, document.get("algorithm")),
        version=version,
    )


def _algorithm(service: WrapKeyService, answered: object) -> WrapAlgorithm:
    """Return how the key is wrapped; a service that does not say is the reference one, which uses RSA1_5."""
    try:
        algorithm = WrapAlgorithm(WrapAlgorithm.RSA1_5.value if answered is None else answered)
    except ValueError as error:
        raise FormatError(f"{service.shown}: algorithm: expected RSA-OAEP-256, found another") from error
    if algorithm is WrapAlgorithm.RSA_OAEP_256 or (
        algorithm is WrapAlgorithm.RSA1_5 and service.allow_rsa1_5
    ):
        return algorithm
    raise FormatError(
        f"{service.shown}: expected a key wrapped with RSA-OAEP-256, found {algorithm.value}",
        code="unsupported_algorithm",
        hint="--insecure-allow-rsa1_5 takes RSA1_5" if algorithm is WrapAlgorithm.RSA1_5 else None,
    )
