"""A TPM 2.0 in software: Debian's swtpm, with a state of its own in a folder, reached over Unix sockets."""

from __future__ import annotations

import re
import select
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_SECONDS = 60
_GET_RANDOM = bytes.fromhex("8001 0000000c 0000017b 0008")
_SUCCEEDED = bytes.fromhex("8001 00000014 00000000")
_HEX_LINE = re.compile(r"\s*([0-9A-F]{2} )*[0-9A-F]{2}\s*")


class SoftwareTpm:
    """A TPM with a mind that outlives its process: stopped and started, it is a machine that restarted.

    Args:
        folder: Where it keeps its state and its sockets; the path is short, as sockets want it.
        log_level: From 20 on its log holds every byte that goes in and out.
    """

    def __init__(self, folder: Path, *, log_level: int = 1) -> None:
        assert shutil.which("swtpm"), "swtpm is missing; Debian: apt-get install swtpm swtpm-tools"
        self._folder = folder
        self._socket = folder / "t"
        (folder / "tpm").mkdir(exist_ok=True)
        self.tcti = f"swtpm:path={self._socket}"
        self._log_level = log_level
        self._process: subprocess.Popen | None = None
        self.start()

    def start(self) -> None:
        with (self._folder / "swtpm.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *("swtpm", "socket", "--tpm2", "--flags", "not-need-init,startup-clear"),
                    *("--tpmstate", f"dir={self._folder / 'tpm'}"),
                    *("--server", f"type=unixio,path={self._socket}"),
                    *("--ctrl", f"type=unixio,path={self._socket}.ctrl"),
                    *("--log", f"file={self._folder / 'bus.log'},level={self._log_level}"),
                ],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + _SECONDS
        while not self._answers():
            log = (self._folder / "swtpm.log").read_text()
            assert self._process.poll() is None, f"swtpm ended: {log}"
            assert time.monotonic() < deadline, f"swtpm does not answer: {log}"
            select.select([], [], [], 0.01)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        for name in ("t", "t.ctrl"):
            (self._folder / name).unlink(missing_ok=True)

    def restart(self) -> None:
        self.stop()
        self.start()

    @contextmanager
    def connected(self):
        """Speak to it directly, as other software on the machine does; it serves one connection at a time."""
        from tpm2_pytss import ESAPI  # noqa: PLC0415 - a missing package fails the tests that need it

        with ESAPI(self.tcti) as esapi:
            yield esapi

    def extend(self, pcr: int, measured: bytes = bytes(32)) -> None:
        """Measure something into a PCR, as firmware does."""
        from tpm2_pytss.constants import ESYS_TR, TPM2_ALG  # noqa: PLC0415 - as above
        from tpm2_pytss.types import TPML_DIGEST_VALUES, TPMT_HA, TPMU_HA  # noqa: PLC0415 - as above

        digest = TPMT_HA(hashAlg=TPM2_ALG.SHA256, digest=TPMU_HA(sha256=measured))
        with self.connected() as esapi:
            esapi.pcr_extend(ESYS_TR(pcr), TPML_DIGEST_VALUES([digest]))

    def loaded(self) -> list[int]:
        """Return the handles of what is loaded: objects and sessions."""
        from tpm2_pytss.constants import TPM2_CAP, TPM2_HC  # noqa: PLC0415 - as above

        first = (TPM2_HC.TRANSIENT_FIRST, TPM2_HC.LOADED_SESSION_FIRST, TPM2_HC.ACTIVE_SESSION_FIRST)
        with self.connected() as esapi:
            found = [esapi.get_capability(TPM2_CAP.HANDLES, handle, 32)[1] for handle in first]
            return [int(handle) for each in found for handle in each.data.handles]

    def unload(self) -> None:
        """Flush everything that is loaded, as a resource manager does for a process that ended."""
        loaded = self.loaded()
        with self.connected() as esapi:
            for handle in loaded:
                esapi.flush_context(esapi.tr_from_tpmpublic(handle))

    def seen_on_the_bus(self) -> bytes:
        """Return every command and response, one after the other, as the log has them."""
        lines = (self._folder / "bus.log").read_text().splitlines()
        return b"".join(bytes.fromhex(line) for line in lines if _HEX_LINE.fullmatch(line))

    def _answers(self) -> bool:
        """Ask for random bytes, and look whether its control channel takes connections, too."""
        with socket.socket(socket.AF_UNIX) as control, socket.socket(socket.AF_UNIX) as commands:
            commands.settimeout(_SECONDS)
            try:
                control.connect(f"{self._socket}.ctrl")
                commands.connect(str(self._socket))  # exists before it listens
                commands.sendall(_GET_RANDOM)
                return commands.recv(len(_SUCCEEDED)) == _SUCCEEDED
            except OSError:
                return False
