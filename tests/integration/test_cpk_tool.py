"""The cpk-tool command as a process: what it prints, where, its exit status, and what it leaves behind."""

import base64
import contextlib
import hashlib
import http.server
import importlib.metadata
import json
import os
import pty
import re
import ssl
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)
from simulators.workshop import CLASS_KEY, CPK_TOOL, Workshop, tool, write_pair

from cpk_tool.parsers import COMMANDS
from local_cloud.certificates import create_authority, issue_server
from shared.errors import PolicyDenied
from shared.keys.wrapping import WrapContext, wrap_key
from shared.types import Audience, Secret, WrapAlgorithm
from shared.wire.http import WrapAnswer, WrapRequest, encode_json, problem

VECTORS = Path(__file__).parents[1] / "vectors" / "cpk"
CPM = Path(sys.executable).with_name("cpm")
READY_SECONDS = 30
FUNCTION_KEY = "function-key-that-nobody-may-see"


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pki")
    write_pair(folder, "sign")
    write_pair(folder, "client")
    return folder


@pytest.fixture
def workshop(tmp_path, pki):
    (tmp_path / "app.bin").write_bytes(b"the payload")
    (tmp_path / "keys.json").write_text(json.dumps({"my_app": base64.b64encode(CLASS_KEY).decode()}))
    return Workshop(folder=tmp_path, pki=pki)


# ── build, inspect, verify ────────────────────────────────────────────────────────────────────────────────


def test_what_is_built_is_inspected_and_verified(workshop):
    built = workshop.build("-n", "My App", "-v", "My Vendor", "--package-version", "1.2.3")

    assert built.returncode == 0, built.stderr
    size = workshop.package.stat().st_size
    assert built.stdout == (f"{workshop.package}: {size} bytes, class key my_app, signed by CN=Test sign\n")
    assert "a class key in a file is for tests only" in built.stderr
    inspected = json.loads(tool("inspect", workshop.package, "--json").stdout)
    assert inspected["result"] == "ok"
    assert inspected["manifest"]["cp-vendor"] == "My Vendor"
    assert inspected["signers"]["package"]["subject"] == "CN=Test sign"
    assert inspected["frame"]["streams"][0]["roles"] == ["payload"]
    verified = workshop.verify("--require-package-signature", "--json")
    assert verified.returncode == 0, verified.stderr
    document = json.loads(verified.stdout)
    assert document["version"] == "1.2.3"
    assert document["package_signed"] is True
    assert document["payload_size"] == len(b"the payload")


def test_build_reports_json(workshop):
    document = json.loads(workshop.build("--json").stdout)

    assert document["key_name"] == "my_app"
    assert document["key_version"] is None
    assert document["size"] == workshop.package.stat().st_size


def test_an_unsigned_build_says_so_and_is_refused(workshop):
    built = workshop.build(signed=False)

    assert built.returncode == 0
    assert "the package is not signed" in built.stderr
    assert "not signed" in built.stdout
    refused = workshop.verify()
    assert refused.returncode == 3
    assert refused.stderr == (
        'cpk-tool: error: payload: expected a signature, found sig "none"\n'
        "hint: build the package with --sign-key and --cert\n"
    )


def test_key_source_comes_from_the_environment_too(workshop):
    built = workshop.build(env={"CP_FILE_KEY_SOURCE": str(workshop.folder / "keys.json")})

    assert built.returncode == 0, built.stderr


def test_class_key_may_have_another_name_than_the_application(workshop):
    keys = {"other-key": base64.b64encode(CLASS_KEY).decode()}
    (workshop.folder / "keys.json").write_text(json.dumps(keys))

    assert workshop.build("--key-name", "other-key").returncode == 0
    assert workshop.verify().returncode == 0


def test_an_old_package_is_replaced_only_by_a_whole_one(workshop):
    workshop.package.write_bytes(b"old")

    failed = workshop.build("--key-name", "missing")

    assert failed.returncode == 1
    assert failed.stderr.endswith("no class key called 'missing'\n")
    assert workshop.package.read_bytes() == b"old"
    assert workshop.build().returncode == 0
    assert workshop.verify().returncode == 0


