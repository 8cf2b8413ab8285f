"""WrapKey: wrap a class key for a build machine, if the policy allows it over what was verified of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from functions.audit import AuditRecord, caller_of
from functions.contract import Call, Contract, HttpFunctions, Tag
from shared.certificates import build_name_of, leaf_public_key
from shared.errors import EdbError, FormatError, PolicyDenied
from shared.keys.wrapping import WrapContext, algorithms_for, wrap_key
from shared.policy.claims import certificate_claims, request_claims
from shared.policy.document import Operation
from shared.policy.evaluate import Denied, evaluate
from shared.twin.entitlement import Denial, explain, verify_chain
from shared.wire.http import WrapAnswer, WrapRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from functions.services import Services
    from shared.policy.document import Policy
    from shared.types import WrapAlgorithm

# What the platform's own authentication tells about the caller, once it has replaced what the caller sent.
_PRINCIPAL_ID, _PRINCIPAL_NAME = "x-ms-client-principal-id", "x-ms-client-principal-name"


WRAP_KEY = Contract(
    name="WrapKey",
    method="POST",
    route="WrapKey",
    tag=Tag.WRAPPING,
    summary="Wrap a class key for the caller's public key, if the release policy allows it",
    description="A function key alone releases nothing: the policy decides over the caller's certificate.",
    body=WrapRequest,
    answer=WrapAnswer,
    problems=(
        *("unsupported_algorithm", "policy_denied", "key_not_found", "name_taken"),
        *("key_revoked", "key_aborted", "key_disabled", "key_expired", "key_not_yet_valid"),
        *("policy_unavailable", "audit_unavailable"),
    ),
)


def blueprint(services: Callable[[], Services]) -> HttpFunctions:
    """Return the function.

    Args:
        services: Puts the services together at the first call.
    """
    functions = HttpFunctions()

    @functions.serve(WRAP_KEY)
    def wrap_key_function(call: Call) -> WrapAnswer:
        return _audited(services(), WrapRequest.parse(call.body), call.headers, call.correlation_id)

    return functions


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grant:
    """What the policy allows a caller: by which rule, how to wrap, and for whom."""

    rule_id: str
    algorithm: WrapAlgorithm
    caller: str


def _audited(
    services: Services, asked: WrapRequest, headers: Mapping[str, str], correlation_id: str
) -> WrapAnswer:
    policy = services.policies.current().policy
    record = AuditRecord(
        event="wrap",
        outcome="allowed",
        correlation_id=correlation_id,
        caller=caller_of(headers, entra_in_front=services.entra_in_front),
        key_name=asked.key_name,
        key_version=asked.key_version,
        policy_sha256=policy.digest.hex(),
    )
    verdict = _authorize(services, policy, asked, headers)
    if isinstance(verdict, Denial):
        services.audit.write(replace(record, outcome="denied", reason=verdict.reason, detail=verdict.detail))
        raise PolicyDenied(f"{verdict.reason}: {verdict.detail}", reason=verdict.reason)
    build_name = verdict.caller or None
    caller = caller_of(headers, entra_in_front=services.entra_in_front, build_name=build_name)
    record = replace(record, rule=verdict.rule_id, caller=caller)
    try:
        answer = _wrap(services, asked, verdict)
    except EdbError as error:
        services.audit.write(replace(record, outcome="failed", reason=error.code, detail=str(error)))
        raise
    # Without a record there is no answer: what was wrapped is dropped here.
    services.audit.write(replace(record, key_version=answer.key_version, algorithm=answer.algorithm.value))
    return answer


def _authorize(
    services: Services, policy: Policy, asked: WrapRequest, headers: Mapping[str, str]
) -> _Grant | Denial:
    """Verify what the caller shows, and ask the policy.

    The steps are the same whatever the outcome, and none asks the vault: how long a denial takes depends on
    what the caller sent and on the policy, and on nothing that he could not know without it.

    Raises:
        FormatError: ``unsupported_algorithm``, the algorithm asked for is none for the caller's kind of key.
    """
    fitting = algorithms_for(asked.public_key.kind)
    if asked.algorithm is not None and asked.algorithm not in fitting:
        raise FormatError(
            f"/algorithm: {asked.algorithm.value} does not wrap for a {asked.public_key.kind.value} key",
            code="unsupported_algorithm",
        )
    at = services.now()
    path, fault = verify_chain(asked.certificates, services.trust, at=at)
    claims = {
        **certificate_claims(path, spki=asked.public_key.spki, device_id=None),
        **_caller_claims(services, headers),
        **request_claims(
            key_name=asked.key_name,
            key_kind=asked.public_key.kind,
            algorithm=asked.algorithm,
            key_version=asked.key_version,
        ),
    }
    answer = evaluate(policy, operation=Operation.WRAP, key_name=asked.key_name, claims=claims, at=at)
    if path is not None and leaf_public_key(path.leaf) != asked.public_key.spki:
        # Certificates are public: whoever shows one for another key shows nothing, whatever the policy asks.
        return Denial(reason="key_mismatch", detail="client_cert is for another key than client_public_key")
    if isinstance(answer, Denied):
        return explain(answer, claims, fault)
    wanted = fitting if asked.algorithm is None else (asked.algorithm,)
    algorithm = next((each for each in answer.algorithms if each in wanted), None)
    if algorithm is None:
        names = ", ".join(each.value for each in answer.algorithms)
        return Denial(reason="algorithm_not_allowed", detail=f"rule {answer.rule_id}: it allows {names}")
    caller = build_name_of(path.leaf) if path is not None else None
    return _Grant(rule_id=answer.rule_id, algorithm=algorithm, caller=caller or "")


def _caller_claims(services: Services, headers: Mapping[str, str]) -> dict[str, object]:
    if not services.entra_in_front:
        return {}
    named = {"entra_id": headers.get(_PRINCIPAL_ID), "entra_name": headers.get(_PRINCIPAL_NAME)}
    return {"caller": {claim: value for claim, value in named.items() if value}}


def _wrap(services: Services, asked: WrapRequest, grant: _Grant) -> WrapAnswer:
    """Wrap the version asked for, or the current one.

    Raises:
        NotFound: ``key_not_found``, there is no such class key or version.
        KeyUnavailable: ``key_revoked`` and the other codes of :meth:`ClassKeys.choose`.
    """
    version = services.class_keys.choose(asked.key_name, asked.key_version)
    context = WrapContext(
        audience=services.audience, device_id=grant.caller, name=asked.key_name, version=version
    )
    key = services.class_keys.open(asked.key_name, version)
    wrapped = wrap_key(key, asked.public_key, grant.algorithm, context=context)
    return WrapAnswer(wrapped_key=wrapped, algorithm=grant.algorithm, key_version=version)
