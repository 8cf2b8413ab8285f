"""The key vault process, and a managed identity endpoint beside it, as a build machine meets them."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
import time
import urllib.parse
from typing import TYPE_CHECKING

from azure.core.credentials import AccessToken
from azure.keyvault.keys import KeyClient
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from local_cloud import tokens
from local_cloud.certificates import create_authority, issue_server

if TYPE_CHECKING:
    from pathlib import Path

LIFETIME_SECONDS = 600


class Identity:
    """A credential with one principal's tokens.

    Attributes:
        subject: Who it is; the vault knows ``operator``, and nobody else who may sign.
    """

    def __init__(self, key: bytes, subject: str) -> None:
        self._key = key
        self.subject = subject

    def mint(self, audience: str) -> str:
        return tokens.mint(self._key, audience=audience, subject=self.subject, lifetime=LIFETIME_SECONDS)

    def get_token(self, *scopes: str, **_options: object) -> AccessToken:
        token = self.mint(scopes[0].removesuffix("/.default"))
        return AccessToken(token, int(time.time()) + LIFETIME_SECONDS)


class IdentityEndpoint:
    """App Service's endpoint for a managed identity, which ``DefaultAzureCredential`` asks."""

    def __init__(self, identity: Identity) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
                token = identity.mint(query["resource"][0])
                expires = str(int(time.time()) + LIFETIME_SECONDS)
                answer = {"access_token": token, "expires_on": expires, "token_type": "Bearer"}
                body = json.dumps(answer | {"resource": query["resource"][0]}).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        self.environment = {
            "IDENTITY_ENDPOINT": f"http://127.0.0.1:{self._server.server_port}/msi/token",
            "IDENTITY_HEADER": "secret",
        }

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class VaultProcess:
    """A key vault that runs.

    Attributes:
        url: Its address.
        ca_file: What its TLS certificate is trusted by.
        operator: May do everything.
        function_app: May do what the function app may.
        stranger: May do nothing.

    Args:
        folder: Where its state and certificates go.
        arguments: Further ones of its command line.
    """

    def __init__(self, folder: Path, *arguments: str) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        root = create_authority("Test Root", days=2)
        certificate, server_key = issue_server(root, ["127.0.0.1"])
        files = {
            "ca.pem": root.certificate_pem,
            "server.pem": certificate,
            "server.key": server_key,
            "identity.pem": key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        }
        for name, data in files.items():
            (folder / name).write_bytes(data)
        self.ca_file = folder / "ca.pem"
        self.operator = Identity(private, "operator")
        self.stranger = Identity(private, "stranger")
        self.function_app = Identity(private, "function-app")
        options = {
            "--state": folder / "vault",
            "--address": "127.0.0.1",
            "--port": 0,
            "--server-cert": folder / "server.pem",
            "--server-key": folder / "server.key",
            "--identity-public-key": folder / "identity.pem",
        }
        words = [str(word) for pair in options.items() for word in pair]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "local_cloud.key_vault", *words, *arguments, "--stdin-lifeline"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        line = self._process.stdout.readline()
        assert line.startswith("ready url="), line
        self.url = line.strip().removeprefix("ready url=")

    def keys(self) -> KeyClient:
        return KeyClient(
            self.url,
            self.operator,
            connection_verify=str(self.ca_file),
            verify_challenge_resource=False,
            retry_total=0,
        )

    def close(self) -> None:
        self._process.communicate(timeout=30)  # closes its standard input, which ends it
