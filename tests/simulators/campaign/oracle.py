"""What must be true, whatever goes wrong: kept apart from the code that is tested, and simpler than it.

The protocol lets an instance work with what it asked for at the beginning of a call (class keys, policy) and
with a policy that it looked at a while ago. So what a release grants is held against everything that was true
at some moment since then, and to nothing older.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from simulators.campaign.chaos import STEP_SECONDS

from functions.class_keys import ClassKeys
from shared.audit.chain import START, parse_entry, verify
from shared.errors import EdbError
from shared.release.verifying import verify_signature
from shared.twin.documents import parse_desired

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from simulators.campaign.campaign import Campaign
    from simulators.campaign.devices import CampaignDevice
    from simulators.campaign.instances import Instance

    from cpm.keyring import Applied
    from cpm.state import HeldKey
    from shared.keys.store import ClassKeyState
    from shared.release.document import Release
    from shared.types import DeviceId, KeyName

Value = TypeVar("Value")


class Violation(BaseException):
    """Something that must always be true is not; nothing of the app may catch this."""


def demand(holds: object, what: str) -> None:
    if not holds:
        raise Violation(what)


@dataclass(frozen=True, kw_only=True)
class Grants:
    """A policy, as a table.

    Args:
        keys: By class of devices, the class keys that they may hold; ``*`` is every one.
        open_to: Classes whose devices need no certificate.
    """

    keys: Mapping[str, tuple[str, ...]]
    open_to: frozenset[str]

    def allow(self, device_class: object, name: str, *, certified: bool) -> bool:
        if not isinstance(device_class, str):
            return False
        named = self.keys.get(device_class, ())
        return (name in named or "*" in named) and (certified or device_class in self.open_to)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a device reported about itself.

    Args:
        fingerprint: Of its key.
        certified: Whether with a certificate of the fleet's authority for it.
        valid: From when to when that is valid.
    """

    fingerprint: bytes
    certified: bool
    valid: tuple[dt.datetime, dt.datetime] | None = None


@dataclass(frozen=True, kw_only=True)
class KeyState:
    """A class key, as its versions say where they are.

    Args:
        floor: The lowest version that may still be given to anybody.
        whole: The newest version that is for all; None if there is none.
        staged: The version that is on its way; None if none is.
        share: How many of 10,000 devices it is for.
        aborted: Versions that were given up on their way.
    """

    floor: int
    whole: int | None
    staged: int | None
    share: int
    aborted: frozenset[int]

    @classmethod
    def of(cls, found: ClassKeyState) -> KeyState:
        ways = {each.version: each.rollout for each in found.versions}
        done = [number for number, way in ways.items() if way is None or way.stage == len(way.stages)]
        aborted = frozenset(number for number, way in ways.items() if way is not None and way.is_aborted)
        latest = max(ways)
        is_staged = latest not in aborted and latest not in done
        return cls(
            floor=found.floor,
            whole=max((number for number in done if number not in aborted), default=None),
            staged=latest if is_staged else None,
            share=ways[latest].stages[ways[latest].stage] if is_staged else 0,
            aborted=aborted,
        )

    def version_for(self, device_id: str) -> int | None:
        """Return what a device is given: a device's share follows from the hash of its id (ADR 0016)."""
        digest = hashlib.sha256(device_id.partition("/")[0].encode()).digest()
        reached = int.from_bytes(digest[:8], "big") % 10_000 < self.share
        version = self.staged if reached else self.whole
        return version if version is not None and version >= self.floor else None


class History(Generic[Value]):
    """What was true, from which event on."""

    def __init__(self, number: int, value: Value) -> None:
        self._entries = [(number, value)]

    @property
    def now(self) -> Value:
        return self._entries[-1][1]

    def add(self, number: int, value: Value) -> None:
        if value != self.now:
            self._entries.append((number, value))

    def since(self, number: int) -> list[Value]:
        """Return all that was true at some moment from an event on."""
        before = [value for at, value in self._entries if at <= number]
        return [*before[-1:], *(value for at, value in self._entries if at > number)]


@dataclass(kw_only=True)
class Watched:
    """One device, as the oracle knows it.

    Attributes:
        enabled, identity: What the hub knows.
        lost: Where the last sequence does not stand any more, because somebody else wrote there.
        releases: Digests of the releases that were written into its twin, by sequence.
        past: Digests of those that were written into twins of its name that are deleted.
        consumed: Audit records of released keys that a write has used up.
        applied: Sequence of the release that its CPM applied last, with its key.
    """

    enabled: History[bool]
    identity: History[Identity | None]
    lost: set[str] = field(default_factory=set)
    releases: dict[int, bytes] = field(default_factory=dict)
    past: set[bytes] = field(default_factory=set)
    consumed: dict[tuple[str, int], int] = field(default_factory=dict)
    applied: tuple[bytes, int] = (b"", 0)


