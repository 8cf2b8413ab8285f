"""Secrets stay secret: planted ones are looked for in all that the key service logs, answers and raises.

The function app runs here in this process, on the real SDKs against the local cloud's vault and hub, with
every logger at DEBUG; and once more as the local cloud's own process, whose logs are read.
"""

from __future__ import annotations

import base64
import logging
import socket
import ssl
import urllib.parse
from pathlib import Path

import pytest
from azure.iot.device import IoTHubDeviceClient
from azure.iot.hub import IoTHubRegistryManager
from azure.iot.hub.models import Twin
from azure.keyvault.secrets import SecretClient
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from simulators.app import App
from simulators.cloud import Cloud
from simulators.fleet import Device, spki_of
from simulators.live_cloud import LiveCloud, LocalIdentity
from simulators.running_cloud import RunningCloud
from simulators.vault import OAEP

from functions.adapters.audit_folder import FolderSegments
from functions.adapters.iot_hub import HubTwinRegistry
from functions.adapters.key_vault import VaultKek, VaultReleaseSigner, make_key_client
from functions.adapters.key_vault_secrets import SecretClassKeyStore
from functions.adapters.policy_file import FilePolicyStore
from functions.adapters.policy_floor import VaultPolicyFloor
from functions.services import assemble
from shared.errors import TransportError

CLASS_KEY = bytes.fromhex("5ec2e7c1a55ce7a3b1ed0fa11ed10ca70a5d0fe1dbadc0de0ddba11feedface5")
FUNCTION_KEY = "Pl4nted-Function_Key+of/this=test~0123456789"


def pictures(secret: bytes) -> dict[str, bytes]:
    """Return how a secret could look in a text."""
    standard, urlsafe = base64.b64encode(secret), base64.urlsafe_b64encode(secret)
    return {
        "raw": secret,
        "hex": secret.hex().encode(),
        "HEX": secret.hex().upper().encode(),
        "base64": standard.rstrip(b"="),
        "base64url": urlsafe.rstrip(b"="),
        "percent-encoded base64": urllib.parse.quote(standard.decode(), safe="").encode().rstrip(b"%3D"),
        "percent-encoded": urllib.parse.quote(secret, safe="").encode(),
        "repr": repr(secret)[2:-1].encode(),
        "list of numbers": str(list(secret))[1:-1].encode(),
    }


def found(secrets: dict[str, bytes], text: bytes) -> list[str]:
    """Return which secrets stand in a text, and how."""
    return [
        f"{name} ({how})"
        for name, secret in secrets.items()
        for how, picture in pictures(secret).items()
        if picture in text
    ]


def test_the_search_finds_each_picture_of_a_secret():
    for picture in pictures(CLASS_KEY).values():
        assert found({"class key": CLASS_KEY}, b"before " + picture + b" after")
    assert not found({"class key": CLASS_KEY}, b"nothing")


class Recording(logging.Handler):
    """Keeps every record whole: message, arguments, extra fields, exceptions with their causes."""

    def __init__(self) -> None:
        super().__init__(level=1)
        self.lines: list[str] = []
        self.loggers: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        self.loggers.add(record.name)
        self.lines.append(f"{record.getMessage()} {record.__dict__!r}")
        self.note(record.exc_info[1] if record.exc_info else None)

    def note(self, error: BaseException | None) -> None:
        """Keep an exception with its causes."""
        while error is not None:
            self.lines.append(f"{error!s} {error!r} {error.args!r} {getattr(error, '__notes__', '')!r}")
            error = error.__cause__ or error.__context__


@pytest.fixture
def live_cloud(tmp_path, monkeypatch):
    cloud = LiveCloud(tmp_path / "cloud")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", cloud.ca_file)
    yield cloud
    cloud.close()


