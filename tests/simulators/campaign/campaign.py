"""A campaign: a fleet, the function app, and all that can go wrong between them, drawn from one seed.

Each step is one thing that somebody does: the platform hands a message to an instance, a device syncs, an
operator rotates a key, another back end writes a twin, a clock is stepped, a server dies. In the middle of a
call to the world another step may happen. In the end nothing goes wrong any more, and the fleet has to come
to rest where it should be.

Example:
    >>> campaign = Campaign(tmp_path, seed=7)
    >>> campaign.run(steps=1000)
"""

from __future__ import annotations

import json
import logging
import random
from typing import TYPE_CHECKING

from simulators.audit_segments import MemorySegments
from simulators.campaign.chaos import Chaos, Killed, Log, Time, Weather
from simulators.campaign.devices import CampaignDevice
from simulators.campaign.hub import CampaignHub
from simulators.campaign.instances import (
    Instance,
    MemoryPolicies,
    event_batch,
    queue_message,
)
from simulators.campaign.operators import LEASE_SECONDS, Operators
from simulators.campaign.oracle import Grants, Identity, Oracle, Violation, demand
from simulators.campaign.queues import StorageQueue
from simulators.campaign.trouble import Trouble
from simulators.cloud import AUDIENCE
from simulators.fleet import DAY, Authority
from simulators.policy_floor import MemoryFloor
from simulators.vault import MemoryClassKeyStore, SoftwareKek, SoftwareSigner

from functions import distribute_key
from functions.endpoint import PAGES_POISON, PAGES_QUEUE, PASSES_POISON, PASSES_QUEUE
from shared.errors import EdbError
from shared.twin.documents import CERTIFICATES, PUBLIC_KEY
from shared.types import DeviceId, KeyName

if TYPE_CHECKING:
    from pathlib import Path

    from simulators.campaign.queues import Message

EVENT_TRIES = 5
QUIET_PASSES = 4
_PUTS_BACK = frozenset({"DistributeKeyPage", "DistributeKeyTwinEvents"})
_POISON_OF = {PASSES_QUEUE: PASSES_POISON, PAGES_QUEUE: PAGES_POISON}
_TAKERS = {
    PASSES_QUEUE: "DistributeKeyPass",
    PAGES_QUEUE: "DistributeKeyPage",
    PASSES_POISON: "DistributeKeyPassPoison",
    PAGES_POISON: "DistributeKeyPagePoison",
}


class _Failures(logging.Handler):
    """Keeps, for each call in work, which devices' steps the app says have failed."""

    _SOURCE = logging.getLogger("functions.distribute")

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._calls: list[list[str]] = []
        self._SOURCE.addHandler(self)

    def begin(self) -> list[str]:
        self._calls.append([])
        return self._calls[-1]

    def end(self) -> None:
        self._calls.pop()

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg in {"distribute_failed", "distribute_defect"} and self._calls:
            self._calls[-1].append(record.device_id)

    def close(self) -> None:
        self._SOURCE.removeHandler(self)
        super().close()


