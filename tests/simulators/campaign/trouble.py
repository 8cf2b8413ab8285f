"""What goes wrong in a campaign by somebody's or something's fault: other writers, servers, clocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulators.campaign import poison
from simulators.campaign.chaos import STEP_SECONDS

from shared.twin.documents import PUBLIC_KEY

if TYPE_CHECKING:
    from shared.types import DeviceId

_POISON = poison.kinds()


class Trouble:
    """The part of a :class:`simulators.campaign.campaign.Campaign` that nobody wants."""

    def write_beside(self) -> None:
        """Write what is no concern of the app: the ETag moves all the same."""
        device_id, number = self._any_device(), self.log.number
        body = self.random.choice(
            [{"tags": {"shelf": number}}, {"properties": {"desired": {"rate": number}}}]
        )
        self.hub.write(device_id, body)
        self.log(f"{device_id} written beside: {body}")

    def tamper(self) -> None:
        """Write what only the app should: old desired, another device's, garbage, nothing."""
        device_id, other = self._any_device(), self._any_device()
        wanted = self.random.choice(
            [
                *(_of_ours(past) for past in self._past[device_id]),
                _of_ours(self.hub.store.twin(other).desired.values),
                {"confidential_package_keys": None, "confidential_package_release": None},
                {"confidential_package_release": None},
                {"confidential_package_keys": {"app": "AAAA", "planted": "AAAA"}},
                {"confidential_package_release": {"v": 2, "cose": "AAAA"}},
                {"confidential_package_keys": 7},
            ]
        )
        before = _of_ours(self.hub.store.twin(device_id).desired.values)
        gone = dict.fromkeys(before) if wanted and self.random.random() < 0.5 else {}
        for body in (gone, wanted):
            if body:
                self.hub.write(device_id, {"properties": {"desired": body}})
        self.oracle.tampered(device_id, "desired")
        self.log(f"{device_id} tampered with: {sorted(wanted)}")

    def forge_tag(self) -> None:
        """Write the app's own tag: another device's, one with lies in the note, one of another shape."""
        device_id, other = self._any_device(), self._any_device()
        theirs = self.hub.store.twin(other).tags.get("confidential_packages")
        note = {"context": "0" * 16, "seen": "0" * 16, "seq": 2**50, "until": 253402300799}
        forged = self.random.choice(
            [
                theirs,
                {"settled": note},
                {"settled": {"until": 253402300799, "seq": 2**50}},
                {"settled": "yes", "state": "released"},
                {"state": "quarantined", "retries": 2},
                {"retries": 10**6, "state": 7},
                None,
                ["released"],
            ]
        )
        self.hub.write(device_id, {"tags": {"confidential_packages": forged}})
        self.oracle.tampered(device_id, "tag")
        self.log(f"{device_id} tag forged")

    def poison_twin(self) -> None:
        """Turn a device's twin into something absurd, or let an absurd one be itself again."""
        if len(self.hub.overlays) >= 3 or (self.hub.overlays and self.random.random() < 0.5):
            self._heal(self.random.choice(list(self.hub.overlays)))
            return
        device_id, [kind] = self._any_device(), self.random.sample(list(_POISON), 1)
        self.hub.overlays[device_id] = _POISON[kind]
        self._touch(device_id)
        self.log(f"{device_id} poisoned: {kind}")

    def _heal(self, device_id: DeviceId) -> None:
        """Let a twin be itself again, with the report that such a change comes by."""
        del self.hub.overlays[device_id]
        self._touch(device_id)
        key = self.hub.store.twin(device_id).reported.values.get(PUBLIC_KEY)
        if key is not None:
            self.hub.store.patch_reported(device_id, {PUBLIC_KEY: key})
        self.log(f"{device_id} is itself again")

    def _touch(self, device_id: DeviceId) -> None:
        """Let the ETag move, as it does with every change of a twin."""
        self.hub.write(device_id, {"tags": {"shelf": self.log.number}})

    # Servers and clocks

    def step_clock(self) -> None:
        names = [
            *(instance.name for instance in self.instances),
            "hub",
            "vault",
            f"device {self._any_device()}",
        ]
        name = self.random.choice(names)
        self.time.wrong[name] = self.random.choice(
            [0, STEP_SECONDS, -STEP_SECONDS, self.random.uniform(-STEP_SECONDS, STEP_SECONDS)]
        )
        self.chaos.count("clock step")
        self.log(f"clock of {name} is off by {self.time.wrong[name]:.0f} s")

    def let_time_pass(self) -> None:
        self.time.go_on(self.random.choice([60, 600, 3600, 3 * 3600]))

    def take_away(self) -> None:
        place = self.random.choice(["vault", "audit", "policy", "hub"])
        self.chaos.send_away(place, self.random.expovariate(1 / 60))
        self.log(f"{place} goes away")

    def throttle(self) -> None:
        self.chaos.throttle_hub(self.random.expovariate(1 / 60))
        self.log("the hub throttles everybody")

    def restart_hub(self) -> None:
        self.hub.restart()
        self.chaos.count("hub restarted")
        self.log("the hub was killed and started again")

    def kill_instance(self) -> None:
        instance = self._idle()
        if instance is not None:
            instance.die()
            self.chaos.count("instance killed")
            self.log(f"{instance.name} was killed")


def _of_ours(desired) -> dict[str, object]:
    return {name: value for name, value in desired.items() if name.startswith("confidential_package_")}