@pytest.fixture
def recording():
    root, handler = logging.getLogger(), Recording()
    levels = {root: root.level} | {
        logger: logger.level
        for logger in logging.Logger.manager.loggerDict.values()
        if isinstance(logger, logging.Logger)
    }
    for logger in levels:
        logger.setLevel(1)
    root.addHandler(handler)
    yield handler
    root.removeHandler(handler)
    for logger, level in levels.items():
        logger.setLevel(level)


class RealApp(App):
    """The function app of this process on the vault and hub of a local cloud."""

    function_key = FUNCTION_KEY

    def __init__(self, live, cloud: Cloud, folder, credential) -> None:
        self._live = live
        self.credential = NotingCredential(credential)
        super().__init__(cloud, folder)

    def _connect(self, settings):
        live, credential, cloud = self._live, self.credential, self.cloud
        keys = make_key_client(live.vault_url, credential, verify_challenge=False)
        self.services = assemble(
            settings,
            store=SecretClassKeyStore.connect(live.vault_url, credential, verify_challenge=False),
            kek=VaultKek(keys, "class-key-kek"),
            registry=HubTwinRegistry.connect(live.hub_host, credential),
            signer=VaultReleaseSigner(keys, "release-signing"),
            policy_store=FilePolicyStore(settings.policy_file),
            # Not the floor of the local cloud's own function app: this one has another policy.
            policy_floor=VaultPolicyFloor(
                SecretClient(live.vault_url, credential, verify_challenge_resource=False),
                name="policy-floor-planted",
            ),
            audit_segments=FolderSegments(settings.audit_folder),
            monotonic=cloud.seconds,
            now=lambda: self.cloud.at,
        )
        return self.services


class NotingCredential:
    """Keeps the tokens that it gives, for they are to be looked for."""

    def __init__(self, credential) -> None:
        self._credential = credential
        self.tokens: set[str] = set()

    def get_token(self, *scopes, **options):
        token = self._credential.get_token(*scopes, **options)
        self.tokens.add(token.token)
        return token


def caller(cloud: Cloud) -> dict[str, str]:
    """Return what a certified build machine shows."""
    machine = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    certificate = cloud.authority.certify(machine.public_key(), uri="urn:cpk:build:ci-1")
    return {
        "client_public_key": base64.b64encode(spki_of(machine)).decode(),
        "client_cert": certificate.public_bytes(Encoding.PEM).decode(),
    }


def wrapped(app: App) -> str:
    """Return the planted class key under the vault's key encryption key."""
    jwk = app.request("ImportKeyPublic", method="GET").document
    n, e = (int.from_bytes(base64.urlsafe_b64decode(jwk[each] + "=="), "big") for each in ("n", "e"))
    return base64.b64encode(rsa.RSAPublicNumbers(e, n).public_key().encrypt(CLASS_KEY, OAEP)).decode()


