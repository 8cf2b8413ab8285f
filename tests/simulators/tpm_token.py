"""A PKCS#11 token in a software TPM: Debian's tpm2-pkcs11 over swtpm."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from simulators.software_tpm import SoftwareTpm

if TYPE_CHECKING:
    from collections.abc import Mapping

PIN = "98765432"
_MODULE = "libtpm2_pkcs11.so"


class TpmToken:
    """A token with the label ``device``.

    Attributes:
        module: The PKCS#11 library.
        environment: What a process needs to find the token.
    """

    LABEL = "device"

    def __init__(self, folder: Path) -> None:
        modules = [*Path("/usr/lib").glob(f"*/pkcs11/{_MODULE}"), *Path("/usr/lib").glob(f"pkcs11/{_MODULE}")]
        assert modules, "tpm2-pkcs11 is missing; Debian: apt-get install libtpm2-pkcs11-1"
        assert shutil.which("p11tool"), "p11tool is missing; Debian: apt-get install gnutls-bin"
        self.module = str(modules[0])
        self.tpm = SoftwareTpm(folder)
        (folder / "store").mkdir()
        self.environment: Mapping[str, str] = {
            "TPM2_PKCS11_STORE": str(folder / "store"),
            "TPM2_PKCS11_TCTI": self.tpm.tcti,
            "TSS2_LOG": "all+none",
        }
        self._pin_file = folder / "pin"
        self._pin_file.write_text(PIN + "\n")
        self._pin_file.chmod(0o600)
        self._p11tool("--initialize", "--label", self.LABEL, "pkcs11:manufacturer=IBM")
        self._p11tool("--initialize-pin", "pkcs11:manufacturer=IBM")
        self.make_room()

    def uri(self, label: str) -> str:
        return (
            f"pkcs11:token={self.LABEL};object={label}"
            f"?module-path={self.module}&pin-source=file:{self._pin_file}"
        )

    def make_room(self) -> None:
        """Unload what a process left in the TPM; in the field the kernel's resource manager does.

        Starting the TPM again would count as an attempt at the PIN, and lock it after a few.
        """
        self.tpm.unload()

    def close(self) -> None:
        self.tpm.stop()

    def _p11tool(self, *arguments: str) -> None:
        done = subprocess.run(
            ["p11tool", f"--provider={self.module}", "--batch", *arguments],
            env={**os.environ, **self.environment, "GNUTLS_PIN": PIN, "GNUTLS_SO_PIN": "12345678"},
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
