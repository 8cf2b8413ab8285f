"""A fleet to which anything may happen between any two calls of the hub, and a second opinion on every write.

What a device may hold is judged here from what really happened to it and not from its twin: from
:class:`Truth`, the policies that were published, and the releases that were written. Every write is held to
that the moment it is made, by :class:`StressedRegistry`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from simulators.cloud import Cloud
from simulators.fleet import DAY, NOW, Authority, Device, failed, policy_document

from shared.errors import Conflict, FormatError, TransportError
from shared.policy.document import load_policy
from shared.twin.documents import parse_desired
from shared.types import DeviceId, KeyName

if TYPE_CHECKING:
    from collections.abc import Sequence

NAMES = tuple(DeviceId(name) for name in ("edge-01", "edge-02", "edge-03/agent"))
KEYS = tuple(KeyName(name) for name in ("app", "Other"))
AUTHORITY, ROGUE = Authority(), Authority("rogue CA")


def _make(name: str, authority: Authority, *, certified: bool) -> Device:
    device = Device.make(authority, name, not_after=NOW + 3000 * DAY)
    if not certified:
        device.certificates_der = None
    return device


IDENTITIES = {
    name: [
        (_make(name, AUTHORITY, certified=True), True),
        (_make(name, AUTHORITY, certified=True), True),
        (_make(name, AUTHORITY, certified=False), False),
        (_make(name, ROGUE, certified=True), False),
    ]
    for name in NAMES
}
"""What each device may come with, and whether a certificate of the fleet vouches for it."""


class Crash(BaseException):
    """The worker's process dies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What really is so about a device.

    Args:
        exists: The hub knows it.
        enabled: The hub lets it in.
        kind: Its tag.
        readable: What it reports parses, and is all there but for the certificate.
        shows: It reports its certificate.
        identity: Its place in :data:`IDENTITIES`.
    """

    exists: bool = True
    enabled: bool = True
    kind: str = "gateway"
    readable: bool = True
    shows: bool = True
    identity: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a published policy asks for."""

    serial: int = 1
    kind: str = "gateway"
    certificates: bool = True


