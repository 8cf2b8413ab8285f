"""Decide what a device's twin should hold: a pure function of the twin, the class keys, the policy and time.

``reconcile`` compares what a device may hold with what its twin's desired section already holds. It answers
what to do; nothing is wrapped, signed or written before it says so, so a fleet in which nothing changed costs
no wrapping, no signature and no write. :mod:`shared.twin.patching` turns the answer into a patch.

Invariants (protocol section 5):

- A denied device never gets a key, and what it holds is taken away: by a signed release without keys, which
  its CPM believes, or by deleting what cannot be signed.
- An id stays bound to the key of its last release, whatever the device reports: a key that is missing or does
  not parse, or a status that is gone, leaves the release there that says which key it is.
- A sequence is never used twice: it is above that of the release in desired, above what the device reports
  and above what the outcome tag tells of the last release, so a twin that was restored from a backup is
  overtaken, also while the clock is behind.
- The same twin, keys, policy and time give the same answer; after the answer's patch was applied, the next
  answer is :class:`Unchanged` until something changes.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.twin.budget import DESIRED_BUDGET
from shared.twin.entitlement import PUBLIC_KEY_MISSING, REPORT_MALFORMED, Denial, Entitled, assess
from shared.twin.held import Held, Outcome, OutcomeState, read_held, read_outcome, read_rebinding
from shared.twin.plan import Plan, basis_of, fits_for_certain, planned_size
from shared.twin.settled import read_note
from shared.types import Fingerprint

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from cryptography.hazmat.primitives.asymmetric import ec

    from shared.certificate_paths import TrustStore
    from shared.keys.store import ClassKeyState
    from shared.policy.document import Policy
    from shared.public_keys import PublicKey
    from shared.release.document import ReleasedKey
    from shared.twin.documents import ReportedStatus
    from shared.twin.entitlement import Applicant, Entitlement
    from shared.twin.ports import Twin
    from shared.types import Audience, KeyName, WrapAlgorithm

MAX_RETRIES = 2
"""A device that cannot unwrap its keys gets them wrapped again this often; then it is quarantined."""

KEY_NOT_BOUND = "key_not_bound"
"""Reason of a device that reports another key than its releases are for, without a certificate for it."""

STATUS_MISSING = "status_missing"
"""Reason of a device that was given a release and now reports as one of version 1, which needs none."""

NEVER = 253_402_300_799
"""``until`` of what time alone does not change: the last second of the year 9999."""

MAX_CLOCK_ERROR_MS = 86_400_000
"""How far a clock that a release was made by is taken to be wrong at most, in milliseconds: a day."""

EMPTY_RELEASE_SECONDS = 10 * 365 * 86400
"""How long a release without keys stays valid: a device that was off for years must still believe it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """What is the same for every device of a deployment.

    Args:
        audience: The deployment's id.
        policy: The release policy.
        trust: The roots that device certificates must lead to.
        release_key_id: Id of the version that signs releases now.
        release_keys: Public halves of every version whose releases still hold.
        budget: Bytes of desired to use at most.
    """

    audience: Audience
    policy: Policy
    trust: TrustStore
    release_key_id: str
    release_keys: Sequence[ec.EllipticCurvePublicKey]
    budget: int = DESIRED_BUDGET


class Cause(enum.Enum):
    """Why a release is written."""

    FIRST = "first_release"
    TAMPERED = "desired_not_intact"
    DEVICE_KEY = "device_key_changed"
    KEYS = "keys_changed"
    FLOORS = "floors_changed"
    POLICY = "policy_changed"
    RENEWAL = "lease_renewed"
    OVERTAKEN = "device_is_ahead"
    UNWRAP_FAILED = "unwrap_failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unchanged:
    """Nothing is to be written; the outcome is the one that the tag already tells."""

    outcome: Outcome | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """Wrap, sign and write the plan.

    Args:
        plan: What to wrap and to sign.
        outcome: What the tag is to tell.
        cause: Why.
    """

    plan: Plan
    outcome: Outcome
    cause: Cause


@dataclass(frozen=True, slots=True, kw_only=True)
class Deny:
    """The device may hold nothing, and its twin does not show that yet.

    Args:
        denial: Why.
        outcome: What the tag is to tell.
        plan: The release without keys that takes away what it holds; None if there is nothing to take away,
            or nothing that could be signed.
        clear: Whether to delete keys and release from desired, because nothing can be signed.
    """

    denial: Denial
    outcome: Outcome
    plan: Plan | None = None
    clear: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OverBudget:
    """The set does not fit into the twin: desired stays as it is, the tag tells.

    Args:
        size: Bytes of desired that it would take.
        outcome: What the tag is to tell.
    """

    size: int
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Tell:
    """Desired stays as it is; only the tag has something new to tell.

    Args:
        outcome: What the tag is to tell: ``quarantined`` for a device that failed to unwrap the same keys
            again and again, ``released`` when an older tag no longer holds.
    """

    outcome: Outcome


