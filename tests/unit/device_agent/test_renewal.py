"""When a certificate is renewed, and what the command may print; the command is a real process."""

import json
import logging
import sys
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from device_agent.certificate import CertificateFile
from device_agent.cpm_client import DeviceKey
from device_agent.health import Tally
from device_agent.renewal import FIRST_WAIT_SECONDS, SPREAD, Renewer
from device_agent.settings import Renewal
from local_cloud.certificates import certificate_pem, create_authority, issue_device
from shared.public_keys import load_public_key
from shared.types import DeviceId, WrapAlgorithm

DEVICE_ID = DeviceId("edge-01")
DAY = 86400.0

# Prints the file that stands beside it, and notes what it was told.
COMMAND = """
import json, os, pathlib, sys
folder = pathlib.Path(sys.argv[1])
told = {name: value for name, value in os.environ.items() if name.startswith("CPK_")}
(folder / "told").write_text(json.dumps({**told, "stdin": sys.stdin.read()}))
sys.stdout.buffer.write((folder / "answer").read_bytes())
"""


def new_key():
    public_key = ec.generate_private_key(ec.SECP256R1()).public_key()
    spki = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    fingerprint = load_public_key(spki, where="test").fingerprint
    return DeviceKey(spki=spki, fingerprint=fingerprint, algorithms=(WrapAlgorithm.HPKE_P256,))


class Workshop:
    """One device's certificate file, its authority and its renewer; the clocks are the test's."""

    def __init__(self, folder):
        self.folder = folder
        self.ca = create_authority("Fleet CA", days=900)
        self.key = new_key()
        self.now = datetime.now(UTC).timestamp()
        self.monotonic = 1000.0
        self.file = folder / "device.pem"
        self.tally = Tally(clock=lambda: self.now)
        self.certificate = CertificateFile(self.file)

    def pem(self, *, key=None, device_id="edge-01", days=90, ca=None):
        return certificate_pem(issue_device(ca or self.ca, device_id, (key or self.key).spki, days=days))

    def holds(self, **options):
        self.file.write_bytes(self.pem(**options))
        self.certificate.refresh()

    def answers(self, data):
        (self.folder / "answer").write_bytes(data)

    @property
    def told(self):
        file = self.folder / "told"
        return json.loads(file.read_text()) if file.exists() else None

    def renewer(self, *, draw=0.0, command=None, roots=None):
        argv = command or (sys.executable, "-I", "-S", "-c", COMMAND, str(self.folder))
        return Renewer(
            Renewal(command=argv, fraction=0.5),
            certificate=self.certificate,
            device_id=DEVICE_ID,
            roots=roots or self.ca.certificate_pem.decode(),
            tally=self.tally,
            clock=lambda: self.monotonic,
            wall=lambda: self.now,
            draw=lambda: draw,
        )


@pytest.fixture
def shop(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="device_agent")
    return Workshop(tmp_path)


def test_young_certificate_is_left_alone_and_an_old_one_is_due(shop):
    shop.holds(days=90)
    renewer = shop.renewer()

    assert not renewer.is_due(shop.key)
    shop.now += 44 * DAY
    assert not renewer.is_due(shop.key)
    shop.now += 2 * DAY
    assert renewer.is_due(shop.key)


def test_fleet_of_one_day_is_spread(shop):
    shop.holds(days=90)
    early, late = shop.renewer(draw=1.0), shop.renewer(draw=0.0)
    shop.now += 90 * DAY * 0.5 * (1 - SPREAD / 2)

    assert early.is_due(shop.key)
    assert not late.is_due(shop.key)


