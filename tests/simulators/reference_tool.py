"""A stand-in for the reference ``cpk-tool`` and the trusted application behind it, faults included.

Written from what the reference is known to do: it prints as it prints, pings where it pings, and has one slot
for class keys. The trusted application is a folder: ``loaded`` holds its key while it is loaded, ``slot`` the
class key, ``faults`` the names of what goes wrong next, ``calls`` every argv, one JSON line each.

As a module it makes such an executable; as a program, ``reference_tool.py FOLDER ARGUMENTS…``, it is one.
"""

# ruff: noqa: T201 - what it prints is its answer

from __future__ import annotations

import base64
import fcntl
import json
import os
import shlex
import sys
import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
    load_pem_private_key,
)


class ReferenceTool:
    """The executable and its trusted application, as a test sees them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.path = folder / "cpk-tool"
        program = shlex.join([sys.executable, "-I", str(Path(__file__).resolve()), str(folder)])
        self.path.write_text(f'#!/bin/sh\nexec {program} "$@"\n')
        self.path.chmod(0o755)

    def fail(self, *faults: str) -> None:
        """Go wrong from now on; without names, no more."""
        (self.folder / "faults").write_text(" ".join(faults))

    def unload(self) -> None:
        """End the trusted application; its key and its class key go with it."""
        for name in ("loaded", "slot"):
            (self.folder / name).unlink(missing_ok=True)

    @property
    def slot(self) -> bytes | None:
        """The class key that it holds, in the clear."""
        file = self.folder / "slot"
        return file.read_bytes() if file.exists() else None

    @property
    def calls(self) -> list[list[str]]:
        """Every command line so far."""
        file = self.folder / "calls"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


class _TrustedApplication:
    def __init__(self, folder: Path, faults: list[str]) -> None:
        self._folder, self._faults = folder, faults
        if "no_tee" in faults:
            raise SystemExit("Error: Failed to ping the CPM.")

    def ping(self) -> None:
        file = self._folder / "loaded"
        if not file.exists() or "new_key_at_every_load" in self._faults:
            key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            file.write_bytes(pem)

    def _key(self) -> rsa.RSAPrivateKey | None:
        file = self._folder / "loaded"
        key = load_pem_private_key(file.read_bytes(), None) if file.exists() else None
        assert key is None or isinstance(key, rsa.RSAPrivateKey)
        return key

    def public_key(self) -> bytes:
        key = self._key()
        return b"" if key is None else key.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)

    def install_application_key(self, wrapped: bytes) -> bool:
        key = self._key()
        if key is None:
            return False
        try:
            clear = key.decrypt(wrapped, padding.PKCS1v15())
        except ValueError:
            clear = b""
        (self._folder / "slot").write_bytes(clear)  # one slot, and a failure overwrites it
        return len(clear) == 32


def main(folder: Path, arguments: list[str]) -> int:
    with (folder / "calls").open("a") as calls:
        fcntl.flock(calls, fcntl.LOCK_EX)
        calls.write(json.dumps(arguments) + "\n")
    file = folder / "faults"
    faults = file.read_text().split() if file.exists() else []
    if "hang" in faults:
        time.sleep(3600)
    while "flood" in faults:
        os.write(1, b"x" * 65536)
    options = dict(zip(arguments[1::2], arguments[2::2], strict=False))
    application = _TrustedApplication(folder, faults)
    match arguments[0]:
        case "pub-key":
            return _pub_key(application, faults)
        case "sync":
            return _sync(application, options, faults)
        case "install":
            return _install(application, Path(options["-p"]), faults)
    print("error: Found argument which wasn't expected", file=sys.stderr)
    return 1


def _pub_key(application: _TrustedApplication, faults: list[str]) -> int:
    der = application.public_key()
    if not der:  # size 0: it was not pinged
        print("Error: Asn1(TruncatedData)", file=sys.stderr)
        return 1
    if "garbage" in faults:
        print("!!! not base64 !!!")
        return 0
    if "pkcs1" not in faults:
        der = load_der_public_key(der).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    print(base64.b64encode(der).decode())
    return 0


def _sync(application: _TrustedApplication, options: dict[str, str], faults: list[str]) -> int:
    print("Connecting with Confidential Package Manager on the host system...")
    application.ping()
    print("Decoding base64 key data from command-line parameter...")
    if "-k" not in options:
        print("Error: No key data supplied for commandline sync method.")
        return 1
    wrapped = base64.b64decode(options["-k"], validate=True)
    print("Unwrapping...")
    if not application.install_application_key(wrapped):
        print("Error: Failed to install application key." if "zero" not in faults else "FAILED")
        return 0 if "zero" in faults else 1
    print("Done.")
    return 0


def _install(application: _TrustedApplication, package: Path, faults: list[str]) -> int:
    print("Opening package...")
    if len(package.read_bytes()) < 64:
        print("Error: not a package", file=sys.stderr)
        return 1
    application.ping()
    print("Verifying...")
    signature = "FAILED" if "bad_signature" in faults else "PASSED"
    print(f"    Digest check PASSED.\n    Signature check {signature}.\nFinished.")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
