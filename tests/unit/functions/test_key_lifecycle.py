"""RewrapEnvelopes, DeleteKey, RecoverKey, and what expiry and revocation lists do to devices and builds."""

from __future__ import annotations

import base64
import datetime as dt

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from simulators.app import App
from simulators.cloud import APP
from simulators.fleet import spki_of

from shared.certificates import load_certificates


@pytest.fixture
def fleet(app):
    """The app with one device that holds version 1."""
    app.request("ProvisionKey", {"key_name": APP})
    app.cloud.enrol()
    app.drain()
    assert set(app.cloud.release().keys) == {APP}
    return app


def revoke_all(app) -> None:
    app.request("RevokeKey", {"key_name": APP, "version": app.cloud.store.state(APP).latest})


class TestRewrapEnvelopes:
    @pytest.mark.parametrize("body", [None, {}, {"key_name": APP}, {"key_name": None}])
    def test_it_tells_what_it_did_and_what_is_left(self, fleet, audit, body):
        fleet.cloud.kek.rotate()
        reply = fleet.request("RewrapEnvelopes", body)
        assert (reply.status, reply.document) == (
            200,
            {"rewrapped": 1, "remaining": 0, "kek_version": fleet.cloud.kek.current().kid},
        )
        assert (audit()[-1]["event"], audit()[-1]["outcome"]) == ("rewrap", "allowed")

    def test_nothing_changes_for_devices(self, fleet):
        before = fleet.cloud.registry.snapshot("edge-01")["desired"]
        fleet.cloud.kek.rotate()
        fleet.request("RewrapEnvelopes", {})
        assert fleet.queues["distribute-passes"] == []
        fleet.tick()
        fleet.drain()
        assert fleet.cloud.registry.snapshot("edge-01")["desired"] == before

    @pytest.mark.parametrize(
        ("body", "status", "code"),
        [({"key_name": "nobody"}, 404, "key_not_found"), ({"key_name": "-"}, 400, "invalid_request")],
    )
    def test_a_key_that_is_none_is_a_problem(self, fleet, body, status, code):
        reply = fleet.request("RewrapEnvelopes", body)
        assert (reply.status, reply.document["code"]) == (status, code)


class TestDeleteAndRecover:
    def test_a_key_in_use_stays(self, fleet, audit):
        reply = fleet.request("DeleteKey", {"key_name": APP})
        assert (reply.status, reply.document["code"]) == (409, "key_in_use")
        assert (audit()[-1]["event"], audit()[-1]["reason"]) == ("delete", "key_in_use")
        assert APP in fleet.cloud.store.envelopes

    def test_a_revoked_key_goes_and_comes_back(self, fleet, audit):
        revoke_all(fleet)
        reply = fleet.request("DeleteKey", {"key_name": APP})
        until = f"{fleet.cloud.at + dt.timedelta(days=7):%Y-%m-%dT%H:%M:%SZ}"
        assert (reply.status, reply.document) == (200, {"key_name": APP, "recoverable_until": until})
        assert fleet.request("Key", method="GET", route={"key_name": APP}).status == 404
        assert fleet.request("ProvisionKey", {"key_name": APP}).document["code"] == "key_deleted"
        fleet.drain()
        assert fleet.cloud.release().keys == {}

        reply = fleet.request("RecoverKey", {"key_name": APP})
        assert (reply.status, reply.document) == (200, {"key_name": APP})
        fleet.drain()
        assert fleet.cloud.release().keys == {}  # revoked as it was
        fleet.request("RotateKey", {"key_name": APP})
        fleet.drain()
        assert fleet.cloud.release().keys[APP].version == 2
        assert [each["event"] for each in audit() if each["event"] in {"delete", "recover"}] == [
            "delete",
            "recover",
        ]

    @pytest.mark.parametrize("name", ["DeleteKey", "RecoverKey"])
    def test_both_can_be_repeated(self, fleet, name):
        revoke_all(fleet)
        fleet.request("DeleteKey", {"key_name": APP})
        assert [fleet.request(name, {"key_name": APP}).status for _ in range(2)] == [200, 200]

    @pytest.mark.parametrize("name", ["DeleteKey", "RecoverKey"])
    def test_an_unknown_key_is_not_found(self, app, name):
        reply = app.request(name, {"key_name": "nobody"})
        assert (reply.status, reply.document["code"]) == (404, "key_not_found")
        assert app.queues["distribute-passes"] == []