def drive(app: App, *, imports: bool = True) -> set[int]:
    """Ask every contract for what it does and for what it refuses; return the statuses that came."""
    name, machine = {"key_name": "planted_key"}, caller(app.cloud)
    repeated = {"headers": {"Idempotency-Key": "once"}}
    mine = {**name, "wrapped_key": wrapped(app) if imports else "AAAA"}
    app.request("ImportKey", mine, **repeated)
    app.request("ImportKey", mine, **repeated)
    app.request("ImportKey", mine)
    app.request("ImportKey", {**mine, "key_name": "other", "wrapped_key": "AAAA"})
    app.request("ImportKey", {**mine, "key_name": "other", "kid": "https://x/keys/k/1"})
    app.request("WrapKey", {**name, **machine})
    app.request("WrapKey", {**name, **machine, "key_version": 7})
    app.request("WrapKey", {**name, "client_public_key": machine["client_public_key"]})
    app.request("WrapKey", {**name, **machine, "algorithm": "HPKE-P256"})
    app.request("WrapKey", {"key_name": "nobody", **machine})
    app.request("ProvisionKey", {"key_name": "made_here"}, **repeated)
    app.request("ProvisionKey", {"key_name": "made_here", "strength": 128}, **repeated)
    app.request("ProvisionKeyNamed", {}, route={"key_name": "named_here"})
    app.request("ProvisionKey", method="GET")
    app.request("ProvisionKey", b"{" + b" " * 70_000)
    app.request("ProvisionKey", b"\xff")
    app.request("RotateKey", name)
    app.request("RotateKey", {"key_name": "nobody"})
    staged = {"key_name": "made_here", "rollout": {"stages": [100, 10_000]}}
    app.request("RotateKey", staged)
    app.request("ChangeRollout", {"key_name": "made_here", "version": 2, "stage": 0, "action": "abort"})
    app.request("ChangeRollout", {"key_name": "made_here", "version": 2, "stage": 0, "action": "advance"})
    app.request("RevokeKey", {"key_name": "named_here", "version": 1})
    app.request("RevokeKey", {**name, "version": 9})
    app.request("RewrapEnvelopes", {})
    app.request("DeleteKey", name)
    app.request("DeleteKey", {"key_name": "named_here"})
    app.request("RecoverKey", {"key_name": "named_here"})
    app.request("Keys", method="GET")
    app.request("Keys", method="GET", params={"token": "-"})
    app.request("Key", method="GET", route=name)
    app.request("Holders", method="GET", route=name)
    app.request("Devices", method="GET")
    app.request("Devices", method="GET", params={"token": "devices:nobody"})
    app.request("Device", method="GET", route={"device_id": "edge-01"})
    app.request("DeviceModule", method="GET", route={"device_id": "edge-01", "module_id": "none"})
    shown = app.request("Policy", method="GET")
    app.request("PublishPolicy", shown.body, method="PUT", headers={"If-Match": "*"})
    app.request("PublishPolicy", b"{", method="PUT")
    app.request("Audit", method="GET", params={"limit": "1000"})
    app.request("Health", method="GET")
    app.request("Ready", method="GET")
    return {reply.status for reply in app.replies}


def enrol(live, device: Device, key: str) -> None:
    """Enrol a gateway in the hub, and let it report."""
    hub = IoTHubRegistryManager.from_connection_string(live.service_connection_string)
    hub.create_device_with_sas(device.device_id, key, key, "enabled")
    hub.update_twin(device.device_id, Twin(tags={"class": "gateway"}), hub.get_twin(device.device_id).etag)
    connection = f"HostName={live.device_host};DeviceId={device.device_id};SharedAccessKey={key}"
    trusted = Path(live.ca_file).read_text()
    client = IoTHubDeviceClient.create_from_connection_string(connection, server_verification_cert=trusted)
    client.connect()
    client.patch_twin_reported_properties(device.report())
    client.shutdown()


