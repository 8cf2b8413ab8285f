"""What operators do to a campaign's world: class keys, policies, devices and their tags."""

from __future__ import annotations

import hashlib
import json

from simulators.campaign.instances import http_request
from simulators.campaign.oracle import Grants, policy_document

from shared.types import DeviceId
from shared.wire.rollout import ABORT, ADVANCE, FINISH

CLASSES = ("gateway", "camera", "lab", "kiosk")
NAMES = ("app", "my_app", "model-7", "Other")
LEASE_SECONDS = 12 * 3600


class Operators:
    """The part of a :class:`simulators.campaign.campaign.Campaign` that operators play."""

    def provision(self) -> None:
        name = self.random.choice(NAMES)
        self.operate("ProvisionKey", {"key_name": name})

    def rotate(self) -> None:
        self._operate_on_a_key("RotateKey")

    def rotate_in_stages(self) -> None:
        stages = self.random.choice([[2000, 10_000], [100, 3000, 10_000], [5000, 5001, 10_000]])
        self._operate_on_a_key("RotateKey", rollout={"stages": stages})

    def move_rollout(self) -> None:
        """Take a rollout further or end it, now and then from where it is not any more."""
        states = ((name, self.store.state(name).unfinished) for name in self.store.envelopes)
        if staged := [(name, version) for name, version in states if version is not None]:
            name, version = self.random.choice(staged)
            stage = version.rollout.stage if self.random.random() < 0.9 else 0
            [action] = self.random.choices([ADVANCE, FINISH, ABORT], [3, 1, 1])
            body = {"key_name": name, "version": version.version, "stage": stage, "action": action}
            self.operate("ChangeRollout", body)

    def revoke(self) -> None:
        if names := list(self.store.envelopes):
            name = self.random.choice(names)
            latest = self.store.state(name).latest
            version = latest if self.random.random() < 0.4 else max(1, latest - 1)
            self.operate("RevokeKey", {"key_name": name, "version": version})

    def delete_key(self) -> None:
        self._operate_on_a_key("DeleteKey")

    def recover_key(self) -> None:
        if names := list(self.store.deleted):
            self.operate("RecoverKey", {"key_name": self.random.choice(names)})

    def _operate_on_a_key(self, call: str, **more: object) -> None:
        if names := list(self.store.envelopes):
            self.operate(call, {"key_name": self.random.choice(names), **more})

    def operate(self, call: str, body: dict[str, object]) -> None:
        """Ask the app for something, and ask again as a careful client does."""
        self._key_number += 1
        headers = {"Idempotency-Key": f"campaign-{self._key_number}"}
        data = json.dumps(body).encode()
        for _ in range(self.random.randint(1, 4)):
            if self._request(call, data, method="POST", headers=headers):
                return

    def _request(self, call: str, data: bytes, *, method: str, headers: dict[str, str]) -> bool:
        """Send a request; say whether it is of no use to send it again."""
        instance = self._idle()
        if instance is None:
            return False
        request = http_request(call, data, method=method, headers=headers)
        what = data.decode() if len(data) < 100 else f"{len(data)} bytes"
        answer, done = self._call(instance, call, what, req=request)
        if not done:
            return False
        self.log(f"{call} answered {answer.status_code}")
        return answer.status_code < 500

    @property
    def policy_sha256(self) -> bytes:
        """Digest of the policy in force."""
        return hashlib.sha256(self.policies.read(unless=None).data).digest()

    def publish(self, grants: Grants) -> None:
        """Put a policy in force by hand."""
        stored = self.policies.read(unless=None)
        self.policies.write(self._write_policy(grants), etag=stored.etag)

    def publish_policy(self) -> None:
        data = self._write_policy(self._draw_grants())
        for _ in range(3):
            if self._request("PublishPolicy", data, method="PUT", headers={}):
                return

    def _draw_grants(self) -> Grants:
        """Return another policy, or the same one to be published anew."""
        if self.oracle.policies.now is not None and self.random.random() < 0.4:
            return self.oracle.policies.now
        keys = {}
        for device_class in CLASSES[:3]:
            count = self.random.choice([0, 1, 2, len(NAMES)])
            keys[device_class] = ("*",) if count == len(NAMES) else tuple(self.random.sample(NAMES, count))
        if not any(keys.values()):
            keys["gateway"] = ("*",)
        return Grants(keys=keys, open_to=frozenset({"lab"}))

    def _write_policy(self, grants: Grants) -> bytes:
        self._serial += 1
        data = policy_document(
            grants,
            serial=self._serial,
            root_sha256=self.authority.root_sha256,
            lease_seconds=LEASE_SECONDS,
        )
        self._tables[data] = grants
        self.log(f"policy {self._serial} {grants.keys}")
        return data

    def delete_device(self) -> None:
        device_id = self._any_device()
        self.hub.delete(DeviceId(device_id.partition("/")[0]))
        self.hub.overlays.pop(device_id, None)
        self.log(f"{device_id} deleted")

    def enrol_deleted(self) -> None:
        """Enrol a device again that was deleted; it is as it was, and its twin is a new one."""
        if gone := self.deleted():
            self.enrol(self.random.choice(gone))

    def deleted(self) -> list[DeviceId]:
        return [device_id for device_id in self.devices if not self.hub.knows(device_id)]

    def enrol(self, device_id: DeviceId) -> None:
        self.hub.enrol(device_id, {"class": CLASSES[list(self.devices).index(device_id) % len(CLASSES)]})
        self.oracle.enrolled(device_id)
        self.log(f"{device_id} enrolled")

    def switch_device(self) -> None:
        device_id = DeviceId(self._any_device().partition("/")[0])
        enabled = self.random.random() < 0.6
        self.hub.set_status(device_id, enabled=enabled)
        self.oracle.switched(device_id, enabled=enabled)
        self.log(f"{device_id} enabled: {enabled}")

    def retag_device(self) -> None:
        device_id = self._any_device()
        device_class = self.random.choice([*CLASSES, 7, None])
        self.hub.write(device_id, {"tags": {"class": device_class}})
        self.log(f"{device_id} class {device_class!r}")

    def rebind_device(self) -> None:
        device_id = self._any_device()
        fingerprint = self.devices[device_id].fingerprint.hex()
        self.hub.write(device_id, {"tags": {"confidential_packages": {"rebind": fingerprint}}})
        self.log(f"{device_id} rebound")

    def _any_device(self) -> DeviceId:
        return self.random.choice([device_id for device_id in self.devices if self.hub.knows(device_id)])
