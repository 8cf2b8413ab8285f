"""Policy: the release policy in force, as loaded; and another one in its place, by an administrator."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from functions.contract import Call, Contract, HttpFunctions, Tag
from functions.endpoint import Answer
from functions.operations import record_of
from shared.errors import EdbError, FormatError
from shared.policy.document import MAX_POLICY_BYTES, load_policy
from shared.wire.objects import encode
from shared.wire.policy import PolicyAnswer

if TYPE_CHECKING:
    from collections.abc import Callable

    from functions.policy_source import InForce
    from functions.services import Services

_HEADERS: Final = {
    "ETag": "Of the document, for If-Match.",
    "x-policy-serial": "Its serial.",
    "x-policy-sha256": "SHA-256 of its bytes, as audit records name it.",
}

POLICY = Contract(
    name="Policy",
    method="GET",
    route="policy",
    tag=Tag.READING,
    summary="The release policy in force, as it was loaded",
    problems=("policy_unavailable",),
    answer_headers=_HEADERS,
)
PUBLISH_POLICY = Contract(
    name="PublishPolicy",
    method="PUT",
    route="policy",
    tag=Tag.ADMINISTRATION,
    summary="Put a release policy in force",
    document="A release policy, as docs/spec/release-policy.schema.json describes it.",
    answer=PolicyAnswer,
    problems=("policy_serial", "policy_changed", "policy_read_only", "audit_unavailable"),
    request_headers={"If-Match": "The ETag of the policy that it replaces; any without one."},
    answer_headers=_HEADERS,
    needs_master_key=True,
)


def blueprint(services: Callable[[], Services]) -> HttpFunctions:
    """Return the functions.

    Args:
        services: Puts the services together at the first call.
    """
    functions = HttpFunctions()

    @functions.serve(POLICY)
    def policy(_call: Call) -> Answer:
        in_force = services().policies.current()
        return Answer(document=in_force.data, headers=_headers(in_force))

    @functions.serve(PUBLISH_POLICY)
    def publish_policy(call: Call) -> Answer:
        return _publish(services(), call)

    return functions


def _publish(services: Services, call: Call) -> Answer:
    """Publish what loads and rises; what it allows is on record before it is in force."""
    data = call.body
    if len(data) > MAX_POLICY_BYTES:
        raise FormatError(
            f"request body: expected at most {MAX_POLICY_BYTES} bytes, found {len(data)}",
            code="body_too_large",
        )
    etag = call.headers.get("If-Match", "").strip()
    policy = load_policy(data, where="request body")
    record = record_of(
        services,
        call,
        "publish_policy",
        detail=f"policy {policy.id}, serial {policy.serial}",
        policy_sha256=policy.digest.hex(),
    )
    services.audit.write(record)
    try:
        in_force = services.policies.publish(data, etag=None if etag in {"", "*"} else etag)
    except EdbError as error:
        services.audit.write_if_possible(replace(record, outcome="failed", reason=error.code))
        raise
    told = PolicyAnswer(id=policy.id, serial=policy.serial, sha256=policy.digest.hex())
    return Answer(document=encode(told), headers=_headers(in_force))


def _headers(in_force: InForce) -> dict[str, str]:
    return {
        "ETag": in_force.etag,
        "x-policy-serial": str(in_force.policy.serial),
        "x-policy-sha256": in_force.policy.digest.hex(),
    }
