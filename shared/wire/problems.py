"""Read how a service says no: ``application/problem+json`` (RFC 9457), or whatever stands in front of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shared import strict_json
from shared.errors import Conflict, EdbError, FormatError, NotFound, PolicyDenied, TransportError

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_TOLD: Final = 512
"""Most characters of a problem's field that are repeated."""

_KINDS: Final[Mapping[int, type[EdbError]]] = {403: PolicyDenied, 404: NotFound, 409: Conflict, 412: Conflict}
_PASSING: Final = frozenset({408, 429, 500, 502, 503, 504})
_UNAUTHORIZED: Final = 401


def refusal(
    status: int, answer: bytes, *, where: str, unauthorized_hint: str, retry_after: str | None = None
) -> EdbError:
    """Return the error for an answer that is no success.

    Args:
        status: Of the answer.
        answer: Its body; anything at all.
        where: What was asked of whom, for the message.
        unauthorized_hint: What to do about a 401.
        retry_after: The header ``Retry-After``, if there is one.

    Returns:
        PolicyDenied for 403, NotFound for 404, Conflict for 409 and 412, TransportError for what may pass, a
        plain EdbError for all else. The code is the problem's, the message ends in its correlation id.
    """
    told = _told(answer)
    parts = [f"status {status}", told.get("code"), told.get("detail") or told.get("title")]
    message = f"{where}: {': '.join(part for part in parts if part)}"
    if "correlation_id" in told:
        message += f" (correlation id {told['correlation_id']})"
    code, hint = told.get("code"), told.get("hint")
    if status == _UNAUTHORIZED:
        code, hint = code or "unauthorized", unauthorized_hint
    if status in _PASSING:
        seconds = float(retry_after) if retry_after is not None and retry_after.isdecimal() else None
        return TransportError(message, code=code, hint=hint, retry_after=seconds)
    return _KINDS.get(status, EdbError)(message, code=code, hint=hint)


def _told(answer: bytes) -> dict[str, str]:
    """Return the fields of a problem that are text, cut to what can be repeated; none if it is no problem."""
    try:
        document = strict_json.loads(answer, where="answer")
    except FormatError:
        return {}
    problem = document if isinstance(document, dict) else {}
    return {
        name: value[:MAX_TOLD]
        for name in ("code", "title", "detail", "hint", "correlation_id")
        if isinstance(value := problem.get(name), str) and value
    }