@pytest.mark.parametrize(
    ("more", "status", "message"),
    [
        (("-w", "parsec"), 2, "-w parsec: expected local, parsec is not supported"),
        (("--package-version", "1.0"), 2, "--package-version: expected three numbers up to 4294967295"),
        (("--package-version", "1.0.4294967296"), 2, "--package-version: expected three numbers"),
        (("--client-key", "x.key"), 2, "expected --client-key and --client-cert together, found one of them"),
        (("--key-name", "../x"), 1, "class key name: expected a key name of 1 to 64 characters"),
        (("-n", "a\x01" + "b" * 1024), 1, "manifest /cp-name: expected text of at most 1024 characters"),
        (("-k", "/nonexistent"), 1, "/nonexistent: no such file or directory"),
        (("-k", "/dev/null"), 1, "/dev/null: not JSON at character 0"),
    ],
)
def test_a_wrong_build_is_one_clear_error_and_leaves_nothing(workshop, more, status, message):
    failed = workshop.build(*more)

    errors = [line for line in failed.stderr.splitlines() if "warning" not in line and "hint" not in line]
    assert failed.returncode == status
    assert len(errors) == 1
    assert errors[0].startswith(f"cpk-tool: error: {message}")
    assert failed.stdout == ""
    assert sorted(path.name for path in workshop.folder.iterdir()) == ["app.bin", "keys.json"]


def test_inputs_that_are_no_regular_files_are_refused(workshop):
    (workshop.folder / "empty").touch()
    os.mkfifo(workshop.folder / "pipe")

    assert "payload: expected 1 to" in workshop.build(payload=workshop.folder / "empty").stderr
    assert "expected another file than -i" in workshop.build("-o", workshop.folder / "app.bin").stderr
    assert "expected a regular file or none" in workshop.build("-o", workshop.folder / "pipe").stderr
    assert workshop.build("-o", "/nonexistent/app.cpk").stderr.endswith(
        "cannot write /nonexistent/app.cpk: No such file or directory\n"
    )


def test_a_certificate_for_another_key_is_refused(workshop, pki):
    failed = workshop.build("--cert", pki / "client.pem")

    assert failed.returncode == 1
    assert f"{pki / 'client.pem'}: the first certificate is not the signing key's" in failed.stderr


def test_memory_does_not_grow_with_the_payload(workshop):
    script = (
        "import resource, subprocess, sys\n"
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )

    def peak(size):
        (workshop.folder / "app.bin").write_bytes(b"")
        os.truncate(workshop.folder / "app.bin", size)
        command = [
            "build",
            "-i",
            workshop.folder / "app.bin",
            "-o",
            workshop.package,
            "-a",
            "my_app",
            "-e",
            "file",
        ]
        signing = ["--sign-key", workshop.pki / "sign.key", "--cert", workshop.pki / "sign.pem"]
        arguments = [CPK_TOOL, *command, "-k", workshop.folder / "keys.json", *signing]
        ran = subprocess.run(
            [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, check=True
        )
        return int(ran.stdout) * 1024

    assert peak(200 << 20) - peak(1) < 16 << 20


# ── vectors through the command ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "name",
    [
        "v01-reference-order",
        "v18-package-signed",
        "m13-overlap",
        "s19-id-nul",
        "r07-no-key",
        "r11-unsigned",
        "j01-bom",
    ],
)
def test_exit_statuses_are_those_of_the_vectors(name):
    expected = json.loads((VECTORS / f"{name}.json").read_text())
    file = VECTORS / f"{name}.cpk"

    inspected = tool("inspect", file)
    verified = tool("verify", file, "--key-store", VECTORS / "keys.json", "--trust", VECTORS / "trust.pem")

    assert inspected.returncode == {"ok": 0, "malformed": 1}[expected["inspect"]]
    assert verified.returncode == {"ok": 0, "malformed": 1, "refused": 3}[expected["verify"]]
    assert (verified.stderr == "") == (verified.returncode == 0)


def test_certificates_are_judged_at_the_given_time():
    arguments = ("--key-store", VECTORS / "keys.json", "--trust", VECTORS / "trust.pem", "--at")
    file = VECTORS / "v01-reference-order.cpk"

    assert tool("verify", file, *arguments, "2026-11-20T12:00:00Z").returncode == 0
    late = tool("verify", file, *arguments, "2050-01-01T00:00:00+01:00", "--json")
    assert late.returncode == 3
    assert json.loads(late.stdout)["code"] == "certificate_expired"
    for wrong in ("2026-11-20T12:00:00", "soon"):
        assert tool("verify", file, *arguments, wrong).returncode == 2


