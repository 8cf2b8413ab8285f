"""Between the Functions host and the HTTP contracts: requests in, answers and problems out.

Every error leaves as ``application/problem+json``. Errors about the request say what is wrong with it; all
others say nothing but a correlation id, and what happened stands in the log under it.
"""

from __future__ import annotations

import logging
import re
import uuid
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING

import azure.functions as func

from functions import deadline, telemetry
from functions.problems import PROBLEMS
from shared.errors import (
    Conflict,
    EdbError,
    FormatError,
    KeyUnavailable,
    NotFound,
    PolicyDenied,
    TransportError,
)
from shared.wire.http import encode_json, problem

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

QUEUE_CONNECTION = "AzureWebJobsStorage"
PASSES_QUEUE = "distribute-passes"
PAGES_QUEUE = "distribute-pages"
PASSES_POISON = "distribute-passes-poison"
PAGES_POISON = "distribute-pages-poison"

_LOG = logging.getLogger(__name__)
_TRACE_PARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_CORRELATION_ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_RETRY_SECONDS = 5
_WORK_SECONDS = 50.0  # callers give up after a minute, as edb does
# Errors of these branches are about the request; of all others nothing is told.
_TOLD = (FormatError, PolicyDenied, KeyUnavailable, NotFound, Conflict)
# What keeps the app from answering, and its operator has to know.
_TOLD_CODES = frozenset({"policy_unavailable", "audit_unavailable", "audit_damaged"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A successful answer: its status, its JSON document or the bytes of one, further headers."""

    document: Mapping[str, object] | bytes
    status: HTTPStatus = HTTPStatus.OK
    headers: Mapping[str, str] = field(default_factory=dict)


class MethodNotAllowedError(EdbError):
    """The route exists, but not under this method.

    Args:
        allowed: The one method that it takes.
    """

    default_code = "method_not_allowed"

    def __init__(self, allowed: str) -> None:
        super().__init__(f"expected {allowed}")
        self.allowed = allowed


class NotReadyError(EdbError):
    """Some part of the app is not ready.

    Args:
        parts: Each part's state.
    """

    default_code = "not_ready"

    def __init__(self, parts: Mapping[str, str]) -> None:
        missing = ", ".join(name for name, state in parts.items() if state != "ready")
        super().__init__(f"not ready: {missing}")
        self.parts = parts


def correlation_id_of(request: func.HttpRequest) -> str:
    """Return the id in ``traceparent`` (W3C Trace Context), else ``x-correlation-id``, else a new one."""
    trace = _TRACE_PARENT.fullmatch(request.headers.get("traceparent", ""))
    if trace:
        return trace[1]
    given = request.headers.get("x-correlation-id", "")
    return given if _CORRELATION_ID.fullmatch(given) else uuid.uuid4().hex


def respond(request: func.HttpRequest, act: Callable[[str], Answer]) -> func.HttpResponse:
    """Answer a request.

    Args:
        request: The host's.
        act: Does what was asked for; is given the correlation id. Its errors become problems.
    """
    correlation_id = correlation_id_of(request)
    parent = request.headers.get("traceparent", "")
    with telemetry.request(request.url, correlation_id=correlation_id, parent=parent) as answered:
        response = _answer(act, correlation_id)
        answered(response.status_code)
    return response


def _answer(act: Callable[[str], Answer], correlation_id: str) -> func.HttpResponse:
    try:
        with deadline.within(_WORK_SECONDS):
            answer = act(correlation_id)
    except EdbError as error:
        return _refuse(error, correlation_id)
    except Exception:  # noqa: BLE001 - nothing of ours is further out; the host would show what went wrong
        _LOG.exception("request_failed", extra={"correlation_id": correlation_id})
        return _refuse(EdbError("internal error"), correlation_id)
    return _response(answer.document, answer.status, correlation_id, headers=answer.headers)


def _refuse(error: EdbError, correlation_id: str) -> func.HttpResponse:
    status, shown = _public(error)
    if shown is not error:
        _LOG.error(
            "request_failed",
            extra={"correlation_id": correlation_id, "code": error.code, "detail": str(error)},
        )
    headers = {"Content-Type": "application/problem+json"}
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = str(int(getattr(error, "retry_after", None) or _RETRY_SECONDS))
    if isinstance(error, MethodNotAllowedError):
        headers["Allow"] = error.allowed
    document = problem(shown, status=status, correlation_id=correlation_id)
    return _response(document, status, correlation_id, headers=headers)


def _public(error: EdbError) -> tuple[HTTPStatus, EdbError]:
    """Return the status of an error and what the caller may see of it: all of it only if it is his own."""
    told = error.code in PROBLEMS and isinstance(error, (*_TOLD, MethodNotAllowedError, NotReadyError))
    if error.code in _TOLD_CODES:
        return PROBLEMS[error.code].status, error
    if isinstance(error, TransportError):
        message = "a service behind this one cannot be reached now"
        error = EdbError(message, code="unavailable", hint="try again later")
    elif not told:
        error = EdbError("internal error", code="internal")
    return PROBLEMS[error.code].status, error


def _response(
    document: Mapping[str, object] | bytes,
    status: HTTPStatus,
    correlation_id: str,
    *,
    headers: Mapping[str, str],
) -> func.HttpResponse:
    all_headers = {
        "Content-Type": "application/json",
        "Cache-Control": "no-store",
        "x-correlation-id": correlation_id,
        **headers,
    }
    return func.HttpResponse(
        document if isinstance(document, bytes) else encode_json(document),
        status_code=status.value,
        headers=all_headers,
        mimetype=all_headers["Content-Type"],
        charset="utf-8",
    )
