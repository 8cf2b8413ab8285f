"""The key service's HTTP API as an operator meets it: real HTTPS, a state that tests can reach into.

It keeps to the contracts and decides nothing: devices are what the test says they are.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import ssl
import threading
import urllib.parse
from collections import deque
from typing import TYPE_CHECKING

from local_cloud.certificates import create_authority, issue_server
from shared.audit.chain import START, link
from shared.rollout import Rollout, bucket
from shared.wire.objects import encode
from shared.wire.rollout import RolloutDescription

if TYPE_CHECKING:
    from pathlib import Path

FUNCTION_KEY = "operators-function-key-that-nobody-may-see"


class Refused(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, code: str, detail: str = "no", **headers: str) -> None:
        super().__init__(code)
        self.status, self.code, self.detail, self.headers = status, code, detail, headers


class KeyServiceApi:
    """The API.

    Attributes:
        url, ca_file: Where it is, and what its certificate is trusted by.
        requests: Every request: method, path with query, headers.
        keys, devices, deleted, policy, audit: What it knows.
        ready: Whether what it depends on answers.
        lost: How many answers are lost on their way, after the work was done.
        refusals: What the next requests are refused with.
        portions: What RewrapEnvelopes answers, one after the other.
        reconciled: The devices of each ReconcileDevices.
        on_devices: Called before the devices are answered, as time goes by.
        holders: Who holds any class key, as the test says.
        on_holders: Called before the first page of holders is answered, as time goes by.
    """

    def __init__(self, folder: Path) -> None:
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.keys: dict[str, dict[str, object]] = {}
        self.deleted: dict[str, dict[str, object]] = {}
        self.devices: list[dict[str, object]] = []
        self.reconciled: list[list[str]] = []
        self.policy: bytes | None = None
        self.audit: list[dict[str, object]] = []
        self.ready = True
        self.lost = 0
        self.refusals: deque[Refused] = deque()
        self.portions: deque[dict[str, object]] = deque()
        self.on_devices = lambda: None
        self.holders: list[dict[str, object]] = []
        self.on_holders = lambda: None
        self._done: dict[str, tuple[int, dict[str, object]]] = {}
        root = create_authority("Test Root", days=2)
        chain, key = issue_server(root, ["127.0.0.1"])
        self.ca_file = folder / "api-ca.pem"
        self.ca_file.write_bytes(root.certificate_pem)
        (folder / "api.pem").write_bytes(chain + key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "api.pem")
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add_key(self, name: str, *, version: int = 1, floor: int = 1) -> None:
        versions = [
            {
                "version": number,
                "state": "revoked" if number < floor else "active",
                "created_at": "2030-01-01T00:00:00Z",
            }
            for number in range(1, version + 1)
        ]
        self.keys[name] = {
            "key_name": name,
            "version": version,
            "floor": floor,
            "algorithm": "aes-gcm",
            "strength": "256",
            "versions": versions,
        }

    def stage(self, name: str, rollout: Rollout) -> None:
        """Say how far the newest version of a class key is on its way."""
        key = self.keys[name]
        description = RolloutDescription.of(key["version"], rollout)
        key["rollout"] = encode(description)
        key["versions"][-1]["state"] = "aborted" if rollout.is_aborted else "active"

    def record(self, **record: object) -> None:
        head = START
        if self.audit:
            last = self.audit[-1]
            head = type(START)(seq=last["seq"], hash=bytes.fromhex(last["hash"]))
        told = {"time": "2030-01-01T00:00:00.000000Z", "caller": "function-key", **record}
        self.audit.append(link(head, told).document())

    def _handler(self):
        api = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                api.requests.append((self.command, self.path, headers))
                try:
                    status, document, more = api._act(self.command, self.path, headers, body)
                except Refused as refused:
                    status, more = refused.status, refused.headers
                    document = {
                        "code": refused.code,
                        "detail": refused.detail,
                        "title": "refused",
                        "correlation_id": "c0ffee",
                    }
                if api.lost:
                    api.lost -= 1
                    self.close_connection = True
                    return
                data = document if isinstance(document, bytes) else json.dumps(document).encode()
                self.send_response(status)
                for name, value in more.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = _serve  # noqa: N815 - the library's names

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def _act(self, method, target, headers, body):
        parts = urllib.parse.urlsplit(target)
        query = dict(urllib.parse.parse_qsl(parts.query))
        steps = [urllib.parse.unquote(step) for step in parts.path.removeprefix("/api/").split("/")]
        if self.refusals:
            raise self.refusals.popleft()
        if steps[0] != "health" and headers.get("x-functions-key") != FUNCTION_KEY:
            return 401, b"", {}
        if steps == ["policy"]:
            return self._policy(method, headers, body)
        if method == "GET":
            return 200, self._read(steps, query), {}
        once = headers.get("idempotency-key")
        if once in self._done:
            return (*self._done[once], {})
        answer = self._change(steps[0], json.loads(body))
        if once is not None:
            self._done[once] = answer
        return (*answer, {})

    def _read(self, steps, query):  # noqa: C901, PLR0911 - one case a contract
        match steps:
            case ["keys"]:
                names = [name for name in sorted(self.keys) if name.startswith(query.get("prefix", ""))]
                return _page([self.keys[name] for name in names], query, "keys")
            case ["keys", name]:
                return self._key(name)
            case ["keys", name, "holders"]:
                self._key(name)
                if "token" not in query:
                    self.on_holders()
                return _page([each for each in self.holders if _is_held(each, query)], query, "holders")
            case ["devices"]:
                self.on_devices()
                return _page([each for each in self.devices if _fits(each, query)], query, "devices")
            case ["devices", *ids]:
                for device in self.devices:
                    if device["device_id"] == "/".join(ids):
                        return device
                raise Refused(404, "device_not_found", f"no device {'/'.join(ids)}")
            case ["audit"]:
                behind = [each for each in self.audit if each["seq"] > int(query["after"])]
                page = behind[: min(int(query["limit"]), 2)]
                following = {"next": page[-1]["seq"]} if len(page) < len(behind) else {}
                return {"records": page, **following}
            case ["health"]:
                return {"status": "ok", "audience": "simulated"}
            case ["health", "ready"]:
                return self._readiness()
        raise Refused(404, "not_found")

    def _readiness(self):
        if not self.ready:
            raise Refused(503, "not_ready", "not ready: vault")
        return {"status": "ready"}

    def _key(self, name):
        if name not in self.keys:
            raise Refused(404, "key_not_found", f"no class key {name}")
        return self.keys[name]

    def _change(self, call, asked):  # noqa: C901, PLR0911, PLR0912 - one case a contract
        name = asked.get("key_name")
        match call:
            case "ProvisionKey" | "ImportKey":
                if name in self.keys:
                    raise Refused(409, "key_exists", f"class key {name} exists")
                self.add_key(name)
                return 201, {"key_name": name, "version": 1, "algorithm": "aes-gcm", "strength": "256"}
            case "RotateKey":
                key = self._key(name)
                if key.get("rollout", {}).get("state") == "staged":
                    raise Refused(409, "rollout_unfinished", "it is not there for all yet")
                self.add_key(name, version=key["version"] + 1, floor=key["floor"])
                if "rollout" in asked:
                    self.stage(
                        name, Rollout(**asked["rollout"] | {"stages": tuple(asked["rollout"]["stages"])})
                    )
                return 200, {"key_name": name, "version": self.keys[name]["version"]}
            case "ChangeRollout":
                return 200, {"key_name": name, "rollout": self._move(name, asked)}
            case "RevokeKey":
                key = self._key(name)
                self.add_key(name, version=key["version"], floor=asked["version"] + 1)
                return 200, {"key_name": name, "floor": asked["version"] + 1}
            case "DeleteKey":
                self.deleted[name] = self._key(name)
                del self.keys[name]
                return 200, {"key_name": name, "recoverable_until": "2030-03-01T00:00:00Z"}
            case "RecoverKey":
                if name not in self.deleted:
                    raise Refused(404, "key_not_found", f"no deleted class key {name}")
                self.keys[name] = self.deleted.pop(name)
                return 200, {"key_name": name}
            case "ReconcileDevices":
                self.reconciled.append(asked["device_ids"])
                return 200, {"devices": len(asked["device_ids"])}
            case "RebindDevice":
                return 200, self._rebind(asked)
            case "RewrapEnvelopes":
                return 200, self.portions.popleft()
        raise Refused(404, "not_found")

    def _move(self, name, asked):
        told = self._key(name).get("rollout", {})
        if (told.get("state"), told.get("stage")) != ("staged", asked["stage"]):
            raise Refused(409, "rollout_changed", "it is somewhere else")
        rollout = Rollout(
            stages=tuple(told["stages"]),
            stage=told["stage"],
            pause_on_errors=told["pause_on_errors"],
            acknowledged=told["acknowledged"],
        )
        moves = {"advance": rollout.advanced, "finish": rollout.finished, "abort": rollout.aborted}
        self.stage(name, moves[asked["action"]]())
        return self.keys[name]["rollout"]

    def _rebind(self, asked):
        for device in self.devices:
            if device["device_id"] == asked["device_id"]:
                if device["reported_key"] != asked["fingerprint"]:
                    raise Refused(409, "fingerprint_mismatch", f"reports the key {device['reported_key']}")
                before = device["released"]["fingerprint"]
                device["released"]["fingerprint"] = asked["fingerprint"]
                return {**asked, "replaces": None if before == asked["fingerprint"] else before}
        raise Refused(404, "device_not_found", f"no device {asked['device_id']}")

    def _policy(self, method, headers, body):
        etag = None if self.policy is None else f'"{hashlib.sha256(self.policy).hexdigest()[:8]}"'
        if method == "GET":
            if self.policy is None:
                raise Refused(503, "policy_unavailable", "no release policy is in force")
            serial = str(json.loads(self.policy)["serial"])
            digest = hashlib.sha256(self.policy).hexdigest()
            return 200, self.policy, {"ETag": etag, "x_policy_serial": serial, "x_policy_sha256": digest}
        if headers.get("if-match", etag) != etag:
            raise Refused(412, "policy_changed", "another policy is in force")
        self.policy = body
        document = json.loads(body)
        digest = hashlib.sha256(body).hexdigest()
        return 200, {"id": document["id"], "serial": document["serial"], "sha256": digest}, {}


def _page(entries, query, member):
    """Return two entries at most: every list has pages."""
    start = int(query.get("token", 0))
    following = {"next_token": str(start + 2)} if start + 2 < len(entries) else {}
    return {member: entries[start : start + 2], **following}


def _fits(device, query):
    if "key" in query and query["key"] not in (device["released"] or {}).get("keys", {}):
        return False
    return all(query.get(name) in (None, device.get(name)) for name in ("state", "reason"))


def _is_held(holder, query):
    version = int(query["version"]) if "version" in query else None
    if version is not None and version not in (holder["version"], holder["staged"]):
        return False
    return query.get("state") in (None, holder["state"])


def holder(device_id, version=1, *, staged=None, error=None, given=True):
    """Return a device as ``GET /api/keys/{name}/holders`` tells it.

    Args:
        device_id: Its id.
        version: The one that it reports.
        staged: The one that a rollout gave it.
        error: Why it cannot use it.
        given: Whether the class key stands in its twin.
    """
    return {
        "device_id": device_id,
        "bucket": bucket(device_id),
        "given_at": "2030-01-01T00:00:00Z" if given else None,
        "staged": staged,
        "version": version,
        "state": "installed" if error is None else "error",
        "error": error,
        "outcome": "released",
    }


def device(
    device_id, *, state="released", reason=None, released=None, reported=None, stale=False, keys=(None, None)
):
    """Return a device as ``GET /api/devices`` tells it.

    Args:
        device_id: Its id.
        state: What was decided.
        reason: Why.
        released: ``(sequence, {key: version}, {key: floor})``.
        reported: ``(sequence, {key: version or error code})``.
        stale: Whether it is silent for too long.
        keys: Fingerprints of the device key that its release is for, and of the one that it reports.
    """
    told = None
    if reported is not None:
        told = {
            "sequence": reported[0],
            "keys": {
                name: {"version": value, "state": "installed", "error": None}
                if isinstance(value, int)
                else {"version": 1, "state": "error", "error": value}
                for name, value in reported[1].items()
            },
        }
    release = None
    if released is not None:
        release = {
            "sequence": released[0],
            "fingerprint": keys[0],
            "issued_at": "2030-01-01T00:00:00Z",
            "expires_at": "2030-02-01T00:00:00Z",
            "keys": released[1],
            "floors": released[2] if len(released) > 2 else {},
        }
    return {
        "device_id": device_id,
        "status": "enabled",
        "state": state,
        "reason": reason,
        "at": "2030-01-01T00:00:00Z",
        "released": release,
        "reported": told,
        "reported_key": keys[1],
        "stale": stale,
    }