def test_a_hostile_name_cannot_command_the_terminal():
    malformed = tool("inspect", VECTORS / "x-id-escape.cpk")

    assert malformed.returncode == 1
    assert "\x1b" not in malformed.stdout + malformed.stderr


def test_inspect_shows_streams_and_warnings_as_text():
    shown = tool("inspect", VECTORS / "v04-trailing.cpk").stdout

    assert "payload signed by  CN=Vector Vendor Signer, issued by CN=Vector Vendor Root" in shown
    assert "warning: 33 bytes after the last stream belong to nothing" in shown


# ── help and usage ────────────────────────────────────────────────────────────────────────────────────────


def test_version_is_the_projects():
    assert tool("--version").stdout == f"cpk-tool {importlib.metadata.version('enclave-device-blueprint')}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_an_example_and_stands_in_the_guide(command):
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "packaging.md").read_text()
    shown = tool(command, "--help").stdout

    assert f"  cpk-tool {command}" in shown.partition("\nexample")[2]
    options = {word.rstrip(",.;") for word in shown.split() if word.startswith("--")} - {"--help"}
    assert options
    assert [option for option in sorted(options) if f"`{option}" not in guide] == []


@pytest.mark.parametrize(
    "arguments", [[], ["explode"], ["build"], ["inspect", "a", "b"], ["verify", "x", "--key"]]
)
def test_wrong_usage_is_status_2(arguments):
    wrong = tool(*arguments)

    assert wrong.returncode == 2
    assert "cpk-tool: error: " in wrong.stderr


# ── the class key over HTTPS ──────────────────────────────────────────────────────────────────────────────


@dataclass(kw_only=True)
class WrapKeyService:
    """A service that speaks the WrapKey contract over TLS; what it answers can be bent."""

    url: str
    ca_file: Path
    requests: list = field(default_factory=list)
    answer: object = None


class _Handler(http.server.BaseHTTPRequestHandler):
    service: WrapKeyService

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        asked = WrapRequest.parse(body)
        self.service.requests.append((self.path, dict(self.headers), json.loads(body)))
        status, document = (self.service.answer or self._wrapped)(asked)
        data = document if isinstance(document, bytes) else encode_json(document)
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(data)

    def _wrapped(self, asked):
        context = WrapContext(audience=Audience("t"), device_id="b", name=asked.key_name, version=5)
        algorithm = asked.algorithm or WrapAlgorithm.RSA1_5
        wrapped = wrap_key(Secret(CLASS_KEY), asked.public_key, algorithm, context=context)
        return 200, WrapAnswer(wrapped_key=wrapped, algorithm=algorithm, key_version=5).encode()

    def log_message(self, *_):
        pass


@pytest.fixture
def wrap_key_service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    root = create_authority("Test Root", days=2)
    chain, key = issue_server(root, ["127.0.0.1"])
    for name, data in (("ca.pem", root.certificate_pem), ("chain.pem", chain), ("server.key", key)):
        (folder / name).write_bytes(data)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "chain.pem", folder / "server.key")
    handler = type("Handler", (_Handler,), {})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    url = f"https://127.0.0.1:{server.server_port}/api/WrapKey"
    handler.service = WrapKeyService(url=url, ca_file=folder / "ca.pem")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield handler.service
    server.shutdown()
    server.server_close()
    thread.join()


def build_over_https(workshop, service, *more, url=None, env=None, client=True):
    own = ("--client-key", workshop.pki / "client.key", "--client-cert", workshop.pki / "client.pem")
    return workshop.build(
        "-k",
        url or service.url,
        "--ca-file",
        service.ca_file,
        *(own if client else ()),
        *more,
        method=("-e", "http"),
        env={"CPK_FUNCTION_KEY": FUNCTION_KEY, "https_proxy": "http://127.0.0.1:1"} | (env or {}),
    )


