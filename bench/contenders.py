"""What is measured: this project's own calls and commands, ``age``, ``openssl``, and each part alone."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from measuring import BLOCK, Contender, probe_gcm, probe_sha

from cpk_tool.atomic_file import replacing
from cpm.sealed_store import SealedStore
from shared.certificate_paths import TrustStore
from shared.cpk.manifest import Target, Version
from shared.cpk.opening import Requirements, open_package
from shared.cpk.profiles import RECOMMENDED, REFERENCE, Profile
from shared.cpk.sealing import ClassKey, Description, seal_package
from shared.cpk.signing_keys import KeySigner
from shared.encoding import encode_base64
from shared.types import KeyName, Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_NOW = datetime.now(UTC)
_KEY = Secret(bytes(range(32)))
_NAME = "bench"
_DESCRIPTION = Description(
    id=_NAME,
    name="Bench",
    vendor="",
    target=Target(arch="any", os="any"),
    version=Version(major=1, minor=0, revision=0, date=_NOW),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signing:
    """A private key with its self-signed certificate."""

    signer: KeySigner
    private: bytes
    certificate: x509.Certificate

    @classmethod
    def made(cls, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> Signing:
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bench")])
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        builder = builder.serial_number(1).not_valid_before(_NOW - timedelta(days=1))
        certificate = builder.not_valid_after(_NOW + timedelta(days=1)).sign(key, hashes.SHA256())
        return cls(
            signer=KeySigner.load(key, certificate.public_bytes(Encoding.PEM), where="certificate"),
            private=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            certificate=certificate,
        )


class Workshop:
    """A folder with a payload, keys, and what is made of them.

    Args:
        folder: Must exist; a file system as packages are built on.
        size: Bytes of the payload.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        self.size = size
        self.payload = folder / "payload"
        with self.payload.open("wb") as file:
            for done in range(0, size, BLOCK):
                file.write(os.urandom(min(BLOCK, size - done)))
        self.rsa = Signing.made(rsa.generate_private_key(public_exponent=65537, key_size=3072))
        self.ec = Signing.made(ec.generate_private_key(ec.SECP256R1()))
        self.trust = TrustStore(roots=(self.rsa.certificate, self.ec.certificate))
        (folder / "keys.json").write_text(f'{{"{_NAME}": "{encode_base64(_KEY.reveal())}"}}')
        (folder / "sign.key").write_bytes(self.rsa.private)
        (folder / "sign.pem").write_bytes(self.rsa.certificate.public_bytes(Encoding.PEM))
        self._null = os.open(os.devnull, os.O_WRONLY)
        self._prepare_age()
        self.store = SealedStore(self._new_folder("sealed"))

    def _new_folder(self, name: str) -> Path:
        path = self.folder / name
        path.mkdir(mode=0o700)
        return path

    def _prepare_age(self) -> None:
        identity = self.folder / "age.key"
        subprocess.run([tool("age-keygen"), "-o", identity], check=True, capture_output=True)
        asked = subprocess.run([tool("age-keygen"), "-y", identity], check=True, capture_output=True)
        self._age = [tool("age"), "-r", asked.stdout.decode().strip()]
        self._age_open = [tool("age"), "-d", "-i", str(identity)]
        self.age_file = self.folder / "payload.age"
        subprocess.run([*self._age, "-o", self.age_file, self.payload], check=True)

    def close(self) -> None:
        """Close what is open; the folder stays."""
        os.close(self._null)

    def build(self, profile: Profile, signing: Signing | None, *, parallel: bool) -> Callable[[], None]:
        """Return what seals the payload into the null device."""

        def run() -> None:
            with Path(os.devnull).open("wb", buffering=0) as output:
                self._seal(output, profile, signing, parallel=parallel)

        return run

    def package(self, name: str, profile: Profile, signing: Signing | None) -> Path:
        """Return a package of the payload, made on the disk."""
        path = self.folder / f"{name}.cpk"
        with replacing(path) as output:
            self._seal(output, profile, signing, parallel=True)
        with path.open("rb") as file:  # into the page cache, as the payload is
            while file.read(BLOCK):
                pass
        return path

    def _seal(self, output: BinaryIO, profile: Profile, signing: Signing | None, *, parallel: bool) -> None:
        with self.payload.open("rb", buffering=0) as source:
            seal_package(
                source,
                self.size,
                output,
                description=_DESCRIPTION,
                class_key=ClassKey(name=KeyName(_NAME), version=1, key=_KEY),
                nonce=os.urandom(profile.nonce_size),
                signer=signing.signer if signing is not None else None,
                profile=profile,
                parallel=parallel,
            )

    def open(
        self, path: Path, *, parallel: bool, sink: Callable[[memoryview], None] = lambda _chunk: None
    ) -> None:
        """Verify a package and give its payload to ``sink``."""
        with path.open("rb", buffering=0) as file:
            open_package(
                file,
                path.stat().st_size,
                class_key=lambda _reference: _KEY,
                trust=self.trust,
                at=_NOW,
                requirements=Requirements(payload_signature=False),
                sink=sink,
                parallel=parallel,
            )

    def install_into_null(self, path: Path, *, parallel: bool) -> Callable[[], None]:
        """Return what verifies a package and seals its payload again in segments, into the null device."""
        room = memoryview(bytearray(BLOCK + 16))

        def run() -> None:
            cipher, number = AESGCM(os.urandom(32)), 0

            def seal_again(chunk: memoryview) -> None:
                nonlocal number
                count = cipher.encrypt_into(number.to_bytes(12, "big"), chunk, None, room[: len(chunk) + 16])
                os.write(self._null, room[:count])
                number += 1

            self.open(path, parallel=parallel, sink=seal_again)

        return run

    def install(self, path: Path) -> Callable[[], None]:
        """Return what installs a package as the CPM does: verified, sealed again, on the disk."""

        def run() -> None:
            with self.store.create() as writer:
                self.open(path, parallel=True, sink=writer.write)
                self._installed = writer.finish().name

        return run

    def uninstall(self) -> None:
        """Remove what :meth:`install` made."""
        self.store.remove(self._installed)

    def cpk_tool_build(self, payload: Path, output: Path, *, signed: bool) -> list[str]:
        """Return the command that builds a package on the disk."""
        command = [tool("cpk-tool"), "build", "-i", str(payload), "-o", str(output), "-a", _NAME]
        command += ["-e", "file", "-k", str(self.folder / "keys.json"), "-w", "local"]
        if signed:
            command += ["--sign-key", str(self.folder / "sign.key"), "--cert", str(self.folder / "sign.pem")]
        return command

    def cpk_tool_verify(self, package: Path) -> list[str]:
        """Return the command that verifies a package."""
        keys, trust = self.folder / "keys.json", self.folder / "sign.pem"
        return [tool("cpk-tool"), "verify", str(package), "--key-store", str(keys), "--trust", str(trust)]

    def age(self) -> None:
        run_quietly([*self._age, str(self.payload)])

    def age_and_digest(self) -> None:
        self.age()
        self.openssl_digest()

    def age_open(self) -> None:
        run_quietly([*self._age_open, str(self.age_file)])

    def age_open_and_digest(self) -> None:
        """Decrypt, and digest what comes out: what verify does, with a pipe between two processes."""
        with _piped([*self._age_open, str(self.age_file)]) as clear:
            run_quietly([tool("openssl"), "dgst", "-sha256"], stdin=clear)

    def age_durable(self, output: Path) -> Callable[[], None]:
        def run() -> None:
            run_quietly([*self._age, "-o", str(output), str(self.payload)])
            run_quietly([tool("sync"), str(output)])

        return run

    def age_install(self, output: Path) -> Callable[[], None]:
        """Return what decrypts, encrypts again and syncs; nothing is verified but the age file itself."""

        def run() -> None:
            with _piped([*self._age_open, str(self.age_file)]) as clear:
                run_quietly([*self._age, "-o", str(output)], stdin=clear)
            run_quietly([tool("sync"), str(output)])

        return run

    def openssl_digest(self) -> None:
        run_quietly([tool("openssl"), "dgst", "-sha256", str(self.payload)])

    def copy_durable(self, output: Path) -> Callable[[], None]:
        """Return what copies the payload onto the disk as cpk-tool writes: the disk's own limit."""

        def run() -> None:
            buffer = memoryview(bytearray(BLOCK))
            with self.payload.open("rb", buffering=0) as source, replacing(output) as out:
                while count := source.readinto(buffer):
                    out.write(buffer[:count])

        return run


