"""The edb command as a process: against an API that keeps to the contracts, and against the local cloud."""

import base64
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from simulators.edb_process import EDB, clean_environment, edb, on_terminal
from simulators.fleet import NOW, Authority, Device, policy_document
from simulators.key_service_api import FUNCTION_KEY, KeyServiceApi, Refused, device
from simulators.vault_process import Identity, IdentityEndpoint

from shared.certificates import load_certificates
from shared.twin.documents import CERTIFICATES

AT = f"{NOW:%Y-%m-%dT%H:%M:%SZ}"


# ── against the simulated API ─────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def api(tmp_path):
    service = KeyServiceApi(tmp_path)
    yield service
    service.close()


@pytest.fixture
def call(api):
    environment = {"EDB_URL": api.url, "EDB_CA_FILE": str(api.ca_file), "EDB_FUNCTION_KEY": FUNCTION_KEY}

    def run(*arguments, **more):
        done = edb(*arguments, env=environment | more.pop("env", {}), **more)
        assert FUNCTION_KEY not in done.stdout + done.stderr
        return done

    run.environment = environment
    return run


def test_every_page_of_keys_is_listed_as_a_table_and_as_json(api, call):
    for number in range(5):
        api.add_key(f"app_{number}", version=2, floor=3 if number == 0 else 1)
    api.add_key("other")

    listed = call("keys", "list", "--prefix", "app_")
    document = json.loads(call("keys", "list", "--json").stdout)

    assert listed.returncode == 0, listed.stderr
    lines = listed.stdout.splitlines()
    assert lines[0].split() == ["key", "version", "floor", "state", "algorithm"]
    assert lines[1].split() == ["app_0", "2", "3", "revoked", "aes-gcm-256"]
    assert len(lines) == 6
    assert [each["key_name"] for each in document["keys"]] == [*(f"app_{n}" for n in range(5)), "other"]


def test_a_key_is_shown_with_versions_and_devices(api, call):
    api.add_key("app", version=2, floor=2)
    api.devices = [
        device("edge-01", released=(11, {"app": 2}, {"app": 2}), reported=(11, {"app": 2})),
        device("edge-02", released=(10, {"app": 1}), reported=(10, {"app": 1})),
    ]

    shown = call("keys", "show", "app", "--devices")

    assert shown.returncode == 0, shown.stderr
    words = [line.split() for line in shown.stdout.splitlines()]
    assert ["1", "revoked", "2030-01-01T00:00:00Z", "-"] in words
    assert ["edge-01", "acknowledged", "2", "-"] in words
    assert ["edge-02", "waiting", "1", "-"] in words


def test_a_lost_answer_makes_no_second_version(api, call):
    api.add_key("app")
    api.lost = 2

    rotated = call("keys", "rotate", "app", "--json")

    assert rotated.returncode == 0, rotated.stderr
    assert json.loads(rotated.stdout) == {"key_name": "app", "version": 2}
    sent = {headers["idempotency-key"] for _, _, headers in api.requests}
    assert len(api.requests) == 3
    assert len(sent) == 1


def test_two_rotations_are_two(api, call):
    api.add_key("app")

    versions = [json.loads(call("keys", "rotate", "app", "--json").stdout)["version"] for _ in range(2)]

    assert versions == [2, 3]


def test_a_deletion_whose_answer_is_lost_is_not_made_again(api, call):
    api.add_key("app")
    api.lost = 1

    deleted = call("keys", "delete", "app", "--yes")

    assert deleted.returncode == 1
    assert "no answer" in deleted.stderr
    assert len(api.requests) == 1


def test_a_service_that_is_busy_is_asked_again_when_it_says(api, call):
    api.add_key("app")
    api.refusals.append(Refused(429, "throttled", Retry_After="0"))
    api.refusals.append(Refused(503, "unavailable"))

    deleted = call("keys", "delete", "app", "--yes")

    assert deleted.returncode == 0, deleted.stderr
    assert len(api.requests) == 3


def test_delete_and_recover(api, call):
    api.add_key("app")

    deleted = call("keys", "delete", "app", "--yes")

    assert deleted.returncode == 0, deleted.stderr
    assert deleted.stdout.endswith("brings it back until 2030-03-01T00:00:00Z\n")
    assert api.keys == {}
    assert call("keys", "recover", "app").stdout == "app: recovered\n"
    assert "app" in api.keys
    again = call("keys", "recover", "app", "--json")
    assert again.returncode == 1
    assert json.loads(again.stdout)["code"] == "key_not_found"


