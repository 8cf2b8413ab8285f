"""A PKCS#11 token in software: Debian's SoftHSM, with a token of its own in a folder."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

PIN = "98765432"
_MODULES = tuple(f"/usr/{folder}/libsofthsm2.so" for folder in ("lib/softhsm", "lib64/pkcs11", "lib/pkcs11"))


class SoftToken:
    """A token with the label ``cpk-test``.

    Attributes:
        module: The PKCS#11 library.
        environment: What a process needs to find the token.
    """

    LABEL = "cpk-test"

    def __init__(self, folder: Path) -> None:
        modules = [module for module in _MODULES if Path(module).exists()]
        assert shutil.which("softhsm2-util"), "SoftHSM is missing; Debian: apt-get install softhsm2"
        assert modules, f"SoftHSM's library is in none of {', '.join(_MODULES)}"
        self.module = modules[0]
        (folder / "tokens").mkdir()
        configuration = folder / "softhsm2.conf"
        configuration.write_text(f"directories.tokendir = {folder / 'tokens'}\nlog.level = ERROR\n")
        self.environment = {"SOFTHSM2_CONF": str(configuration)}
        self._run("--init-token", "--free", "--label", self.LABEL, "--so-pin", "12345678", "--pin", PIN)

    def import_key(self, path: Path, *, label: str, key_id: str) -> None:
        """Put a PKCS#8 PEM key into the token, private and public half."""
        self._run(
            *("--import", str(path), "--token", self.LABEL, "--pin", PIN, "--label", label, "--id", key_id)
        )

    def uri(self, label: str) -> str:
        return f"pkcs11:token={self.LABEL};object={label}"

    def _run(self, *arguments: str) -> None:
        subprocess.run(
            ["softhsm2-util", *arguments],
            env=os.environ | self.environment,
            check=True,
            capture_output=True,
            timeout=60,
        )
