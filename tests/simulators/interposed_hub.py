"""Who stands between a back end and the hub: passes requests on, and lets things happen before or instead."""

from __future__ import annotations

import http.client
import http.server
import ssl
import threading
from typing import TYPE_CHECKING

from local_cloud.certificates import issue_server

if TYPE_CHECKING:
    from collections.abc import Callable

_PASSED_ON = ("Authorization", "Content-Type", "If-Match", "x-ms-max-item-count", "x-ms-continuation")
_HANDED_BACK = ("Content-Type", "ETag", "Retry-After", "x-ms-continuation", "x-ms-item-type")


class Request:
    """A request on its way.

    Attributes:
        method: Its method.
        instead: Set by a step: status and headers that are answered in place of the hub.
        lost: Set by a step: the hub gets it, and its answer is replaced by this status.
    """

    def __init__(self, method: str) -> None:
        self.method = method
        self.instead: tuple[int, dict[str, str]] | None = None
        self.lost: int | None = None


class InterposedHub:
    """A proxy of the hub's service endpoint, over TLS.

    Attributes:
        requests: The methods that came, in order.
        steps: By method, what happens to its coming requests, one step each; then nothing does.
    """

    def __init__(self, hub) -> None:
        self._hub = hub
        self.requests: list[str] = []
        self.steps: dict[str, list[Callable[[Request], None]]] = {}
        chain, key = issue_server(hub.root, ["127.0.0.1"])
        (hub.folder / "proxy.pem").write_bytes(chain + key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(hub.folder / "proxy.pem")
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.host = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        interposed = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, headers, answer = interposed._answer(self.command, self.path, self.headers, body)
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(answer))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_PATCH = do_POST = _serve  # noqa: N815 - the base class's names

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def _answer(self, method, path, headers, body) -> tuple[int, dict[str, str], bytes]:
        self.requests.append(method)
        request = Request(method)
        if self.steps.get(method):
            self.steps[method].pop(0)(request)
        if request.instead is not None:
            return *request.instead, b"{}"
        status, told, answer = self._pass_on(method, path, headers, body)
        return (request.lost, {}, b"{}") if request.lost is not None else (status, told, answer)

    def _pass_on(self, method, path, headers, body) -> tuple[int, dict[str, str], bytes]:
        trust = ssl.create_default_context(cafile=self._hub.ca_file)
        connection = http.client.HTTPSConnection(
            self._hub.address, self._hub.https_port, context=trust, timeout=120
        )
        try:
            passed = {name: headers[name] for name in _PASSED_ON if name in headers}
            connection.request(method, path, body=body, headers=passed)
            response = connection.getresponse()
            told = {name: response.headers[name] for name in _HANDED_BACK if name in response.headers}
            return response.status, told, response.read()
        finally:
            connection.close()
