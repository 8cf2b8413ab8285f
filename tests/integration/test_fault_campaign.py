"""Hub, vault and functions host as processes that die, with a faulty network between them, and real agents.

What goes wrong is drawn from a seed; when it does, in relation to what runs, is the machine's.
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import uuid
from pathlib import Path

import httpx
import pytest
from azure.iot.hub import IoTHubRegistryManager
from azure.iot.hub.models import Twin
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from simulators.agents import AgentThread, KeyringCpm
from simulators.faulty_proxy import FaultyProxy
from simulators.live_cloud import LocalIdentity
from simulators.running_cloud import RunningCloud

from functions.adapters.audit_folder import FolderSegments
from functions.adapters.key_vault import VaultKek, make_key_client
from functions.adapters.key_vault_secrets import SecretClassKeyStore
from functions.audit_chain import AuditChain
from functions.class_keys import ClassKeys
from local_cloud import credentials
from local_cloud.enrolment import Enrolment, enrol
from local_cloud.state import StateFolder
from local_cloud.vault_keys import KEK_NAME
from shared.audit.chain import verify
from shared.types import Audience, DeviceId, KeyName

APP = KeyName("app")
DEVICES = 12
SECONDS = 240
SERVERS = ("twin-hub", "key-vault", "functions-host")
FAULTS = (*SERVERS, "429 storm", "another writer", "bad network")
NETWORK = {"hub": (70, 8, 8, 8, 6), "vault": (88, 4, 3, 3, 2)}


class Fleet:
    """A local cloud behind faulty proxies, and devices whose agents are at work."""

    def __init__(self, cloud: RunningCloud, proxies: dict[str, FaultyProxy], folder: Path) -> None:
        self.cloud, self.proxies = cloud, proxies
        self._state = StateFolder(cloud.state)
        hub = cloud.description["hub"]
        self.registry = IoTHubRegistryManager.from_connection_string(hub["service_connection_string"])
        ca_pem = Path(hub["ca_file"]).read_text()
        release_keys = [load_pem_public_key(pem.encode()) for pem in cloud.description["release_keys"]]
        self.agents = {}
        for number in range(DEVICES):
            device_id = DeviceId(f"edge-{number:02}")
            cpm = KeyringCpm(device_id, Audience(cloud.description["audience"]), release_keys)
            tags = {"class": "gateway"}
            public_key = cpm.custody.public_key.spki
            papers = enrol(self._state, Enrolment(device_id=device_id, tags=tags, public_key=public_key))
            certificate = folder / f"{device_id}.pem"
            certificate.write_text(papers["certificate"])
            self.agents[device_id] = AgentThread(
                cpm,
                folder / device_id,
                connection_string=papers["connection_string"],
                ca_pem=ca_pem,
                certificate=certificate,
            )

    def close(self) -> None:
        for agent in self.agents.values():
            agent.stop()
        for agent in self.agents.values():
            agent.close()

    def operate(self, name: str, body: dict[str, object]) -> dict[str, object]:
        """Call a contract until it is answered: what is asked again is asked under one idempotency key."""
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        while True:
            try:
                answer = self.cloud.call(name, body, headers=headers)
            except httpx.TransportError:
                threading.Event().wait(0.1)
                continue
            if answer.is_success:
                return answer.json()
            # A writer that died half-way stands in the way for a minute; then the same request goes through.
            assert answer.status_code in {409, 429} or answer.status_code >= 500, answer.text
            threading.Event().wait(0.1)

    def kill(self, server: str) -> None:
        pid = int((self.cloud.state / "run" / f"{server}.pid").read_text())
        os.kill(pid, signal.SIGKILL)

    def write_beside(self, number: int) -> None:
        """Write a tag of some device, whatever its ETag is."""
        device_id = list(self.agents)[number % DEVICES]
        self.registry.update_twin(device_id, Twin(tags={"shelf": number}), "*")

    def all_hold(self, version: int) -> bool:
        for agent in self.agents.values():
            assert agent.failure is None
        return all(self.held(agent) == version for agent in self.agents.values())

    @staticmethod
    def held(agent: AgentThread) -> int | None:
        versions = agent.cpm.state.keys.get(APP)
        return versions[-1].version if versions else None

    def standing(self) -> dict[str, object]:
        return {device_id: self.held(agent) for device_id, agent in self.agents.items()}

    def truth(self, version: int) -> bytes:
        """Return a version as the vault keeps it."""
        identity = LocalIdentity((self.cloud.state / "identity.key").read_bytes(), "operator")
        url = self.proxies["vault"].url
        kek = VaultKek(make_key_client(url, identity, verify_challenge=False), KEK_NAME)
        store = SecretClassKeyStore.connect(url, identity, verify_challenge=False)
        return ClassKeys(store, kek).open(APP, version).reveal()

    def passes(self) -> list[dict[str, object]]:
        """Return what the log tells of passes that came to their end."""
        lines = (self.cloud.state / "logs" / "functions-host.log").read_text().splitlines()
        events = [json.loads(line) for line in lines if line.startswith("{")]
        return [each for each in events if each["event"] == "distribution_pass" and not each["goes_on"]]

    def etags(self) -> dict[str, str]:
        return {device_id: self.registry.get_twin(device_id).etag for device_id in self.agents}


@pytest.fixture
def fleet(tmp_path, monkeypatch, process_seed):
    state, draw = StateFolder(tmp_path / "cloud"), random.Random(process_seed)
    state.path.mkdir(mode=0o700)
    address = f"127.{random.randint(1, 254)}.{random.randint(0, 254)}.3"  # any that is free
    credentials.ensure_credentials(state, address)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(state.file("ca.pem")))
    proxies = {
        name: FaultyProxy(state.path, name, seed=draw.getrandbits(32), weights=weights)
        for name, weights in NETWORK.items()
    }
    state.file("proxies.json").write_text(json.dumps({name: proxy.url for name, proxy in proxies.items()}))
    options = (
        "--address",
        address,
        "--app",
        str(Path(__file__).parent / "apps" / "proxied"),
        "--timer",
        "*/5 * * * * *",
    )
    try:
        with RunningCloud(state.path, *options) as cloud:
            fleet = Fleet(cloud, proxies, tmp_path)
            try:
                yield fleet
            finally:
                fleet.close()
    finally:
        for proxy in proxies.values():
            proxy.close()


def hurt(fleet, fault, draw):
    """Let one thing go wrong."""
    if fault in SERVERS:
        fleet.kill(fault)
    elif fault == "429 storm":
        fleet.proxies["hub"].storm(draw.randint(20, 60))
        fleet.proxies["vault"].storm(draw.randint(5, 15))
    elif fault == "another writer":
        for _ in range(40):
            fleet.write_beside(draw.randint(0, 10**6))


@pytest.mark.timeout(900)
def test_rotations_reach_every_device_whatever_dies_meanwhile(fleet, eventually, process_seed):
    draw = random.Random(process_seed)
    fleet.operate("ProvisionKey", {"key_name": APP})
    eventually(lambda: fleet.all_hold(1), seconds=SECONDS, what="the first key")

    for proxy in fleet.proxies.values():
        proxy.begin()
    version = 1
    for fault in draw.sample(FAULTS, len(FAULTS)):
        version = fleet.operate("RotateKey", {"key_name": APP})["version"]
        threading.Event().wait(draw.uniform(0, 0.6))  # the moment is part of the fault
        hurt(fleet, fault, draw)
        wanted = version
        eventually(
            lambda: fleet.all_hold(wanted),  # noqa: B023 - called before the next round
            seconds=SECONDS,
            what=f"version {version} after {fault}: {fleet.standing()}",
        )
    fleet.operate("RevokeKey", {"key_name": APP, "version": version - 1})
    eventually(
        lambda: all(agent.cpm.state.floors.get(APP) == version for agent in fleet.agents.values()),
        seconds=SECONDS,
        what="the floor",
    )
    for proxy in fleet.proxies.values():
        proxy.calm()
    has_come_to_rest(fleet, eventually)
    holds_the_right_key(fleet, version)
    is_on_record(fleet, version)


def has_come_to_rest(fleet, eventually):
    """Nothing waits on a queue, and two whole passes later no twin was written."""
    eventually(lambda: not waiting(fleet), seconds=SECONDS, what="the end of all messages")
    eventually(lambda: settled_after(fleet, 0), seconds=SECONDS, what="a pass that finds nothing to do")
    etags, before = fleet.etags(), len(fleet.passes())
    eventually(lambda: len(fleet.passes()) >= before + 2, seconds=SECONDS, what="two more passes")
    assert fleet.etags() == etags
    assert settled_after(fleet, before)


def waiting(fleet):
    status = fleet.cloud.http.get(
        "/admin/host/status", headers={"x-functions-key": fleet.cloud.keys["admin"]}
    ).json()
    return {name: count for name, count in status["queues"].items() if not name.endswith("-poison")}


def settled_after(fleet, count):
    """Whether the newest passes, after so many, found nothing to do."""
    passes = fleet.passes()
    newest = passes[count:] if count else passes[-1:]
    return bool(newest) and all(each["unsettled"] == 0 for each in newest)


def holds_the_right_key(fleet, version):
    truth = fleet.truth(version)
    for device_id, agent in fleet.agents.items():
        [held] = agent.cpm.state.keys[APP]
        assert (held.version, held.key.reveal()) == (version, truth), device_id
        sequences = agent.cpm.sequences
        assert sequences == sorted(set(sequences)), device_id


def is_on_record(fleet, version):
    entries = AuditChain(FolderSegments(fleet.cloud.state / "audit")).read(after=0, limit=10**6)
    verify(entries)
    released = {
        (entry.record["device_id"], key["version"])
        for entry in entries
        if (entry.record["event"], entry.record["outcome"]) == ("distribute", "allowed")
        for key in entry.record["keys"].values()
    }
    assert {(device_id, version) for device_id in fleet.agents} <= released