class TestWhatDevicesLose:
    def passed(self, app):
        app.tick()
        app.drain()
        return app.cloud.release()

    def test_a_disabled_version(self, fleet):
        fleet.cloud.store.disabled.add((APP, 1))
        assert self.passed(fleet).keys == {}
        fleet.cloud.store.disabled.clear()
        assert self.passed(fleet).keys[APP].version == 1

    def test_an_expired_version_and_nothing_older_takes_its_place(self, cloud, tmp_path):
        app = App(cloud, tmp_path, EDB_CLASS_KEY_DAYS="2")
        app.request("ProvisionKey", {"key_name": APP})
        cloud.wait(days=1)
        app.request("RotateKey", {"key_name": APP})
        cloud.enrol(not_after=cloud.at + dt.timedelta(days=30))
        assert self.passed(app).keys[APP].version == 2
        cloud.wait(days=2)
        assert self.passed(app).keys == {}
        app.request("RotateKey", {"key_name": APP})
        assert self.passed(app).keys[APP].version == 3

    def test_a_version_whose_time_has_not_come_leaves_the_older_one(self, fleet):
        fleet.request("RotateKey", {"key_name": APP})
        fleet.cloud.store.not_before[APP, 2] = fleet.cloud.at + dt.timedelta(hours=1)
        assert self.passed(fleet).keys[APP].version == 1
        fleet.cloud.wait(hours=1)
        assert self.passed(fleet).keys[APP].version == 2


class TestRevocationLists:
    def write(self, cloud, path, *serials, age=0):
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(cloud.authority.root.subject)
            .last_update(cloud.at - dt.timedelta(days=age + 1))
            .next_update(cloud.at + dt.timedelta(days=1 - age))
        )
        for serial in serials:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(cloud.at)
            builder = builder.add_revoked_certificate(entry.build())
        signed = builder.sign(cloud.authority._key, hashes.SHA256())
        new = path.with_suffix(".new")  # replaced at once, as whoever fetches lists should
        new.write_bytes(signed.public_bytes(Encoding.PEM))
        new.replace(path)

    @pytest.fixture
    def listed(self, cloud, tmp_path):
        path = tmp_path / "crl.pem"
        self.write(cloud, path)
        app = App(cloud, tmp_path, EDB_CRL_FILE=str(path))
        app.request("ProvisionKey", {"key_name": APP})
        return app, path

    def test_a_device_whose_certificate_was_revoked_loses_its_keys_without_a_restart(self, listed, cloud):
        app, path = listed
        device = cloud.enrol()
        app.tick()
        app.drain()
        assert set(cloud.release().keys) == {APP}
        (certificate,) = load_certificates(device.certificates_der, where="test")
        self.write(cloud, path, certificate.serial_number)
        app.tick()
        app.drain()
        assert (cloud.tag()["state"], cloud.tag()["reason"]) == ("denied", "certificate_revoked")
        assert cloud.release().keys == {}

    def test_a_revoked_or_unknowable_build_machine_gets_nothing(self, listed, cloud, audit):
        app, path = listed
        private_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        certificate = cloud.authority.certify(private_key.public_key(), uri="urn:cpk:build:ci-1")
        body = {
            "key_name": APP,
            "client_public_key": base64.b64encode(spki_of(private_key)).decode(),
            "client_cert": certificate.public_bytes(Encoding.PEM).decode(),
        }

        def answer():
            app.request("WrapKey", body)
            return audit()[-1]["reason"]

        good = answer()
        self.write(cloud, path, certificate.serial_number)
        revoked = answer()
        self.write(cloud, path, age=2)
        assert (good, revoked, answer()) == (
            None,
            "certificate_revoked",
            "revocation_unknown",
        )

    def test_a_file_that_is_no_list_leaves_the_last_good_one_and_is_complained_of_once(
        self, listed, cloud, caplog
    ):
        app, path = listed
        cloud.enrol()
        app.tick()
        app.drain()
        path.write_bytes(b"half a li")
        for _ in range(2):
            app.tick()
            app.drain()
        assert cloud.tag()["state"] == "released"
        told = [record for record in caplog.records if record.message == "revocation_lists_unreadable"]
        assert len(told) == 1