def test_command_gets_the_public_key_and_its_answer_is_stored(shop):
    shop.holds(days=10)
    shop.now += 6 * DAY
    renewed = shop.pem(days=90)
    shop.answers(renewed)
    renewer = shop.renewer()

    renewer.renew(shop.key)

    assert shop.file.read_bytes() == renewed
    assert shop.certificate.current.leaf_spki == shop.key.spki
    assert shop.told.pop("stdin").startswith("-----BEGIN PUBLIC KEY-----")
    assert shop.told["CPK_DEVICE_ID"] == "edge-01"
    assert shop.told["CPK_REASON"] == "expiring"
    assert shop.told["CPK_FINGERPRINT"] == shop.key.fingerprint.hex()
    assert not renewer.is_due(shop.key)
    assert shop.tally.renewals == 1


def test_device_without_a_certificate_gets_one(shop):
    shop.answers(shop.pem())

    shop.renewer().renew(shop.key)

    assert shop.certificate.current is not None
    assert shop.told["CPK_REASON"] == "missing"


def test_new_device_key_has_a_certificate_of_its_own_whatever_the_old_ones_age(shop):
    shop.holds(days=800)
    other = new_key()
    renewer = shop.renewer()
    assert renewer.is_due(other)
    shop.answers(shop.pem(key=other, days=30))  # ends sooner; the old one is for another key

    renewer.renew(other)

    assert shop.certificate.current.leaf_spki == other.spki
    assert shop.told["CPK_REASON"] == "key_changed"


BAD_ANSWERS = {
    "another key": lambda shop: shop.pem(key=new_key()),
    "another device": lambda shop: shop.pem(device_id="edge-02"),
    "no later end": lambda shop: shop.pem(days=9),
    "another root": lambda shop: shop.pem(ca=create_authority("Other", days=900)),
    "over already": lambda shop: shop.pem(days=3),
    "no certificate": lambda shop: b"Please try again later\n",
    "nothing": lambda shop: b"",
    "too much": lambda shop: shop.pem() * 200,
}


@pytest.mark.parametrize("answer", BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_answer_that_does_not_hold_leaves_the_old_certificate(shop, caplog, answer):
    shop.holds(days=10)
    before = shop.file.read_bytes()
    shop.now += 6 * DAY
    shop.answers(answer(shop))
    renewer = shop.renewer()

    renewer.renew(shop.key)

    assert shop.file.read_bytes() == before
    assert [record.getMessage() for record in caplog.records] == ["renewal_failed"]
    assert shop.tally.renewal_failures == 1
    assert not renewer.is_due(shop.key)
    shop.monotonic += FIRST_WAIT_SECONDS + 1
    assert renewer.is_due(shop.key)


@pytest.mark.parametrize(
    "command", [("/no/such/command",), (sys.executable, "-c", "raise SystemExit(7)")], ids=["absent", "fails"]
)
def test_command_that_fails_is_told_and_tried_again(shop, caplog, command):
    renewer = shop.renewer(command=command)

    renewer.renew(shop.key)

    assert command[0] in caplog.records[-1].reason
    assert shop.certificate.current is None


def test_clock_of_1970_renews_nothing(shop):
    shop.holds(days=10)
    shop.now = 5.0

    assert not shop.renewer().is_due(shop.key)


def test_short_lived_certificates_do_not_make_it_spin(shop):
    shop.now += timedelta(hours=23).total_seconds()
    shop.answers(shop.pem(days=1))
    renewer = shop.renewer()

    renewer.renew(shop.key)

    assert shop.tally.renewals == 1
    assert not renewer.is_due(shop.key)


def test_file_that_cannot_be_written_is_a_failure_like_others(shop, tmp_path):
    shop.certificate = CertificateFile(tmp_path / "missing" / "device.pem")
    shop.answers(shop.pem())

    shop.renewer().renew(shop.key)

    assert shop.tally.last_error.code == "storage_full"


def test_link_in_the_place_of_the_staged_file_is_not_followed(shop, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "device.pem.new").symlink_to(victim)
    shop.answers(shop.pem())

    shop.renewer().renew(shop.key)

    assert victim.read_text() == "precious"
    assert not shop.file.is_symlink()