Decision = Unchanged | Write | Deny | OverBudget | Tell


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A decision and how long it stands if nothing but the clock changes.

    Args:
        decision: What to do.
        held: What desired holds before.
        sequence: The highest that a release of this device is known to have: of the one that desired holds
            afterwards, or of a later one that the tag tells of; 0 if there is none.
        until: When time alone may change the decision, Unix seconds.
    """

    decision: Decision
    held: Held
    sequence: int
    until: int


def reconcile(
    twin: Twin, class_keys: Mapping[KeyName, ClassKeyState], deployment: Deployment, *, at: datetime
) -> Decision:
    """Decide what to do about one device; :func:`judge` also tells how long that stands."""
    return judge(twin, class_keys, deployment, at=at).decision


def judge(
    twin: Twin, class_keys: Mapping[KeyName, ClassKeyState], deployment: Deployment, *, at: datetime
) -> Verdict:
    """Decide what to do about one device, and until when that stands.

    Args:
        twin: As the hub holds it; everything in it is hostile.
        class_keys: Every class key there is.
        deployment: What is the same for every device.
        at: Now, aware.
    """
    applicant = assess(twin, class_keys, policy=deployment.policy, trust=deployment.trust, at=at)
    now_ms = int(at.timestamp() * 1000)
    case = _Case(
        twin=twin,
        status=applicant.status,
        held=read_held(twin, deployment.release_keys),
        told=read_outcome(twin.tags),
        deployment=deployment,
        noted_sequence=_noted_sequence(twin, now_ms),
        now=int(at.timestamp()),
        now_ms=now_ms,
    )
    decision = _decide(case, applicant)
    release = _release_after(case, decision)
    # Rows do not tell all of a report: one that does not parse is looked at until it does.
    is_malformed = isinstance(applicant.verdict, Denial) and applicant.verdict.reason == REPORT_MALFORMED
    changes = [*applicant.changes, *([] if release is None else [_renewal(*release[1:])])]
    return Verdict(
        decision=decision,
        held=case.held,
        sequence=max(0 if release is None else release[0], case.noted_sequence),
        until=0 if is_malformed else min((time for time in changes if time > case.now), default=NEVER),
    )


def _decide(case: _Case, applicant: Applicant) -> Decision:
    bound_to, verdict = _bound_to(case, applicant), applicant.verdict
    if isinstance(verdict, Entitled):
        verdict = _denied_by_binding(case, applicant, verdict, bound_to) or verdict
    if isinstance(verdict, Denial):
        return _deny(case, verdict, applicant.public_key, bound_to)
    return _serve_v1(case, verdict) if applicant.status is None else _serve(case, verdict)


def _denied_by_binding(
    case: _Case, applicant: Applicant, entitled: Entitled, bound_to: Fingerprint | None
) -> Denial | None:
    """Return why a device gets nothing that the policy allows it, if its id's binding is in the way."""
    if bound_to is not None:
        found = entitled.public_key.fingerprint.hex()
        return Denial(reason=KEY_NOT_BOUND, detail=f"it reports the key {found}, bound is {bound_to.hex()}")
    if applicant.status is None and _binding(case) is not None:
        # Keys without a release would take the place of the release, and so of what the id is bound to.
        return Denial(reason=STATUS_MISSING, detail="it was given a release, and reports no status any more")
    return None


def _binding(case: _Case) -> Fingerprint | None:
    """Return the fingerprint that a device's id is bound to: that of the release which stands in desired."""
    release = case.held.release
    return None if release is None or not _is_addressed(case) else Fingerprint(release.fingerprint)


def _bound_to(case: _Case, applicant: Applicant) -> Fingerprint | None:
    """Return the fingerprint that the device is bound to, unless it reports a key that may take its place.

    The first release binds a device's id to its key. From then on another key needs a valid certificate for
    it, or an operator's word: whoever copied what a device signs in with gets nothing wrapped for a key of
    his own, whatever the policy asks for. Reporting no key in between does not loosen that.
    """
    bound_to, public_key = _binding(case), applicant.public_key
    if bound_to is None or public_key is None:
        return bound_to
    now = public_key.fingerprint
    if now == bound_to or applicant.certified or read_rebinding(case.twin.tags) == now.hex():
        return None
    return bound_to


