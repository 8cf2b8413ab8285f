"""Which class keys a device may hold now: its twin parsed, its claims verified, the policy asked.

Steps 1 and 2 of protocol section 5. A field that does not parse denies that device and no other. When the
policy says no because the certificate's claims are absent, the reason that is told is the certificate's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.certificate_paths import validate_path
from shared.certificates import changes_of
from shared.errors import FormatError, VerificationError
from shared.keys.wrapping import algorithms_for
from shared.policy.claims import certificate_claims, hub_claims
from shared.policy.document import Operation
from shared.policy.evaluate import Allowed, Denied, evaluate
from shared.twin.documents import (
    ReportedStatus,
    parse_certificates,
    parse_public_key,
    parse_status,
)
from shared.types import WrapAlgorithm

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from cryptography import x509

    from shared.certificate_paths import TrustStore, ValidatedPath
    from shared.keys.store import ClassKeyState
    from shared.policy.document import Policy
    from shared.public_keys import KeyKind, PublicKey
    from shared.twin.ports import Twin
    from shared.types import DeviceId, KeyName

PUBLIC_KEY_MISSING = "public_key_missing"
"""Reason of a device that reports no key: it takes no part."""

REPORT_MALFORMED = "report_malformed"
"""Reason of a device whose status does not parse."""

_V1_ALGORITHMS = (WrapAlgorithm.RSA_OAEP_256, WrapAlgorithm.RSA1_5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """Why a device gets nothing.

    Args:
        reason: Stable code, as it stands in the tag.
        detail: What was expected and found, for the audit record.
    """

    reason: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entitlement:
    """One class key that a device may hold.

    Args:
        version: The staged one if its rollout reaches the device, else the current one.
        algorithm: How it is to be wrapped.
        key_bytes: Length of the class key.
        rule_id: The policy rule that allows it.
        lease_seconds: For how long.
        is_staged: Whether a part of the fleet alone is to have that version so far.
    """

    version: int
    algorithm: WrapAlgorithm
    key_bytes: int
    rule_id: str
    lease_seconds: int
    is_staged: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Entitled:
    """What the policy allows a device.

    Args:
        public_key: The device key's public half.
        keys: The class keys that it may hold now; empty if none exists or all are revoked.
        floors: Of every class key that a rule allows it and of which versions were revoked.
    """

    public_key: PublicKey
    keys: Mapping[KeyName, Entitlement]
    floors: Mapping[KeyName, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Applicant:
    """A device, as far as what it reports could be parsed.

    Args:
        public_key: None if it reports none that can be used; nothing can be wrapped or signed for it then.
        status: None for a device of version 1, and for one whose status does not parse.
        verdict: What it may hold, or why it may not.
        certified: Whether a valid certificate names both the device and its key.
        changes: When time alone may change the verdict, Unix seconds, past and to come.
    """

    public_key: PublicKey | None
    status: ReportedStatus | None
    verdict: Entitled | Denial
    certified: bool = False
    changes: Sequence[int] = ()


def assess(
    twin: Twin,
    class_keys: Mapping[KeyName, ClassKeyState],
    *,
    policy: Policy,
    trust: TrustStore,
    at: datetime,
) -> Applicant:
    """Decide which class keys a device may hold.

    Args:
        twin: As the hub holds it.
        class_keys: Every class key there is.
        policy: The release policy.
        trust: The roots that device certificates must lead to.
        at: Now, aware.
    """
    try:
        public_key = parse_public_key(twin.reported)
    except FormatError as error:
        return _denied("public_key_invalid", str(error))
    if public_key is None:
        return _denied(PUBLIC_KEY_MISSING, "the device reports no public key")
    try:
        status = parse_status(twin.reported)
    except FormatError as error:
        return _denied(REPORT_MALFORMED, str(error), public_key=public_key)
    try:
        chain = parse_certificates(twin.reported)
    except FormatError as error:
        return _denied("certificate_malformed", str(error), public_key=public_key, status=status)
    claims, certificate_fault = verified_claims(twin, public_key, chain, trust, at)
    answer = _ask_policy(
        class_keys, policy, claims, at=at, public_key=public_key, status=status, device_id=twin.device_id
    )
    verdict = (
        explain(answer, claims, certificate_fault, hub_status=twin.status)
        if isinstance(answer, Denied)
        else answer
    )
    changes = changes_of(chain)
    if policy.not_after is not None:
        changes.append(int(policy.not_after.timestamp()))
    return Applicant(
        public_key=public_key,
        status=status,
        verdict=verdict,
        certified=_is_certified(claims),
        changes=changes,
    )


def _is_certified(claims: Mapping[str, object]) -> bool:
    certificate = claims.get("x509")
    return isinstance(certificate, Mapping) and all(
        certificate.get(claim) is True for claim in ("key_matches", "device_id_matches")
    )


def _denied(
    reason: str, detail: str, *, public_key: PublicKey | None = None, status: ReportedStatus | None = None
) -> Applicant:
    denial = Denial(reason=reason, detail=detail)
    return Applicant(public_key=public_key, status=status, verdict=denial)


def verified_claims(
    twin: Twin, public_key: PublicKey, chain: Sequence[x509.Certificate], trust: TrustStore, at: datetime
) -> tuple[dict[str, object], Denial | None]:
    """Return the claims that hold, and what is wrong with the certificate if its claims are absent."""
    path, fault = verify_chain(chain, trust, at=at)
    claims = {
        **hub_claims(device_id=twin.device_id, status=twin.status, tags=twin.tags),
        **certificate_claims(path, spki=public_key.spki, device_id=twin.device_id),
    }
    return claims, fault


def _ask_policy(
    class_keys: Mapping[KeyName, ClassKeyState],
    policy: Policy,
    claims: Mapping[str, object],
    *,
    at: datetime,
    public_key: PublicKey,
    status: ReportedStatus | None,
    device_id: DeviceId,
) -> Entitled | Denied:
    """Ask for every class key; the refusal that tells most is answered only if not one key is allowed."""
    keys: dict[KeyName, Entitlement] = {}
    floors: dict[KeyName, int] = {}
    refusals: list[Denied] = []
    judged: dict[str, Allowed | str] = {}
    for name, state in sorted(class_keys.items()):
        answer = evaluate(
            policy,
            operation=Operation.DISTRIBUTE,
            key_name=name,
            claims=claims,
            v1=status is None,
            at=at,
            judged=judged,
        )
        if isinstance(answer, Allowed):
            algorithm = choose_algorithm(answer, public_key.kind, status)
            if algorithm is not None:
                if state.floor > 1:
                    floors[name] = state.floor
                version = state.version_for(device_id)
                if version is not None:
                    staged = state.staged
                    keys[name] = Entitlement(
                        version=version,
                        algorithm=algorithm,
                        key_bytes=state.key_bytes,
                        rule_id=answer.rule_id,
                        lease_seconds=answer.lease_seconds,
                        is_staged=staged is not None and staged.version == version,
                    )
                continue
            answer = Denied(
                reason="unsupported_algorithm",
                detail=f"rule {answer.rule_id}: none of its algorithms fits the device and its key",
            )
        refusals.append(answer)
    if refusals and not keys and not floors:
        return min(refusals, key=lambda refusal: (refusal.reason == "no_rule", refusal.reason))
    return Entitled(public_key=public_key, keys=keys, floors=floors)


def choose_algorithm(allowed: Allowed, kind: KeyKind, status: ReportedStatus | None) -> WrapAlgorithm | None:
    """Return the rule's first algorithm that fits the key and that the device's CPM can open."""
    able = _V1_ALGORITHMS if status is None else status.algorithms
    fitting = algorithms_for(kind)
    for each in allowed.algorithms:
        if each in able and each in fitting:
            return each
    return None


def verify_chain(
    chain: Sequence[x509.Certificate], trust: TrustStore, *, at: datetime
) -> tuple[ValidatedPath | None, Denial | None]:
    """Return the validated path of a certificate, or why its claims will be absent.

    Args:
        chain: Leaf first; may be empty.
        trust: The roots that it must lead to.
        at: Now, aware.
    """
    if not chain:
        return None, Denial(reason="certificate_missing", detail="no certificate is shown")
    try:
        return validate_path(chain, trust, at=at), None
    except VerificationError as error:
        return None, Denial(reason=error.code, detail=str(error))


def explain(
    denied: Denied, claims: Mapping[str, object], fault: Denial | None, *, hub_status: str = "enabled"
) -> Denial:
    """Return the most specific reason behind the policy's no.

    Args:
        denied: What the policy said.
        claims: What it was asked over.
        fault: Why the certificate's claims are absent, if they are.
        hub_status: Whether the hub lets the device in.
    """
    if denied.reason != "claim_failed":
        return Denial(reason=denied.reason, detail=denied.detail)
    if hub_status != "enabled":
        return Denial(reason="device_disabled", detail=denied.detail)
    if ": x509." not in denied.detail:
        return Denial(reason=denied.reason, detail=denied.detail)
    if fault is not None:
        return Denial(reason=fault.reason, detail=f"{fault.detail} ({denied.detail})")
    certificate = claims.get("x509")
    if isinstance(certificate, Mapping):
        for claim, reason in (("key_matches", "key_mismatch"), ("device_id_matches", "device_id_mismatch")):
            if certificate.get(claim) is False:
                return Denial(reason=reason, detail=denied.detail)
    return Denial(reason=denied.reason, detail=denied.detail)
