"""Policy and audit in the local cloud: published over HTTP, kept over a restart, told to a collector."""

import json
import ssl
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from simulators.otlp_collector import OtlpCollector

from shared.audit.chain import parse_entry, read_entry, verify

COMMAND = Path(sys.executable).with_name("local-cloud")


@contextmanager
def running(state, **environment):
    """Run a cloud; gives what calls its function app with one of its keys."""
    process = subprocess.Popen(
        [COMMAND, "up", "--state", state],
        stdout=subprocess.PIPE,
        text=True,
        env={"PATH": "/usr/bin:/bin", **environment},
    )
    try:
        line = process.stdout.readline()
        assert line.startswith("ready"), line
        cloud = json.loads((state / "cloud.json").read_text())
        trust = ssl.create_default_context(cafile=cloud["hub"]["ca_file"])
        with httpx.Client(base_url=cloud["functions"]["url"], verify=trust, timeout=60) as http:

            def call(method, path, key="admin", **options):
                headers = {"x-functions-key": cloud["functions"]["keys"][key], **options.pop("headers", {})}
                return http.request(method, path, headers=headers, **options)

            yield call
    finally:
        process.terminate()
        process.wait(timeout=60)
        process.stdout.close()


def raised(data, serial):
    return json.dumps({**json.loads(data), "serial": serial}).encode()


@pytest.mark.timeout(300)
def test_policy_audit_and_telemetry_from_end_to_end(tmp_path):
    state = tmp_path / "state"
    with OtlpCollector() as collector:
        told = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "OTEL_METRIC_EXPORT_INTERVAL": "1000"}
        with running(state, **told) as call:
            shown = call("GET", "/api/policy", key="provision")
            old = (state / "policy.json").read_bytes()
            assert (shown.content, shown.headers["x-policy-serial"]) == (old, "1")

            # An operator's key reads and does not publish; the administrator's does.
            assert call("PUT", "/api/policy", key="provision", content=raised(old, 5)).status_code == 401
            stale = call("PUT", "/api/policy", content=raised(old, 5), headers={"If-Match": '"x"'})
            assert (stale.status_code, stale.json()["code"]) == (412, "policy_changed")
            etag = shown.headers["ETag"]
            made = call("PUT", "/api/policy", content=raised(old, 5), headers={"If-Match": etag})
            assert (made.status_code, made.json()["serial"]) == (200, 5)
            again = call("PUT", "/api/policy", content=raised(old, 5))
            assert (again.status_code, again.json()["code"]) == (409, "policy_serial")

            assert call("POST", "/api/ProvisionKey", json={"key_name": "app"}).status_code == 201
            before = chain(call)
            assert "provision" in [entry.record["event"] for entry in before]
            collector.wait_for(metric="edb.policy.serial", span="request policy")

        # Somebody puts the older policy back while nothing runs.
        (state / "policy.json").write_bytes(old)
        with running(state) as call:
            refused = call("GET", "/api/policy")
            assert (refused.status_code, refused.json()["code"]) == (503, "policy_unavailable")
            repaired = call("PUT", "/api/policy", content=raised(old, 6))
            assert repaired.status_code == 200
            assert call("GET", "/api/policy").headers["x-policy-serial"] == "6"
            (tmp_path / "policy.json").write_bytes(raised(old, 7))
            published = edb(state, "policy", "publish", tmp_path / "policy.json")
            assert published.returncode == 0, published.stderr
            anchor = f"{before[-1].seq}:{before[-1].hash.hex()}"
            verified = edb(state, "audit", "verify", "--anchor", anchor, "--json")
            assert verified.returncode == 0, verified.stderr
            forged = edb(state, "audit", "verify", "--anchor", f"{before[-1].seq}:{'0' * 64}")
            assert (forged.returncode, "an anchor says" in forged.stderr) == (3, True)
            after = chain(call)
            assert json.loads(verified.stdout)["head"] == f"{after[-1].seq}:{after[-1].hash.hex()}"

    assert after[: len(before)] == before
    assert verify(after, anchors=[before[-1].head]) == after[-1].head
    lines = b"".join(path.read_bytes() for path in sorted((state / "audit").iterdir())).splitlines()
    assert [parse_entry(line, where="file") for line in lines] == after
    assert {metric.name for metric in collector.metrics} >= {"edb.requests", "edb.policy.serial"}
    assert "request policy" in {span.name for span in collector.spans}
    for key in json.loads((state / "function-keys.json").read_text()).values():
        assert not any(key["key"].encode() in body for body in collector.bodies)


def edb(state, *arguments):
    command = [COMMAND.with_name("edb"), *arguments, "--cloud", state / "cloud.json"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def chain(call):
    entries, after = [], 0
    while after is not None:
        page = call("GET", f"/api/audit?after={after}&limit=2", key="provision").json()
        entries += [read_entry(entry, where="page") for entry in page["records"]]
        after = page.get("next")
    assert verify(entries).seq == len(entries)
    return entries
