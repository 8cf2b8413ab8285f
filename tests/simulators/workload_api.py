"""The workload API of IoT Edge, as one module sees it: a Unix socket with HTTP, for one module identity."""

from __future__ import annotations

import base64
import hmac
import json
import socketserver
import threading
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from pathlib import Path

API_VERSION = "2019-01-30"
GENERATION = "638000000000000000"


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


class WorkloadApi:
    """Signs with the module's key and hands out the roots to trust; ``requests`` tells what it was asked.

    Args:
        socket: Where it listens.
        module: The module's name on its device.
        key: The module's shared access key, base64.
        trust_bundle: PEM.
    """

    def __init__(self, socket: Path, *, module: str, key: str, trust_bundle: str) -> None:
        self.socket = socket
        self.requests: list[str] = []
        self._module, self._key, self._trust_bundle = module, base64.b64decode(key), trust_bundle
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                api._answer(self, b"")

            def do_POST(self) -> None:
                api._answer(self, self.rfile.read(int(self.headers["Content-Length"])))

            def log_message(self, *_arguments: object) -> None:
                pass

            def address_string(self) -> str:
                return "unix"

        self._server = _Server(str(socket), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def environment(self, *, device: str, hub: str, gateway: str) -> dict[str, str]:
        """Return what the Edge agent gives a module."""
        return {
            "IOTEDGE_WORKLOADURI": f"unix://{self.socket}",
            "IOTEDGE_IOTHUBHOSTNAME": hub,
            "IOTEDGE_GATEWAYHOSTNAME": gateway,
            "IOTEDGE_DEVICEID": device,
            "IOTEDGE_MODULEID": self._module,
            "IOTEDGE_MODULEGENERATIONID": GENERATION,
            "IOTEDGE_APIVERSION": API_VERSION,
        }

    def _answer(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        url = urlsplit(request.path)
        self.requests.append(f"{request.command} {url.path}")
        if parse_qs(url.query).get("api-version") != [API_VERSION]:
            status, answer = 400, {"message": "api-version"}
        elif (request.command, url.path) == ("GET", "/trust-bundle"):
            status, answer = 200, {"certificate": self._trust_bundle}
        elif (request.command, url.path) == (
            "POST",
            f"/modules/{self._module}/genid/{GENERATION}/sign",
        ):
            status, answer = self._sign(json.loads(body))
        else:
            status, answer = 404, {"message": "no such module"}
        data = json.dumps(answer).encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    def _sign(self, asked: dict[str, str]) -> tuple[int, dict[str, str]]:
        if (asked.get("keyId"), asked.get("algo")) != ("primary", "HMACSHA256"):
            return 400, {"message": "key or algorithm"}
        digest = hmac.digest(self._key, base64.b64decode(asked["data"], validate=True), "sha256")
        return 200, {"digest": base64.b64encode(digest).decode()}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
