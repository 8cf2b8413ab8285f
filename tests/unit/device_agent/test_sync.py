"""The agent between a simulated hub and a scripted CPM: no thread, no sleep, a clock that the test turns."""

import hashlib
import json
import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from simulators.device_link import SimulatedLink
from simulators.scripted_cpm import ScriptedCpm, device_key, release_for

from device_agent.certificate import CertificateFile
from device_agent.cpm_client import DeviceKey, HeldPackage
from device_agent.hub_watch import UNAUTHORIZED_SECONDS
from device_agent.inbox import Inbox
from device_agent.state import StateFolder
from device_agent.sync import CPM_MISSED_SECONDS, POLL_SECONDS, Agent
from device_agent.twin_link import REFUSED, UNAUTHORIZED
from shared.encoding import decode_base64, encode_base64
from shared.errors import FormatError, StorageError, TransportError, VerificationError
from shared.twin.documents import desired_patch, parse_certificates, parse_status
from shared.types import Fingerprint, KeyName

APP = KeyName("my_confidential_app")


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class House:
    """One agent and its neighbours."""

    folder: object
    link: SimulatedLink = field(default_factory=SimulatedLink)
    cpm: ScriptedCpm = field(default_factory=ScriptedCpm)
    clock: Clock = field(default_factory=Clock)
    inbox: Inbox = field(default_factory=Inbox)
    certificate: CertificateFile = field(default_factory=lambda: CertificateFile(None))
    agent: Agent = None
    state: StateFolder = None

    def start(self) -> None:
        self.state = StateFolder(self.folder)
        self.agent = Agent(
            link=self.link,
            cpm=self.cpm,
            certificate=self.certificate,
            state=self.state,
            notify=self.inbox.put,
            clock=self.clock,
        )
        self.settle()

    def restart(self) -> None:
        """Kill the agent and start another one."""
        self.state.close()
        self.link.disconnect()
        self.start()

    def settle(self) -> None:
        """Let the agent do all that it can, as its main loop would."""
        self.agent.advance()
        while (event := self.inbox.get(0)) is not None:
            while event is not None:
                self.agent.handle(event)
                event = self.inbox.get(0)
            self.agent.advance()

    def pass_time(self, seconds: float) -> None:
        """Turn the clock as the main loop would wait: from one due moment to the next."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            wait = self.agent.seconds_to_wait()
            assert wait > 0, "the main loop would spin"
            self.clock.now = min(end, self.clock.now + wait)
            self.settle()

    def release(self, sequence: int, versions: dict[str, int], *, push: bool = True) -> dict:
        patch = desired_patch(
            wrapped={KeyName(name): b"wrapped" for name in versions},
            removed=list(self.link.desired.get("confidential_package_keys", {})),
            release=release_for(self.cpm.key, sequence, versions),
        )
        return self.link.desire(patch, push=push)

    @property
    def status(self):
        return parse_status(self.link.reported)


@pytest.fixture
def house(tmp_path):
    house = House(folder=tmp_path / "state")
    yield house
    if house.state is not None:
        house.state.close()


def logged(caplog, event):
    return [record for record in caplog.records if record.getMessage() == event]


@pytest.fixture(autouse=True)
def _log_level(caplog):
    caplog.set_level(logging.INFO, logger="device_agent")


def test_new_device_reports_key_and_status_in_one_patch_after_one_twin_read(house, caplog):
    house.start()

    assert house.link.calls == ["connect", "get_twin", "patch_reported"]
    assert house.link.reported["device_public_key"] == encode_base64(house.cpm.key.spki)
    assert house.status.fingerprint == house.cpm.key.fingerprint
    assert [algorithm.value for algorithm in house.status.algorithms] == ["RSA-OAEP-256", "HPKE-P256"]
    assert house.status.sequence == 0
    [record] = logged(caplog, "key_reported")
    assert record.fingerprint == house.cpm.key.fingerprint.hex()


def test_release_is_applied_and_acknowledged_when_it_is_pushed(house, caplog):
    house.start()

    house.release(7, {APP: 3})
    house.settle()

    assert house.status.sequence == 7
    assert house.status.keys[APP].version == 3
    assert house.status.keys[APP].state == "installed"
    assert house.status.keys[APP].kcv == bytes([3]) * 16
    assert house.link.calls.count("get_twin") == 1
    [record] = logged(caplog, "release_applied")
    assert (record.sequence, record.keys) == (7, {APP: 3})


def test_release_that_is_there_at_the_start_is_applied(house):
    house.release(7, {APP: 3})

    house.start()

    assert house.cpm.sequence == 7
    assert house.status.keys[APP].version == 3


def test_restart_reports_nothing_when_nothing_changed(house, caplog):
    house.start()
    house.release(7, {APP: 3})
    house.settle()
    before = len(house.link.patches)

    house.restart()
    house.pass_time(5 * POLL_SECONDS)

    assert len(house.link.patches) == before
    assert len(logged(caplog, "release_applied")) == 1
    assert len(logged(caplog, "release_held")) == 1


def test_duplicate_patch_changes_nothing(house):
    house.start()
    body = house.release(7, {APP: 3})
    house.settle()
    calls = len(house.cpm.calls)

    house.link.push(body)
    house.settle()

    assert len(house.cpm.calls) == calls
    assert house.link.calls.count("get_twin") == 1


def test_gap_in_desired_version_reads_the_whole_twin(house):
    house.start()
    house.release(7, {APP: 3}, push=False)

    house.link.desire({"unrelated": 1})
    house.settle()

    assert house.link.calls.count("get_twin") == 2
    assert house.cpm.sequence == 7


def test_older_version_reads_the_whole_twin(house):
    house.start()

    house.link.push({"$version": 0})
    house.settle()

    assert house.link.calls.count("get_twin") == 2


@pytest.mark.parametrize("body", [None, [], "text", {}, {"$version": "9"}, {"$version": True}])
def test_patch_that_cannot_be_read_reads_the_whole_twin(house, caplog, body):
    house.start()

    house.link.push(body)
    house.settle()

    assert house.link.calls.count("get_twin") == 2
    assert len(logged(caplog, "patch_malformed")) == 1


def test_patches_in_sequence_merge_and_need_no_twin(house):
    house.start()
    house.release(7, {APP: 3, "other": 1})
    house.settle()

    house.release(8, {"other": 1})
    house.settle()

    assert set(house.status.keys) == {"other"}
    assert house.link.reported["confidential_package_status"]["keys"].keys() == {"other"}
    assert house.link.calls.count("get_twin") == 1


def test_overflowing_inbox_reads_the_whole_twin_once(house):
    house.start()
    for number in range(200):
        house.link.desire({"unrelated": number})
    house.release(7, {APP: 1})

    house.settle()

    assert house.cpm.sequence == 7
    assert house.link.calls.count("get_twin") == 2


def test_report_that_could_not_be_sent_is_sent_after_reconnecting_as_it_is_then(house, caplog):
    house.start()
    house.link.go_away()
    house.settle()
    house.cpm.packages["app"] = HeldPackage(version="1.0.0", state="installed")
    house.pass_time(2 * POLL_SECONDS)
    house.cpm.packages["app"] = HeldPackage(version="1.1.0", state="installed")
    house.pass_time(2 * POLL_SECONDS)
    before = len(house.link.patches)

    house.link.come_back()
    house.pass_time(60)

    assert house.link.patches[before:] == [
        {"confidential_package_status": {"packages": {"app": {"ver": "1.1.0", "state": "installed"}}}}
    ]
    assert len(logged(caplog, "disconnected")) == 1


def test_reconnect_reads_the_whole_twin_and_applies_what_was_missed(house):
    house.start()
    house.link.go_away()
    house.settle()
    house.release(7, {APP: 2})

    house.link.come_back()
    house.pass_time(10)

    assert house.link.calls.count("get_twin") == 2
    assert house.status.keys[APP].version == 2


def test_unreachable_hub_is_tried_for_good_with_waits_up_to_a_minute(house, caplog):
    house.link.go_away()
    house.start()

    house.pass_time(3600)

    waits = [record.retry_in_seconds for record in logged(caplog, "connect_failed")]
    assert waits[0] == 1.0
    assert max(waits) <= 60
    assert 60 <= len(waits) <= 1000
    house.link.come_back()
    house.pass_time(61)
    assert house.link.reported["device_public_key"] == encode_base64(house.cpm.key.spki)


def test_device_that_the_hub_refuses_says_so_and_tries_rarely(house, caplog):
    refused = TransportError("connecting: the hub refuses this device", code=UNAUTHORIZED)
    house.link.fail_next(refused, refused)
    house.start()

    house.pass_time(UNAUTHORIZED_SECONDS * 2 + 1)

    assert house.link.calls.count("connect") == 3
    failures = logged(caplog, "connect_failed")
    assert [(record.code, record.retry_in_seconds) for record in failures] == [(UNAUTHORIZED, 60.0)] * 2
    assert house.link.connected


def test_lost_answer_to_a_report_drops_the_connection_and_looks_again(house):
    house.link.fail_next(None, None, TransportError("patching the twin: the hub did not answer"))
    house.start()
    assert not house.link.connected

    house.pass_time(5)

    assert house.link.calls == ["connect", "get_twin", "patch_reported"] * 2
    assert house.status.fingerprint == house.cpm.key.fingerprint


def test_report_that_the_hub_refuses_is_not_repeated_until_it_changes(house, caplog):
    house.link.fail_next(None, None, FormatError("patching the twin: the hub answered 400", code=REFUSED))
    house.start()
    house.pass_time(10 * POLL_SECONDS)
    assert house.link.calls.count("patch_reported") == 1
    assert len(logged(caplog, "report_refused")) == 1

    house.cpm.packages["app"] = HeldPackage(version="1.0.0", state="installed")
    house.pass_time(2 * POLL_SECONDS)

    assert house.link.calls.count("patch_reported") == 2
    assert house.status.packages["app"].version == "1.0.0"


def test_two_agents_with_one_identity_do_not_storm(house):
    house.start()
    for _ in range(20):
        house.link.go_away()
        house.link.come_back()
        house.settle()
    started = house.clock.now
    connects = house.link.calls.count("connect")

    while house.link.calls.count("connect") < connects + 10:
        house.pass_time(1)
        house.link.go_away()
        house.link.come_back()
        house.settle()

    assert house.clock.now - started > 30


def test_refused_release_is_reported_for_each_key_and_waits_for_another(house, caplog):
    house.start()
    house.cpm.refusals.append(VerificationError("no pinned key signed it", code="signature_invalid"))

    house.release(7, {APP: 3, "other": 1})
    house.settle()
    house.pass_time(10 * POLL_SECONDS)

    assert {name: (key.version, key.state, key.error) for name, key in house.status.keys.items()} == {
        APP: (3, "error", "signature_invalid"),
        "other": (1, "error", "signature_invalid"),
    }
    assert {key.sequence for key in house.status.keys.values()} == {7}  # tells this refusal from the next
    assert house.cpm.calls.count("apply_release") == 1
    assert [record.code for record in logged(caplog, "release_refused")] == ["signature_invalid"]

    house.release(8, {APP: 3})
    house.settle()
    assert house.status.keys[APP].state == "installed"
    assert set(house.status.keys) == {APP}


def test_code_that_the_protocol_does_not_know_is_reported_as_internal(house):
    house.start()
    house.cpm.refusals.append(FormatError("release: not CBOR"))

    house.release(7, {APP: 3})
    house.settle()

    assert house.status.keys[APP].error == "internal"


def test_full_disk_is_reported_and_tried_again(house):
    house.start()
    house.cpm.refusals.append(StorageError("no space left"))

    house.release(7, {APP: 3})
    house.settle()
    assert house.status.keys[APP].error == "storage_full"

    house.pass_time(5)
    assert house.status.keys[APP].state == "installed"


def test_cpm_that_is_away_at_the_start_is_waited_for(house, caplog):
    house.cpm.away = True
    house.start()
    house.release(7, {APP: 3})
    house.settle()
    house.pass_time(20)
    assert house.link.patches == []

    house.cpm.away = False
    house.pass_time(60)

    assert house.status.keys[APP].version == 3
    assert len(logged(caplog, "cpm_unavailable")) == 1


def test_cpm_that_is_away_is_asked_at_growing_intervals(house):
    house.cpm.away = True
    house.start()

    house.pass_time(24 * 3600)

    # Waits are drawn up to 300 s, 150 s on average; never the ten seconds of the status look.
    assert 24 * 12 <= house.cpm.calls.count("identify") <= 24 * 60
    house.cpm.away = False
    house.pass_time(300)
    assert house.status.sequence == 0


def test_release_that_comes_while_the_cpm_is_away_is_applied_when_it_is_back(house):
    house.start()
    house.cpm.away = True
    house.release(7, {APP: 3})
    house.settle()

    house.cpm.away = False
    house.pass_time(10)

    assert house.status.keys[APP].state == "installed"


def test_cpm_that_stays_away_is_reported_and_forgiven(house):
    house.start()
    house.cpm.away = True
    house.release(7, {APP: 3})
    house.settle()
    house.pass_time(CPM_MISSED_SECONDS / 2)
    assert house.status.keys == {}

    house.pass_time(CPM_MISSED_SECONDS)
    assert house.status.keys[APP].error == "cpm_unavailable"

    house.cpm.away = False
    house.pass_time(300)
    assert house.status.keys[APP].state == "installed"


def test_cpm_that_comes_back_while_the_hub_is_away_gets_its_keys(house):
    house.start()
    house.cpm.away = True
    house.release(7, {APP: 3})
    house.settle()
    house.link.go_away()
    house.settle()

    house.cpm.away = False
    house.pass_time(20)

    assert house.cpm.sequence == 7
    assert not house.link.connected


def test_changed_device_key_is_reported_and_the_old_release_left_alone(house, caplog):
    house.start()
    house.release(7, {APP: 3})
    house.settle()
    house.cpm.key = device_key("second")
    house.cpm.forget()
    applied = house.cpm.calls.count("apply_release")

    house.pass_time(POLL_SECONDS + 5)

    assert house.status.fingerprint == device_key("second").fingerprint
    assert house.link.reported["device_public_key"] == encode_base64(device_key("second").spki)
    assert house.status.keys == {}
    assert house.cpm.calls.count("apply_release") == applied
    assert len(logged(caplog, "device_key_changed")) == 1

    house.release(8, {APP: 3})
    house.settle()
    assert house.status.keys[APP].state == "installed"


def test_key_that_changed_while_the_agent_was_down_is_reported_at_the_start(house):
    house.start()
    house.release(7, {APP: 3})
    house.settle()
    house.cpm.key = device_key("second")
    house.cpm.forget()

    house.restart()

    assert house.link.reported["device_public_key"] == encode_base64(device_key("second").spki)
    assert house.status.keys == {}


def test_key_that_changes_back_takes_the_release_that_is_there(house):
    house.start()
    house.release(7, {APP: 3})
    house.settle()
    first, house.cpm.key = house.cpm.key, device_key("second")
    house.cpm.forget()
    house.pass_time(POLL_SECONDS + 5)

    house.cpm.key = first
    house.pass_time(POLL_SECONDS + 5)

    assert house.status.fingerprint == first.fingerprint
    assert house.status.keys[APP].state == "installed"


def test_cpm_that_lost_its_store_is_given_the_release_again(house, caplog):
    house.start()
    house.release(7, {APP: 3})
    house.settle()

    house.cpm.forget()
    house.pass_time(POLL_SECONDS + 5)

    assert house.cpm.sequence == 7
    assert house.status.keys[APP].state == "installed"
    assert len(logged(caplog, "cpm_state_lost")) == 1


def test_version_1_keys_are_installed_one_by_one_and_reported_one_by_one(house):
    house.start()
    house.cpm.refusals.append(VerificationError("cannot be unwrapped", code="unwrap_failed"))
    keys = {"bad": encode_base64(b"x" * 256), "good": encode_base64(b"k" * 256)}

    house.link.desire({"confidential_package_keys": keys})
    house.settle()

    assert house.status.keys["bad"].error == "unwrap_failed"
    assert house.status.keys["good"].state == "installed"
    assert house.cpm.calls.count("install_application_key") == 2


@pytest.mark.parametrize(
    "patch",
    [
        {"confidential_package_keys": "text"},
        {"confidential_package_keys": {"bad name!": "AAAA"}},
        {"confidential_package_keys": {"name": "not base64!"}},
        {"confidential_package_release": {"v": 3, "cose": "AAAA"}},
        {"confidential_package_release": {"v": 2}},
    ],
    ids=["keys no object", "name", "base64", "version", "no cose"],
)
def test_malformed_desired_is_logged_and_nothing_reaches_the_cpm(house, caplog, patch):
    house.start()

    house.link.desire(patch)
    house.settle()

    assert len(logged(caplog, "desired_malformed")) == 1
    assert not {"apply_release", "install_application_key"} & set(house.cpm.calls)
    house.release(7, {APP: 1})
    house.link.desire({"confidential_package_keys": {"bad name!": None, "name": None}})
    house.settle()
    assert house.status.sequence == 7


def test_cpm_of_another_device_is_told_of_and_left_to_refuse(house, caplog):
    house.cpm.device_id = "edge-02"

    house.start()

    [record] = logged(caplog, "device_id_mismatch")
    assert (record.device_id, record.cpm_device_id) == ("edge-01", "edge-02")


def test_memory_survives_a_restart_and_damage_to_it_does_not_matter(house, caplog):
    house.start()
    house.release(7, {APP: 3})
    house.settle()
    file = house.folder / "agent.json"
    expected = {"fingerprint": house.cpm.key.fingerprint.hex(), "sequence": 7}
    assert json.loads(file.read_text()) == expected

    file.write_bytes(b"\x00damaged")
    house.restart()

    assert len(logged(caplog, "state_damaged")) == 1
    assert house.link.connected


def test_other_reported_properties_are_left_alone(house):
    house.link.reported = {"firmware": "1.2", "confidential_package_status": {"v": 2, "left": "over"}}

    house.start()

    assert house.link.reported["firmware"] == "1.2"
    assert "left" not in house.link.reported["confidential_package_status"]


def test_nothing_secret_reaches_the_log(house, caplog):
    caplog.set_level(logging.DEBUG)
    house.start()
    house.release(7, {APP: 3})
    house.settle()

    text = "\n".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)
    assert "wrapped" not in text
    assert encode_base64(b"wrapped") not in text


def test_certificate_is_reported_renewed_and_compared_with_the_device_key(house, tmp_path, caplog):
    file = tmp_path / "device.pem"
    house.certificate = CertificateFile(file)
    house.start()
    assert "device_cert" not in house.link.reported

    own = SelfSigned("edge-01")
    house.cpm.key = own.device_key()
    file.write_bytes(own.pem)
    house.pass_time(POLL_SECONDS + 5)
    assert decode_base64(house.link.reported["device_cert"], where="test") == own.der
    assert logged(caplog, "certificate_mismatch") == []

    other = SelfSigned("edge-01")
    replacement = tmp_path / "renewed.pem"
    replacement.write_bytes(other.pem)
    replacement.replace(file)
    house.pass_time(3 * POLL_SECONDS)
    assert decode_base64(house.link.reported["device_cert"], where="test") == other.der
    assert len(logged(caplog, "certificate_mismatch")) == 1


def test_long_chain_travels_in_parts_and_a_shorter_one_replaces_it_whole(house, tmp_path):
    file = tmp_path / "device.pem"
    certificates = [SelfSigned(f"name-{number}", padding=1500) for number in range(3)]
    file.write_bytes(b"".join(certificate.pem for certificate in certificates))
    house.certificate = CertificateFile(file)
    house.start()
    parts = house.link.reported["device_cert"]
    assert len(parts) >= 2
    assert parse_certificates(house.link.reported) == tuple(entry.certificate for entry in certificates)

    house.restart()
    assert len(house.link.patches) == 1

    file.write_bytes(certificates[0].pem)
    house.pass_time(POLL_SECONDS + 1)
    assert parse_certificates(house.link.reported) == (certificates[0].certificate,)


def test_malformed_certificate_keeps_the_last_good_one(house, tmp_path, caplog):
    file = tmp_path / "device.pem"
    own = SelfSigned("edge-01")
    file.write_bytes(own.pem)
    house.certificate = CertificateFile(file)
    house.start()

    file.write_bytes(b"-----BEGIN CERTIFICATE-----\nhalf a file")
    house.pass_time(5 * POLL_SECONDS)

    assert decode_base64(house.link.reported["device_cert"], where="test") == own.der
    assert len(logged(caplog, "certificate_invalid")) == 1


class SelfSigned:
    """A certificate over a key of its own."""

    def __init__(self, name: str, padding: int = 0) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        filler = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), bytes(padding))
        start = datetime(2026, 1, 1, tzinfo=UTC)
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + timedelta(days=3650))
            .add_extension(filler, critical=False)
            .sign(key, hashes.SHA256())
        )
        self.spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.pem = self.certificate.public_bytes(Encoding.PEM)
        self.der = self.certificate.public_bytes(Encoding.DER)

    def device_key(self) -> DeviceKey:
        fingerprint = Fingerprint(hashlib.sha256(self.spki).digest())
        return DeviceKey(spki=self.spki, fingerprint=fingerprint, algorithms=device_key().algorithms)