class Campaign(Operators, Trouble):
    """The world of one seed.

    Args:
        folder: For the hub's database.
        seed: Of everything that is drawn.
        devices: How many.
        instances: Of the function app.
        page_size: Rows of one page of a query.

    Attributes:
        log: What happened.
    """

    def __init__(
        self, folder: Path, *, seed: int, devices: int = 24, instances: int = 3, page_size: int = 10
    ) -> None:
        self.seed, self.page_size = seed, page_size
        self.random = random.Random(seed)
        self.time = Time()
        self.log = Log(self.time)
        self.chaos = Chaos(self.random, self.time, self.log, Weather())
        self.hub = CampaignHub(folder / f"hub-{seed}.db", self.time.clock("hub"))
        self.store = MemoryClassKeyStore(now=self.time.clock("vault"))
        self.kek, self.signer = SoftwareKek(), SoftwareSigner()
        self.segments, self.floor = MemorySegments(), MemoryFloor()
        self.authority = Authority()
        self._tables: dict[bytes, Grants] = {}
        self.policies = MemoryPolicies(lambda data: self.oracle.published(self._tables[data]))
        self.oracle = Oracle(self)
        self.queues = {name: StorageQueue(name=name) for name in _TAKERS}
        for name, poison in _POISON_OF.items():
            self.queues[name].poison = self.queues[poison]
        self._failures = _Failures()
        self.instances = [Instance(self, f"functions-{number}") for number in range(instances)]
        self._event_position = self._event_tries = 0
        self._serial = self._key_number = self._steps = 0
        self._past: dict[DeviceId, list[dict]] = {}
        self.devices: dict[DeviceId, CampaignDevice] = {}
        for number in range(devices):
            self._enrol(number)
        self.policies.write(self._write_policy(self._draw_grants()), etag=None)

    def close(self) -> None:
        self._failures.close()
        for instance in self.instances:
            instance.die()
        self.oracle.close()
        self.hub.close()

    def run(self, *, steps: int) -> None:
        """Let things go wrong for a while, and then come to rest.

        Raises:
            AssertionError: With the seed and the end of the log.
        """
        try:
            self._steps = steps
            self.chaos.interrupt = self._interrupt
            for _ in range(steps):
                self.step()
        except Violation as violation:
            raise AssertionError(self.report(str(violation))) from violation
        self.chaos.is_calm = True
        self.publish(self.oracle.policies.now)  # a policy that grants the same is another one all the same
        self.come_to_rest()

    def report(self, what: str) -> str:
        """Return what went wrong, and how to see it again."""
        again = f"pytest tests/faults --campaign-seed {self.seed} --campaign-steps {self._steps}"
        return f"seed {self.seed}: {what}\n{self.log.tail()}\nagain: {again}"

    def _enrol(self, number: int) -> None:
        device_id = DeviceId(f"edge-{number:04}" + ("/agent" if number % 8 == 7 else ""))
        device = CampaignDevice(
            device_id,
            audience=AUDIENCE,
            authority=self.authority,
            release_keys=self.signer.public_keys,
            clock=self.time.clock(f"device {device_id}"),
            elapsed=lambda: self.time.at,
            has_certificate=number % 5 != 4,
        )
        self.devices[device_id] = device
        self._past[device_id] = []
        self.enrol(device_id)

    # Steps

    def step(self) -> None:
        """Let one thing happen."""
        self.time.go_on(self.random.expovariate(1 / 20))
        [act] = self.random.choices(list(_STEPS), list(_STEPS.values()))
        getattr(self, act)()

    def _interrupt(self) -> None:
        """Let something else happen in the middle of a call; not deeper than two calls."""
        if self.log.depth >= 2:
            return
        self.log.depth += 1
        try:
            self.step()
        finally:
            self.log.depth -= 1

    def _idle(self) -> Instance | None:
        idle = [instance for instance in self.instances if not instance.is_busy]
        return self.random.choice(idle) if idle else None

    def _call(self, instance: Instance, name: str, what: str, **arguments) -> tuple[object, bool]:
        """Call a function and queue what it puts out; return its result, and whether it was done."""
        self.log(f"{instance.name} {name} {what}")
        failed = self._failures.begin()
        try:
            result, put = instance.call(name, **arguments)
        except Killed:
            self.log(f"{instance.name} died")
            instance.die()
            return None, False
        except EdbError as error:
            self.log(f"{instance.name} {name} failed: {error.code}")
            return None, False
        except Exception as error:
            raise Violation(f"{name} raised {error!r}") from error
        finally:
            self._failures.end()
        if not self.chaos.is_calm and self.random.random() < 0.01:
            self.log(f"{instance.name} died before its outputs were stored")
            instance.die()
            return None, False
        for queue, texts in put.items():
            self.queues[queue].put(texts, now=self.time.seconds())
        if name in _PUTS_BACK:
            self._look_at_failures(name, failed, put.get(PAGES_QUEUE, []), arguments)
        return result, True

    def _look_at_failures(self, name: str, failed: list[str], put: list[str], arguments: dict) -> None:
        """Judge whether whoever failed is on the queue once more, before the message goes that held it."""
        message = arguments.get("message")
        attempt = 0 if message is None else json.loads(message.get_body())["attempt"]
        again = [device for text in put for device in json.loads(text)["devices"]]
        lost = sorted({*failed} - {*again}) if attempt < distribute_key.MAX_PAGE_ATTEMPTS else []
        demand(not lost, f"{name}: {lost} failed, and nothing asks for another try")

    def take_pass(self) -> None:
        self._take(PASSES_QUEUE)

    def take_page(self) -> None:
        self._take(PAGES_QUEUE)

    def take_what_was_set_aside(self) -> None:
        self._take(self.random.choice([PASSES_POISON, PAGES_POISON]))

    def _take(self, name: str) -> bool:
        """Hand a message to an instance; say whether there was one, and somebody to take it."""
        instance, queue = self._idle(), self.queues[name]
        if instance is None:
            return False
        lease = 1e9 if self.chaos.is_calm else self.random.choice([30.0, 120.0, 600.0])
        message = queue.take(self.random, now=self.time.seconds(), lease=lease)
        if message is None:
            return False
        self._work(instance, queue, message)
        return True

    def _work(self, instance: Instance, queue: StorageQueue, message: Message) -> None:
        text = f"{queue.name} {message.number} try {message.tries}"
        services = instance.services
        asked = queue_message(message.text, tries=message.tries)
        _, done = self._call(instance, _TAKERS[queue.name], text, message=asked)
        if done and not self.chaos.is_calm and self.random.random() < 0.02:
            self.log(f"{text}: done, and not deleted")  # it comes again
        elif done:
            queue.done(message)
        elif instance.services is not services or services is None:
            return  # an instance that died leaves its message to the lease
        elif queue.failed(message, now=self.time.seconds()):
            self.log(f"{text}: poisoned")

    def timer(self) -> None:
        instance = self._idle()
        if instance is not None:
            self._call(instance, "DistributeKeyTimer", "", timer=None)

    def deliver_events(self) -> None:
        """Hand change events to an instance: some twice, some out of order, all again after a failure."""
        instance = self._idle()
        events = self.hub.events(after=self._event_position, most=self.random.randint(1, 40))
        if instance is None or not events:
            return
        position = events[-1]["seq"]
        if not self.chaos.is_calm:
            events += [event for event in events if self.random.random() < 0.1]
            if self.random.random() < 0.3:
                self.random.shuffle(events)
        _, done = self._call(
            instance, "DistributeKeyTwinEvents", f"to {position}", events=event_batch(events)
        )
        self._event_tries += 1
        if done or self._event_tries >= EVENT_TRIES:
            self._event_position, self._event_tries = max(self._event_position, position), 0

    # Devices

    def sync_device(self) -> None:
        """Let a device connect, read, apply and report; it may die or lose its connection in between."""
        device = self.devices[self._any_device()]
        if self.hub.is_enabled(device.device_id):
            self._sync(device, crashes=self.random.random() < 0.1)

    def _sync(self, device: CampaignDevice, *, crashes: bool = False) -> None:
        seen = self.hub.store.twin(device.device_id)
        desired, reported = dict(seen.desired.values), dict(seen.reported.values)
        past = self._past[device.device_id]
        past.append(desired)
        del past[:-6]
        late = not self.chaos.is_calm and self.random.random() < 0.15
        given = self.random.choice(past) if late else desired
        applied = device.take(given, reported.get(PUBLIC_KEY))
        self.oracle.look_at_device(device, applied)
        if applied is not None and applied.changed:
            self.log(f"{device.device_id} applied {applied.release.sequence} {_versions(applied.release)}")
        if crashes:
            self.log(f"{device.device_id} crashed before it reported")
            return
        patch = device.report(reported)
        if not patch:
            return
        self.hub.store.patch_reported(device.device_id, patch)
        self.log(f"{device.device_id} reported {sorted(patch)}")
        if {PUBLIC_KEY, CERTIFICATES} & patch.keys():
            self.oracle.reported(
                device.device_id,
                Identity(fingerprint=device.fingerprint, certified=device.certified, valid=device.valid),
            )

    def change_device_key(self) -> None:
        device = self.random.choice(list(self.devices.values()))
        kind = self.random.choice(["x25519", "p256"])
        has_certificate = self.random.random() < 0.6
        device.renew(kind=kind, has_certificate=has_certificate)
        self.log(f"{device.device_id} has a new {kind} key, certified: {has_certificate}")

    def certify_device(self) -> None:
        """Give a device a certificate that begins or ends within hours, or a lasting one, or none."""
        device = self.random.choice(list(self.devices.values()))
        at, hour = self.time.at.replace(microsecond=0), DAY / 24
        valid = self.random.choice(
            [
                {"not_before": at - DAY, "not_after": at + self.random.randint(1, 5) * hour},
                {"not_before": at + self.random.randint(1, 3) * hour / 2, "not_after": at + 30 * DAY},
                {"not_before": at - DAY, "not_after": at + 300 * DAY},
            ]
        )
        device.certify(has_certificate=self.random.random() < 0.8, valid=valid)
        self.log(f"{device.device_id} certified: {device.certified} {device.valid}")

    # Coming to rest

    def come_to_rest(self, *, passes: int = QUIET_PASSES) -> None:
        """Look whether the fleet gets to where it should be, and stays there, once nothing goes wrong.

        Args:
            passes: After so many it must be there.

        Raises:
            AssertionError: It does not.
        """
        try:
            self._come_to_rest(passes)
        except Violation as violation:
            raise AssertionError(self.report(str(violation))) from violation

    def _come_to_rest(self, passes: int) -> None:
        self.log("nothing goes wrong any more")
        self.time.wrong.clear()
        for device_id in self.deleted():
            self.enrol(device_id)
        self.time.go_on(3600)  # leases of messages end
        self._settle(passes, except_for=frozenset(self.hub.overlays))
        for device_id in list(self.hub.overlays):
            self._heal(device_id)
        self.time.go_on(0.7 * LEASE_SECONDS)  # leases have to be renewed now, where nothing else has changed
        self._settle(passes, except_for=frozenset())

    def _settle(self, passes: int, *, except_for: frozenset[DeviceId]) -> None:
        """Make quiet passes; after a few of them all devices but some must be where they should be."""
        for _ in range(passes):
            self.quiet_pass()
        for device in self.devices.values():
            if device.device_id not in except_for:
                self.oracle.look_at_end(device)
        etags = {device_id: self.hub.store.twin(device_id).etag for device_id in self.devices}
        self.quiet_pass(seconds=0)  # no certificate ends and no lease is due in between
        for device_id, etag in etags.items():
            still = self.hub.store.twin(device_id).etag == etag
            demand(still or device_id in except_for, f"{device_id}: the next pass still writes it")
        for queue in self.queues.values():
            demand(queue.is_conserved, f"{queue.name}: a message was lost")
            demand(not queue.waiting, f"{queue.name}: messages are left")
        self.oracle.look_at_chain()

    def quiet_pass(self, *, seconds: float = 300) -> None:
        """Let the timer go off, do all there is to do, and let every device that can sync."""
        self.time.go_on(seconds)
        self.timer()
        while True:
            position = self._event_position
            self.deliver_events()
            took = [self._take(name) for name in _TAKERS]
            if not any(took) and position == self._event_position:
                break
        for device in self.devices.values():
            if self.hub.is_enabled(device.device_id):
                self._sync(device)


_STEPS = {
    "take_pass": 6,
    "take_page": 14,
    "take_what_was_set_aside": 2,
    "deliver_events": 14,
    "timer": 2,
    "sync_device": 30,
    "change_device_key": 1,
    "certify_device": 1.5,
    "provision": 1,
    "rotate": 2,
    "rotate_in_stages": 1,
    "move_rollout": 3,
    "revoke": 1,
    "delete_key": 0.4,
    "recover_key": 0.4,
    "publish_policy": 1,
    "switch_device": 1.5,
    "delete_device": 0.5,
    "enrol_deleted": 1.5,
    "retag_device": 2,
    "rebind_device": 0.7,
    "write_beside": 3,
    "tamper": 2,
    "forge_tag": 1.5,
    "poison_twin": 1.5,
    "step_clock": 1.5,
    "let_time_pass": 0.8,
    "take_away": 1,
    "throttle": 0.5,
    "restart_hub": 0.3,
    "kill_instance": 1,
}
"""What may happen, and how often in relation to the rest."""


def _versions(release) -> dict[KeyName, int]:
    return {name: key.version for name, key in release.keys.items()}
