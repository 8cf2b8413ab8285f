"""The table of docs/spec/reconciling.md: every situation put to the code, and what it decides.

python -m simulators.reconcile_table       from the folder ``tests``, prints the table
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.serialization import Encoding
from simulators.cloud import APP, Cloud
from simulators.fleet import DAY, Authority, Device, failed, policy_document

from shared.policy.document import load_policy
from shared.rollout import WHOLE, Rollout
from shared.twin.reconcile import Decision, Deny, OverBudget, Tell, Unchanged, Write, reconcile
from shared.types import DeviceId

if TYPE_CHECKING:
    from collections.abc import Callable

DEVICE = DeviceId("edge-01")


class Situation:
    """A cloud with one class key and one device; what happens to it is done by the functions below."""

    def __init__(self) -> None:
        self.cloud = Cloud()
        self.cloud.class_keys.provision(APP, bits=256)
        self.device = Device.make(self.cloud.authority)
        self.cloud.registry.enrol(DEVICE, tags={"class": "gateway"})
        self.cloud.registry.report(DEVICE, self.device.report())

    def run(self) -> None:
        self.cloud.run()
        self.cloud.wait(seconds=1)

    def report(self, patch: dict[str, object]) -> None:
        self.cloud.registry.report(DEVICE, patch)

    def acknowledge(self) -> None:
        if self.cloud.registry.snapshot(DEVICE)["desired"]:
            self.cloud.acknowledge(self.device)

    def decide(self) -> Decision:
        one_pass = self.cloud.distributor.begin_pass(correlation_id="table")
        twin = self.cloud.registry.read(DEVICE)
        return reconcile(twin, one_pass.states, one_pass.deployment, at=self.cloud.at)


def _certify(situation: Situation, *, other_key: bool = False, uri: str | None = None, **validity) -> None:
    authority = validity.pop("authority", situation.cloud.authority)
    device = Device.make(authority, "edge-02" if uri else DEVICE, **validity)
    if not other_key:
        device.private_key = situation.device.private_key
        name = "edge-02" if uri else DEVICE
        certificate = authority.certify(
            device.private_key.public_key(), uri=f"urn:cpk:device:{name}", **validity
        )
        device.certificates_der = certificate.public_bytes(Encoding.DER)
    situation.report({"device_cert": device.identity()["device_cert"]})


def _new_key(situation: Situation, *, certified: bool) -> None:
    other = Device.make(situation.cloud.authority)
    sequence = situation.cloud.release().sequence if _holds_release(situation) else 0
    report = other.report(sequence=sequence)
    situation.report(report if certified else {**report, "device_cert": None})


def _holds_release(situation: Situation) -> bool:
    return "confidential_package_release" in situation.cloud.registry.snapshot(DEVICE)["desired"]


def _no_certificate_asked(situation: Situation) -> None:
    document = policy_document(situation.cloud.authority.root_sha256)
    release = document["rules"][0]["release"]
    release["allOf"] = [each for each in release["allOf"] if not each["claim"].startswith("x509.")]
    situation.cloud.policy = load_policy(json.dumps(document).encode(), where="policy")


def _fail_to_unwrap(situation: Situation) -> None:
    if _holds_release(situation):
        release = situation.cloud.release()
        situation.report(situation.device.status(sequence=release.sequence, keys={APP: failed(release, APP)}))


def _set_tags(situation: Situation, **tags: str) -> None:
    kept = situation.cloud.registry.snapshot(DEVICE)["tags"]
    situation.cloud.registry.overwrite(DEVICE, "tags", {**kept, **tags})


def _version_1(situation: Situation) -> None:
    situation.report({"confidential_package_status": None})


def _stage(situation: Situation, share: int) -> None:
    """Let the device hold version 1 when version 2 goes to a share of the fleet."""
    situation.run()
    situation.acknowledge()
    situation.cloud.class_keys.rotate(APP, rollout=Rollout(stages=(share, WHOLE)))


def _abort(situation: Situation) -> None:
    """Give the staged version up once the device holds it."""
    situation.run()
    situation.acknowledge()
    situation.cloud.class_keys.move_rollout(APP, version=2, stage=0, move=Rollout.aborted)


HELD: dict[str, Callable[[Situation], None]] = {
    "nothing": lambda _: None,
    "what it should, acknowledged": lambda s: (s.run(), s.acknowledge()),
    "an older key version": lambda s: (s.run(), s.acknowledge(), s.cloud.class_keys.rotate(APP)),
    "an older key version, reached by a staged one": lambda s: _stage(s, 1500),
    "an older key version, not reached by a staged one": lambda s: _stage(s, 100),
    "a key version that was aborted": lambda s: (_stage(s, 1500), _abort(s)),
    "a revoked key version": lambda s: (s.run(), s.acknowledge(), s.cloud.class_keys.revoke(APP, 1)),
    "something planted": lambda s: (
        s.run(),
        s.acknowledge(),
        s.cloud.registry.overwrite(DEVICE, "desired", {"confidential_package_keys": {"planted": "AAAA"}}),
    ),
    "a lease to renew": lambda s: (s.run(), s.acknowledge(), s.cloud.wait(days=21)),
}

EVENTS: dict[str, Callable[[Situation], None]] = {
    "nothing else": lambda _: None,
    "reports no key": lambda s: s.cloud.registry.overwrite(DEVICE, "reported", {}),
    "reports a key that does not parse": lambda s: s.report({"device_public_key": "AAAA"}),
    "reports a status that does not parse": lambda s: s.report(
        {"confidential_package_status": {"v": 2, "seq": "x"}}
    ),
    "reports no certificate": lambda s: s.report({"device_cert": None}),
    "certificate expired": lambda s: _certify(s, not_after=s.cloud.at - DAY),
    "certificate of another fleet": lambda s: _certify(s, authority=Authority("another")),
    "certificate of another device": lambda s: _certify(s, uri="other"),
    "certificate of another key": lambda s: _certify(s, other_key=True),
    "new key, certified": lambda s: _new_key(s, certified=True),
    "new key, and the policy asks for no certificate": lambda s: (
        _no_certificate_asked(s),
        _new_key(s, certified=False),
    ),
    "a tag that the policy refuses": lambda s: _set_tags(s, **{"class": "kiosk"}),
    "disabled in the hub": lambda s: s.cloud.registry.disable(DEVICE),
    "could not unwrap": _fail_to_unwrap,
    "becomes a device of version 1": _version_1,
}


def table() -> str:
    """Return the table in Markdown."""
    lines = [
        "| the device | " + " | ".join(f"desired holds {held}" for held in HELD) + " |",
        "|---" * (len(HELD) + 1) + "|",
    ]
    for event, happens in EVENTS.items():
        cells = []
        for hold in HELD.values():
            situation = Situation()
            hold(situation)
            happens(situation)
            cells.append(told(situation.decide()))
        lines.append(f"| {event} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def told(decision: Decision) -> str:
    """Return a decision as the table shows it."""
    match decision:
        case Unchanged():
            return "unchanged"
        case Write(plan=plan, cause=cause):
            names = "release" if plan.keys else "release without keys"
            return f"{names if plan.is_signed else 'keys'} ({cause.value})"
        case Deny(denial=denial, plan=plan, clear=clear):
            then = "; takes away" if plan is not None else "; deletes" if clear else ""
            return f"deny ({denial.reason}){then}"
        case OverBudget():
            return "over budget"
        case Tell(outcome=outcome):
            return f"tag only ({outcome.state.value})"


if __name__ == "__main__":
    sys.stdout.write(table())