def test_what_cannot_be_undone_wants_a_yes(api, call):
    api.add_key("app")

    unasked = call("keys", "revoke", "app", "--version", "1")
    status, written = on_terminal("keys", "delete", "app", env=call.environment, answer="n\n")
    agreed, _ = on_terminal("keys", "revoke", "app", "--version", "1", env=call.environment, answer="y\n")

    assert unasked.returncode == 2
    assert "hint: --yes says that it is meant" in unasked.stderr
    assert status == 1
    assert "nothing was changed" in written
    assert agreed == 0
    assert api.keys["app"]["floor"] == 2


def test_rewrapping_goes_on_until_nothing_remains(api, call):
    portions = [(3, 2), (2, 0)]
    api.portions.extend(
        {"rewrapped": done, "remaining": left, "kek_version": "k2"} for done, left in portions
    )

    done = call("keys", "rewrap", "--json")

    assert json.loads(done.stdout) == {"rewrapped": 5, "remaining": 0, "kek_version": "k2"}


def test_rewrapping_that_gets_nowhere_ends(api, call):
    api.portions.append({"rewrapped": 0, "remaining": 2, "kek_version": "k2"})

    stuck = call("keys", "rewrap")

    assert stuck.returncode == 1
    assert "2 envelopes are still under an older key encryption key" in stuck.stderr


@pytest.mark.parametrize(
    ("refused", "status", "told"),
    [
        (
            Refused(403, "policy_denied", "rule x"),
            3,
            "status 403: policy_denied: rule x (correlation id c0ffee)",
        ),
        (Refused(404, "key_not_found", "no such"), 1, "status 404: key_not_found: no such"),
        (Refused(409, "name_taken", "taken"), 1, "status 409: name_taken: taken"),
        (Refused(400, "x", "\x1b[2J"), 1, "\\x1b[2J"),
    ],
)
def test_refusals_tell_code_and_correlation_id(api, call, refused, status, told):
    api.refusals.append(refused)

    shown = call("keys", "show", "app", "--json")

    assert shown.returncode == status
    assert shown.stderr.startswith("edb: error: GET https://")
    assert told in shown.stderr
    assert json.loads(shown.stdout)["code"] == refused.code


def test_a_wrong_function_key_is_told_and_not_shown(api, call):
    refused = call("keys", "list", env={"EDB_FUNCTION_KEY": "wrong-key-of-mine"})

    assert refused.returncode == 1
    assert "hint: give the function key in $EDB_FUNCTION_KEY" in refused.stderr
    assert "wrong-key-of-mine" not in refused.stdout + refused.stderr


def test_a_certificate_that_is_not_trusted_is_told_at_once(api, call, tmp_path):
    other = KeyServiceApi(tmp_path_of(tmp_path, "other"))
    try:
        refused = call("keys", "list", env={"EDB_CA_FILE": str(other.ca_file)})
    finally:
        other.close()

    assert refused.returncode == 1
    assert "its certificate is not trusted" in refused.stderr
    assert api.requests == []


