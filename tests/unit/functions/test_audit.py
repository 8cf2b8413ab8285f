"""The audit: one chain that outlives restarts, and no key that leaves without its record."""

from __future__ import annotations

import datetime as dt
import json
import secrets

import pytest
from simulators.audit_segments import MemorySegments
from simulators.build_machine import BuildMachine
from simulators.cloud import APP
from simulators.fleet import NOW

from functions import audit_chain
from functions.adapters.audit_folder import FolderSegments
from functions.audit import MAX_DETAIL, AuditLog, AuditRecord, caller_of
from functions.audit_chain import AuditChain
from shared.audit.chain import START, read_entry, verify
from shared.errors import TransportError, VerificationError
from shared.types import DeviceId


def records(count=1):
    return [{"event": "wrap", "id": secrets.token_hex(8)} for _ in range(count)]


@pytest.fixture
def store():
    return MemorySegments()


@pytest.fixture
def short(monkeypatch):
    """Segments that three entries fill."""
    monkeypatch.setattr(audit_chain, "SEGMENT_ENTRIES", 3)


def open_chain(store):
    return AuditChain(store, pause=lambda _: None)


class TestChain:
    def test_a_restart_goes_on_where_the_chain_ends(self, store):
        open_chain(store).append(records(2))
        open_chain(store).append(records(1))
        assert verify(open_chain(store).read(after=0, limit=10)).seq == 3

    def test_a_full_segment_is_followed_by_one_that_is_linked_to_it(self, store, short):
        chain = open_chain(store)
        for _ in range(7):
            chain.append(records())
        assert store.names() == [f"{first:015}.jsonl" for first in (1, 4, 7)]
        assert verify(chain.read(after=0, limit=100)).seq == 7

    def test_a_restart_at_the_border_of_segments_goes_on(self, store, short):
        open_chain(store).append(records(3))
        open_chain(store).append(records(1))
        open_chain(store).append(records(1))
        assert verify(open_chain(store).read(after=0, limit=100)).seq == 5

    def test_an_empty_segment_that_a_crash_left_is_used(self, store, short):
        open_chain(store).append(records(3))
        store.create(f"{4:015}.jsonl")
        open_chain(store).append(records(1))
        assert verify(open_chain(store).read(after=0, limit=100)).seq == 4

    def test_a_late_writer_does_not_add_to_a_segment_that_others_filled(self, store, short):
        late, other = open_chain(store), open_chain(store)
        late.append(records(1))
        other.append(records(2))
        other.append(records(1))
        late.append(records(1))
        assert verify(late.read(after=0, limit=100)).seq == 5

    def test_pages_begin_after_a_number_in_any_segment(self, store, short):
        chain = open_chain(store)
        for _ in range(8):
            chain.append(records())
        for after in range(9):
            assert [entry.seq for entry in chain.read(after=after, limit=2)] == [
                seq for seq in (after + 1, after + 2) if seq <= 8
            ]

    def test_a_store_that_is_away_takes_nothing_and_the_chain_goes_on_after(self, store):
        chain = open_chain(store)
        chain.append(records())
        store.is_away = True
        with pytest.raises(TransportError):
            chain.append(records())
        store.is_away = False
        chain.append(records())
        assert verify(chain.read(after=0, limit=10)).seq == 2

    def test_records_whose_answer_was_lost_stay_and_the_chain_goes_on(self, store):
        chain = open_chain(store)
        store.loses_answers = 1
        with pytest.raises(TransportError):
            chain.append(records())
        chain.append(records())
        assert verify(chain.read(after=0, limit=10)).seq == 2

    def test_records_that_a_repeated_call_finds_written_are_not_written_twice(self, store):
        """As an SDK does that repeats a call whose answer was lost, and is told that it is late."""

        class Repeats(MemorySegments):
            def append(self, name, data, *, offset):
                super().append(name, data, offset=offset)
                super().append(name, data, offset=offset)

        repeating = Repeats()
        entries = open_chain(repeating).append(records(2))
        assert open_chain(repeating).read(after=0, limit=10) == entries

    def test_others_who_are_faster_every_time_end_it(self, store):
        class Busy(MemorySegments):
            def append(self, name, data, *, offset):
                last = open_chain(store).append(records())[0]
                self.segments[name] += last.line()
                super().append(name, data, offset=offset)

        with pytest.raises(TransportError) as caught:
            open_chain(Busy()).append(records())
        assert caught.value.code == "audit_busy"

    @pytest.mark.parametrize("damage", ["changed", "removed", "cut", "planted"])
    def test_nothing_is_added_to_an_end_that_does_not_hold(self, store, damage):
        open_chain(store).append(records(3))
        name = store.names()[0]
        lines = bytes(store.segments[name]).splitlines(keepends=True)
        store.segments[name] = bytearray(
            {
                "changed": b"".join([lines[0], lines[1].replace(b"wrap", b"wrop"), lines[2]]),
                "removed": lines[0] + lines[2],
                "cut": b"".join(lines)[:-10],
                "planted": b"".join(lines) + b"{}\n",
            }[damage]
        )
        with pytest.raises(VerificationError):
            open_chain(store).append(records())

    def test_a_chain_whose_beginning_is_gone_takes_nothing(self, store, short):
        chain = open_chain(store)
        for _ in range(4):
            chain.append(records())
        del store.segments[store.names()[0]]
        with pytest.raises(VerificationError) as caught:
            open_chain(store).append(records())
        assert caught.value.code == "audit_gap"


