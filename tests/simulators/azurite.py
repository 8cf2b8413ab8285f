"""Azurite, the vendor's own emulator of a storage account, where it is installed."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Self

from azure.core.credentials import AccessToken

from local_cloud.certificates import create_authority, issue_server

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = shutil.which("azurite-blob")


class AzuriteToken:
    """A credential that Azurite takes: it looks at a token's claims, and not at its signature."""

    def get_token(self, *_scopes: str, **_options: object) -> AccessToken:
        now = int(time.time())
        claims = {
            "aud": "https://storage.azure.com",
            "iss": "https://sts.windows.net/00000000-0000-0000-0000-000000000000/",
            "iat": now - 60,
            "nbf": now - 60,
            "exp": now + 600,
        }
        parts = [{"alg": "RS256", "typ": "JWT"}, claims]
        text = ".".join(
            base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts
        )
        return AccessToken(f"{text}.c2ln", now + 600)


class Azurite:
    """The emulator as a process; use it as a context.

    Attributes:
        credential: Good for it.
        ca_file: What its certificate leads to.
        url: Of its account.
    """

    def __init__(self, folder: Path) -> None:
        authority = create_authority("Azurite Root", days=1)
        self.credential = AzuriteToken()
        self.ca_file = folder / "azurite-ca.pem"
        authority.save(self.ca_file, folder / "azurite-ca.key")
        certificate, key = issue_server(authority, ["127.0.0.1"])
        (folder / "azurite.pem").write_bytes(certificate)
        (folder / "azurite.key").write_bytes(key)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.url = f"https://127.0.0.1:{port}/devstoreaccount1"
        self._command = [
            PROGRAM,
            *("--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder)),
            *("--cert", str(folder / "azurite.pem"), "--key", str(folder / "azurite.key")),
            *("--oauth", "basic", "--skipApiVersionCheck", "--disableTelemetry"),
        ]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        for line in self._process.stdout:
            if "successfully listens" in line:
                return self
        raise AssertionError("azurite ended")

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(timeout=30)
        self._process.stdout.close()