def all_contenders(shop: Workshop) -> list[Contender]:
    """Return everything that runs once a round."""
    plain = shop.package("plain", REFERENCE, None)
    signed = shop.package("signed", REFERENCE, shop.rsa)
    recommended = shop.package("recommended", RECOMMENDED, shop.ec)
    out = shop.folder / "out"

    def opened(path: Path, *, parallel: bool) -> Callable[[], None]:
        return lambda: shop.open(path, parallel=parallel)

    def command(arguments: list[str]) -> Callable[[], None]:
        return lambda: run_quietly(arguments)

    listed: list[tuple[str, str, Callable[[], object], Callable[[], object] | None]] = [
        ("sha256", "SHA-256 alone", lambda: probe_sha(shop.size), None),
        ("aes_gcm", "AES-256-GCM alone", lambda: probe_gcm(shop.size), None),
        ("copy_durable", "copy to disk, synced", shop.copy_durable(out), out.unlink),
        ("openssl_dgst", "openssl dgst -sha256", shop.openssl_digest, None),
        ("build_1_thread", "build, one thread", shop.build(REFERENCE, None, parallel=False), None),
        ("build", "build, digest on a thread", shop.build(REFERENCE, None, parallel=True), None),
        ("build_signed", "build, signed", shop.build(REFERENCE, shop.rsa, parallel=True), None),
        ("build_recommended", "build, recommended", shop.build(RECOMMENDED, shop.ec, parallel=True), None),
        ("age", "age", shop.age, None),
        ("age_and_digest", "age, then openssl dgst", shop.age_and_digest, None),
        ("verify_1_thread", "verify, one thread", opened(plain, parallel=False), None),
        ("verify", "verify, digest on a thread", opened(plain, parallel=True), None),
        ("verify_signed", "verify, signed", opened(signed, parallel=True), None),
        ("verify_recommended", "verify, recommended", opened(recommended, parallel=True), None),
        ("age_open", "age -d", shop.age_open, None),
        ("age_open_and_digest", "age -d | openssl dgst", shop.age_open_and_digest, None),
        ("install_1_thread", "install, one thread", shop.install_into_null(plain, parallel=False), None),
        ("install", "install, digest on a thread", shop.install_into_null(plain, parallel=True), None),
        ("install_signed", "install, signed", shop.install_into_null(signed, parallel=True), None),
        (
            "install_recommended",
            "install, recommended",
            shop.install_into_null(recommended, parallel=True),
            None,
        ),
        (
            "build_durable",
            "cpk-tool build",
            command(shop.cpk_tool_build(shop.payload, out, signed=False)),
            out.unlink,
        ),
        (
            "build_signed_durable",
            "cpk-tool build, signed",
            command(shop.cpk_tool_build(shop.payload, out, signed=True)),
            out.unlink,
        ),
        ("age_durable", "age, then sync", shop.age_durable(out), out.unlink),
        ("install_durable", "install as the CPM does", shop.install(signed), shop.uninstall),
        ("age_install_durable", "age -d | age, then sync", shop.age_install(out), out.unlink),
    ]
    return [
        Contender(name=name, what=what, run=run, size=shop.size, after=after or (lambda: None))
        for name, what, run, after in listed
    ]


def tool(name: str) -> str:
    """Return a program's path: this environment's own first.

    Raises:
        SystemExit: It is not installed.
    """
    own = Path(sys.executable).with_name(name)
    found = str(own) if own.exists() else shutil.which(name)
    if found is None:
        package = "age" if name.startswith("age") else name
        sys.exit(f"bench: error: {name} is not installed\nhint: apt-get install {package}")
    return found


def run_quietly(command: list[str], *, stdin: int | None = None) -> None:
    """Run a command whose output nobody reads."""
    subprocess.run(command, check=True, stdin=stdin, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@contextlib.contextmanager
def _piped(command: list[str]) -> Iterator[int]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield process.stdout.fileno()
    finally:
        process.stdout.close()
        if process.wait():
            raise subprocess.CalledProcessError(process.returncode, command)
