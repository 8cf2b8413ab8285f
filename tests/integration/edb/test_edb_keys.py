"""edb and class keys; how it speaks with the key service."""

import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from simulators.edb_process import on_terminal
from simulators.key_service_api import FUNCTION_KEY, KeyServiceApi, Refused, device
from simulators.vault_process import Identity, IdentityEndpoint


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
