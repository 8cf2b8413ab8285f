"""edb and the release policy."""

import hashlib
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from simulators.edb_process import edb, on_terminal
from simulators.fleet import NOW, Authority, Device, policy_document

from shared.twin.documents import CERTIFICATES

AT = f"{NOW:%Y-%m-%dT%H:%M:%SZ}"


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
