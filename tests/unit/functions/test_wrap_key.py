"""WrapKey: who gets a class key wrapped, and who does not, and why."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from simulators.build_machine import BuildMachine
from simulators.cloud import APP
from simulators.fleet import DAY, NOW, Authority, spki_of

from shared.keys.unwrapping import unwrap_key
from shared.keys.wrapping import WrapContext
from shared.policy.evaluate import evaluate
from shared.types import WrapAlgorithm


@pytest.fixture
def machine(cloud):
    cloud.class_keys.provision(APP, bits=256)
    return BuildMachine(cloud.authority)


def unwrap(machine, reply, version=1):
    context = WrapContext(audience="fleet-a", device_id="ci-1", name=APP, version=version)
    wrapped = base64.b64decode(reply.document["wrapped_key"])
    algorithm = WrapAlgorithm(reply.document["algorithm"])
    return unwrap_key(wrapped, machine.private_key, algorithm, context=context).reveal()


def test_a_certified_build_machine_gets_the_newest_version(app, machine, audit):
    app.cloud.class_keys.rotate(APP)
    reply = app.request("WrapKey", machine.body())
    assert reply.status == 200
    assert (reply.document["algorithm"], reply.document["key_version"]) == ("RSA-OAEP-256", 2)
    assert unwrap(machine, reply) == app.cloud.class_keys.open(APP, 2).reveal()
    record = audit()[-1]
    assert (record["event"], record["outcome"], record["rule"], record["key_version"]) == (
        "wrap",
        "allowed",
        "builds",
        2,
    )


def test_an_older_version_is_given_when_it_is_asked_for(app, machine):
    app.cloud.class_keys.rotate(APP)
    reply = app.request("WrapKey", machine.body(key_version=1))
    assert unwrap(machine, reply) == app.cloud.class_keys.open(APP, 1).reveal()


def test_a_certificate_may_be_base64_of_der(app, machine):
    der = base64.b64encode(machine.certificate.public_bytes(Encoding.DER)).decode()
    assert app.request("WrapKey", machine.body(client_cert=der)).status == 200


def test_a_revoked_version_is_wrapped_for_nobody(app, machine, audit):
    app.cloud.class_keys.rotate(APP)
    app.cloud.class_keys.revoke(APP, 1)
    reply = app.request("WrapKey", machine.body(key_version=1))
    assert (reply.status, reply.document["code"]) == (403, "key_revoked")
    assert audit()[-1]["outcome"] == "failed"
    assert app.request("WrapKey", machine.body()).status == 200


@pytest.mark.parametrize("changes", [{"key_name": "nobody"}, {"key_version": 7}])
def test_an_unknown_key_or_version_is_not_found(app, machine, changes):
    reply = app.request("WrapKey", machine.body(**changes))
    assert (reply.status, reply.document["code"]) == (404, "key_not_found")


class TestDenial:
    def expect(self, app, audit, body, reason):
        reply = app.request("WrapKey", body)
        assert (reply.status, reply.document["code"]) == (403, "policy_denied")
        assert (audit()[-1]["outcome"], audit()[-1]["reason"]) == ("denied", reason)
        assert "wrapped_key" not in reply.document
        assert app.cloud.kek.unwraps == 0
        return reply

    def test_without_a_certificate(self, app, machine, audit):
        self.expect(app, audit, machine.body(client_cert=None), "certificate_missing")

    def test_with_a_certificate_of_another_authority(self, app, machine, audit):
        rogue = BuildMachine(Authority("rogue CA"))
        reply = self.expect(app, audit, rogue.body(), "certificate_untrusted")
        assert reply.document["reason"] == "certificate_untrusted"
        assert "certificate_untrusted" in reply.document["detail"]
        assert "rule builds" in reply.document["detail"]

    def test_with_an_expired_certificate(self, app, machine, audit):
        late = BuildMachine(app.cloud.authority, not_after=NOW - DAY)
        self.expect(app, audit, late.body(), "certificate_expired")

    def test_with_somebody_elses_certificate(self, app, machine, audit):
        thief = BuildMachine(app.cloud.authority)
        stolen = machine.certificate.public_bytes(Encoding.PEM).decode()
        self.expect(app, audit, thief.body(client_cert=stolen), "key_mismatch")

    def test_with_a_devices_certificate(self, app, machine, audit):
        device = BuildMachine(app.cloud.authority, uri="urn:cpk:device:edge-01")
        reply = self.expect(app, audit, device.body(), "claim_failed")
        assert "rule builds" in reply.document["detail"]

    def test_under_an_algorithm_that_the_rule_does_not_list(self, app, machine, audit):
        reply = self.expect(app, audit, machine.body(algorithm="RSA1_5"), "algorithm_not_allowed")
        assert "rule builds" in reply.document["detail"]

    def test_with_a_kind_of_key_that_the_rule_does_not_list(self, app, machine, audit):
        elliptic = BuildMachine(app.cloud.authority, private_key=ec.generate_private_key(ec.SECP256R1()))
        self.expect(app, audit, elliptic.body(), "algorithm_not_allowed")

    def test_unknown_keys_are_not_told_to_who_may_not_ask(self, app, machine, audit):
        self.expect(app, audit, machine.body(key_name="nobody", client_cert=None), "certificate_missing")

    def test_the_platforms_headers_mean_nothing_without_the_platform_in_front(self, app, machine, audit):
        reply = app.request(
            "WrapKey", machine.body(client_cert=None), headers={"x-ms-client-principal-id": "admin"}
        )
        assert reply.status == 403


class RecordingStore:
    """A store of class keys that notes what it is asked."""

    def __init__(self, store) -> None:
        self._store = store
        self.asked = []

    def __getattr__(self, operation):
        def ask(*arguments, **options):
            self.asked.append((operation, *arguments))
            return getattr(self._store, operation)(*arguments, **options)

        return ask


class TestWhatADenialCouldTellByItsTime:
    """The same steps run whatever the outcome, and nothing asks the vault before the policy has allowed."""

    @pytest.fixture
    def vault(self, app, monkeypatch):
        store = RecordingStore(app.cloud.store)
        monkeypatch.setattr(app.cloud, "store", store)
        return store

    @pytest.fixture
    def evaluated(self, monkeypatch):
        calls = []

        def noting(*arguments, **options):
            calls.append(options["key_name"])
            return evaluate(*arguments, **options)

        monkeypatch.setattr("functions.wrap_key.evaluate", noting)
        return calls

    @pytest.mark.parametrize("case", ["none", "untrusted", "stolen", "device", "algorithm"])
    def test_a_denial_takes_the_same_steps_whether_the_key_exists_or_not(
        self, app, machine, vault, evaluated, case
    ):
        stolen = machine.certificate.public_bytes(Encoding.PEM).decode()
        body = {
            "none": lambda: machine.body(client_cert=None),
            "untrusted": lambda: BuildMachine(Authority("rogue CA")).body(),
            "stolen": lambda: BuildMachine(app.cloud.authority).body(client_cert=stolen),
            "device": lambda: BuildMachine(app.cloud.authority, uri="urn:cpk:device:edge-01").body(),
            "algorithm": lambda: machine.body(algorithm="RSA1_5"),
        }[case]()
        replies = [app.request("WrapKey", {**body, "key_name": name}) for name in (APP, "nobody")]
        assert {(reply.status, reply.document["code"]) for reply in replies} == {(403, "policy_denied")}
        assert replies[0].document["detail"] == replies[1].document["detail"]
        assert evaluated == [APP, "nobody"]
        assert vault.asked == []
        assert app.cloud.kek.unwraps == 0

    def test_only_who_is_allowed_learns_what_there_is(self, app, machine, vault, evaluated):
        assert app.request("WrapKey", machine.body(key_name="nobody")).status == 404
        assert (evaluated, vault.asked) == (["nobody"], [("state", "nobody")])


@pytest.mark.parametrize(
    ("changes", "pointer", "code"),
    [
        ({"client_public_key": None}, "/client_public_key", "missing"),
        ({"client_public_key": "AAAA"}, "/client_public_key", "malformed"),
        ({"client_public_key": 7}, "/client_public_key", "malformed"),
        ({"client_cert": "AAAA"}, "/client_cert", "malformed"),
        ({"algorithm": "ROT13"}, "/algorithm", "unsupported_algorithm"),
        ({"key_version": 0}, "/key_version", "malformed"),
        ({"key_version": True}, "/key_version", "malformed"),
        ({"key_name": "a/b"}, "/key_name", "name_invalid"),
    ],
)
def test_a_malformed_field_is_told_by_its_pointer(app, machine, changes, pointer, code):
    reply = app.request("WrapKey", machine.body(**changes))
    assert reply.status == 400
    assert [(fault["pointer"], fault["code"]) for fault in reply.document["errors"]] == [(pointer, code)]


def test_an_algorithm_of_another_kind_of_key_is_a_bad_request(app, machine):
    reply = app.request("WrapKey", machine.body(algorithm="HPKE-P256"))
    assert (reply.status, reply.document["code"]) == (400, "unsupported_algorithm")


def test_a_public_key_with_bytes_behind_it_is_refused(app, machine):
    longer = base64.b64encode(spki_of(machine.private_key) + b"\0").decode()
    assert app.request("WrapKey", machine.body(client_public_key=longer)).status == 400


def test_an_envelope_that_was_tampered_with_is_an_internal_error_without_details(app, machine, cloud):
    cloud.class_keys.provision("other", bits=256)
    cloud.store.envelopes[APP][1] = cloud.store.envelopes["other"][1]
    reply = app.request("WrapKey", machine.body())
    assert (reply.status, reply.document["code"], reply.document["detail"]) == (
        500,
        "internal",
        "internal error",
    )


def test_no_key_material_stands_in_logs_or_answers(app, machine, caplog):
    caplog.set_level("DEBUG")
    reply = app.request("WrapKey", machine.body())
    key = app.cloud.class_keys.open(APP, 1).reveal()
    told = reply.body + "\n".join(str(record.__dict__) for record in caplog.records).encode()
    for picture in (key, key.hex().encode(), base64.b64encode(key)):
        assert picture not in told