def test_class_key_is_fetched_for_the_build_machines_own_key(workshop, wrap_key_service):
    built = build_over_https(workshop, wrap_key_service)

    assert built.returncode == 0, built.stderr
    assert "class key my_app version 5" in built.stdout
    path, headers, body = wrap_key_service.requests[0]
    assert path == "/api/WrapKey"
    assert headers["x-functions-key"] == FUNCTION_KEY
    assert body["algorithm"] == "RSA-OAEP-256"
    assert body["client_cert"] == (workshop.pki / "client.pem").read_text()
    assert workshop.verify().returncode == 0
    manifest = json.loads(tool("inspect", workshop.package, "--json").stdout)["manifest"]
    assert manifest["payload"]["enc"]["aes-gcm"]["key_version"] == 5
    assert CLASS_KEY not in workshop.package.read_bytes()


def test_without_a_client_key_one_is_made_for_the_request(workshop, wrap_key_service):
    built = build_over_https(workshop, wrap_key_service, client=False)

    assert built.returncode == 0, built.stderr
    assert "client_cert" not in wrap_key_service.requests[0][2]
    assert workshop.verify().returncode == 0


def test_function_key_may_stand_in_the_url_and_is_never_shown(workshop, wrap_key_service):
    wrap_key_service.answer = lambda _: (HTTPStatus.UNAUTHORIZED, {})

    refused = build_over_https(workshop, wrap_key_service, url=f"{wrap_key_service.url}?code={FUNCTION_KEY}")

    assert refused.returncode == 1
    assert wrap_key_service.requests[0][0] == f"/api/WrapKey?code={FUNCTION_KEY}"
    assert FUNCTION_KEY not in refused.stdout + refused.stderr
    assert "give the function key in $CPK_FUNCTION_KEY or --function-key-file" in refused.stderr


def test_function_key_may_stand_in_a_file(workshop, wrap_key_service):
    (workshop.folder / "function.key").write_text("from-file\n")

    built = build_over_https(
        workshop, wrap_key_service, "--function-key-file", workshop.folder / "function.key"
    )

    assert built.returncode == 0, built.stderr
    assert wrap_key_service.requests[0][1]["x-functions-key"] == "from-file"


def test_policy_that_says_no_is_status_3_with_its_reason(workshop, wrap_key_service):
    error = PolicyDenied("rule builds: x509.build_name does not exist", hint="certify the build machine")
    document = problem(error, status=HTTPStatus.FORBIDDEN, correlation_id="abc123")
    wrap_key_service.answer = lambda _: (403, document)

    denied = build_over_https(workshop, wrap_key_service, "--json")

    assert denied.returncode == 3
    assert denied.stderr == (
        f"cpk-tool: error: {wrap_key_service.url}: no class key my_app: status 403: policy_denied: "
        "rule builds: x509.build_name does not exist (correlation id abc123)\n"
        "hint: certify the build machine\n"
    )
    assert json.loads(denied.stdout)["code"] == "policy_denied"
    assert not workshop.package.exists()


@pytest.mark.parametrize(
    ("status", "document", "told"),
    [
        (404, {"code": "not_found"}, "no class key my_app: status 404: not_found"),
        (503, b"<html>", "no class key my_app: status 503\n"),
        (302, {}, "no class key my_app: status 302\n"),
        (200, b"[1]", "expected a JSON object, found another value"),
        (
            200,
            {"wrapped_key": "AA==", "algorithm": "none"},
            "algorithm: expected RSA-OAEP-256, found another",
        ),
        (200, {"wrapped_key": "AA=="}, "expected a key wrapped with RSA-OAEP-256, found RSA1_5"),
        (
            200,
            {"wrapped_key": 1, "algorithm": "RSA-OAEP-256"},
            "wrapped_key: expected base64 text, found int",
        ),
        (
            200,
            {"wrapped_key": "AA==", "algorithm": "RSA-OAEP-256", "key_version": 0},
            "key_version: expected 1 to 4294967295, found something else",
        ),
        (200, b" " * 70000, "expected an answer of at most 65536 bytes, found more"),
    ],
)
def test_a_bad_answer_is_one_clear_error(workshop, wrap_key_service, status, document, told):
    wrap_key_service.answer = lambda _: (status, document)

    failed = build_over_https(workshop, wrap_key_service)

    assert failed.returncode == 1
    assert told in failed.stderr
    assert failed.stderr.count("error:") == 1
    assert not workshop.package.exists()