def _release_after(case: _Case, decision: Decision) -> tuple[int, int, int] | None:
    """Return sequence, ``iat`` and ``exp`` of the release that desired holds once it is carried out."""
    match decision:
        case Write(plan=Plan(is_signed=True) as plan) | Deny(plan=Plan() as plan):
            return plan.sequence, plan.issued_at, plan.expires_at
        case Write() | Deny(clear=True):
            return None
    release = case.held.release
    return None if release is None else (release.sequence, release.issued_at, release.expires_at)


def _renewal(issued_at: int, expires_at: int) -> int:
    """Return when a third of a release's lifetime is left (protocol section 5, step 3)."""
    return expires_at - (expires_at - issued_at) // 3


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """One device, all that is known of it."""

    twin: Twin
    status: ReportedStatus | None
    held: Held
    told: Outcome | None
    deployment: Deployment
    noted_sequence: int
    now: int
    now_ms: int

    @property
    def known_sequence(self) -> int:
        """The highest sequence of a release that the device reports or the tag tells of; 0 if there is none.

        Above that of the release in desired it means that somebody put an older one there, or that the hub
        forgot one: what the device has applied since, it may not have reported yet.
        """
        reported = 0 if self.status is None else self.status.sequence
        return max(reported, self.noted_sequence)

    def next_sequence(self) -> int:
        """Return a sequence above all that were used: the last one + 1, or the time if that is more."""
        return max(self.held.sequence, self.known_sequence, self.now_ms - 1) + 1


def _noted_sequence(twin: Twin, now_ms: int) -> int:
    """Return what the tag tells of the last release, if that is not too far ahead of the clock.

    Whoever may write tags could use the sequences up for ever otherwise.
    """
    note = read_note(twin.tags)
    return 0 if note is None else min(note.sequence, now_ms + MAX_CLOCK_ERROR_MS)


def _serve(case: _Case, entitled: Entitled) -> Decision:
    """Decide for a device of version 2 that may hold ``entitled``."""
    released = Outcome(state=OutcomeState.RELEASED)
    if not entitled.keys and case.held.is_empty and case.known_sequence == 0:
        # It was never released anything, and there is nothing to release; an older denial holds no more.
        return Unchanged(outcome=None) if case.told is None else _tell(case, released)
    cause = _difference(case, entitled)
    if cause is None and _failed_to_unwrap(case):
        retries = case.told.retries if case.told is not None else 0
        if retries >= MAX_RETRIES:
            return _tell(
                case,
                Outcome(state=OutcomeState.QUARANTINED, reason=Cause.UNWRAP_FAILED.value, retries=retries),
            )
        cause, released = Cause.UNWRAP_FAILED, Outcome(state=OutcomeState.RELEASED, retries=retries + 1)
    if cause is not None:
        return _if_it_fits(case, Write(plan=_plan(case, entitled), outcome=released, cause=cause))
    if case.told is None or case.told.state is not OutcomeState.RELEASED:
        return Tell(outcome=released)
    return Unchanged(outcome=case.told)


def _tell(case: _Case, outcome: Outcome) -> Decision:
    return Unchanged(outcome=outcome) if case.told == outcome else Tell(outcome=outcome)


def _serve_v1(case: _Case, entitled: Entitled) -> Decision:
    """Decide for a device of version 1: wrapped keys alone; what they were made from stands in the tag."""
    if not entitled.keys and case.held.is_empty:
        return Unchanged(outcome=case.told)
    plan = _plan(case, entitled, signed=False)
    basis = basis_of(plan, case.held.wrapped)
    if case.told == Outcome(state=OutcomeState.RELEASED, basis=basis) and not case.held.has_release:
        return Unchanged(outcome=case.told)
    first = case.told is None or case.told.basis is None
    cause = Cause.FIRST if first else Cause.KEYS
    return _if_it_fits(case, Write(plan=plan, outcome=Outcome(state=OutcomeState.RELEASED), cause=cause))