@pytest.mark.timeout(600)
def test_planted_secrets_are_in_no_log_answer_or_exception(live_cloud, recording, tmp_path, monkeypatch):
    cloud, device_key = Cloud(), base64.b64encode(b"the device's own access key 32 b").decode()
    device = Device.make(cloud.authority, "edge-01")
    enrol(live_cloud, device, device_key)
    recording.lines.clear()  # the device's own SDK is none of the key service's

    app = RealApp(live_cloud, cloud, tmp_path, live_cloud.credential)
    statuses = drive(app)
    app.tick()
    passes = str(dict(app.queues))
    app.drain()
    released = app.request("Device", method="GET", route={"device_id": "edge-01"}).document
    assert released["released"]["keys"]["planted_key"] == 2
    assert app.services.class_keys.open("planted_key", 1).reveal() == CLASS_KEY
    with monkeypatch.context() as broken:
        # Something goes wrong in the middle of a wrap, where the class key is open.
        broken.setattr("functions.wrap_key.wrap_key", lambda key, *_, **__: len(key) / 0)
        statuses.add(app.request("WrapKey", {"key_name": "planted_key", **caller(cloud)}).status)
    identity = (live_cloud.folder / "identity.key").read_bytes()
    stranger = RealApp(live_cloud, cloud, tmp_path, LocalIdentity(identity, "stranger"))
    statuses.update(drive(stranger, imports=False))
    with pytest.raises(TransportError) as refused:  # it cannot read the policy's floor: no pass begins
        stranger.tick()
    recording.note(refused.value)  # the host logs what a function raises
    assert {200, 201, 400, 403, 404, 405, 409, 413, 422, 500, 503} <= statuses

    tokens_given = sorted(app.credential.tokens | stranger.credential.tokens)
    secrets = {
        "class key": CLASS_KEY,
        "rotated class key": app.services.class_keys.open("planted_key", 2).reveal(),
        "function key": FUNCTION_KEY.encode(),
        "hub's service key": live_cloud.service_connection_string.rpartition("SharedAccessKey=")[2].encode(),
        "device's key": device_key.encode(),
        **{f"token {number}": token.encode() for number, token in enumerate(tokens_given)},
    }
    assert len(tokens_given) >= 3  # the vault's and the hub's, and a stranger's
    assert {"audit", "azure.core.pipeline.policies.http_logging_policy"} <= recording.loggers
    assert any(name.startswith("urllib3") for name in recording.loggers)
    assert not found(secrets, "\n".join(recording.lines).encode("utf-8", "surrogateescape"))
    for segment in (tmp_path / "audit").iterdir():
        assert not found(secrets, segment.read_bytes())
    answers = (reply.body + repr(reply.headers).encode() for reply in app.replies + stranger.replies)
    assert not found(secrets, b"\n".join(answers))
    assert "planted" not in passes
    assert not found(secrets, passes.encode())


@pytest.mark.timeout(600)
def test_the_local_clouds_own_logs_hold_no_key_of_a_caller(tmp_path):
    with RunningCloud(tmp_path / "state") as cloud:
        secrets = {f"function key {name}": key.encode() for name, key in cloud.keys.items()}
        connection = cloud.description["hub"]["service_connection_string"]
        secrets["hub's service key"] = connection.rpartition("SharedAccessKey=")[2].encode()
        replies = []
        for name, key in cloud.keys.items():
            code = urllib.parse.quote(key)
            reads = ("keys", "devices", "health/ready", "keys/nobody", "nowhere", "ProvisionKey")
            replies += [cloud.http.get(f"/api/{address}?code={code}") for address in reads]
            replies.append(cloud.http.post(f"/api/WrapKey?code={code}", json={"key_name": "nobody"}))
            replies.append(cloud.http.post(f"/api/RotateKey?code={code}", content=b"{"))
            replies.append(cloud.http.post(f"/api/ProvisionKey?code={code}", content=b" " * 300_000))
            replies.append(cloud.http.get(f"/admin/functions?code={code}"))
            replies.append(cloud.call("ProvisionKey", {"key_name": f"by_{name}"}, key=name))
            malformed(cloud, f"GET /api/keys?code={code} HTTP/9.9\r\n\r\n")
            malformed(cloud, f"GET /api/keys HTTP/1.1\r\nx-functions-key: {key}\0\r\n\r\n")
            malformed(cloud, f"GET /api/keys?code={code}{'x' * 9000} HTTP/1.1\r\n\r\n")
        statuses = {reply.status_code for reply in replies}
        assert {200, 201, 400, 401, 404, 405, 413} <= statuses
        told = b"\n".join(reply.content + repr(dict(reply.headers)).encode() for reply in replies)
        log = cloud.logs()
    assert "request_malformed" in log
    assert "invocation_succeeded" in log
    assert not found(secrets, log.encode())
    assert not found(secrets, told)


def malformed(cloud, text: str) -> None:
    """Send what is no HTTP, and wait until the host has hung up."""
    url = urllib.parse.urlsplit(cloud.url)
    context = ssl.create_default_context(cafile=cloud.ca_file)
    with (
        socket.create_connection((url.hostname, url.port), timeout=60) as plain,
        context.wrap_socket(plain, server_hostname=url.hostname) as connection,
    ):
        connection.sendall(text.encode())
        while connection.recv(4096):
            pass