def tmp_path_of(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    return folder


def test_an_entra_token_is_shown_beside_the_function_key(api, call):
    private = ec.generate_private_key(ec.SECP256R1())
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    endpoint = IdentityEndpoint(Identity(pem, "operator"))
    try:
        done = call("health", "--entra", "api://key-service/.default", env=endpoint.environment)
    finally:
        endpoint.close()

    assert done.returncode == 0, done.stderr
    headers = api.requests[0][2]
    assert headers["authorization"].startswith("Bearer ey")
    assert headers["x-functions-key"] == FUNCTION_KEY
    assert headers["authorization"] not in done.stdout + done.stderr


def test_a_service_that_is_up_and_not_ready_is_a_failure(api, call):
    ready = call("health")
    api.ready = False
    api.requests.clear()
    unready = call("health", "--json")
    live = call("health", "--live")

    assert (ready.returncode, ready.stdout) == (0, "simulated: up and ready\n")
    assert unready.returncode == 1
    assert json.loads(unready.stdout)["code"] == "not_ready"
    assert (live.returncode, live.stdout) == (0, "simulated: up\n")
    assert [path for _, path, _ in api.requests] == ["/api/health", "/api/health/ready", "/api/health"]


# ── waiting ───────────────────────────────────────────────────────────────────────────────────────────────

OLD = {"released": (10, {"app": 1}), "reported": (10, {"app": 1})}
GIVEN = {"released": (11, {"app": 2}), "reported": (10, {"app": 1})}
DONE = {"released": (11, {"app": 2}), "reported": (11, {"app": 2})}


def play(api, *scenes):
    """Let the fleet be each scene for one look, and stay as the last; a look has a page for each two."""
    remaining = list(scenes)

    def turn():
        if len(api.devices) == 0 or api.requests[-1][1].find("token=") < 0:
            api.devices = [device(name, **how) for name, how in remaining[0].items()]
            if len(remaining) > 1:
                remaining.pop(0)

    api.on_devices = turn


def test_waiting_tells_each_change_and_ends_when_all_have_acknowledged(api, call):
    api.add_key("app")
    bystander = {"released": (5, {"other": 1}), "reported": None}
    play(
        api,
        {"edge-01": OLD, "edge-02": OLD, "edge-03": bystander},
        {"edge-01": DONE, "edge-02": GIVEN, "edge-03": bystander},
        {"edge-01": DONE, "edge-02": DONE, "edge-03": bystander},
    )

    waited = call("keys", "rotate", "app", "--wait", "--json")

    assert waited.returncode == 0, waited.stderr
    events = [json.loads(line) for line in waited.stdout.splitlines()]
    assert events[0] == {"event": "rotated", "key_name": "app", "version": 2}
    assert [(each["device_id"], each["stage"]) for each in events[1:-1]] == [
        ("edge-01", "waiting"),
        ("edge-02", "waiting"),
        ("edge-01", "acknowledged"),
        ("edge-02", "released"),
        ("edge-02", "acknowledged"),
    ]
    assert events[-1] == {"event": "done", "key_name": "app", "acknowledged": 2, "devices": 2}


def test_waiting_that_is_interrupted_has_changed_nothing_and_goes_on(api, call):
    api.add_key("app", version=2)
    play(api, {"edge-01": OLD})
    process = subprocess.Popen(
        [EDB, "keys", "show", "app", "--wait", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(**call.environment),
    )
    first = json.loads(process.stdout.readline())
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    play(api, {"edge-01": DONE})
    resumed = call("keys", "show", "app", "--wait")

    assert first["stage"] == "waiting"
    assert process.returncode == 130
    assert errors == "edb: error: interrupted\n"
    assert {method for method, _, _ in api.requests} == {"GET"}
    assert resumed.stdout == "edge-01: acknowledged\napp version 2: all 1 devices have acknowledged\n"


def test_waiting_too_long_fails_and_says_how_to_go_on(api, call):
    api.add_key("app", version=2)
    play(api, {"edge-01": DONE, "edge-02": OLD})

    waited = call("keys", "show", "app", "--wait", "--timeout", "0.1")

    assert waited.returncode == 1
    assert "1 of 2 devices have not acknowledged in 0.1 s" in waited.stderr
    assert "hint: edb keys show app --wait goes on waiting" in waited.stderr


def test_a_revocation_of_the_whole_key_waits_for_devices_that_are_released_nothing_any_more(api, call):
    api.add_key("app")
    gone = {"released": (11, {}, {"app": 2})}
    play(
        api,
        {"edge-01": OLD},
        {"edge-01": gone | {"reported": (10, {"app": 1})}},
        {"edge-01": gone | {"reported": (11, {})}},
    )

    waited = call("keys", "revoke", "app", "--version", "1", "--yes", "--wait", "--json")

    assert waited.returncode == 0, waited.stderr
    stages = [json.loads(line).get("stage") for line in waited.stdout.splitlines()]
    assert stages == [None, "waiting", "released", "acknowledged", None]


def test_a_terminal_shows_the_devices_live(api, call):
    api.add_key("app", version=2)
    play(api, {"edge-01": OLD, "edge-02": DONE}, {"edge-01": DONE, "edge-02": DONE})

    status, written = on_terminal("keys", "show", "app", "--wait", env=call.environment)

    assert status == 0
    assert "app version 2: 1 of 2 devices have acknowledged" in written
    assert "app version 2: all 2 devices have acknowledged" in written
    assert "\x1b[32macknowledged" in written


# ── devices ───────────────────────────────────────────────────────────────────────────────────────────────


def test_devices_are_listed_and_filtered(api, call):
    api.devices = [
        device("edge-01", **DONE),
        device("edge-02", state="denied", reason="certificate_expired"),
        device("edge-03", state="denied", reason="claim_failed"),
        device("edge-04", released=(10, {"app": 1}), stale=True),
    ]

    listed = call("devices", "list")
    denied = call("devices", "list", "--state", "denied", "--reason", "certificate_expired", "--json")
    stale = call("devices", "list", "--key", "app", "--stale")

    words = [line.split() for line in listed.stdout.splitlines()]
    assert words[1] == ["edge-01", "released", "-", "app:2", "2030-01-01T00:00:00Z", "yes"]
    assert words[2] == ["edge-02", "denied", "certificate_expired", "-", "2030-01-01T00:00:00Z", "-"]
    assert [each["device_id"] for each in json.loads(denied.stdout)["devices"]] == ["edge-02"]
    assert [line.split()[0] for line in stale.stdout.splitlines()[1:]] == ["edge-04"]


def test_a_device_or_module_is_shown(api, call):
    api.devices = [
        device("edge-01/cpm", released=(11, {"app": 2}, {"app": 2}), reported=(11, {"app": "unwrap_failed"}))
    ]

    shown = call("devices", "show", "edge-01/cpm")

    assert shown.returncode == 0, shown.stderr
    words = [line.split() for line in shown.stdout.splitlines()]
    assert ["release", "11"] in words
    assert ["app", "2", "2", "1", "error", "unwrap_failed"] in words


BOUND, REPORTED = "b0" * 32, "0f" * 32


@pytest.fixture
def unbound(api):
    """A device that came back with another key."""
    api.devices = [
        device(
            "edge-01",
            state="denied",
            reason="key_not_bound",
            released=(11, {}),
            reported=(11, {}),
            keys=(BOUND, REPORTED),
        )
    ]
    return api


def bound_to(api):
    return api.devices[0]["released"]["fingerprint"]


def test_a_device_with_another_key_is_shown_with_both_and_what_to_do(unbound, call):
    shown = call("devices", "show", "edge-01")

    assert shown.returncode == 0, shown.stderr
    words = [line.split() for line in shown.stdout.splitlines()]
    assert ["bound", "to", "key", BOUND] in words
    assert ["reports", "key", REPORTED] in words
    assert "edb devices rebind edge-01 --key FINGERPRINT" in shown.stderr
    assert REPORTED not in shown.stderr


@pytest.mark.parametrize("spelled", [REPORTED, REPORTED.upper(), ":".join(["0F"] * 32)])
def test_a_device_is_bound_to_the_key_that_is_named(unbound, call, spelled):
    done = call("devices", "rebind", "edge-01", "--key", spelled, "--json")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["replaces"] == BOUND
    assert bound_to(unbound) == REPORTED
    again = call("devices", "rebind", "edge-01", "--key", spelled)
    assert again.stdout == "edge-01: is bound to that key already\n"


def test_another_key_than_the_device_reports_is_refused(unbound, call):
    done = call("devices", "rebind", "edge-01", "--key", "aa" * 32, "--json")

    assert done.returncode == 1
    assert json.loads(done.stdout)["code"] == "fingerprint_mismatch"
    assert bound_to(unbound) == BOUND


def test_without_a_terminal_the_key_has_to_be_named(unbound, call):
    unasked = call("devices", "rebind", "edge-01", stdin="y\n")
    malformed = call("devices", "rebind", "edge-01", "--key", "0f0f")

    assert (unasked.returncode, malformed.returncode) == (2, 2)
    assert f"reports now  {REPORTED}" in unasked.stderr
    assert "hint: --key says which key it is" in unasked.stderr
    assert "expected 64 hex digits" in malformed.stderr
    assert bound_to(unbound) == BOUND


@pytest.mark.parametrize(("answer", "status", "key"), [("n\n", 1, BOUND), ("y\n", 0, REPORTED)])
def test_on_a_terminal_both_keys_are_shown_and_it_is_asked(unbound, call, answer, status, key):
    ended, written = on_terminal("devices", "rebind", "edge-01", env=call.environment, answer=answer)

    assert ended == status, written
    assert f"bound to     {BOUND}" in written
    assert f"reports now  {REPORTED}" in written
    assert bound_to(unbound) == key


def test_a_device_that_reports_no_key_is_not_asked_about(unbound, call):
    unbound.devices[0]["reported_key"] = None
    done = call("devices", "rebind", "edge-01", "--json")

    assert done.returncode == 1
    assert json.loads(done.stdout)["code"] == "key_not_reported"


def test_many_devices_are_reconciled_as_many_at_once_as_the_service_takes(api, call):
    names = [f"edge-{number}" for number in range(101)]
    done = call("devices", "reconcile", *names)
    refused = call("devices", "reconcile", "a/b/c")

    assert (done.returncode, done.stdout) == (0, "101 on the queue\n")
    assert api.reconciled == [names[:100], names[100:]]
    assert refused.returncode == 1


def test_answers_that_break_the_contract_are_malformed(api, call):
    api.devices = [{"device_id": "edge-01", "released": [1]}]

    shown = call("devices", "list", "--json")

    assert shown.returncode == 1
    assert json.loads(shown.stdout)["result"] == "malformed"
    assert "released: expected dict, found list" in shown.stderr


# ── policy ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def fleet():
    authority = Authority()
    return authority, Device.make(authority), Authority("another CA")


@pytest.fixture
def files(tmp_path, fleet):
    authority, member, _ = fleet
    twin = {
        "deviceId": member.device_id,
        "etag": "AAAA",
        "status": "enabled",
        "tags": {"class": "gateway"},
        "properties": {"desired": {}, "reported": {**member.report(), "$version": 3}},
    }
    write = {
        "policy.json": json.dumps(policy_document(authority.root_sha256)),
        "twin.json": json.dumps(twin),
        "roots.pem": authority.root.public_bytes(Encoding.PEM).decode(),
    }
    for name, text in write.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def explain(files, *arguments, **more):
    device_file = ["--device", files / "twin.json"]
    return edb(
        *("policy", "explain", files / "policy.json", *device_file, "--key", "app", "--at", AT),
        *("--trust", files / "roots.pem", *arguments),
        **more,
    )


def change(path, edit):
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))


