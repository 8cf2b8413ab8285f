"""Distribution: reconcile devices one by one, each by itself (protocol section 5).

A pass asks once for what all devices share: the class keys' states, the release keys. A device step reads the
twin, decides, wraps and signs what the decision asks for, and writes with ``If-Match``. Whoever changed the
twin in between wins, and the step begins again.
"""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from functions import deadline, telemetry
from functions.audit import AuditRecord
from shared.errors import Conflict, EdbError, FormatError, NotFound
from shared.keys.wrapping import WrapContext, wrap_key
from shared.release.document import assemble, encode_claims, to_be_signed
from shared.twin.held import OutcomeState
from shared.twin.patching import build_patch, plan_of, writes_desired
from shared.twin.reconcile import Decision, Deny, Deployment, OverBudget, Tell, Unchanged, Write, judge
from shared.twin.settled import Settlement
from shared.types import parse_device_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime

    from functions.audit import AuditLog
    from functions.class_keys import ClassKeys
    from shared.certificate_paths import TrustStore
    from shared.keys.store import ClassKeyState
    from shared.policy.document import Policy
    from shared.twin.held import Held
    from shared.twin.plan import Plan
    from shared.twin.ports import ReleaseSigner, Twin, TwinRegistry, TwinRow
    from shared.types import Audience, DeviceId, KeyName