class Oracle:
    """Watches a campaign."""

    def __init__(self, campaign: Campaign) -> None:
        self._campaign = campaign
        self.policies: History[Grants | None] = History(0, None)
        self._keys: dict[KeyName, History[KeyState | None]] = {}
        self._devices: dict[DeviceId, Watched] = {}
        self._truth: dict[tuple[KeyName, int], bytes] = {}
        self._opener = ClassKeys(campaign.store, campaign.kek, monotonic=campaign.time.seconds)
        self._head, self._read = START, dict.fromkeys(campaign.segments.segments, 0)
        self._record_ids: set[object] = set()
        self._recorded: dict[tuple[str, str, int], int] = {}
        self.writes = self.releases = self.applied = 0

    def close(self) -> None:
        if self._opener._sweeper is not None:
            self._opener._sweeper.cancel()

    # What is told to it

    def enrolled(self, device_id: DeviceId) -> None:
        number, known = self._campaign.log.tick(), self._devices.get(device_id)
        now = Watched(enabled=History(number, True), identity=History(number, None))
        if known is not None:  # its CPM remembers what it was given, and its twin does not
            now.past = known.past | set(known.releases.values())
            now.consumed, now.applied = known.consumed, known.applied
        self._devices[device_id] = now

    def reported(self, device_id: DeviceId, identity: Identity) -> None:
        self._devices[device_id].identity.add(self._campaign.log.tick(), identity)

    def switched(self, device_id: DeviceId, *, enabled: bool) -> None:
        for each, watched in self._devices.items():
            if each.partition("/")[0] == device_id:
                watched.enabled.add(self._campaign.log.tick(), enabled)

    def tampered(self, device_id: DeviceId, where: str) -> None:
        """Somebody else wrote ``desired``, or the ``tag``: it does not say any more which sequence was last.

        If neither does, a sequence may be used twice while a clock is behind; one of the two is enough.
        """
        self._devices[device_id].lost.add(where)

    def published(self, grants: Grants) -> None:
        self.policies.add(self._campaign.log.tick(), grants)

    def look_at_keys(self) -> None:
        """Take note of the class keys as they rest now."""
        store, number = self._campaign.store, self._campaign.log.tick()
        for name in {**self._keys, **store.envelopes}:
            state = None
            if name in store.envelopes:
                state = KeyState.of(store.state(name))
                self.truth(name, max(store.envelopes[name]))  # while it can be opened
            self._keys.setdefault(name, History(0, None)).add(number, state)

    # What it looks at

    def look_at_write(self, instance: Instance, device_id: DeviceId, seen: dict, after: dict) -> None:
        """Judge a write of the app at the moment at which it took effect.

        Args:
            instance: Who writes.
            device_id: The device.
            seen: The twin before, as the app may read it.
            after: The twin afterwards.
        """
        self.writes += 1
        old, new = (twin["properties"]["desired"] for twin in (seen, after))
        if all(old.get(name) == new.get(name) for name in _OURS):
            return
        desired = parse_desired(new)
        if desired.release is None:
            demand(not desired.wrapped, f"{device_id}: keys were written without a release")
            return
        release = self._verified(desired.release)
        self.releases += 1
        self._look_at_sequence(device_id, release, desired.release, seen)
        if release.keys:
            self._look_at_entitlement(instance, device_id, release, seen)
            self._look_at_audit(device_id, release)

    def _held(self, device_id: DeviceId, twin: dict) -> Release | None:
        """Return the release that desired holds, if it is one of ours and this device's."""
        try:
            cose = parse_desired(twin["properties"]["desired"]).release
            release = None if cose is None else self._verified(cose)
        except EdbError:
            return None
        return release if release is not None and release.device_id == device_id else None

    def _is_bound_to_another(self, device_id: DeviceId, twin: dict, fingerprint: bytes) -> bool:
        release = self._held(device_id, twin)
        rebound = _rebinding(twin) == fingerprint.hex()
        return release is not None and release.fingerprint != fingerprint and not rebound

    def _verified(self, cose: bytes) -> Release:
        return verify_signature(cose, self._campaign.signer.public_keys(), where="oracle")

    def _look_at_sequence(self, device_id: DeviceId, release: Release, cose: bytes, seen: dict) -> None:
        watched, sequence = self._devices[device_id], release.sequence
        held = self._held(device_id, seen)
        told = max(0 if held is None else held.sequence, self._noted(seen))
        demand(sequence > told, f"{device_id}: sequence {sequence} was written over {told}")
        if device_id in self._campaign.hub.overlays:  # what the app read is not what was there
            watched.lost |= {"desired", "tag"}
        # A forged tag alone leads so far ahead of time, where clocks that differ take it for less.
        is_forged = sequence > (self._campaign.time.at + dt.timedelta(hours=22)).timestamp() * 1000
        demand(
            is_forged or len(watched.lost) == 2 or sequence not in watched.releases,
            f"{device_id}: sequence {sequence} was used for two releases",
        )
        watched.lost.clear()
        watched.releases[sequence] = hashlib.sha256(cose).digest()

    def _noted(self, twin: dict) -> int:
        """Return the sequence that the tag tells, unless nobody could have used it yet."""
        tag = twin["tags"].get("confidential_packages")
        note = tag.get("settled") if isinstance(tag, dict) else None
        sequence = note.get("seq") if isinstance(note, dict) else None
        now = int(self._campaign.time.at.timestamp() * 1000)
        return sequence if type(sequence) is int and sequence < now + 2000 * STEP_SECONDS else 0

    def _look_at_entitlement(
        self, instance: Instance, device_id: DeviceId, release: Release, seen: dict
    ) -> None:
        watched, since = self._devices[device_id], instance.began
        device_class = seen["tags"].get("class")
        identities = [
            each
            for each in watched.identity.since(since)
            if each is not None and each.fingerprint == release.fingerprint
        ]
        demand(identities, f"{device_id}: a release for a key that the device did not report")
        demand(any(watched.enabled.since(since)), f"{device_id}: it is disabled, and was sent keys")
        certified = any(self._is_certified(each, since=instance.began_at) for each in identities)
        demand(
            certified or not self._is_bound_to_another(device_id, seen, release.fingerprint),
            f"{device_id}: it is bound to another key, and shows no certificate",
        )
        policies = [
            each for each in self.policies.since(min(since, instance.policy_taken)) if each is not None
        ]
        for name, key in release.keys.items():
            demand(
                any(each.allow(device_class, name, certified=certified) for each in policies),
                f"{device_id}: sent {name}, which no policy in force since then grants to {device_class!r}",
            )
            states = [each for each in self._keys[name].since(since) if each is not None]
            demand(
                any(key.version == each.version_for(device_id) for each in states),
                f"{device_id}: sent {name} version {key.version}, and was to have none but {states}",
            )

    def _is_certified(self, identity: Identity, *, since: dt.datetime) -> bool:
        """Say whether a certificate was valid at some moment since then, as far as clocks can tell."""
        if not identity.certified or identity.valid is None:
            return identity.certified
        slack = dt.timedelta(seconds=2 * STEP_SECONDS)
        begin, end = identity.valid
        return begin - slack <= self._campaign.time.at and since <= end + slack

    def _look_at_audit(self, device_id: DeviceId, release: Release) -> None:
        self.look_at_chain()
        watched = self._devices[device_id]
        for name, key in release.keys.items():
            recorded = self._recorded.get((device_id, name, key.version), 0)
            demand(
                recorded > watched.consumed.get((name, key.version), 0),
                f"{device_id}: {name} version {key.version} was released, and no record says so",
            )
            watched.consumed[name, key.version] = recorded

    def look_at_chain(self) -> None:
        """Verify what the audit chain grew by, and count the records of released keys."""
        segments = self._campaign.segments.segments
        for name in sorted(segments):
            begin = self._read.get(name, 0)
            data = bytes(segments[name][begin:])
            self._read[name] = begin + len(data)
            entries = [parse_entry(line, where=name) for line in data.splitlines()]
            self._head = verify(entries, start=self._head)
            for entry in entries:
                record = entry.record
                demand(record["id"] not in self._record_ids, f"audit entry {entry.seq} is there twice")
                self._record_ids.add(record["id"])
                if (record["event"], record["outcome"]) == ("distribute", "allowed"):
                    for key_name, released in (record["keys"] or {}).items():
                        key = (record["device_id"], key_name, released["version"])
                        self._recorded[key] = self._recorded.get(key, 0) + 1

    def look_at_device(self, device: CampaignDevice, applied: Applied | None) -> None:
        """Judge what a device holds after it was given something."""
        watched, state = self._devices[device.device_id], device.state
        who, sequence = watched.applied
        demand(
            who != device.fingerprint or state.sequence >= sequence,
            f"{device.device_id}: its sequence went back from {sequence} to {state.sequence}",
        )
        watched.applied = (device.fingerprint, state.sequence)
        for name, versions in state.keys.items():
            for held in versions:
                demand(
                    held.key.reveal() == self.truth(name, held.version),
                    f"{device.device_id}: what it holds as {name} version {held.version} is another key",
                )
        if applied is not None and applied.changed:
            self.applied += 1
            demand(
                state.release_digest in {watched.releases.get(state.sequence), *watched.past},
                f"{device.device_id}: it applied a release that was never written for it",
            )

    def truth(self, name: KeyName, version: int) -> bytes:
        """Return the bytes that the vault keeps as this version."""
        known = self._truth.get((name, version))
        if known is None:
            known = self._truth[name, version] = self._opener.open(name, version).reveal()
            others = [bytes_ for key, bytes_ in self._truth.items() if key != (name, version)]
            demand(known not in others, f"{name} version {version}: the vault keeps one key twice")
        return known

    # What must be so in the end

    def look_at_end(self, device: CampaignDevice) -> None:
        """Judge a device when everything has come to rest: it holds what it may, and nothing else."""
        device_id = device.device_id
        twin = self._campaign.hub.hub.truth(device_id)
        watched = self._devices[device_id]
        desired = parse_desired(twin["properties"]["desired"])
        wanted, floors = self._entitled(device_id, watched, twin)
        released = {}
        if desired.release is not None:
            release = self._verified(desired.release)
            released = {name: key.version for name, key in release.keys.items()}
            demand(
                dict(release.floors) == floors or not wanted,
                f"{device_id}: floors {dict(release.floors)}, expected {floors}",
            )
            self._look_at_lasting(device_id, release, bool(wanted))
        demand(released == wanted, f"{device_id}: desired holds {released}, entitled to {wanted}")
        demand(desired.wrapped.keys() == wanted.keys(), f"{device_id}: desired is not what its release says")
        if not watched.enabled.now:
            return
        if desired.release is not None and release.fingerprint != device.fingerprint and not wanted:
            return  # its id is bound to another key; what it holds ends with its lease
        held = {name: self._newest(name, versions) for name, versions in device.state.keys.items()}
        demand(held == wanted, f"{device_id}: it holds {held}, entitled to {wanted}")
        for name, floor in floors.items():
            below = [each.version for each in device.state.keys.get(name, ()) if each.version < floor]
            demand(not below, f"{device_id}: it still holds {name} versions {below}, revoked below {floor}")

    def _newest(self, name: KeyName, versions: Sequence[HeldKey]) -> int:
        """Return the newest version that a device holds, of those that were not given up if there is one."""
        numbers = {each.version for each in versions}
        state = self._keys[name].now
        return max(numbers - (frozenset() if state is None else state.aborted) or numbers)

    def _look_at_lasting(self, device_id: DeviceId, release: Release, grants_keys: bool) -> None:
        """Judge whether a release that grants something is by the policy in force, and lasts."""
        if not grants_keys:
            return
        demand(
            release.policy_sha256 == self._campaign.policy_sha256,
            f"{device_id}: its release is by a policy that is not in force any more",
        )
        left = release.expires_at - self._campaign.time.at.timestamp()
        lifetime = release.expires_at - release.issued_at
        demand(left >= lifetime // 3, f"{device_id}: its lease has {left:.0f} of {lifetime} s left")

    def _entitled(self, device_id: DeviceId, watched: Watched, twin: dict):
        identity, grants = watched.identity.now, self.policies.now
        if identity is None or grants is None or not watched.enabled.now:
            return {}, {}
        certified = identity.certified and (
            identity.valid is None or identity.valid[0] <= self._campaign.time.at < identity.valid[1]
        )
        if not certified and self._is_bound_to_another(device_id, twin, identity.fingerprint):
            return {}, {}
        device_class = twin["tags"].get("class")
        wanted, floors = {}, {}
        for name, history in self._keys.items():
            state = history.now
            if state is None or not grants.allow(device_class, name, certified=certified):
                continue
            if state.floor > 1:
                floors[name] = state.floor
            version = state.version_for(device_id)
            if version is not None:
                wanted[name] = version
        return wanted, floors


_OURS = ("confidential_package_keys", "confidential_package_release")


def _rebinding(twin: dict) -> object:
    tag = twin["tags"].get("confidential_packages")
    return tag.get("rebind") if isinstance(tag, dict) else None


def policy_document(grants: Grants, *, serial: int, root_sha256: str, lease_seconds: int) -> bytes:
    """Return the policy that says what a table says."""

    def rule(device_class: str, names: Iterable[str]) -> dict[str, object]:
        conditions: list[dict[str, object]] = [
            {"claim": "hub.tags.class", "equals": device_class},
            {"claim": "hub.status", "equals": "enabled"},
        ]
        if device_class not in grants.open_to:
            conditions += [
                {"claim": "x509.chain_root_sha256", "equals": root_sha256},
                {"claim": "x509.device_id_matches", "equals": True},
                {"claim": "x509.key_matches", "equals": True},
            ]
        return {
            "id": f"{device_class}s",
            "keys": list(names),
            "operations": ["distribute"],
            "algorithms": ["HPKE-X25519", "HPKE-P256"],
            "lease_seconds": lease_seconds,
            "release": {"allOf": conditions},
        }

    rules = [rule(device_class, names) for device_class, names in grants.keys.items() if names]
    document = {"version": "1.0.0", "id": "campaign", "serial": serial, "rules": rules}
    return json.dumps(document).encode()
