"""ProvisionKey, ImportKey, RotateKey, RevokeKey, Keys, Health: the HTTP contracts as callers see them."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from simulators.cloud import APP

from shared.errors import TransportError


def unsigned(text: str) -> int:
    return int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), "big")


def wrap_for_kek(app, key: bytes) -> str:
    jwk = app.request("ImportKeyPublic", method="GET").document
    public_key = rsa.RSAPublicNumbers(unsigned(jwk["e"]), unsigned(jwk["n"])).public_key()
    oaep = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
    return base64.b64encode(public_key.encrypt(key, oaep)).decode()


class TestProvisionKey:
    def test_it_makes_version_1_and_asks_for_a_pass(self, app, audit):
        reply = app.request("ProvisionKey", {"key_name": APP, "algorithm": "aes-gcm", "strength": "256"})
        assert reply.status == 201
        assert reply.document == {
            "message": "class key my_confidential_app was created",
            "key_name": "my_confidential_app",
            "version": 1,
            "algorithm": "aes-gcm",
            "strength": "256",
        }
        assert len(app.queues["distribute-passes"]) == 1
        assert len(app.cloud.class_keys.open(APP, 1)) == 32
        record = audit()[0]
        assert (record["event"], record["outcome"], record["key_name"]) == ("provision", "allowed", APP)

    @pytest.mark.parametrize(
        ("strength", "length"), [(128, 16), ("128", 16), (192, 24), ("256", 32), (None, 32)]
    )
    def test_strength_is_a_number_or_text(self, app, strength, length):
        assert app.request("ProvisionKey", {"key_name": APP, "strength": strength}).status == 201
        assert len(app.cloud.class_keys.open(APP, 1)) == length

    def test_the_route_may_name_the_key_and_the_body_be_empty(self, app):
        reply = app.request("ProvisionKeyNamed", route={"key_name": "test"})
        assert (reply.status, reply.document["key_name"]) == (201, "test")

    def test_route_and_body_that_disagree_are_refused(self, app):
        reply = app.request("ProvisionKeyNamed", {"key_name": "other"}, route={"key_name": "test"})
        assert (reply.status, reply.document["errors"][0]["code"]) == (400, "name_conflict")
        assert app.cloud.store.envelopes == {}

    def test_an_existing_key_is_never_overwritten(self, app, audit):
        app.request("ProvisionKey", {"key_name": APP})
        before = app.cloud.store.read(APP, 1)
        reply = app.request("ProvisionKey", {"key_name": APP})
        assert (reply.status, reply.document["code"]) == (409, "key_exists")
        assert app.cloud.store.read(APP, 1) == before
        assert len(app.queues["distribute-passes"]) == 1
        assert audit()[-1]["outcome"] == "failed"

    @pytest.mark.parametrize("name", ["ProvisionKey", "ProvisionKeyNamed"])
    def test_get_creates_nothing(self, app, name):
        reply = app.request(name, method="GET", route={"key_name": "test"})
        assert (reply.status, reply.headers["Allow"]) == (405, "POST")
        assert reply.headers["Content-Type"] == "application/problem+json"
        assert app.cloud.store.envelopes == {}

    def test_all_faults_are_told_together_with_their_pointers(self, app):
        reply = app.request("ProvisionKey", {"key_name": "-bad", "algorithm": "des", "strength": 512})
        assert (reply.status, reply.document["code"]) == (400, "invalid_request")
        told = {fault["pointer"]: fault["code"] for fault in reply.document["errors"]}
        assert told == {
            "/key_name": "name_invalid",
            "/algorithm": "unsupported_algorithm",
            "/strength": "malformed",
        }

    @pytest.mark.parametrize(
        ("body", "status"),
        [
            (b"", 400),
            (b"{", 400),
            (b"[]", 400),
            (b'{"key_name": "a", "key_name": "b"}', 400),
            (b"\xff", 400),
            (b'{"key_name": "a"}' + b" " * 65536, 413),
            (b'{"key_name": "a", "strength": true}', 400),
            (b'{"key_name": "a", "strength": 256.0}', 400),
            (b'{"key_name": "a", "more": {"is": ["ignored"]}}', 201),
        ],
    )
    def test_bodies_are_read_strictly(self, app, body, status):
        assert app.request("ProvisionKey", body).status == status


class TestImportKey:
    @pytest.mark.parametrize("length", [16, 24, 32])
    def test_a_key_of_ones_own_becomes_version_1(self, app, length):
        key = bytes(range(length))
        reply = app.request("ImportKey", {"key_name": APP, "wrapped_key": wrap_for_kek(app, key)})
        assert (reply.status, reply.document["strength"]) == (201, str(length * 8))
        assert app.cloud.class_keys.open(APP, 1).reveal() == key

    def test_a_key_of_another_length_is_refused(self, app):
        reply = app.request("ImportKey", {"key_name": APP, "wrapped_key": wrap_for_kek(app, bytes(20))})
        assert (reply.status, reply.document["code"]) == (400, "wrapped_key_invalid")
        assert app.cloud.store.envelopes == {}

    def test_what_does_not_unwrap_is_refused(self, app):
        wrapped = base64.b64encode(bytes(256)).decode()
        reply = app.request("ImportKey", {"key_name": APP, "wrapped_key": wrapped})
        assert (reply.status, reply.document["code"]) == (400, "wrapped_key_invalid")

    def test_another_kek_is_not_asked(self, app):
        body = {"key_name": APP, "wrapped_key": wrap_for_kek(app, bytes(32)), "kid": "https://other/keys/k/1"}
        assert app.request("ImportKey", body).document["code"] == "wrapped_key_invalid"
        assert app.cloud.kek.unwraps == 0


class TestRotateAndRevoke:
    def test_rotation_makes_the_next_version_of_the_same_length(self, app, audit):
        app.request("ProvisionKey", {"key_name": APP, "strength": 128})
        reply = app.request("RotateKey", {"key_name": APP})
        assert (reply.status, reply.document["version"]) == (200, 2)
        first, second = (app.cloud.class_keys.open(APP, version).reveal() for version in (1, 2))
        assert len(second) == 16
        assert first != second
        assert len(app.queues["distribute-passes"]) == 2
        assert audit()[-1]["event"] == "rotate"

    def test_revocation_answers_the_floor_and_never_lowers_it(self, app, audit):
        app.request("ProvisionKey", {"key_name": APP})
        app.request("RotateKey", {"key_name": APP})
        assert app.request("RevokeKey", {"key_name": APP, "version": 2}).document["floor"] == 3
        assert app.request("RevokeKey", {"key_name": APP, "version": 1}).document["floor"] == 3
        assert [record["event"] for record in audit()][-2:] == ["revoke", "revoke"]

    def test_a_version_that_is_not_there_cannot_be_revoked(self, app):
        app.request("ProvisionKey", {"key_name": APP})
        reply = app.request("RevokeKey", {"key_name": APP, "version": 2})
        assert (reply.status, reply.document["code"]) == (404, "key_not_found")

    @pytest.mark.parametrize("name", ["RotateKey", "RevokeKey"])
    def test_an_unknown_key_is_not_found(self, app, name):
        reply = app.request(name, {"key_name": "nobody", "version": 1})
        assert (reply.status, reply.document["code"]) == (404, "key_not_found")
        assert app.queues["distribute-passes"] == []


class TestReading:
    def test_keys_tell_names_versions_and_floors(self, app):
        app.request("ProvisionKey", {"key_name": APP})
        app.request("RotateKey", {"key_name": APP})
        app.request("RevokeKey", {"key_name": APP, "version": 1})
        described = {
            "key_name": APP,
            "version": 2,
            "floor": 2,
            "algorithm": "aes-gcm",
            "strength": "256",
            "versions": [
                {"version": 1, "state": "revoked", "created_at": "2030-05-17T12:00:00Z"},
                {"version": 2, "state": "active", "created_at": "2030-05-17T12:00:00Z"},
            ],
        }
        assert app.request("Keys", method="GET").document == {"keys": [described]}
        assert app.request("Key", method="GET", route={"key_name": APP}).document == described

    def test_an_unknown_key_is_a_problem(self, app):
        reply = app.request("Key", method="GET", route={"key_name": "nobody"})
        assert (reply.status, reply.document["code"]) == (404, "key_not_found")

    def test_health_needs_neither_vault_nor_hub(self, app):
        assert app.request("Health", method="GET").document == {"status": "ok", "audience": "fleet-a"}


class TestProblems:
    def test_a_trace_parent_becomes_the_correlation_id(self, app):
        trace = "0af7651916cd43dd8448eb211c80319c"
        headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
        reply = app.request("RotateKey", {"key_name": "nobody"}, headers=headers)
        assert reply.document["correlation_id"] == trace
        assert reply.headers["x-correlation-id"] == trace

    def test_a_correlation_id_that_could_forge_log_lines_is_replaced(self, app):
        reply = app.request("RotateKey", {}, headers={"x-correlation-id": 'x"\n{"event":"forged"}'})
        assert len(reply.document["correlation_id"]) == 32

    def test_a_vault_that_cannot_be_reached_is_503_and_says_when_to_come_back(self, app, monkeypatch):
        def fail(_name):
            raise TransportError("vault at 10.0.0.7: connection refused", retry_after=17)

        monkeypatch.setattr(app.cloud.store, "state", fail)
        reply = app.request("RotateKey", {"key_name": APP})
        assert (reply.status, reply.headers["Retry-After"]) == (503, "17")
        assert b"10.0.0.7" not in reply.body

    def test_an_unforeseen_error_shows_nothing_of_itself(self, app, monkeypatch, caplog):
        def fail(_name):
            raise ZeroDivisionError("the secret inside")

        monkeypatch.setattr(app.cloud.store, "state", fail)
        reply = app.request("RotateKey", {"key_name": APP})
        assert (reply.status, reply.document["code"]) == (500, "internal")
        assert b"secret inside" not in reply.body
        assert reply.document["correlation_id"] in {
            record.correlation_id for record in caplog.records if record.message == "request_failed"
        }