def test_a_line_that_a_crash_cut_short_is_cut_off_and_told(tmp_path, caplog):
    store = FolderSegments(tmp_path / "audit")
    open_chain(store).append(records(2))
    segment = tmp_path / "audit" / store.names()[0]
    whole = segment.read_bytes()
    segment.write_bytes(whole + b'{"hash":"12')
    open_chain(store).append(records(1))
    assert segment.read_bytes().startswith(whole)
    assert verify(open_chain(store).read(after=0, limit=10)).seq == 3
    assert "audit_torn_line" in [record.getMessage() for record in caplog.records]


def test_the_audit_is_its_owners_alone(tmp_path):
    store = FolderSegments(tmp_path / "state" / "audit")
    open_chain(store).append(records())
    assert (tmp_path / "state" / "audit").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "state" / "audit" / store.names()[0]).stat().st_mode & 0o777 == 0o600


class TestRecords:
    def test_a_record_says_when_and_the_log_line_anchors_its_entry(self, store, audit):
        log = AuditLog(open_chain(store), now=lambda: NOW + dt.timedelta(milliseconds=5))
        log.write(AuditRecord(event="wrap", outcome="denied", correlation_id="c", reason="no_rule"))
        (entry,) = log.read(after=0, limit=10)
        (line,) = audit()
        assert entry.record["time"] == "2030-05-17T12:00:00.005000Z"
        assert {**entry.record, "seq": 1, "hash": entry.hash.hex()} == line

    def test_a_log_line_is_ascii_whatever_the_record_holds(self, store, caplog):
        log = AuditLog(open_chain(store), now=lambda: NOW)
        with caplog.at_level("INFO", logger="audit"):
            for detail in ("plain", "a line\u2028and é"):
                log.write(AuditRecord(event="wrap", outcome="denied", correlation_id="c", detail=detail))
        lines = [record.getMessage() for record in caplog.records]
        assert all(line.isascii() for line in lines)
        assert [json.loads(line)["detail"] for line in lines] == ["plain", "a line\u2028and é"]

    def test_text_is_bounded_and_unicode(self, store):
        log = AuditLog(open_chain(store), now=lambda: NOW)
        log.write(
            AuditRecord(event="wrap", outcome="denied", correlation_id="c", detail="\ud800" + "x" * 9999)
        )
        (entry,) = log.read(after=0, limit=10)
        assert entry.record["detail"].startswith("\\ud800x")
        assert len(entry.record["detail"]) < MAX_DETAIL + 10
        assert verify([entry]) == entry.head

    def test_callers_are_named_by_who_vouches_for_them(self):
        headers = {"x-ms-client-principal-id": "4a1c", "x-functions-key": "secret"}
        assert caller_of(headers, entra_in_front=True, build_name="ci-1") == "entra:4a1c"
        assert caller_of(headers, entra_in_front=False, build_name="ci-1") == "build:ci-1"
        assert caller_of(headers, entra_in_front=False) == "function-key"


def chain_of(app):
    return [read_entry(entry, where="answer") for entry in page(app)["records"]]


def page(app, **params):
    reply = app.request("Audit", method="GET", params={name: str(value) for name, value in params.items()})
    assert reply.status == 200
    return reply.document


@pytest.fixture
def released(app):
    app.cloud.class_keys.provision(APP, bits=256)
    app.cloud.enrol("edge-01")
    app.tick()
    app.drain()
    return app


