"""The local cloud as a process, for tests that hold real adapters to a port's contract."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from azure.core.credentials import AccessToken

from local_cloud import tokens

if TYPE_CHECKING:
    from pathlib import Path


class LocalIdentity:
    """A credential minted with the local cloud's identity key; the function app's unless told otherwise."""

    def __init__(self, key_pem: bytes, subject: str = "function-app") -> None:
        self._key_pem = key_pem
        self._subject = subject

    def get_token(self, *scopes: str, **_options: object) -> AccessToken:
        audience = scopes[0].removesuffix("/.default")
        token = tokens.mint(self._key_pem, audience=audience, subject=self._subject, lifetime=600)
        return AccessToken(token, int(time.time()) + 600)


class LiveCloud:
    """A local cloud that runs; ``folder`` is its state.

    Its function app is held still: it would write the twins that the tests write, and win some of the races.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        command = [sys.executable, "-m", "local_cloud.main", "up", "--state", str(folder)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        line = self._process.stdout.readline()
        assert line.startswith("ready"), line
        document = json.loads((folder / "cloud.json").read_text())
        self.ca_file = document["hub"]["ca_file"]
        self.service_connection_string = document["hub"]["service_connection_string"]
        self.hub_host = self.service_connection_string.removeprefix("HostName=").partition(";")[0]
        self.device_host = document["hub"]["host"]
        self.vault_url = document["vault"]["url"]
        self._functions_host = int((folder / "run" / "functions-host.pid").read_text())
        os.kill(self._functions_host, signal.SIGSTOP)
        identity = (folder / "identity.key").read_bytes()
        self.credential = LocalIdentity(identity)
        self.operator = LocalIdentity(identity, "operator")

    def close(self) -> None:
        os.kill(self._functions_host, signal.SIGCONT)
        self._process.terminate()
        self._process.wait(timeout=30)
        self._process.stdout.close()