def test_a_wrapped_key_that_does_not_open_is_refused(workshop, wrap_key_service):
    answer = {"wrapped_key": base64.b64encode(bytes(256)).decode(), "algorithm": "RSA-OAEP-256"}
    wrap_key_service.answer = lambda _: (200, answer)

    assert build_over_https(workshop, wrap_key_service).returncode == 3


def test_rsa1_5_is_taken_only_with_the_insecure_option(workshop, wrap_key_service):
    built = build_over_https(workshop, wrap_key_service, "--insecure-allow-rsa1_5")

    assert built.returncode == 0, built.stderr
    assert "algorithm" not in wrap_key_service.requests[0][2]
    assert "RSA PKCS#1 v1.5" in built.stderr
    assert workshop.verify().returncode == 0


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:1/api", "ftp://x/", "https://user@x/", "https://x:bad/", "keys.json", "https://"],
)
def test_only_https_addresses_are_taken(workshop, wrap_key_service, url):
    refused = build_over_https(workshop, wrap_key_service, url=url)

    assert refused.returncode == 2
    assert "key store: expected an https:// URL" in refused.stderr
    assert wrap_key_service.requests == []


def test_a_service_that_nothing_vouches_for_gets_no_request(workshop, wrap_key_service):
    refused = build_over_https(workshop, wrap_key_service, "--ca-file", workshop.pki / "client.pem")

    assert refused.returncode == 1
    assert f"{wrap_key_service.url}: cannot be reached: " in refused.stderr
    assert wrap_key_service.requests == []