class StressedFleet:
    """The fleet, its function app, and what is known to be true.

    Attributes:
        hooks: What happens before the coming calls of the hub, one each: None, ``("event", …)``,
            ``("throttled",)``, ``("conflict",)``, ``("crash",)`` or ``("crash after",)``.
        bound: The fingerprint that each device's last release was for; None if it has none of ours.
    """

    def __init__(self) -> None:
        self.cloud = Cloud()
        self.cloud.authority = AUTHORITY
        self.hub = self.cloud.registry
        self.hooks: list[tuple | None] = []
        self.truth = dict.fromkeys(NAMES, Truth())
        self.bound: dict[DeviceId, bytes | None] = dict.fromkeys(NAMES)
        self.word: dict[DeviceId, bytes | None] = dict.fromkeys(NAMES)
        self.rules: dict[str, Rules] = {}
        self.publish("gateway", certificates=True)
        for name in NAMES:
            self.hub.enrol(name, tags={"class": "gateway"})
            self.hub.report(name, self.device(name).report())
        self.cloud.registry = StressedRegistry(self)

    # ── what may happen ───────────────────────────────────────────────────────────────────────────────────

    def do(self, event: Sequence) -> None:
        name, *arguments = event
        getattr(self, name)(*arguments)
        self.cloud.wait(seconds=1)

    def provision(self, key):
        if key not in self.cloud.store.envelopes:
            self.cloud.class_keys.provision(key, bits=256)

    def rotate(self, key):
        if key in self.cloud.store.envelopes:
            self.cloud.class_keys.rotate(key)

    def revoke(self, key):
        if key in self.cloud.store.envelopes:
            self.cloud.class_keys.revoke(key, self.cloud.store.state(key).latest)

    def publish(self, kind, certificates):
        serial = len(self.rules) + 1
        document = policy_document(AUTHORITY.root_sha256, serial=serial)
        conditions = document["rules"][0]["release"]["allOf"]
        conditions[0]["equals"] = kind
        if not certificates:
            del conditions[2:]
        self.cloud.policy = load_policy(json.dumps(document).encode(), where="policy")
        rules = Rules(serial=serial, kind=kind, certificates=certificates)
        self.rules[self.cloud.policy.digest.hex()] = rules

    def retag(self, name, kind):
        if self.truth[name].exists:
            tags = {**self.hub.snapshot(name)["tags"], "class": kind}
            self.hub.overwrite(name, "tags", tags)
            self._is(name, kind=kind)

    def enable(self, name, enabled):
        if self.truth[name].exists:
            self.hub.set_status(name, "enabled" if enabled else "disabled")
            self._is(name, enabled=enabled)

    def come_with(self, name, identity):
        """Report an identity, whole; enrol the device first if it was deleted."""
        if not self.truth[name].exists:
            self.hub.enrol(name, tags={"class": "gateway"})
            self.truth[name] = Truth()
        device, _ = IDENTITIES[name][identity]
        self.hub.report(name, {"device_cert": None, **device.report(sequence=self._reported_sequence(name))})
        self._is(name, identity=identity, readable=True, shows=True)

    def delete(self, name):
        if self.truth[name].exists:
            self.hub.delete(name)
            self._is(name, exists=False)
            self.bound[name] = self.word[name] = None

    def garble(self, name, field, value):
        if self.truth[name].exists:
            self.hub.report(name, {field: value})
            if (field, value) == ("device_cert", None):
                self._is(name, shows=False)
            else:
                self._is(name, readable=False)

    def plant(self, name, desired):
        if self.truth[name].exists:
            section = {**self.hub.snapshot(name)["desired"], **desired}
            self.hub.overwrite(name, "desired", section)
            # Who may write desired may take away what binds; a section that does not parse holds no release.
            if not isinstance(desired.get("confidential_package_keys"), dict):
                self.bound[name] = None

    def rebind(self, name):
        """Say what RebindDevice says, for the key that the device reports."""
        if self.truth[name].exists and self.truth[name].readable and self.bound[name] is not None:
            tags = self.hub.snapshot(name)["tags"]
            outcome = {**tags.get("confidential_packages", {}), "rebind": self.fingerprint(name).hex()}
            outcome.pop("settled", None)
            self.hub.overwrite(name, "tags", {**tags, "confidential_packages": outcome})
            self.word[name] = self.fingerprint(name)

    def acknowledge(self, name):
        release = self._release(name)
        if release is not None and self.truth[name].readable:
            self.hub.report(name, self.device(name).status(sequence=release.sequence))

    def fail(self, name):
        release = self._release(name)
        if release is not None and self.truth[name].readable:
            keys = {key: failed(release, key) for key in release.keys}
            self.hub.report(name, self.device(name).status(keys=keys))

    def leap(self, days):
        self.cloud.wait(days=days)

    def work(self, names):
        """Let a worker reconcile some devices, in this order; it may die on the way."""
        registry = self.cloud.registry
        registry.level += 1
        try:
            one_pass = self.cloud.distributor.begin_pass(correlation_id="stress")
            return one_pass.reconcile_all(names)
        except Crash:
            return list(names)
        finally:
            registry.level -= 1

    # ── what comes of it ──────────────────────────────────────────────────────────────────────────────────

    def settle(self) -> None:
        """Let everything that fails be done again, with nothing in the way any more."""
        self.hooks.clear()
        assert self.work(NAMES) == []

    def device(self, name) -> Device:
        return IDENTITIES[name][self.truth[name].identity][0]

    def fingerprint(self, name) -> bytes:
        return self.device(name).public_key.fingerprint

    def known(self, name, truth: Truth) -> tuple[bytes, bool]:
        """Return the fingerprint that a device reports, and whether a certificate vouches for it."""
        device, certified = IDENTITIES[name][truth.identity]
        return device.public_key.fingerprint, certified and truth.shows

    def wrapped(self, name):
        return parse_desired(self.hub.snapshot(name)["desired"]).wrapped

    def may_hold(self, name, truth: Truth, rules: Rules) -> bool:
        """Say whether a device may hold keys, from what is true about it."""
        fingerprint, certified = self.known(name, truth)
        allowed = truth.exists and truth.readable and truth.enabled and truth.kind == rules.kind
        its_own = certified or self.bound[name] in {None, fingerprint} or self.word[name] == fingerprint
        return allowed and its_own and (certified or not rules.certificates)

    def outcome(self, name):
        """Return what a device ends with: its keys and for whom, and what the tag tells."""
        if not self.truth[name].exists:
            return None
        release, tag = self._release(name), self.cloud.tag(name) or {}
        keys = {} if release is None else {key: each.version for key, each in release.keys.items()}
        state = tag.get("state") or "released"
        return keys, release.fingerprint if keys else None, state, tag.get("reason")

    def _release(self, name):
        if not self.truth[name].exists:
            return None
        try:
            return self.cloud.release(name)
        except (AssertionError, FormatError):
            return None

    def _is(self, name, **changes) -> None:
        self.truth[name] = replace(self.truth[name], **changes)

    def _reported_sequence(self, name) -> int:
        release = self._release(name)
        return 0 if release is None else release.sequence