def test_a_device_that_is_allowed_is_explained(files):
    allowed = explain(files)

    assert allowed.returncode == 0, allowed.stderr + allowed.stdout
    first, *tree = allowed.stdout.splitlines()
    assert first.startswith("✓ distribute app for device edge-01: allowed by rule gateways (")
    assert '      ✓ hub.tags.class equals "gateway", found "gateway"' in tree
    assert "  · rule builds: it is not for distribute" in tree


def test_a_device_that_is_denied_is_told_which_claim_failed_and_how(files):
    change(files / "twin.json", lambda twin: twin["tags"].update({"class": "sensor"}))

    denied = explain(files)
    document = json.loads(explain(files, "--json").stdout)

    assert denied.returncode == 3
    assert denied.stdout.startswith(
        "✗ distribute app for device edge-01: denied: claim_failed: rule gateways: "
    )
    assert '      ✗ hub.tags.class equals "gateway", found "sensor"' in denied.stdout.splitlines()
    assert (document["result"], document["verdict"], document["code"]) == (
        "refused",
        "denied",
        "claim_failed",
    )
    failed = [term for term in document["rules"][0]["release"]["allOf"] if not term["holds"]]
    assert failed == [
        {"holds": False, "claim": "hub.tags.class", "expected": 'equals "gateway"', "found": '"sensor"'}
    ]


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda twin: twin["properties"]["reported"].pop(CERTIFICATES), "certificate_missing"),
        (lambda twin: twin["properties"]["reported"].update({CERTIFICATES: "AAAA"}), "certificate_malformed"),
        (lambda twin: twin["properties"]["reported"].pop("device_public_key"), "public_key_missing"),
        (lambda twin: twin.update(deviceId="edge-02"), "device_id_mismatch"),
        (lambda twin: twin.update(status="disabled"), "device_disabled"),
    ],
)
def test_the_reason_is_the_one_that_the_twins_tag_would_have(files, edit, reason):
    change(files / "twin.json", edit)

    denied = explain(files, "--json")

    assert denied.returncode == 3
    assert json.loads(denied.stdout)["code"] == reason


