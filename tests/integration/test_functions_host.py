"""The functions host process with a small app: HTTP, queues, timer, events, identity, administration."""

import base64
import json
import os
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from local_cloud import tokens
from local_cloud.certificates import create_authority, issue_server
from shared.errors import VerificationError

APP = Path(__file__).parent / "apps" / "small"
KEYS = {name: secrets.token_urlsafe(32) for name in ("items", "admin")}


class EventLogSimulator:
    """Stands in for the twin hub's event log: the long poll, over TLS, to holders of the app's token."""

    def __init__(self, files, address="127.0.0.1"):
        self.events = []
        self.changed = threading.Condition()
        self.public_key = (files / "identity.pem").read_bytes()
        simulator = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                try:
                    token = self.headers["Authorization"].removeprefix("Bearer ")
                    tokens.verify(token, simulator.public_key, audience=tokens.HUB_AUDIENCE)
                except VerificationError:
                    self.send_error(401)
                    return
                query = parse_qs(urlsplit(self.path).query)
                body = json.dumps(simulator.read(int(query["after"][0]), int(query["max"][0]))).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer((address, 0), Handler)
        self.server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files / "server.pem", files / "server.key")
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"https://{address}:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def read(self, after, limit):
        with self.changed:
            self.changed.wait_for(lambda: len(self.events) > after, timeout=5)
            found = self.events[after : after + limit]
        return {"events": found, "last": found[-1]["seq"] if found else after}

    def add(self, device, body):
        with self.changed:
            self.events.append(
                {
                    "seq": len(self.events) + 1,
                    "source": "twinChangeEvents",
                    "properties": {"deviceId": device, "opType": "updateTwin"},
                    "system_properties": {"iothub-connection-device-id": device},
                    "body": body,
                }
            )
            self.changed.notify_all()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


class Host:
    """A functions host process."""

    def __init__(self, folder, app=APP, hub_url="https://127.0.0.1:1", environment=()):
        self.folder, self.app, self.hub_url = folder, app, hub_url
        self.environment = {"WORK_QUEUE": "work-items", "EVENTS": "twins", "TICK": "0 0 0 1 1 *"}
        self.environment |= dict(environment)
        self.port = 0

    def popen(self):
        files = self.folder
        command = [sys.executable, "-m", "local_cloud.functions_host", "--app", self.app]
        command += ["--state", files / "functions", "--address", "127.0.0.1", "--port", str(self.port)]
        command += ["--server-cert", files / "server.pem", "--server-key", files / "server.key"]
        command += ["--keys-file", files / "keys.json", "--identity-key", files / "identity.key"]
        command += ["--hub-url", self.hub_url, "--ca-file", files / "ca.pem", "--stdin-lifeline"]
        log = (files / "host.log").open("ab")
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=os.environ | self.environment,
        )

    def start(self):
        self.process = self.popen()
        line = self.process.stdout.readline()
        assert line.startswith("ready url=https://127.0.0.1:"), self.log()
        self.url = line.strip().removeprefix("ready url=")
        self.port = int(self.url.rpartition(":")[2])
        context = ssl.create_default_context(cafile=self.folder / "ca.pem")
        self.client = httpx.Client(base_url=self.url, verify=context, timeout=120)

    def refused(self):
        """Start an app that must be refused, and return what it says."""
        process = self.popen()
        output, _ = process.communicate(timeout=120)
        assert (process.returncode, output) == (1, "")
        return self.log().splitlines()[-1]

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(timeout=120)

    def stop(self):
        if self.process.poll() is None:
            self.process.communicate(timeout=120)
        return self.process.returncode

    def log(self):
        return (self.folder / "host.log").read_text()

    def post(self, path, key="items", **options):
        return self.client.post(path, headers={"x-functions-key": KEYS[key]}, **options)

    def seen(self, kind):
        return self.client.get("/api/seen").json()[kind]

    def queues(self):
        status = self.client.get("/admin/host/status", headers={"x-functions-key": KEYS["admin"]})
        return status.json()["queues"]