CONFLICT_RETRIES = 3
"""How often a device step begins again because the twin was changed in between."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Distributor:
    """Makes passes.

    Args:
        registry: The hub's twins.
        class_keys: The deployment's class keys.
        signer: The release key.
        audience: The deployment's id.
        policy: The release policy in force.
        audit: Where decisions are recorded.
        trust: The roots that device certificates must lead to.
        now: Tells the time, aware.
        renewed: Returns one under the policy and roots that are in force by then.
    """

    registry: TwinRegistry
    class_keys: ClassKeys
    signer: ReleaseSigner
    audience: Audience
    policy: Policy
    audit: AuditLog
    trust: TrustStore
    now: Callable[[], datetime]
    renewed: Callable[[], Distributor]

    def begin_pass(self, *, correlation_id: str) -> DistributionPass:
        """Ask for what all devices share.

        Raises:
            TransportError: The vault cannot be reached or refuses.
        """
        deployment = Deployment(
            audience=self.audience,
            policy=self.policy,
            trust=self.trust,
            release_key_id=self.signer.key_id(),
            release_keys=self.signer.public_keys(),
        )
        began = self.now()
        states = self.class_keys.states()
        return DistributionPass(
            distributor=self,
            deployment=deployment,
            states=states,
            settlement=Settlement(deployment, states, at=began),
            correlation_id=correlation_id,
            began=int(began.timestamp()),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DistributionPass:
    """Device steps that share one look at the class keys.

    Args:
        distributor: What made it.
        deployment: What is the same for every device.
        states: The class keys, when the pass began.
        settlement: Tells which devices need no step.
        correlation_id: What finds the pass in the logs.
        began: When it looked, Unix seconds.
    """

    distributor: Distributor
    deployment: Deployment
    states: Mapping[KeyName, ClassKeyState]
    settlement: Settlement
    correlation_id: str
    began: int

    def unsettled(self, rows: Iterable[TwinRow]) -> list[DeviceId]:
        """Return the devices among some rows that need a step; of the others nothing is read or written."""
        now = int(self.distributor.now().timestamp())
        found = []
        for row in rows:
            if self.settlement.is_settled(row, now=now):
                telemetry.add(telemetry.DEVICES, outcome="settled")
                continue
            try:
                found.append(parse_device_id(row.device_id, where="twin query"))
            except FormatError as error:  # one odd row is no reason to leave a fleet without its keys
                _LOG.warning("device_id_unreadable", extra={"detail": str(error)})
        return found

    def reconcile_all(self, device_ids: Iterable[DeviceId]) -> list[DeviceId]:
        """Reconcile devices; one's failure never stops another's.

        Returns:
            The devices whose step failed, or was not begun in time, and is worth another try.
        """
        began = time.monotonic()
        with telemetry.span("pass", correlation_id=self.correlation_id) as told:
            failed = [device_id for device_id in device_ids if not self._reconcile_one(device_id)]
            told.tell("failed", len(failed))
        telemetry.take(telemetry.PASS_DURATION, time.monotonic() - began)
        return failed

    def _reconcile_one(self, device_id: DeviceId) -> bool:
        """Reconcile one device; say whether that is done, also if there was nothing to do."""
        if deadline.remaining() <= 0:
            telemetry.add(telemetry.DEVICES, outcome="postponed")
            return False
        outcome = "failed"
        with telemetry.span("device", correlation_id=self.correlation_id, device_id=device_id) as told:
            try:
                outcome = _outcome_of(self.reconcile(device_id))
            except EdbError as error:
                _LOG.warning(
                    "distribute_failed",
                    extra={
                        "device_id": device_id,
                        "code": error.code,
                        "detail": str(error),
                        "correlation_id": self.correlation_id,
                    },
                )
            except Exception as error:  # noqa: BLE001 - a defect that one twin brings to light stays its own
                _LOG.exception(
                    "distribute_defect",
                    extra={
                        "device_id": device_id,
                        "code": type(error).__name__,
                        "correlation_id": self.correlation_id,
                    },
                )
            told.tell("outcome", outcome)
        telemetry.add(telemetry.DEVICES, outcome=outcome)
        return outcome != "failed"

    def reconcile(self, device_id: DeviceId) -> Decision | None:
        """Bring one device's twin to what it should be.

        Returns:
            What was decided; None if the device is gone.

        Raises:
            EdbError: It could not be done now; nothing was written.
        """
        for _ in range(CONFLICT_RETRIES + 1):
            try:
                twin = self.distributor.registry.read(device_id)
                return self._step(twin)
            except NotFound as error:
                if error.code != "device_not_found":
                    raise
                return None  # queries lag, and still list devices deleted minutes ago
            except Conflict as error:
                conflict = error
        raise conflict

    def _step(self, twin: Twin, *, is_renewed: bool = False) -> Decision:
        at = self.distributor.now()
        verdict = judge(twin, self.states, self.deployment, at=at)
        decision = verdict.decision
        if not is_renewed and writes_desired(decision) and self._is_overtaken(verdict.held):
            return self._renew()._step(twin, is_renewed=True)  # noqa: SLF001 - another of this class
        plan = plan_of(decision)
        wrapped = {} if plan is None else self._wrap(plan)
        cose = None if plan is None or not plan.is_signed else self._sign(plan, wrapped)
        note = self.settlement.note(twin, verdict, writes_desired=writes_desired(decision))
        patch = build_patch(twin, verdict.held, decision, wrapped=wrapped, cose=cose, at=at, note=note)
        if patch is None:
            return decision
        records = self._records(twin, decision)
        if plan is None or not plan.keys:
            # Taking away waits for nothing: a key that is to go goes, also while the audit chain is down.
            self.distributor.registry.patch(twin.device_id, patch, etag=twin.etag)
            self.distributor.audit.write_if_possible(*records)
            return decision
        self.distributor.audit.write(*records)  # and without it, nothing is released
        try:
            self.distributor.registry.patch(twin.device_id, patch, etag=twin.etag)
        except EdbError as error:
            failed = (replace(each, outcome="failed", reason=error.code) for each in records)
            self.distributor.audit.write_if_possible(*failed)
            raise
        return decision

    def _is_overtaken(self, held: Held) -> bool:
        return held.release is not None and held.release.issued_at >= self.began

    def _renew(self) -> DistributionPass:
        """Look again, before a release is replaced that somebody wrote after this pass had looked.

        He may have known of a revocation or of a policy of which this pass does not: a page takes a while,
        and what was taken away must not come back with it.
        """
        return self.distributor.renewed().begin_pass(correlation_id=self.correlation_id)

    def _wrap(self, plan: Plan) -> dict[KeyName, bytes]:
        wrapped = {}
        for name, key in plan.keys.items():
            context = WrapContext(
                audience=plan.audience, device_id=plan.device_id, name=name, version=key.version
            )
            class_key = self.distributor.class_keys.open(name, key.version)
            wrapped[name] = wrap_key(class_key, plan.recipient, key.algorithm, context=context)
        return wrapped

    def _sign(self, plan: Plan, wrapped: Mapping[KeyName, bytes]) -> bytes:
        kid = self.deployment.release_key_id
        claims = encode_claims(plan.release(wrapped))
        digest = hashlib.sha256(to_be_signed(claims, kid=kid)).digest()
        signature = self.distributor.signer.sign(digest, key_id=kid)
        return assemble(claims, kid=kid, signature=signature)

    def _records(self, twin: Twin, decision: Decision) -> list[AuditRecord]:
        """Return the audit record of a change; nothing if only the app's own note in the tag changes."""
        record = partial(
            AuditRecord,
            event="distribute",
            device_id=twin.device_id,
            correlation_id=self.correlation_id,
            policy_sha256=self.deployment.policy.digest.hex(),
        )
        match decision:
            case Write(plan=plan, cause=cause):
                released = {
                    name: {"version": key.version, "algorithm": key.algorithm.value, "rule": key.rule_id}
                    for name, key in plan.keys.items()
                }
                return [record(outcome="allowed", reason=cause.value, keys=released)]
            case Deny(denial=denial):
                return [record(outcome="denied", reason=denial.reason, detail=denial.detail)]
            case OverBudget(size=size):
                detail = f"desired would take {size} bytes, expected at most {self.deployment.budget}"
                return [record(outcome="denied", reason="over_budget", detail=detail)]
            case Tell(outcome=outcome) if outcome.state is OutcomeState.QUARANTINED:
                return [record(outcome="denied", reason=outcome.state.value, detail=outcome.reason)]
            case Unchanged():
                return []
            case _:
                return [record(outcome="allowed")]


def _outcome_of(decision: Decision | None) -> str:
    """Return how a device step is counted."""
    match decision:
        case None:
            return "gone"
        case Unchanged():
            return "unchanged"
        case Write():
            return "written"
        case Deny():
            return "denied"
        case OverBudget():
            return "over_budget"
        case Tell():
            return "told"
