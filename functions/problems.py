"""Every problem that the HTTP contracts can answer with: its stable code, its status, what it means.

The endpoint answers with nothing else: an error whose code is not here leaves as ``internal``. So a contract
that can fail in a new way gets its code here first, and ``docs/guides/http-api.md`` lists what is here.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemKind:
    """One code.

    Args:
        status: The answer's.
        meaning: A sentence for the documents.
    """

    status: HTTPStatus
    meaning: str


def _kind(status: HTTPStatus, meaning: str) -> ProblemKind:
    return ProblemKind(status=status, meaning=meaning)


PROBLEMS: Mapping[str, ProblemKind] = {
    "malformed": _kind(
        HTTPStatus.BAD_REQUEST,
        "The body is not one JSON object or no release policy, or the route holds no id.",
    ),
    "invalid_request": _kind(HTTPStatus.BAD_REQUEST, "Fields are wrong; `errors` tells all of them."),
    "name_invalid": _kind(HTTPStatus.BAD_REQUEST, "The route holds no key name."),
    "wrapped_key_invalid": _kind(
        HTTPStatus.BAD_REQUEST, "`wrapped_key` does not unwrap to a key of 16, 24 or 32 bytes."
    ),
    "unsupported_algorithm": _kind(
        HTTPStatus.BAD_REQUEST, "`algorithm` does not wrap for the caller's kind of key."
    ),
    "idempotency_key_invalid": _kind(
        HTTPStatus.BAD_REQUEST, "`Idempotency-Key` is not 1 to 128 visible ASCII characters."
    ),
    "token_invalid": _kind(HTTPStatus.BAD_REQUEST, "`token` was told by no page of this query."),
    "policy_denied": _kind(HTTPStatus.FORBIDDEN, "The release policy says no; `reason` says why."),
    "key_revoked": _kind(HTTPStatus.FORBIDDEN, "That version of the class key is revoked."),
    "key_aborted": _kind(HTTPStatus.FORBIDDEN, "The rollout of that version was aborted."),
    "key_disabled": _kind(HTTPStatus.FORBIDDEN, "That version of the class key is disabled in the vault."),
    "key_expired": _kind(HTTPStatus.FORBIDDEN, "That version of the class key has expired."),
    "key_not_yet_valid": _kind(HTTPStatus.FORBIDDEN, "That version's time has not come."),
    "key_not_found": _kind(HTTPStatus.NOT_FOUND, "There is no such class key, or no such version of it."),
    "device_not_found": _kind(HTTPStatus.NOT_FOUND, "The hub knows no such device or module."),
    "method_not_allowed": _kind(HTTPStatus.METHOD_NOT_ALLOWED, "The route takes the method in `Allow`."),
    "key_exists": _kind(HTTPStatus.CONFLICT, "The class key exists already and was left as it is."),
    "name_taken": _kind(HTTPStatus.CONFLICT, "The vault's secret of that name holds something else."),
    "key_deleted": _kind(HTTPStatus.CONFLICT, "The class key was deleted and can still be recovered."),
    "key_in_use": _kind(HTTPStatus.CONFLICT, "A version of the class key is not revoked."),
    "version_exists": _kind(HTTPStatus.CONFLICT, "Somebody else made that version at the same time."),
    "rollout_unfinished": _kind(
        HTTPStatus.CONFLICT, "A version of the class key is not there for all devices yet."
    ),
    "rollout_changed": _kind(HTTPStatus.CONFLICT, "The rollout is not where the caller has found it."),
    "conflict": _kind(HTTPStatus.CONFLICT, "The class key changes too fast; look again."),
    "key_not_reported": _kind(HTTPStatus.CONFLICT, "The device reports no public key that can be used."),
    "fingerprint_mismatch": _kind(HTTPStatus.CONFLICT, "The device reports another key than was named."),
    "nothing_bound": _kind(HTTPStatus.CONFLICT, "The device has no release yet: its first one binds it."),
    "twin_conflict": _kind(HTTPStatus.CONFLICT, "The twin changes too fast; look again."),
    "policy_serial": _kind(HTTPStatus.CONFLICT, "The policy's serial does not rise."),
    "policy_read_only": _kind(
        HTTPStatus.CONFLICT, "The policy is deployed with the app and not the app's to write."
    ),
    "policy_changed": _kind(
        HTTPStatus.PRECONDITION_FAILED, "The stored policy is another than `If-Match` says."
    ),
    "body_too_large": _kind(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The body is longer than 64 KiB, or a policy than 256 KiB."
    ),
    "idempotency_key_reused": _kind(
        HTTPStatus.UNPROCESSABLE_ENTITY, "That `Idempotency-Key` came with another request before."
    ),
    "internal": _kind(HTTPStatus.INTERNAL_SERVER_ERROR, "A fault of the app; its log knows more."),
    "audit_damaged": _kind(
        HTTPStatus.INTERNAL_SERVER_ERROR, "A line of the audit chain is no entry; `detail` says which."
    ),
    "unavailable": _kind(
        HTTPStatus.SERVICE_UNAVAILABLE, "Vault or hub cannot be reached; come back after `Retry-After`."
    ),
    "policy_unavailable": _kind(HTTPStatus.SERVICE_UNAVAILABLE, "No release policy is in force."),
    "audit_unavailable": _kind(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "The audit chain takes no record: nothing was released or bound; what was done to a class key is "
        "done.",
    ),
    "not_ready": _kind(HTTPStatus.SERVICE_UNAVAILABLE, "The app is not ready; `parts` says what of it."),
}
"""By code."""

FIELD_FAULTS: Mapping[str, str] = {
    "missing": "The field has to be there.",
    "malformed": "The value is not what its description says.",
    "name_invalid": "The value is no key name.",
    "name_conflict": "The body names another key than the route.",
    "unsupported_algorithm": "The value is no algorithm of this contract.",
}
"""Codes of single fields, under ``errors``."""