def test_a_certificate_holds_only_under_the_roots_that_are_named_and_in_its_time(files, fleet):
    (files / "roots.pem").write_bytes(fleet[2].root.public_bytes(Encoding.PEM))

    untrusted = explain(files, "--json")
    expired = explain(files, "--at", "2050-01-01T00:00:00Z", "--json")

    assert json.loads(untrusted.stdout)["code"] == "certificate_untrusted"
    assert json.loads(expired.stdout)["code"] == "certificate_expired"


def test_a_build_machine_is_explained_from_its_certificate(files, fleet, tmp_path):
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    certificate = fleet[0].certify(key.public_key(), uri="urn:cpk:build:builder")
    (tmp_path / "build.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    arguments = [
        "policy",
        "explain",
        files / "policy.json",
        "--build",
        tmp_path / "build.pem",
        "--key",
        "app",
    ]

    allowed = edb(*arguments, "--trust", files / "roots.pem", "--at", AT, "--json")
    denied = edb(*arguments, "--at", AT)

    document = json.loads(allowed.stdout)
    assert (document["verdict"], document["subject"], document["rule"]) == (
        "allowed",
        "build machine builder",
        "builds",
    )
    assert denied.returncode == 3
    assert "the trust store is empty" in denied.stdout


def test_a_terminal_shows_the_tree_in_colour(files):
    status, written = on_terminal(
        *("policy", "explain", files / "policy.json", "--device", files / "twin.json", "--key", "app"),
        *("--at", AT, "--trust", files / "roots.pem"),
    )

    assert status == 0
    assert "\x1b[32m✓" in written
    assert "├── " in written


def test_a_twin_may_come_from_a_pipe(files):
    text = (files / "twin.json").read_text()

    piped = edb(
        *("policy", "explain", files / "policy.json", "--device", "-", "--key", "app", "--at", AT),
        *("--trust", files / "roots.pem"),
        stdin=text,
    )

    assert piped.returncode == 0, piped.stderr


