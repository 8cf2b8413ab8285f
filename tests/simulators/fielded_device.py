"""A device in the field: the vendor's device SDK, the real CPM's judgement, and faults on demand."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from azure.iot.device import IoTHubDeviceClient
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from simulators.fielded_cpm import FieldedCpm
from simulators.fleet import ALL_ALGORITHMS, spki_of

from local_cloud.enrolment import Enrolment, enrol
from shared.certificates import load_certificates
from shared.public_keys import load_public_key
from shared.release.document import parse_release
from shared.twin.documents import KeyReport, parse_desired, reported_identity, reported_status
from shared.twin.sections import patch_between

if TYPE_CHECKING:
    from local_cloud.state import StateFolder


class FieldedDevice:
    """A device that takes what it is given as soon as it learns of it.

    Args:
        state: The local cloud's folder; it runs.
        device_id: A device, enrolled now as a gateway.
        release_keys: Those that are pinned.

    Attributes:
        cpm: What it holds.
        fails: Whether it cannot unwrap what it is given.
    """

    def __init__(
        self, state: StateFolder, device_id: str, release_keys: list[ec.EllipticCurvePublicKey]
    ) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        enrolled = enrol(
            state, Enrolment(device_id=device_id, tags={"class": "gateway"}, public_key=spki_of(key))
        )
        description = state.cloud()
        self.device_id = device_id
        self.cpm = FieldedCpm(device_id, description["audience"], key, release_keys, lambda: int(time.time()))
        self.fails = False
        self._public_key = load_public_key(spki_of(key), where="test")
        (leaf, *_) = load_certificates(enrolled["certificate"].encode(), where="test")
        self._identity = reported_identity(
            spki=spki_of(key), certificates_der=leaf.public_bytes(Encoding.DER)
        )
        self._client = IoTHubDeviceClient.create_from_connection_string(
            enrolled["connection_string"],
            server_verification_cert=Path(description["hub"]["ca_file"]).read_text(),
        )
        self._awake, self._work, self._ends = threading.Event(), threading.Event(), False
        self._awake.set()
        self._work.set()
        self._client.connect()
        self._client.on_twin_desired_properties_patch_received = lambda _patch: self._work.set()
        self._thread = threading.Thread(target=self._run, name=device_id)
        self._thread.start()

    def sleep(self) -> None:
        """Take nothing until it is woken."""
        self._awake.clear()

    def wake(self) -> None:
        """Take what it has missed, also what it could not take before."""
        self._awake.set()
        self._work.set()

    def close(self) -> None:
        self._ends = True
        self.wake()
        self._thread.join()
        self._client.shutdown()

    def _run(self) -> None:
        while True:
            self._work.wait()
            self._awake.wait()
            self._work.clear()
            if self._ends:
                return
            self._take()

    def _take(self) -> None:
        twin = self._client.get_twin()
        errors: dict[str, KeyReport] = {}
        if "confidential_package_release" in twin["desired"]:
            if self.fails:
                errors = _failures(twin["desired"])
            else:
                self.cpm.apply(twin["desired"])
        status = reported_status(
            algorithms=ALL_ALGORITHMS,
            fingerprint=self._public_key.fingerprint,
            sequence=self.cpm.state.sequence,
            keys={**self.cpm.reports(), **errors},
            packages={},
        )
        identity = {name: value for name, value in self._identity.items() if value is not None}
        wanted = {**identity, **status}
        patch = patch_between(
            {name: twin["reported"][name] for name in wanted if name in twin["reported"]}, wanted
        )
        if patch:
            self._client.patch_twin_reported_properties(patch)


def _failures(desired: dict) -> dict[str, KeyReport]:
    """Return the report that nothing of a release could be unwrapped."""
    release = parse_release(parse_desired(desired).release, where="test").release
    return {
        name: KeyReport(version=key.version, state="error", error="unwrap_failed", sequence=release.sequence)
        for name, key in release.keys.items()
    }