class StressedRegistry:
    """The hub's twins, as several workers see them while things happen.

    Attributes:
        level: How many workers are in the middle of something.
        reads: How many twins were read.
    """

    def __init__(self, fleet: StressedFleet) -> None:
        self.fleet = fleet
        self.level = self.reads = 0
        self._seen: dict[tuple[int, DeviceId], Truth] = {}
        self._floors: dict[tuple[DeviceId, KeyName], int] = defaultdict(lambda: 1)
        self._serials: dict[DeviceId, int] = defaultdict(int)
        self._sequences: dict[DeviceId, int] = defaultdict(int)

    def __getattr__(self, name: str):
        return getattr(self.fleet.hub, name)

    def read(self, device_id):
        self._happen()
        twin = self.fleet.hub.read(device_id)
        self.reads += 1
        self._seen[self.level, device_id] = self.fleet.truth[device_id]
        return twin

    def patch(self, device_id, patch, *, etag):
        dies_after = self._happen(writing=True)
        self.fleet.hub.patch(device_id, patch, etag=etag)
        if "properties" in patch:
            self._hold_to_the_truth(device_id)
        self.fleet.word[device_id] = None  # an operator's word holds for one decision
        if dies_after:
            raise Crash

    def _happen(self, *, writing: bool = False) -> bool:
        """Do what is due before this call; say whether the worker dies after it."""
        hook = self.fleet.hooks.pop(0) if self.fleet.hooks else None
        match hook:
            case ("event", event):
                self.fleet.do(event)
            case ("throttled",):
                raise TransportError("the hub throttles")
            case ("conflict",) if writing:
                raise Conflict("the twin changed", code="twin_conflict")
            case ("crash",):
                raise Crash
            case ("crash after",):
                return writing
        return False

    def _hold_to_the_truth(self, name: DeviceId) -> None:
        fleet = self.fleet
        release = fleet._release(name)
        if release is None:  # what could not be signed was deleted
            assert fleet.wrapped(name) == {}
            assert fleet.bound[name] is None
            return
        truth, rules = self._seen[self.level, name], fleet.rules[release.policy_sha256.hex()]
        fingerprint, certified = fleet.known(name, truth)
        # An id is bound until its owner shows a certificate or an operator says otherwise.
        if fleet.bound[name] not in {None, release.fingerprint}:
            assert release.fingerprint == fingerprint
            assert certified or fleet.word[name] == fingerprint
        # Nobody is written a key whom the policy denies.
        if fleet.wrapped(name):
            assert fleet.may_hold(name, truth, rules)
            assert release.fingerprint == fingerprint
        assert release.keys.keys() == fleet.wrapped(name).keys()
        # What is known of once is not forgotten: revocations, policies, sequences.
        for key, each in release.keys.items():
            assert each.version >= self._floors[name, key]
        for key, floor in release.floors.items():
            self._floors[name, key] = max(floor, self._floors[name, key])
        assert rules.serial >= self._serials[name]
        assert release.sequence > self._sequences[name]
        self._serials[name], self._sequences[name] = rules.serial, release.sequence
        fleet.bound[name] = bytes(release.fingerprint)