def test_checking_names_the_place_of_a_fault_and_warns(files):
    sound = edb("policy", "check", files / "policy.json", "--json")
    strict = edb("policy", "check", files / "policy.json", "--strict")
    change(files / "policy.json", lambda policy: policy["rules"][0].update(lease_secs=1))
    broken = edb("policy", "check", files / "policy.json")

    assert sound.returncode == 0
    document = json.loads(sound.stdout)
    assert document["sha256"] == hashlib.sha256(json.dumps(json.loads(_before(files))).encode()).hexdigest()
    assert {each["code"] for each in document["warnings"]} == {"every_key"}
    assert strict.returncode == 1
    assert "policy.json: at /rules/0/keys: every_key: " in strict.stderr
    assert broken.returncode == 1
    assert "policy.json: at /rules/0/lease_secs: unknown field" in broken.stderr


def _before(files):
    document = json.loads((files / "policy.json").read_text())
    del document["rules"][0]["lease_secs"]
    return json.dumps(document)


def test_a_policy_is_published_in_the_place_of_the_one_that_was_there(api, call, files):
    first = call("policy", "publish", files / "policy.json")
    shown = call("policy", "show")
    change(files / "policy.json", lambda policy: policy.update(serial=policy["serial"] + 1))
    stale = call("policy", "publish", files / "policy.json", "--etag", '"00000000"')
    second = call("policy", "publish", files / "policy.json", "--json")

    assert first.returncode == 0, first.stderr
    assert "is in force" in first.stdout
    assert "warning" in first.stderr
    assert json.loads(shown.stdout)["id"] == json.loads((files / "policy.json").read_text())["id"]
    assert stale.returncode == 1
    assert "status 412: policy_changed" in stale.stderr
    assert second.returncode == 0, second.stderr
    assert api.policy == (files / "policy.json").read_bytes()
    digest = json.loads(call("policy", "show", "--json").stdout)["sha256"]
    assert digest == hashlib.sha256(api.policy).hexdigest()


def test_a_questionable_or_broken_policy_is_not_sent(api, call, files):
    questionable = call("policy", "publish", files / "policy.json", "--strict")
    (files / "policy.json").write_text("{}")
    broken = call("policy", "publish", files / "policy.json")

    assert (questionable.returncode, broken.returncode) == (3, 1)
    assert api.requests == []


# ── audit ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def audited(api):
    for number in range(5):
        api.record(event="wrap", outcome="denied" if number == 3 else "allowed", key_name=f"app_{number}")
    return api


def test_the_last_records_are_shown(audited, call):
    shown = call("audit", "tail", "-n", "2")
    lines = call("audit", "tail", "--after", "3", "--json").stdout.splitlines()

    assert [line.split()[:6] for line in shown.stdout.splitlines()[1:]] == [
        ["4", "2030-01-01T00:00:00.000000Z", "wrap", "denied", "function-key", "app_3"],
        ["5", "2030-01-01T00:00:00.000000Z", "wrap", "allowed", "function-key", "app_4"],
    ]
    assert [json.loads(line)["seq"] for line in lines] == [4, 5]


def test_a_release_is_shown_with_its_keys(api, call):
    released = {"version": 2, "algorithm": "RSA-OAEP-256", "rule": "gateways"}
    for keys in ({"app": released}, {f"app_{number}": released for number in range(5)}, "none at all"):
        api.record(event="distribute", outcome="allowed", device_id="edge-07", keys=keys)
    one, many, odd = call("audit", "tail", env={"COLUMNS": "200"}).stdout.splitlines()[1:]
    assert [one.split()[index] for index in (5, 6, 7, 8)] == ["app", "2", "edge-07", "gateways"]
    assert "app_0, app_1, app_2 and 2 more  2, 2, 2" in many
    assert "edge-07" in odd


def test_records_of_one_outcome_are_shown_alone(audited, call):
    audited.record(event="distribute", outcome="failed", device_id="edge-07", reason="vault_unavailable")
    audited.record(event="wrap", outcome="allowed")

    shown = call("audit", "tail", "-n", "1", "--outcome", "failed", "--json")

    assert shown.returncode == 0, shown.stderr
    [line] = shown.stdout.splitlines()
    assert json.loads(line)["record"]["device_id"] == "edge-07"


def test_following_shows_records_as_they_come(audited, call):
    process = subprocess.Popen(
        [EDB, "audit", "tail", "-n", "0", "--follow", "--json"],
        stdout=subprocess.PIPE,
        text=True,
        env=clean_environment(**call.environment),
    )
    asked = len(audited.requests)
    deadline = time.monotonic() + 60
    while len(audited.requests) < asked + 3 and time.monotonic() < deadline:
        threading.Event().wait(0.02)
    audited.record(event="rotate", outcome="allowed")
    found = json.loads(process.stdout.readline())
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)

    assert found["record"]["event"] == "rotate"
    assert process.returncode == 0