def _deny(
    case: _Case, denial: Denial, public_key: PublicKey | None, bound_to: Fingerprint | None
) -> Decision:
    """Take away what a denied device holds, and say why; once."""
    outcome = Outcome(state=OutcomeState.DENIED, reason=denial.reason)
    plan, clear = None, False
    fingerprint = bound_to or (None if public_key is None else public_key.fingerprint)
    if fingerprint is not None and (case.status is not None or case.held.has_release):
        if _must_take_away(case, fingerprint):
            plan = _plan_without_keys(case, fingerprint)
    else:
        clear = not case.held.is_empty
    if plan is None and not clear:
        takes_no_part = denial.reason == PUBLIC_KEY_MISSING and case.told is None
        if takes_no_part or case.told == outcome:
            return Unchanged(outcome=case.told)
    return Deny(denial=denial, outcome=outcome, plan=plan, clear=clear)


def _must_take_away(case: _Case, fingerprint: Fingerprint) -> bool:
    """Say whether a denied device's twin does not yet hold a release without keys that it would believe."""
    if case.held.is_empty:
        return case.known_sequence > 0
    release = case.held.release
    return (
        release is None
        or not case.held.is_intact
        or bool(release.keys)
        or release.fingerprint != fingerprint
        or not _is_addressed(case)
        or case.known_sequence > release.sequence
    )


def _difference(case: _Case, entitled: Entitled) -> Cause | None:
    """Return the first thing in which desired is not what it should be (protocol section 5, step 3)."""
    held, release = case.held, case.held.release
    if held.is_empty:
        return Cause.FIRST
    if release is None or not held.is_intact or not _is_addressed(case):
        return Cause.TAMPERED
    differences = (
        (Cause.DEVICE_KEY, release.fingerprint != entitled.public_key.fingerprint),
        (Cause.KEYS, _versions(release.keys) != _versions(entitled.keys)),
        (Cause.FLOORS, dict(release.floors) != dict(entitled.floors)),
        (Cause.POLICY, release.policy_sha256 != case.deployment.policy.digest),
        (Cause.OVERTAKEN, case.known_sequence > release.sequence),
        (Cause.RENEWAL, case.now >= _renewal(release.issued_at, release.expires_at)),
    )
    return next((cause for cause, differs in differences if differs), None)


def _versions(
    keys: Mapping[KeyName, ReleasedKey] | Mapping[KeyName, Entitlement],
) -> dict[KeyName, tuple[int, WrapAlgorithm]]:
    return {name: (key.version, key.algorithm) for name, key in keys.items()}


def _is_addressed(case: _Case) -> bool:
    release = case.held.release
    return (
        release is not None
        and release.device_id == case.twin.device_id
        and release.audience == case.deployment.audience
    )


def _failed_to_unwrap(case: _Case) -> bool:
    """Say whether the device reports ``unwrap_failed`` for the very release that desired holds.

    A report that does not tell which release it speaks of is not counted: it would be again with every pass
    until the device comes to answer.
    """
    status, release = case.status, case.held.release
    if status is None or release is None:
        return False
    return any(
        report.error == Cause.UNWRAP_FAILED.value
        and release.sequence in {report.sequence, status.sequence}
        and name in release.keys
        for name, report in status.keys.items()
    )


def _plan(case: _Case, entitled: Entitled, *, signed: bool = True) -> Plan:
    ends = [case.now + key.lease_seconds for key in entitled.keys.values()]
    return Plan(
        device_id=case.twin.device_id,
        audience=case.deployment.audience,
        public_key=entitled.public_key,
        fingerprint=entitled.public_key.fingerprint,
        keys=entitled.keys,
        floors=entitled.floors,
        sequence=case.next_sequence(),
        issued_at=case.now,
        expires_at=min(ends, default=case.now + EMPTY_RELEASE_SECONDS),
        policy_sha256=case.deployment.policy.digest,
        is_signed=signed,
    )


def _plan_without_keys(case: _Case, fingerprint: Fingerprint) -> Plan:
    return Plan(
        device_id=case.twin.device_id,
        audience=case.deployment.audience,
        public_key=None,
        fingerprint=fingerprint,
        keys={},
        floors={},
        sequence=case.next_sequence(),
        issued_at=case.now,
        expires_at=case.now + EMPTY_RELEASE_SECONDS,
        policy_sha256=case.deployment.policy.digest,
        is_signed=True,
    )


def _if_it_fits(case: _Case, write: Write) -> Decision:
    key_id, budget = case.deployment.release_key_id, case.deployment.budget
    if fits_for_certain(case.twin, write.plan, key_id=key_id, budget=budget):
        return write
    size = planned_size(case.twin, case.held, write.plan, key_id=key_id)
    if size <= budget:
        return write
    outcome = Outcome(state=OutcomeState.OVER_BUDGET)
    return Unchanged(outcome=outcome) if case.told == outcome else OverBudget(size=size, outcome=outcome)
