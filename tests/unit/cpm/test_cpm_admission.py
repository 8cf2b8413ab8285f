"""The table of operations and standings: whole, true of the service, and what the guide shows."""

import time
from pathlib import Path

import pytest
from simulators.releasing_cloud import AUDIENCE, CP_ID, DEVICE_ID, NAME

from cpm import packages
from cpm.admission import TABLE, DeviceKeyKind, KeyStanding, Offer, PackageStanding, Phase, admit
from cpm.custody.port import DeviceKeyType
from shared.errors import EdbError
from shared.keys.wrapping import WrapContext, wrap_key
from shared.public_keys import load_public_key
from shared.types import WrapAlgorithm
from shared.wire.cpm_contract import CpmOperation

GUIDE = Path(__file__).resolve().parents[3] / "docs" / "guides" / "device-cpm.md"
SCRIPT = b"#!/bin/sh\nexit 0\n"
KINDS = (Phase, DeviceKeyKind, KeyStanding, PackageStanding, Offer)
CASES = [(operation, standing) for operation in CpmOperation for standing in TABLE[operation]]


def _told(operation, standing):
    refusal = TABLE[operation][standing]
    return "ok" if refusal is None else refusal.code


# ── the table ─────────────────────────────────────────────────────────────────────────────────────────────


def test_table_has_every_operation_with_both_phases():
    assert set(TABLE) == set(CpmOperation)
    assert all(set(Phase) <= set(row) for row in TABLE.values())


def test_operation_that_depends_on_a_kind_of_standing_has_a_row_for_each_of_them():
    for operation, row in TABLE.items():
        for kind in KINDS:
            found = {standing for standing in row if isinstance(standing, kind)}
            assert found in (set(), set(kind)), f"{operation.value}: {kind.__name__}"


def test_what_the_table_does_not_list_is_not_admitted():
    with pytest.raises(KeyError):
        admit(CpmOperation.PING, Offer.NEW)


def test_guide_shows_the_table():
    shown = GUIDE.read_text().split("| operation | when | answer |")[1].split("\n\n")[0]
    rows = [tuple(cell.strip(" `") for cell in line.split("|")[1:-1]) for line in shown.splitlines()[2:]]

    assert rows == _rows()


def _rows():
    """Return the table as the guide shows it: phases only where they matter."""
    rows = []
    for operation, row in TABLE.items():
        phased = any(row[phase] is not None for phase in Phase)
        shown = [standing for standing in row if phased or not isinstance(standing, Phase)]
        rows += [(operation.value, standing.value, _told(operation, standing)) for standing in shown]
        if not shown:
            rows.append((operation.value, "always", "ok"))
    return rows


# ── the service does as the table says ────────────────────────────────────────────────────────────────────


class Staged:
    """A device that is brought into a standing and then asked for an operation."""

    def __init__(self, device, operation, monkeypatch):
        self.device, self.operation, self.monkeypatch = device, operation, monkeypatch
        self.payload, self.version, self.cp_id, self.package_signature = SCRIPT, (1, 0, 0), CP_ID, True

    def reach(self, standing):
        """Find the method that is named after the standing; what is asked for may need a package first."""
        if self.operation in {CpmOperation.RUN, CpmOperation.STREAM} and isinstance(standing, KeyStanding):
            self.installed()
        getattr(self, standing.name.lower())()

    def unreleased(self):
        if self.device.key_type is not DeviceKeyType.RSA2048:
            self.use_key(DeviceKeyType.RSA2048)

    def latched(self):
        self.unreleased()
        self.held()

    def rsa(self):
        self.use_key(DeviceKeyType.RSA2048)

    def other(self):
        self.use_key(DeviceKeyType.P256)

    def use_key(self, key_type):
        for path in self.device.folder.iterdir():
            if path.is_file():
                path.unlink()
        self.device.key_type = key_type
        self.device.start()

    def held(self):
        if not self.device.call("status")["keys"]:
            self.device.apply(sequence=1, keys={NAME: 1})

    def missing(self):
        self.device.apply(sequence=2, keys={})

    def expired(self):
        self.held()
        self.device.now = int(time.time()) + 7200

    def revoked(self):
        self.device.apply(sequence=2, keys={NAME: 2}, floors={NAME: 2})

    def installed(self, payload=SCRIPT, version=(1, 0, 0)):
        self.held()
        self.install(payload=payload, version=version)

    same = installed

    def damaged(self):
        self.installed()
        (path,) = (self.device.folder / "packages").iterdir()
        path.write_bytes(path.read_bytes()[:-1])

    def absent(self):
        self.held()

    new = absent

    def higher(self):
        self.installed()
        self.version = (1, 0, 1)

    def other_payload(self):
        self.installed()
        self.payload = SCRIPT + b"#"

    def lower(self):
        self.installed(version=(2, 0, 0))
        self.device.call("uninstall", cp_id=CP_ID)

    def unsigned(self):
        self.installed()
        self.version, self.package_signature = (3, 0, 0), False

    def too_many(self):
        self.installed()
        self.monkeypatch.setattr(packages, "MAX_PACKAGES", 1)
        self.cp_id = "one too many"

    def install(self, payload=SCRIPT, version=(1, 0, 0), cp_id=CP_ID, **more):
        key = self.device.cloud.class_key(NAME, 1)
        self.device.install(self.device.vendor.package(payload, key, version=version, cp_id=cp_id, **more))

    def do(self):
        match self.operation:
            case CpmOperation.INSTALL:
                self.install(self.payload, self.version, self.cp_id, package_signature=self.package_signature)
            case CpmOperation.RUN:
                assert self.device.run(CP_ID)[0] == 0
            case CpmOperation.STREAM:
                assert self.device.stream(CP_ID) == self.payload
            case CpmOperation.UNINSTALL:
                self.device.call("uninstall", cp_id=CP_ID)
            case CpmOperation.INSTALL_APPLICATION_KEY:
                self.device.call("install_application_key", application_id=NAME, wrapped_key=self.wrapped())
            case CpmOperation.APPLY_RELEASE:
                self.device.apply(sequence=9, keys={NAME: 1})
            case CpmOperation.IS_OPERATION_SUPPORTED:
                self.device.call("is_operation_supported", operation="ping")
            case _:
                self.device.call(self.operation.value)

    def wrapped(self):
        public_key = load_public_key(self.device.spki, where="test")
        context = WrapContext(audience=AUDIENCE, device_id=DEVICE_ID, name=NAME, version=1)
        if self.device.key_type is not DeviceKeyType.RSA2048:
            return bytes(256)
        return wrap_key(
            self.device.cloud.class_key(), public_key, WrapAlgorithm.RSA_OAEP_256, context=context
        )


PHASES_THAT_ANY_REQUEST_HAS = {
    (operation, phase)
    for operation in (CpmOperation.INSTALL, CpmOperation.RUN, CpmOperation.STREAM, CpmOperation.UNINSTALL)
    for phase in Phase
}


@pytest.mark.parametrize(
    ("operation", "standing"),
    [case for case in CASES if case not in PHASES_THAT_ANY_REQUEST_HAS],
    ids=[
        f"{operation.value}-{standing.name}"
        for operation, standing in CASES
        if (operation, standing) not in PHASES_THAT_ANY_REQUEST_HAS
    ],
)
def test_service_answers_as_the_table_says(device, monkeypatch, operation, standing):
    staged = Staged(device, operation, monkeypatch)
    staged.reach(standing)

    answer = "ok"
    try:
        staged.do()
    except EdbError as error:
        answer = error.code

    assert answer == _told(operation, standing)
