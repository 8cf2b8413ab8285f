"""Judge a device's twin or a build machine's certificate by a policy, offline, as the function app would.

The claims are built and the reasons named by the code that the function app runs. What is not known here: who
calls (``caller.*``; say it with ``--claim``), and whether the class key exists.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.certificates import build_name_of, leaf_public_key
from shared.errors import FormatError
from shared.keys.wrapping import algorithms_for
from shared.policy.claims import certificate_claims, request_claims
from shared.policy.document import Operation
from shared.policy.evaluate import Denied
from shared.policy.explaining import Explanation, explain
from shared.public_keys import load_public_key
from shared.twin import entitlement
from shared.twin.documents import parse_certificates, parse_public_key, parse_status
from shared.twin.entitlement import Denial, choose_algorithm, verified_claims, verify_chain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from cryptography import x509

    from shared.certificate_paths import TrustStore
    from shared.policy.document import Policy
    from shared.public_keys import PublicKey
    from shared.twin.documents import ReportedStatus
    from shared.twin.ports import Twin
    from shared.types import KeyName, WrapAlgorithm


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What is decided, and all that it rests on.

    Attributes:
        subject: Who it is about.
        operation: What is asked for.
        key_name: On which class key.
        explanation: Of the policy's part; None if it is not even asked.
        denial: Why not, or None if it is allowed.
        algorithm: How the key would be wrapped, if it is allowed.
    """

    subject: str
    operation: Operation
    key_name: KeyName
    explanation: Explanation | None
    denial: Denial | None
    algorithm: WrapAlgorithm | None


def judge_device(
    twin: Twin, key_name: KeyName, *, policy: Policy, trust: TrustStore, at: datetime
) -> Judgement:
    """Judge whether a device would be released a class key."""
    facts = _facts(twin, trust, at)
    explanation, algorithm = None, None
    if isinstance(facts, Denial):
        denial: Denial | None = facts
    else:
        explanation = explain(
            policy,
            operation=Operation.DISTRIBUTE,
            key_name=key_name,
            claims=facts.claims,
            v1=facts.status is None,
            at=at,
        )
        verdict = explanation.verdict
        if isinstance(verdict, Denied):
            denial = entitlement.explain(verdict, facts.claims, facts.fault, hub_status=twin.status)
        else:
            algorithm = choose_algorithm(verdict, facts.public_key.kind, facts.status)
            denial = _unsupported(verdict.rule_id) if algorithm is None else None
    return Judgement(
        subject=f"device {twin.device_id}",
        operation=Operation.DISTRIBUTE,
        key_name=key_name,
        explanation=explanation,
        denial=denial,
        algorithm=algorithm,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """What a twin says and proves; ``fault`` is why the certificate's claims are absent, if they are."""

    public_key: PublicKey
    status: ReportedStatus | None
    claims: Mapping[str, object]
    fault: Denial | None


def _facts(twin: Twin, trust: TrustStore, at: datetime) -> _Facts | Denial:
    reason = "public_key_invalid"
    try:
        public_key = parse_public_key(twin.reported)
        if public_key is None:
            return Denial(reason=entitlement.PUBLIC_KEY_MISSING, detail="the device reports no public key")
        reason = "report_malformed"
        status = parse_status(twin.reported)
        reason = "certificate_malformed"
        chain = parse_certificates(twin.reported)
        claims, fault = verified_claims(twin, public_key, chain, trust, at)
    except FormatError as error:
        return Denial(reason=reason, detail=str(error))
    return _Facts(public_key=public_key, status=status, claims=claims, fault=fault)


def _unsupported(rule_id: str) -> Denial:
    detail = f"rule {rule_id}: none of its algorithms fits the device and its key"
    return Denial(reason="unsupported_algorithm", detail=detail)


def judge_build_machine(
    chain: Sequence[x509.Certificate],
    key_name: KeyName,
    *,
    more_claims: Mapping[str, object],
    policy: Policy,
    trust: TrustStore,
    at: datetime,
) -> Judgement:
    """Judge whether a class key would be wrapped for the key of a build machine's certificate.

    Args:
        chain: Its certificates, leaf first.
        key_name: The class key.
        more_claims: Groups of claims that cannot be known here.
        policy: The policy.
        trust: The roots that the chain must lead to.
        at: Now, aware.

    Raises:
        FormatError: The certificate's key is none that a class key can be wrapped for.
    """
    public_key = load_public_key(leaf_public_key(chain[0]), where="certificate")
    path, fault = verify_chain(chain, trust, at=at)
    claims = {
        **certificate_claims(path, spki=public_key.spki, device_id=None),
        **request_claims(key_name=key_name, key_kind=public_key.kind, algorithm=None, key_version=None),
        **more_claims,
    }
    explanation = explain(policy, operation=Operation.WRAP, key_name=key_name, claims=claims, at=at)
    verdict = explanation.verdict
    algorithm = None
    if isinstance(verdict, Denied):
        denial: Denial | None = entitlement.explain(verdict, claims, fault)
    else:
        fitting = algorithms_for(public_key.kind)
        algorithm = next((each for each in verdict.algorithms if each in fitting), None)
        names = ", ".join(each.value for each in verdict.algorithms)
        denial = (
            Denial(reason="algorithm_not_allowed", detail=f"rule {verdict.rule_id}: it allows {names}")
            if algorithm is None
            else None
        )
    return Judgement(
        subject=f"build machine {build_name_of(chain[0]) or '(not named by its certificate)'}",
        operation=Operation.WRAP,
        key_name=key_name,
        explanation=explanation,
        denial=denial,
        algorithm=algorithm,
    )