def test_a_whole_chain_is_verified_and_its_head_is_an_anchor(audited, call):
    verified = call("audit", "verify", "--json")
    head = json.loads(verified.stdout)["head"]
    audited.record(event="rotate", outcome="allowed")
    again = call("audit", "verify", "--anchor", head)
    del audited.audit[3:]
    cut = call("audit", "verify", "--anchor", head)

    assert verified.returncode == 0, verified.stderr
    assert json.loads(verified.stdout)["records"] == 5
    assert again.returncode == 0
    assert cut.returncode == 3
    assert "the chain ends at 3" in cut.stderr


def test_a_changed_record_is_found_and_named(audited, call, tmp_path):
    audited.audit[2]["record"]["outcome"] = "denied"
    copy = tmp_path / "audit.jsonl"
    copy.write_text("".join(json.dumps(entry) + "\n" for entry in audited.audit))

    changed = call("audit", "verify", "--json")
    offline = edb("audit", "verify", copy)

    assert (changed.returncode, offline.returncode) == (3, 3)
    assert json.loads(changed.stdout)["result"] == "refused"
    assert "audit entry 3: " in offline.stderr


# ── against the real local cloud ──────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    """A local cloud that runs; its cloud.json."""
    folder = tmp_path_factory.mktemp("cloud")
    command = [sys.executable, "-m", "local_cloud.main", "up", "--state", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    assert line.startswith("ready"), line
    yield folder / "cloud.json"
    process.terminate()
    process.wait(timeout=60)
    process.stdout.close()


@pytest.fixture
def live(cloud):
    def run(*arguments, **more):
        return edb(*arguments, "--cloud", cloud, **more)

    return run


@pytest.mark.timeout(300)
def test_class_keys_live_in_the_local_cloud(live):
    provisioned = live("keys", "provision", "my_app")
    again = live("keys", "provision", "my_app", "--json")
    rotated = live("keys", "rotate", "my_app", "--wait")
    revoked = live("keys", "revoke", "my_app", "--version", "1", "--yes", "--wait", "--json")
    shown = json.loads(live("keys", "show", "my_app", "--json").stdout)

    assert provisioned.returncode == 0, provisioned.stderr
    assert provisioned.stdout == "my_app: version 1 was made, aes-gcm-256\n"
    assert again.returncode == 1
    assert json.loads(again.stdout)["code"] == "key_exists"
    assert rotated.returncode == 0, rotated.stderr
    assert rotated.stdout.splitlines()[-1] == "my_app version 2: no device was released this key"
    assert json.loads(revoked.stdout.splitlines()[0])["floor"] == 2
    assert (shown["version"], shown["floor"]) == (2, 2)


@pytest.mark.timeout(300)
def test_a_key_of_ones_own_comes_into_the_local_cloud_wrapped(live, tmp_path):
    key = bytes(range(16))
    own = tmp_path / "own.key"
    own.write_bytes(key)
    own.chmod(0o644)
    open_to_all = live("keys", "import", "imported", own)
    own.chmod(0o600)
    imported = live("keys", "import", "imported", own, "--json")
    own.write_bytes(key + b"\n")
    too_long = live("keys", "import", "another", own)

    assert open_to_all.returncode == 3
    assert f"hint: chmod 600 {own}" in open_to_all.stderr
    assert imported.returncode == 0, imported.stderr
    document = json.loads(imported.stdout)
    assert (document["key_name"], document["strength"]) == ("imported", "128")
    assert too_long.returncode == 1
    assert "expected 16, 24 or 32 raw bytes, found 17" in too_long.stderr
    told = imported.stdout + imported.stderr + too_long.stderr
    assert key.hex() not in told
    assert base64.b64encode(key).decode() not in told


@pytest.mark.timeout(300)
def test_health_and_devices_of_the_local_cloud(live, cloud):
    assert live("health", "--live").stdout == "local: up\n"
    listed = live("devices", "list")
    assert (listed.returncode, listed.stdout) == (0, "no device\n")
    missing = live("devices", "show", "edge-99", "--json")
    assert missing.returncode == 1
    assert json.loads(missing.stdout)["code"] == "device_not_found"
    keys = json.loads(cloud.read_text())["functions"]["keys"]
    assert all(key not in missing.stdout + missing.stderr for key in keys.values())


@pytest.mark.timeout(300)
def test_the_policy_of_the_local_cloud_explains_a_device_that_was_enrolled(cloud, tmp_path):
    state = cloud.parent
    key = ec.generate_private_key(ec.SECP256R1())
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "device.der").write_bytes(spki)
    enrolled = subprocess.run(
        [
            *(sys.executable, "-m", "local_cloud.main", "enrol", "edge-07", "--tag", "class=gateway"),
            *("--public-key", tmp_path / "device.der", "--state", state),
        ],
        capture_output=True,
        check=True,
    )
    pem = json.loads(enrolled.stdout)["certificate"].encode()
    (leaf,) = load_certificates(pem, where="certificate")
    member = Device(device_id="edge-07", private_key=key, certificates_der=leaf.public_bytes(Encoding.DER))
    twin = {
        "deviceId": "edge-07",
        "status": "enabled",
        "tags": {"class": "gateway"},
        "properties": {"reported": member.report()},
    }

    explained = edb(
        *("policy", "explain", json.loads(cloud.read_text())["policy_file"], "--device", "-", "--key", "app"),
        *("--trust", state / "fleet-ca.pem"),
        stdin=json.dumps(twin),
    )

    assert explained.returncode == 0, explained.stdout + explained.stderr
    assert "allowed by rule" in explained.stdout


