"""A blob service over TLS, as far as policy and audit chain speak to one; it trusts every token."""

from __future__ import annotations

import http.server
import ssl
import threading
import time
from email.utils import formatdate
from typing import TYPE_CHECKING, Self
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from azure.core.credentials import AccessToken

from local_cloud.certificates import create_authority, issue_server

if TYPE_CHECKING:
    from pathlib import Path

ACCOUNT = "devstoreaccount1"


class AnyToken:
    """A credential."""

    def get_token(self, *_scopes: str, **_options: object) -> AccessToken:
        return AccessToken("token", int(time.time()) + 600)


class BlobService:
    """The service; use it as a context.

    Attributes:
        blobs: What rests, by container and name.
        credential: Good for it.
        requests: Method and status of each request.
        broken: A status to answer everything with, or None.
        ca_file: What its certificate leads to.
    """

    def __init__(self, folder: Path) -> None:
        self.blobs: dict[str, bytearray] = {}
        self.credential = AnyToken()
        self.requests: list[tuple[str, int]] = []
        self.broken: int | None = None
        self._etags: dict[str, str] = {}
        self._changes = 0
        self._lock = threading.Lock()
        authority = create_authority("Blob Root", days=1)
        self.ca_file = folder / "blob-ca.pem"
        authority.save(self.ca_file, folder / "blob-ca.key")
        certificate, key = issue_server(authority, ["127.0.0.1"])
        (folder / "blob.pem").write_bytes(certificate)
        (folder / "blob.key").write_bytes(key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "blob.pem", folder / "blob.key")
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                service.answer(self)

            do_PUT = do_HEAD = do_GET  # noqa: N815 - the server's names

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._server.server_address[1]}/{ACCOUNT}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        split = urlsplit(handler.path)
        path = unquote(split.path).removeprefix(f"/{ACCOUNT}/")
        with self._lock:
            status, headers, answer = self._act(handler, path, parse_qs(split.query), body)
        self.requests.append((handler.command, status))
        handler.send_response(status)
        for name, value in {"Last-Modified": formatdate(usegmt=True), **headers}.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(answer)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(answer)

    def _act(self, handler, path, query, body):
        if self.broken is not None:
            return self.broken, {"x-ms-error-code": "ServerBusy"}, b""
        if query.get("comp") == ["list"]:
            return 200, {"Content-Type": "application/xml"}, self._listed(path)
        if query.get("restype") == ["container"]:
            return 201, {"ETag": '"0x0"'}, b""
        if query.get("comp") == ["appendblock"]:
            return self._appended(path, handler.headers, body)
        return (self._put if handler.command == "PUT" else self._got)(path, handler.headers, body)

    def _put(self, path, headers, body):
        if headers.get("If-None-Match") == "*" and path in self.blobs:
            return 409, {"x-ms-error-code": "BlobAlreadyExists"}, b""
        if "If-Match" in headers and headers["If-Match"] != self._etags.get(path):
            return 412, {"x-ms-error-code": "ConditionNotMet"}, b""
        self.blobs[path] = bytearray(body)
        return 201, self._changed(path), b""

    def _got(self, path, headers, _):
        if path not in self.blobs:
            return 404, {"x-ms-error-code": "BlobNotFound"}, b""
        if headers.get("If-None-Match") == self._etags[path]:
            return 304, {"x-ms-error-code": "ConditionNotMet"}, b""
        return self._read(path, headers)

    def _appended(self, path, headers, body):
        if path not in self.blobs:
            return 404, {"x-ms-error-code": "BlobNotFound"}, b""
        if int(headers.get("x-ms-blob-condition-appendpos", -1)) != len(self.blobs[path]):
            return 412, {"x-ms-error-code": "AppendPositionConditionNotMet"}, b""
        self.blobs[path] += body
        return 201, self._changed(path), b""

    def _read(self, path, headers):
        data = bytes(self.blobs[path])
        wanted = headers.get("x-ms-range") or headers.get("Range")
        told = {"ETag": self._etags[path], "x-ms-blob-type": "BlockBlob", "Content-Type": "application/json"}
        if wanted is None:
            return 200, told, data
        begin, _, end = wanted.removeprefix("bytes=").partition("-")
        first, last = int(begin), min(int(end) if end else len(data), len(data) - 1)
        if first >= len(data):
            return 416, {"x-ms-error-code": "InvalidRange"}, b""
        told["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        return 206, told, data[first : last + 1]

    def _listed(self, container):
        names = sorted(
            path.removeprefix(f"{container}/") for path in self.blobs if path.startswith(container)
        )
        blobs = "".join(f"<Blob><Name>{escape(name)}</Name><Properties /></Blob>" for name in names)
        text = f"<EnumerationResults><Blobs>{blobs}</Blobs><NextMarker /></EnumerationResults>"
        return b'<?xml version="1.0" encoding="utf-8"?>' + text.encode()

    def _changed(self, path):
        self._changes += 1
        self._etags[path] = f'"0x{self._changes:016X}"'
        return {"ETag": self._etags[path], "x-ms-blob-append-offset": "0"}