def until(condition, seconds=120):
    """Poll a condition until it holds, and return what it gave."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition did not come to hold"
        threading.Event().wait(0.02)
    return value


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    root = create_authority("Test Root", days=2)
    certificate, server_key = issue_server(root, ["127.0.0.1"])
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    keys = {
        "items": {"key": KEYS["items"], "functions": ["create_item", "files"]},
        "admin": {"key": KEYS["admin"], "functions": "*"},
    }
    contents = {
        "ca.pem": root.certificate_pem,
        "server.pem": certificate,
        "server.key": server_key,
        "identity.key": private,
        "identity.pem": public,
        "keys.json": json.dumps(keys).encode(),
    }
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return folder


@contextmanager
def running(folder, files, **options):
    for file in files.iterdir():
        if file.is_file() and file.name != "host.log":
            (folder / file.name).write_bytes(file.read_bytes())
    host = Host(folder, **options)
    host.start()
    try:
        yield host
    finally:
        host.stop()


@pytest.fixture(scope="module")
def events(files):
    simulator = EventLogSimulator(files)
    yield simulator
    simulator.stop()


@pytest.fixture(scope="module")
def host(tmp_path_factory, files, events):
    with running(tmp_path_factory.mktemp("host"), files, hub_url=events.url) as host:
        yield host


def test_an_http_function_sees_the_request_and_its_answer_is_the_response(host):
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    answer = host.client.post(
        "/api/items/7?x=1&x=2",
        json="hello",
        headers={"x-functions-key": KEYS["items"], "traceparent": trace},
    )
    document = answer.json()
    assert (answer.status_code, answer.headers["x-made-by"]) == (201, "create_item")
    assert answer.headers["content-type"] == "application/json"
    assert (document["id"], document["body"], document["query"]) == ("7", "hello", {"x": "1,2"})
    assert (document["function"], document["trace"]) == ("create_item", trace)
    assert document["thread"].startswith("function")
    assert "x-functions-key" not in document["headers"]


def test_routes_take_optional_constrained_and_catch_all_parameters(host):
    assert host.post("/api/items", json="a").json()["id"] is None
    assert host.post("/api/ITEMS/5/", json="a").json()["id"] == "5"
    assert host.post("/api/items/five", json="a").status_code == 404
    header = {"x-functions-key": KEYS["items"]}
    assert host.client.get("/api/files/a%20b/c%2Fd", headers=header).json() == {"path": "a b/c%2Fd"}
    assert host.client.get("/elsewhere", headers=header).status_code == 404


def test_another_method_is_answered_with_those_that_there_are(host):
    answer = host.client.get("/api/items/7")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


def test_a_function_key_opens_its_own_functions_and_no_other(host):
    call = {"json": "a"}
    assert host.client.post("/api/items/1", **call).status_code == 401
    assert host.client.post("/api/items/1", headers={"x-functions-key": "x"}, **call).status_code == 401
    assert host.client.post(f"/api/items/1?code={KEYS['items']}", **call).status_code == 201
    assert host.post("/api/items/1", key="admin", **call).status_code == 201
    for key, status in (("items", 401), ("admin", 200)):
        header = {"x-functions-key": KEYS[key]}
        assert host.client.get("/api/owner", headers=header).status_code == status
        assert host.client.get("/admin/host/status", headers=header).status_code == status
    assert host.client.get("/admin/functions").status_code == 401
    assert host.client.post("/runtime/webhooks/eventgrid?functionName=grid", json=[]).status_code == 401


def test_a_key_is_seen_by_no_function_and_no_log(host):
    document = host.client.post(f"/api/items/1?code={KEYS['items']}&y=2", json="a").json()
    assert (document["query"], KEYS["items"] in document["url"]) == ({"y": "2"}, False)
    assert KEYS["items"] not in host.log()
    assert KEYS["admin"] not in host.log()


def test_an_anonymous_function_needs_no_key_and_may_set_cookies(host):
    answer = host.client.get("/api/health")
    assert (answer.status_code, answer.text, answer.headers["set-cookie"]) == (200, "ok", "a=b; HttpOnly")


def test_a_function_that_fails_is_500_without_a_word_and_logged(host):
    answer = host.client.get("/api/boom")
    assert (answer.status_code, answer.content) == (500, b"")
    lines = [json.loads(line) for line in host.log().splitlines()]
    failed = next(
        line for line in lines if line["event"] == "invocation_failed" and line["function"] == "boom"
    )
    assert "RuntimeError: boom" in failed["exc_info"]


def test_log_lines_of_a_function_carry_its_invocation(host):
    invocation = host.post("/api/items/1", json="logged").json()["invocation"]
    lines = [json.loads(line) for line in host.log().splitlines()]
    events = [line["event"] for line in lines if line.get("invocation_id") == invocation]
    assert events == ["item_created", "invocation_succeeded"]


def test_a_body_over_the_limit_is_refused(host):
    answer = host.post("/api/items/1", content=b"x" * (4 * 1024 * 1024 + 1))
    assert answer.status_code == 413


def test_a_queue_output_triggers_the_queues_function_again_until_it_succeeds(host):
    host.post("/api/items/1", json="again")
    wanted = [{"body": "again", "tries": 1}, {"body": "again", "tries": 2}]
    until(lambda: [item for item in host.seen("work") if item["body"] == "again"] == wanted)
    until(lambda: "work-items" not in host.queues())


def test_a_message_that_keeps_failing_goes_to_the_poison_queue(host):
    host.post("/api/items/1", json="poison")
    until(lambda: host.queues().get("work-items-poison") == 1)
    tries = [item["tries"] for item in host.seen("work") if item["body"] == "poison"]
    assert tries == [1, 2, 3]


def test_a_return_value_may_be_several_messages(host):
    assert host.post("/admin/functions/second", key="admin", json={"input": "x"}).status_code == 202
    until(lambda: sorted(host.seen("third")) == ["x a", "x b"])


def test_change_events_come_in_order_with_their_properties_after_failures_too(host, events):
    events.add("edge-01", {"properties": {"reported": {"a": 1}}})
    events.add("edge-02", {"properties": {"reported": {"a": 2}}})
    seen = until(lambda: len(found := host.seen("twins")) >= 2 and found)
    assert [item["device"] for item in seen] == ["edge-01", "edge-02"]
    assert seen[0] == {
        "sequence": 1,
        "body": {"properties": {"reported": {"a": 1}}},
        "device": "edge-01",
        "properties": {"deviceId": "edge-01", "opType": "updateTwin"},
    }


def test_a_timer_runs_at_the_start_if_it_says_so_and_when_it_is_told(host):
    until(lambda: host.seen("timer"))
    before = len(host.seen("timer"))
    assert host.post("/admin/functions/tick", key="admin").status_code == 202
    assert host.seen("timer") == [False] * (before + 1)


def test_event_grid_is_validated_and_delivered(host):
    path = "/runtime/webhooks/eventgrid?functionName=grid"
    header = {"x-functions-key": KEYS["admin"], "aeg-event-type": "SubscriptionValidation"}
    body = [{"id": "0", "data": {"validationCode": "V"}}]
    assert host.client.post(path, headers=header, json=body).json() == {"validationResponse": "V"}
    event = {
        "id": "e1",
        "topic": "t",
        "subject": "s",
        "eventType": "Made",
        "eventTime": "2026-01-01T00:00:00Z",
        "data": {},
        "dataVersion": "1",
    }
    header["aeg-event-type"] = "Notification"
    assert host.client.post(path, headers=header, json=[event]).status_code == 202
    assert host.seen("grid") == [{"id": "e1", "type": "Made"}]


def test_administration_lists_and_calls_functions(host):
    header = {"x-functions-key": KEYS["admin"]}
    listed = {item["name"] for item in host.client.get("/admin/functions", headers=header).json()}
    assert {"create_item", "work", "tick", "twins", "grid"} <= listed
    call = {"json": {"input": {"body": "poison"}}}
    assert host.post("/admin/functions/work", key="admin", **call).status_code == 500
    assert host.post("/admin/functions/nobody", key="admin", **call).status_code == 404
    assert host.post("/admin/functions/health", key="admin", **call).status_code == 400
    assert host.post("/admin/functions/work", key="admin", content=b"{").status_code == 400


def test_the_managed_identity_gets_tokens_for_hub_and_vault_and_nothing_else(host, files):
    public_key = (files / "identity.pem").read_bytes()
    for audience in (tokens.VAULT_AUDIENCE, tokens.HUB_AUDIENCE):
        scope = f"{audience}/.default"
        token = host.client.get("/api/token", params={"scope": scope}).json()["token"]
        assert tokens.verify(token, public_key, audience=audience)["sub"] == "function-app"
    refused = host.client.get("/api/token", params={"scope": "https://storage.azure.com/.default"})
    assert refused.status_code == 500


def test_messages_survive_kill_9_and_so_does_the_place_in_the_event_log(tmp_path, files, events):
    events.add("edge-03", {"n": 3})
    with running(tmp_path, files, hub_url=events.url) as host:
        until(lambda: [item["device"] for item in host.seen("twins")].count("edge-03") == 1)
        host.post("/api/items/1", json="poison")
        until(lambda: host.queues().get("work-items-poison") == 1)
        host.kill()
        host.start()
        assert host.queues().get("work-items-poison") == 1
        events.add("edge-04", {"n": 4})
        seen = until(lambda: host.seen("twins"))
        assert [item["device"] for item in seen] == ["edge-04"]


@pytest.mark.timeout(300)
def test_a_page_that_fails_try_after_try_is_on_record_and_can_be_put_back(tmp_path, files, events):
    environment = {
        "APP_FOLDER": str(tmp_path),
        "EDB_DISTRIBUTE_SCHEDULE": "0 0 0 1 1 *",
        "EDB_TWIN_EVENTS_HUB": "twins",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    down = tmp_path / "vault-down"
    down.touch()
    with running(
        tmp_path, files, app=APP.parent / "fleet", hub_url=events.url, environment=environment
    ) as host:

        def get(path):
            return host.client.get(f"/api/{path}", headers={"x-functions-key": KEYS["admin"]}).json()

        def records(outcome):
            found = [entry["record"] for entry in get("audit")["records"]]
            return [each for each in found if each["event"] == "distribute" and each["outcome"] == outcome]

        def reconcile():
            answer = host.post("/api/ReconcileDevices", key="admin", json={"device_ids": ["edge-01"]})
            assert (answer.status_code, answer.json()) == (200, {"devices": 1})

        reconcile()
        [record] = until(lambda: records("failed"))
        assert (record["device_id"], record["reason"]) == ("edge-01", "vault_unavailable")
        assert record["detail"] == "set aside after 5 tries"
        until(lambda: not host.queues())
        assert host.log().count('"message_set_aside"') == 1
        assert get("devices/edge-01")["state"] is None
        down.unlink()
        reconcile()
        until(lambda: get("devices/edge-01")["state"] == "released")
        assert len(records("allowed")) == 1


def test_it_ends_when_its_lifeline_closes(tmp_path, files):
    with running(tmp_path, files) as host:
        host.process.stdin.close()
        assert host.process.wait(timeout=120) == 0


QUEUE_OUTPUT = "@app.queue_output(arg_name='out', queue_name='abc', connection='c')"
FAULTS = {
    "a schedule that is none": (
        ["@app.timer_trigger(arg_name='t', schedule='* * * *')", "def tick(t: func.TimerRequest): ..."],
        "function tick: expected an NCRONTAB expression",
    ),
    "a setting that is not there": (
        ["@app.timer_trigger(arg_name='t', schedule='%GONE%')", "def tick(t: func.TimerRequest): ..."],
        "function tick: the setting GONE",
    ),
    "a bad queue name": (
        [
            "@app.queue_trigger(arg_name='m', queue_name='Bad_Name', connection='c')",
            "def work(m: func.QueueMessage): ...",
        ],
        "function work: expected a queue name",
    ),
    "a parameter that no binding fills": (
        ["@app.route(route='a')", "def one(req: func.HttpRequest, more: str): ..."],
        "function one: no binding fills the parameter more",
    ),
    "a binding that no parameter takes": (
        ["@app.route(route='a')", QUEUE_OUTPUT, "def one(req: func.HttpRequest): ..."],
        "function one: no parameter takes the binding out",
    ),
    "an annotation that does not fit": (
        ["@app.route(route='a')", "def one(req: func.QueueMessage): ..."],
        "function one: parameter req: httpTrigger cannot fill",
    ),
    "an output that is no func.Out": (
        ["@app.route(route='a')", QUEUE_OUTPUT, "def one(req: func.HttpRequest, out: str): ..."],
        "function one: parameter out: expected func.Out",
    ),
    "an output that the platform's worker takes for no type": (
        [
            "@app.route(route='a')",
            QUEUE_OUTPUT,
            "def one(req: func.HttpRequest, out: func.Out[list[str]]): ...",
        ],
        "function one: parameter out: expected a class or one of typing's generics",
    ),
    "a list that the SDK does not know": (
        [
            "@app.event_hub_message_trigger(arg_name='e', event_hub_name='h', connection='c')",
            "def one(e: list[func.EventHubEvent]): ...",
        ],
        "function one: parameter e: eventHubTrigger cannot fill",
    ),
    "two functions of one name": (
        [
            "@app.route(route='a')",
            "def one(req: func.HttpRequest): ...",
            "@app.route(route='b')",
            "def one(req: func.HttpRequest): ...",
        ],
        "one",
    ),
    "two functions on one route": (
        [
            "@app.route(route='a/{x}')",
            "def one(req: func.HttpRequest): ...",
            "@app.route(route='A/{y}', methods=['GET'])",
            "def two(req: func.HttpRequest): ...",
        ],
        "functions one and two have the same route",
    ),
    "a trigger that is not served": (
        [
            "@app.blob_trigger(arg_name='b', path='p', connection='c')",
            "def one(b: func.InputStream): ...",
        ],
        "function one: trigger blobTrigger is not served here",
    ),
    "code that cannot be imported": (
        ["import nowhere_to_be_found"],
        "cannot be imported: ModuleNotFoundError",
    ),
    "no app": (["del app"], "expected exactly one top-level FunctionApp, found 0"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_app_with_a_fault_is_refused_before_anything_is_served(tmp_path, files, fault):
    lines, message = FAULTS[fault]
    app = tmp_path / "app"
    app.mkdir()
    (app / "host.json").write_text('{"version": "2.0"}')
    code = ["import azure.functions as func", "app = func.FunctionApp()", *lines]
    (app / "function_app.py").write_text("\n".join(code))
    for file in files.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    said = Host(tmp_path, app=app).refused()
    assert said.startswith("functions-host: error: ")
    assert message in said


def test_a_port_that_is_taken_is_named(tmp_path, files):
    for file in files.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        host = Host(tmp_path)
        host.port = taken.getsockname()[1]
        assert f"cannot listen on 127.0.0.1:{host.port}: Address already in use" in host.refused()


def test_messages_are_stored_as_host_json_says(tmp_path, files):
    app = tmp_path / "app"
    app.mkdir()
    (app / "host.json").write_text(
        '{"version": "2.0", "extensions": {"queues": {"messageEncoding": "none"}}}'
    )
    (app / "function_app.py").write_text((APP / "function_app.py").read_text())
    with running(tmp_path, files, app=app) as host:
        host.post("/api/items/1", json="poison")
        until(lambda: host.queues().get("work-items-poison") == 1)
    stored = (tmp_path / "functions").joinpath("host.db")
    texts = b"".join(file.read_bytes() for file in stored.parent.iterdir())
    assert b'"body": "poison"' in texts
    assert base64.b64encode(b'{"id": "1"')[:10] not in texts