@pytest.fixture
def fielded(cloud, tmp_path, eventually):
    """A device that runs: a CPM and an agent, enrolled in the local cloud."""
    state, folder = cloud.parent, Path(tempfile.mkdtemp(dir="/tmp"))  # a socket's path has to be short
    description = json.loads(cloud.read_text())
    socket = folder / "cpm.sock"
    (tmp_path / "release.pem").write_text(description["release_keys"][-1])
    log = (tmp_path / "device.log").open("wb")
    command = [EDB.with_name("cpm"), "serve", "--state", tmp_path / "cpm", "--socket", socket]
    command += ["--trust", state / "fleet-ca.pem", "--audience", description["audience"]]
    command += ["--device-id", "edge-11", "--release-key", tmp_path / "release.pem"]
    processes = [subprocess.Popen(command, stdout=log, stderr=log)]
    eventually(socket.exists, seconds=60, what="the CPM's socket")
    key = subprocess.run(
        [EDB.with_name("cpk-tool"), "pub-key", "--format", "pem", "--socket", socket],
        capture_output=True,
        check=True,
    )
    (tmp_path / "device.pem").write_bytes(key.stdout)
    enrol = [sys.executable, "-m", "local_cloud.main", "enrol", "edge-11", "--tag", "class=gateway"]
    enrol += ["--public-key", tmp_path / "device.pem", "--out", tmp_path / "enrolled", "--state", state]
    subprocess.run(enrol, capture_output=True, check=True)
    settings = {
        "connection_string_file": tmp_path / "enrolled" / "connection-string",
        "ca_file": description["hub"]["ca_file"],
        "certificate_file": tmp_path / "enrolled" / "certificate.pem",
        "cpm_socket": socket,
        "state_dir": tmp_path / "agent",
    }
    config = tmp_path / "agent.toml"
    config.write_text("".join(f"{name} = {json.dumps(str(value))}\n" for name, value in settings.items()))
    agent = [EDB.with_name("device-agent"), "run", "--config", config]
    processes.append(subprocess.Popen(agent, stdout=log, stderr=log))
    yield "edge-11"
    for process in reversed(processes):
        process.terminate()
        process.wait(timeout=60)
    log.close()
    shutil.rmtree(folder)


@pytest.mark.timeout(400)
def test_a_real_device_acknowledges_a_rotation_and_a_revocation(live, fielded, eventually):
    assert live("keys", "provision", "fielded_app").returncode == 0

    def installed():
        shown = live("devices", "show", fielded, "--json")
        if shown.returncode != 0:
            return False
        reported = json.loads(shown.stdout)["reported"] or {"keys": {}}
        return reported["keys"].get("fielded_app", {}).get("state") == "installed"

    eventually(installed, seconds=120, what="the first version on the device")
    rotated = live("keys", "rotate", "fielded_app", "--wait", "--timeout", "120", "--json", seconds=200)
    revoked = live(
        *("keys", "revoke", "fielded_app", "--version", "2", "--yes", "--wait", "--timeout", "120", "--json"),
        seconds=200,
    )
    shown = live("keys", "show", "fielded_app", "--devices")

    assert rotated.returncode == 0, rotated.stdout + rotated.stderr
    events = [json.loads(line) for line in rotated.stdout.splitlines()]
    assert events[-1] == {"event": "done", "key_name": "fielded_app", "acknowledged": 1, "devices": 1}
    assert events[-2] == {
        "event": "device",
        "device_id": fielded,
        "stage": "acknowledged",
        "version": 2,
        "detail": None,
    }
    assert revoked.returncode == 0, revoked.stdout + revoked.stderr
    assert json.loads(revoked.stdout.splitlines()[-1])["acknowledged"] == 1
    assert "revoked" in shown.stdout