# ── the CPM ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def cpm(tmp_path_factory, pki):
    """Start a CPM; yield the environment in which clients find it."""
    folder = tmp_path_factory.mktemp("cpm")
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    (folder / "release.pem").write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    options = {"--state": "state", "--socket": "s", "--release-key": "release.pem"}
    arguments = [word for name, value in options.items() for word in (name, str(folder / value))]
    process = subprocess.Popen(
        [CPM, "serve", *arguments, "--audience", "t", "--device-id", "d", "--trust", str(pki / "sign.pem")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout.readline().startswith("ready")
    yield {"CPM_SOCKET": str(folder / "s")}
    process.terminate()
    process.wait(timeout=READY_SECONDS)
    process.stdout.close()


def test_a_key_is_synced_from_a_file_and_the_package_installs(workshop, cpm):
    assert workshop.build("--package-version", "1.2.3").returncode == 0

    synced = tool("sync", "-a", "my_app", "-m", "file", "-k", workshop.folder / "keys.json", env=cpm)
    installed = tool("install", "-p", workshop.package, env=cpm)

    assert synced.returncode == 0, synced.stderr
    assert synced.stdout == "class key my_app: installed\n"
    assert installed.returncode == 0, installed.stderr
    assert installed.stdout == f"my_app 1.2.3: installed from {workshop.package}\n"


def test_a_key_is_synced_over_https(workshop, cpm, wrap_key_service):
    workshop.build()
    source = ("-k", wrap_key_service.url, "--ca-file", wrap_key_service.ca_file)

    synced = tool("sync", "-a", "my_app", "-m", "http", *source, "--json", env=cpm)

    assert synced.returncode == 0, synced.stderr
    assert json.loads(synced.stdout) == {"result": "ok", "key_name": "my_app"}
    installed = json.loads(tool("install", "-p", workshop.package, "--json", env=cpm).stdout)
    assert installed["cp_id"] == "my_app"


def test_a_key_is_synced_from_the_command_line_for_the_printed_public_key(workshop, cpm):
    workshop.build()
    printed = tool("pub-key", env=cpm).stdout
    spki = base64.b64decode(printed, validate=False)
    pem = tool("pub-key", "--format", "pem", env=cpm).stdout
    from shared.public_keys import load_public_key  # noqa: PLC0415 - beside its use

    assert printed.count("\n") == 1
    assert pem.encode() == load_der_public_key(spki).public_bytes(
        Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
    )
    context = WrapContext(audience=Audience("t"), device_id="d", name="my_app", version=1)
    wrapped = wrap_key(
        Secret(CLASS_KEY), load_public_key(spki, where="t"), WrapAlgorithm.RSA_OAEP_256, context=context
    )
    text = base64.b64encode(wrapped).decode()

    assert tool("sync", "-a", "my_app", "-m", "commandline", "-k", text, env=cpm).returncode == 0
    assert tool("install", "-p", workshop.package, env=cpm).returncode == 0


def test_what_the_cpm_refuses_is_status_3(workshop, cpm):
    workshop.build()

    refused = tool("install", "-p", workshop.package, "--json", env=cpm)

    assert refused.returncode == 3
    assert json.loads(refused.stdout)["code"] == "key_unavailable"


def test_a_malformed_package_is_told_before_the_cpm_is_asked():
    malformed = tool("install", "-p", VECTORS / "m13-overlap.cpk", "--socket", "/nonexistent")

    assert malformed.returncode == 1
    assert "stream 2, table entry at offset 48" in malformed.stderr


def test_no_cpm_is_one_clear_error(workshop):
    failed = tool("pub-key", "--socket", workshop.folder / "none")

    assert failed.returncode == 1
    assert failed.stderr.startswith(f"cpk-tool: error: no cpm at {workshop.folder / 'none'}: ")


def test_the_twin_is_the_agents_work():
    refused = tool("sync", "-a", "my_app", "-m", "azuretwin", "--socket", "/nonexistent")

    assert refused.returncode == 2
    assert "hint: run device-agent on this device" in refused.stderr


# ── what is installed ─────────────────────────────────────────────────────────────────────────────────────


def test_what_is_installed_is_listed_and_uninstalled(workshop, cpm):
    assert tool("list", env=cpm).stdout == "no package is installed\n"
    workshop.build("--package-version", "1.2.3", "-n", "My App")
    tool("sync", "-a", "my_app", "-m", "file", "-k", workshop.folder / "keys.json", env=cpm)
    tool("install", "-p", workshop.package, env=cpm)

    listed = tool("list", env=cpm)
    document = json.loads(tool("list", "--json", env=cpm).stdout)
    uninstalled = tool("uninstall", "my_app", env=cpm)

    assert re.search(r"^  my_app +1\.2\.3 +installed +\d+ +My App$", listed.stdout, re.MULTILINE), (
        listed.stdout
    )
    assert document["packages"]["my_app"]["version"] == "1.2.3"
    assert uninstalled.stdout == "my_app: uninstalled\n"
    assert json.loads(tool("list", "--json", env=cpm).stdout)["packages"] == {}


def test_what_is_not_installed_cannot_be_uninstalled(cpm):
    failed = tool("uninstall", "my_app", "--json", env=cpm)

    assert failed.returncode == 1
    assert json.loads(failed.stdout)["code"] == "not_found"


def test_the_public_key_comes_as_json_with_its_fingerprint(cpm):
    document = json.loads(tool("pub-key", "--json", env=cpm).stdout)

    spki = base64.b64decode(document["spki"], validate=True)
    assert document["fingerprint"] == hashlib.sha256(spki).hexdigest()
    assert document["kind"] == "RSA"


# ── extract and rewrap ────────────────────────────────────────────────────────────────────────────────────


def opening(workshop):
    return ("--key-store", workshop.folder / "keys.json", "--trust", workshop.pki / "sign.pem")


def test_who_holds_the_key_extracts_the_payload_for_the_owner_alone(workshop):
    workshop.build()
    out = workshop.folder / "out.bin"

    extracted = tool("extract", workshop.package, "-o", out, *opening(workshop))

    assert extracted.returncode == 0, extracted.stderr
    assert extracted.stdout == f"{out}: 11 bytes, my_app 1.0.0\n"
    assert out.read_bytes() == b"the payload"
    assert out.stat().st_mode & 0o777 == 0o600
    again = json.loads(tool("extract", workshop.package, "-o", out, *opening(workshop), "--json").stdout)
    assert again["payload_sha256"] == hashlib.sha256(b"the payload").hexdigest()


def test_who_does_not_hold_the_key_or_the_trust_extracts_nothing(workshop):
    workshop.build()
    (workshop.folder / "others.json").write_text(json.dumps({"my_app": base64.b64encode(bytes(32)).decode()}))
    out, trust = workshop.folder / "out.bin", ("--trust", workshop.pki / "sign.pem")

    wrong = tool("extract", workshop.package, "-o", out, "-k", workshop.folder / "others.json", *trust)
    untrusted = tool(
        "extract",
        workshop.package,
        *("-o", out, "-k", workshop.folder / "keys.json", "--trust", workshop.pki / "client.pem"),
    )
    nobody = tool("extract", workshop.package, "-o", out, "-k", workshop.folder / "keys.json")

    assert (wrong.returncode, untrusted.returncode, nobody.returncode) == (3, 3, 2)
    assert "nobody is trusted" in nobody.stderr
    assert not out.exists()
    itself = tool("extract", workshop.package, "-o", workshop.package, *opening(workshop))
    assert itself.returncode == 2


def test_a_package_is_rewrapped_under_another_class_key(workshop):
    workshop.build("-n", "My App", "--package-version", "1.2.3")
    (workshop.folder / "new.json").write_text(json.dumps({"other": base64.b64encode(bytes(16)).decode()}))
    out = workshop.folder / "new.cpk"
    signing = ("--sign-key", workshop.pki / "sign.key", "--cert", workshop.pki / "sign.pem")
    target = ("--to-key-name", "other", "--to-key-store", workshop.folder / "new.json")

    rewrapped = tool(
        "rewrap",
        workshop.package,
        "-o",
        out,
        *target,
        *opening(workshop),
        *signing,
        "--profile",
        "recommended",
    )

    assert rewrapped.returncode == 0, rewrapped.stderr
    assert f"{out}: {out.stat().st_size} bytes, class key other, signed by CN=Test sign" in rewrapped.stdout
    new = ("-k", workshop.folder / "new.json", "--trust", workshop.pki / "sign.pem")
    report = json.loads(tool("verify", out, *new, "--require-package-signature", "--json").stdout)
    assert (report["name"], report["version"], report["key_name"]) == ("My App", "1.2.3", "other")
    assert report["encryption"].startswith("AES-128-GCM in segments")
    assert tool("extract", out, "-o", workshop.folder / "out.bin", *new).returncode == 0
    assert (workshop.folder / "out.bin").read_bytes() == b"the payload"
    assert tool("verify", out, *opening(workshop)).returncode == 3


def test_what_does_not_hold_is_not_rewrapped(workshop):
    workshop.build(signed=False)
    out = workshop.folder / "new.cpk"
    signing = ("--sign-key", workshop.pki / "sign.key", "--cert", workshop.pki / "sign.pem")

    refused = tool("rewrap", workshop.package, "-o", out, *opening(workshop), *signing)

    assert refused.returncode == 3
    assert not out.exists()


def test_a_service_is_asked_for_the_version_that_the_package_names(workshop, wrap_key_service):
    build_over_https(workshop, wrap_key_service)
    service = ("-k", wrap_key_service.url, "--ca-file", wrap_key_service.ca_file)
    trust = ("--trust", workshop.pki / "sign.pem")

    verified = tool("verify", workshop.package, *service, *trust)
    wrap_key_service.requests.clear()
    rewrapped = tool(
        "rewrap",
        workshop.package,
        *("-o", workshop.folder / "new.cpk", *service, *trust),
        *("--sign-key", workshop.pki / "sign.key", "--cert", workshop.pki / "sign.pem"),
    )

    assert verified.returncode == 0, verified.stderr
    assert rewrapped.returncode == 0, rewrapped.stderr
    assert [body.get("key_version") for _, _, body in wrap_key_service.requests] == [None, 5]


# ── progress ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("watched", [True, False])
def test_a_bar_is_drawn_on_a_terminal_alone(workshop, watched):
    (workshop.folder / "app.bin").write_bytes(bytes(8 << 20))
    master, slave = pty.openpty()
    command = [CPK_TOOL, "build", "-i", workshop.folder / "app.bin", "-o", workshop.package, "-a", "my_app"]
    errors = slave if watched else subprocess.PIPE
    ran = subprocess.run(
        [*map(str, command), "-k", str(workshop.folder / "keys.json")],
        stdout=subprocess.PIPE,
        stderr=errors,
        check=True,
        env=os.environ | {"TERM": "xterm"},
    )
    os.close(slave)

    shown = os.read(master, 65536) if watched else ran.stderr
    os.close(master)

    assert (b"app.bin  [" in shown) is watched
    assert b"app.bin  [" not in ran.stdout