class TestContract:
    def test_every_operation_and_decision_is_in_the_chain(self, app):
        app.cloud.enrol("edge-01")
        app.request("ProvisionKey", {"key_name": APP})
        app.request("ProvisionKey", {"key_name": APP})
        app.drain()
        app.request("RotateKey", {"key_name": APP})
        app.request("RevokeKey", {"key_name": APP, "version": 1})
        entries = chain_of(app)
        assert verify(entries).seq == len(entries)
        assert [
            (entry.record["event"], entry.record["outcome"], entry.record["reason"]) for entry in entries
        ] == [
            ("provision", "allowed", None),
            ("provision", "failed", "key_exists"),
            ("distribute", "allowed", "first_release"),
            ("rotate", "allowed", None),
            ("revoke", "allowed", None),
        ]
        assert entries[0].record["caller"] == "function-key"
        assert entries[2].record["keys"][APP]["algorithm"] == "HPKE-X25519"

    def test_pages_lead_through_the_chain(self, app):
        for number in range(5):
            app.request("ProvisionKey", {"key_name": f"key-{number}"})
        first = page(app, limit=2)
        assert ([entry["seq"] for entry in first["records"]], first["next"]) == ([1, 2], 2)
        second = page(app, after=2, limit=2)
        last = page(app, after=second["next"], limit=2)
        assert ([entry["seq"] for entry in last["records"]], "next" in last) == ([5], False)
        entries = [
            read_entry(each, where="a") for each in first["records"] + second["records"] + last["records"]
        ]
        assert verify(entries, start=START).seq == 5

    @pytest.mark.parametrize(
        "params", [{"limit": "0"}, {"limit": "1001"}, {"limit": "x"}, {"after": "-1"}, {"after": "1.0"}]
    )
    def test_other_pages_are_malformed(self, app, params):
        reply = app.request("Audit", method="GET", params=params)
        assert (reply.status, reply.document["code"]) == (400, "invalid_request")

    def test_a_damaged_line_is_told_with_its_place(self, app):
        app.request("ProvisionKey", {"key_name": APP})
        (name,) = app.cloud.segments.names()
        app.cloud.segments.segments[name] += b"not an entry\n"
        reply = app.request("Audit", method="GET")
        assert (reply.status, reply.document["code"]) == (500, "audit_damaged")
        assert f"{name}, line 2" in reply.document["detail"]


class TestWithoutAudit:
    def test_nothing_is_wrapped_for_a_build_machine(self, app, audit):
        app.cloud.class_keys.provision(APP, bits=256)
        machine = BuildMachine(app.cloud.authority)
        app.cloud.segments.is_away = True
        reply = app.request("WrapKey", machine.body())
        assert (reply.status, reply.document["code"]) == (503, "audit_unavailable")
        assert "Retry-After" in reply.headers
        assert "wrapped_key" not in reply.document
        # The log has what the chain has not, and no number for it.
        assert (audit()[-1]["outcome"], audit()[-1]["rule"], "seq" in audit()[-1]) == (
            "allowed",
            "builds",
            False,
        )
        app.cloud.segments.is_away = False
        assert app.request("WrapKey", machine.body()).status == 200

    def test_a_denial_is_no_answer_either(self, app):
        app.cloud.class_keys.provision(APP, bits=256)
        app.cloud.segments.is_away = True
        reply = app.request("WrapKey", BuildMachine(app.cloud.authority).body(client_cert=None))
        assert (reply.status, reply.document["code"]) == (503, "audit_unavailable")

    def test_nothing_is_released_to_a_device_until_it_is_back(self, app):
        app.cloud.class_keys.provision(APP, bits=256)
        app.cloud.enrol("edge-01")
        app.cloud.segments.is_away = True
        before = app.cloud.registry.snapshot("edge-01")
        app.tick()
        app.drain()
        assert app.cloud.registry.snapshot("edge-01") == before
        app.cloud.segments.is_away = False
        app.tick()
        app.drain()
        assert app.cloud.tag("edge-01")["state"] == "released"

    def test_what_is_revoked_is_taken_away_all_the_same(self, released, audit):
        released.cloud.segments.is_away = True
        reply = released.request("RevokeKey", {"key_name": APP, "version": 1})
        assert (reply.status, reply.document["code"]) == (503, "audit_unavailable")
        released.tick()
        released.drain()
        assert released.cloud.wrapped("edge-01") == {}
        assert audit()[-1]["event"] == "distribute"

    def test_a_release_that_the_hub_refuses_is_on_record_as_failed(self, app):
        app.cloud.class_keys.provision(APP, bits=256)
        app.cloud.enrol("edge-01")
        app.cloud.registry.faults["patch"] = [TransportError("away")]
        one_pass = app.cloud.distributor.begin_pass(correlation_id="c")
        assert one_pass.reconcile_all([DeviceId("edge-01")]) == ["edge-01"]
        outcomes = [entry.record["outcome"] for entry in chain_of(app)]
        assert outcomes == ["allowed", "failed"]

    def test_no_policy_is_published(self, app):
        before = app.policy_file.read_bytes()
        document = {**json.loads(before), "serial": 99}
        app.cloud.segments.is_away = True
        reply = app.request("PublishPolicy", document, method="PUT")
        assert (reply.status, reply.document["code"]) == (503, "audit_unavailable")
        assert app.policy_file.read_bytes() == before
