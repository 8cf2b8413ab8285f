"""A proxy between the function app and a server: it delays, repeats, loses and refuses, as its seed draws.

Only the order in which requests come is not the seed's: they come from several threads.
"""

from __future__ import annotations

import http.server
import json
import random
import re
import ssl
import threading
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from pathlib import Path

_HOP_BY_HOP = frozenset({"host", "connection", "transfer-encoding", "accept-encoding", "content-length"})
_SECONDS = 60
_ANSWERS = {
    "throttled": httpx.Response(429, headers={"Retry-After": "1"}),
    "unavailable": httpx.Response(503),
}
_IS_SPARED = re.compile("(PUT|PATCH) /secrets/")
"""Class keys as they are stored: what is cut off there gives way after a minute (test_key_crashes.py)."""

_KINDS = ("as it is", "late", "twice", "lost", "unavailable")


class FaultyProxy:
    """A proxy that runs.

    Args:
        state: The local cloud's state folder: certificates, and ``upstream.json`` once the app has started.
        name: What in it is upstream.
        seed: Of what happens to requests.
        weights: How often, in relation to each other: as it is, late, twice, lost, unavailable.

    Attributes:
        url: Where it is.
        done: How often each kind came.
    """

    def __init__(self, state: Path, name: str, *, seed: int, weights: tuple[float, ...]) -> None:
        self._state, self._name, self._weights = state, name, weights
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._is_calm = True
        self._storm = 0
        self._ends = threading.Event()
        self._upstream: str | None = None
        self.done: dict[str, int] = {}
        self._client = httpx.Client(
            verify=ssl.create_default_context(cafile=state / "ca.pem"), timeout=_SECONDS
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(state / "server.pem", state / "server.key")
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.url = f"https://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def begin(self) -> None:
        """Let things go wrong from now on."""
        self._is_calm = False

    def calm(self) -> None:
        """Do nothing but pass on."""
        with self._lock:
            self._is_calm, self._storm = True, 0

    def storm(self, requests: int) -> None:
        """Answer so many requests with 429."""
        with self._lock:
            self._storm = requests

    def close(self) -> None:
        self._ends.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._client.close()

    def hold_back(self) -> None:
        """Wait as long as a late answer takes."""
        with self._lock:
            seconds = self._random.uniform(0.1, 1.0)
        self._ends.wait(seconds)

    def draw(self, request: str) -> str:
        """Return what happens to the next request, ``METHOD path``."""
        with self._lock:
            if self._storm:
                self._storm -= 1
                kind = "throttled"
            elif self._is_calm:
                return "as it is"
            else:
                [kind] = self._random.choices(_KINDS, self._weights)
                if _IS_SPARED.match(request) and kind != "as it is":
                    kind = "late"
            self.done[kind] = self.done.get(kind, 0) + 1
            return kind

    def ask(self, method: str, path: str, headers, body: bytes) -> httpx.Response:
        """Pass a request on."""
        if self._upstream is None:
            self._upstream = json.loads((self._state / "upstream.json").read_text())[self._name].rstrip("/")
        passed = {name: value for name, value in headers.items() if name.lower() not in _HOP_BY_HOP}
        passed["accept-encoding"] = "identity"
        return self._client.request(method, self._upstream + path, headers=passed, content=body)

    def as_from_here(self, data: bytes) -> bytes:
        """Return an answer in which the server's own address is this one's: key ids hold it."""
        return data if self._upstream is None else data.replace(self._upstream.encode(), self.url.encode())


class _Handler(http.server.BaseHTTPRequestHandler):
    """Serves one connection of a proxy."""

    protocol_version = "HTTP/1.1"
    timeout = _SECONDS

    @property
    def _proxy(self) -> FaultyProxy:
        return self.server.proxy

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        kind = self._proxy.draw(f"{self.command} {self.path}")
        if kind in _ANSWERS:
            self._answer(_ANSWERS[kind], b"")
        else:
            self._pass_on(kind, body)

    def _pass_on(self, kind: str, body: bytes) -> None:
        try:
            answer = self._proxy.ask(self.command, self.path, self.headers, body)
            if kind == "twice":
                answer = self._proxy.ask(self.command, self.path, self.headers, body)
        except httpx.HTTPError:
            kind = "lost"
        if kind == "lost":
            self.close_connection = True
            return
        if kind == "late":
            self._proxy.hold_back()
        self._answer(answer, self._proxy.as_from_here(answer.content))

    def _answer(self, answer: httpx.Response, data: bytes) -> None:
        self.send_response(answer.status_code)
        for name, value in answer.headers.items():
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815 - the library's names

    def log_message(self, *_: object) -> None:
        pass


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A peer that died in the middle is what this is for."""
