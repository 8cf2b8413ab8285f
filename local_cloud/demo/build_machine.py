"""The build machine: makes the workload, gets the class key under policy, seals packages.

It is a software vendor as well, with a certificate authority of its own that the devices trust for packages.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

import local_cloud
from local_cloud import build_folder
from local_cloud.demo.waiting import RETRY_SECONDS, until
from local_cloud.files import PRIVATE, write_atomically
from shared.encoding import decode_base64, encode_base64
from shared.errors import EdbError, FormatError, NotFound
from shared.types import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping

    from local_cloud.demo.cloud import Answer, Cloud
    from local_cloud.demo.commands import Commands
    from local_cloud.demo.workspace import Workspace

NAME = "build-01"
"""Name in the build machine's certificate."""

KEY_NAME = "my_confidential_app"
"""Class key, and id of the package that it seals."""

_OK, _CREATED = 200, 201


def example_folder() -> Path:
    """Return the example's folder, which stands in the same clone as this package.

    Raises:
        NotFound: This is no clone.
    """
    folder = Path(local_cloud.__file__).parents[1] / "examples" / "confidential_ml"
    if not (folder / "build_zipapp.py").is_file():
        raise NotFound(
            f"{folder}: the demo's example is not there", hint="run the demo from a clone of the project"
        )
    return folder


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildMachine:
    """The build machine, with everything it has in one folder.

    Attributes:
        workspace: Where its folder stands.
        commands: The commands it runs.
        cloud: Where it asks for the class key.
        example: The application that it builds.
    """

    workspace: Workspace
    commands: Commands
    cloud: Cloud
    example: Path

    @property
    def vendor_ca(self) -> Path:
        """Root that devices trust for packages, PEM."""
        return self._file(build_folder.VENDOR_CA)

    def package(self, version: str) -> Path:
        """Return the path of a built package, such as version ``1.0``."""
        return self._file(f"digits-{version}.cpk")

    def workload(self, version: str) -> Path:
        """Return the path of a built workload."""
        return self.workspace.source / f"digits-{version}.pyz"

    def make_keys(self) -> None:
        """Make the machine's own key pair, the vendor's authority, and a package signing certificate."""
        build_folder.make_build_folder(self.workspace.build_machine)

    def certify(self) -> None:
        """Have the fleet CA certify the machine's public key."""
        answer = self.commands.ask_json(
            "local-cloud",
            "certify-build",
            NAME,
            "--public-key",
            str(self._file(build_folder.BUILD_PUBLIC)),
            "--state",
            str(self.cloud.folder),
        )
        write_atomically(self._file(build_folder.BUILD_CERTIFICATE), str(answer["certificate"]).encode())

    def build(self, version: str) -> None:
        """Make the workload and seal it into a package under the newest class key.

        Args:
            version: Two numbers, such as ``1.0``.
        """
        script = self.example / "build_zipapp.py"
        done = self.commands.run("python3", str(script), str(self.workload(version)), "--version", version)
        if done.returncode != 0:
            raise EdbError(f"{script}: exit {done.returncode}: {done.stderr.strip()[-300:]}")
        options = {
            "--in-file": self.workload(version),
            "--out-file": self.package(version),
            "--application-id": KEY_NAME,
            "--name": "digits",
            "--vendor": "Example Vendor",
            "--package-version": f"{version}.0",
            "--encryption-key-method": "http",
            "--key-store": f"{self.cloud.functions_url}/api/WrapKey",
            "--wrap-method": "local",
            "--client-key": self._file(build_folder.BUILD_KEY),
            "--client-cert": self._file(build_folder.BUILD_CERTIFICATE),
            "--ca-file": self.cloud.ca_file,
            "--function-key-file": self._function_key_file(),
            "--sign-key": self._file(build_folder.SIGNING_KEY),
            "--cert": self._file(build_folder.SIGNING_CERTIFICATE),
        }
        self.commands.ask("cpk-tool", "build", *(str(part) for pair in options.items() for part in pair))

    def class_key(self, version: int) -> Secret:
        """Get a version of the class key as ``cpk-tool build`` does, to know what must not leak.

        Unwrapped here with :mod:`cryptography` itself: the project's own unwrapping belongs to the package
        manager and the build tool alone, and this process is neither.
        """
        own = self._own_key()
        answer = self._expect("WrapKey", self._wrap_request(own) | {"key_version": version}, key="wrap")
        oaep = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
        return Secret(own.decrypt(decode_base64(answer["wrapped_key"], where="WrapKey: wrapped_key"), oaep))

    def provision(self) -> None:
        """Have the class key made in the vault."""
        body = {"key_name": KEY_NAME, "algorithm": "aes-gcm", "strength": "256"}
        answer = self.cloud.call("ProvisionKey", body, key="provision")
        # 409 after an answer that got lost on the way: the key is there, and that is what was asked for.
        if answer.body.get("code") != "key_exists":
            _body(answer, "ProvisionKey", status=_CREATED)

    def rotate(self, *, to: int) -> None:
        """Have a new version of the class key made.

        An answer may get lost, and a second call would make a third version; so each attempt looks first.

        Raises:
            EdbError: The newest version is another than the wanted one.
        """

        def attempt() -> int:
            newest = self._newest_version()
            if newest >= to:
                return newest
            answer = self.cloud.post("RotateKey", {"key_name": KEY_NAME}, key="provision")
            return int(_body(answer, "RotateKey", status=_OK)["version"])

        newest = until(attempt, what="POST /api/RotateKey", pause=RETRY_SECONDS)
        if newest != to:
            raise EdbError(f"RotateKey: expected version {to}, found {newest}")

    def revoke(self, version: int) -> int:
        """Revoke a version of the class key and all older ones; return the floor."""
        body = {"key_name": KEY_NAME, "version": version}
        return int(self._expect("RevokeKey", body, key="provision")["floor"])

    def _newest_version(self) -> int:
        return int(self._expect("WrapKey", self._wrap_request(self._own_key()), key="wrap")["key_version"])

    def _wrap_request(self, own: rsa.RSAPrivateKey) -> dict[str, object]:
        spki = own.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return {
            "key_name": KEY_NAME,
            "client_public_key": encode_base64(spki),
            "client_cert": self._file(build_folder.BUILD_CERTIFICATE).read_text(encoding="ascii"),
            "algorithm": "RSA-OAEP-256",
        }

    def _own_key(self) -> rsa.RSAPrivateKey:
        own = serialization.load_pem_private_key(
            self._file(build_folder.BUILD_KEY).read_bytes(), password=None
        )
        if not isinstance(own, rsa.RSAPrivateKey):
            raise FormatError("build.key: expected an RSA private key")
        return own

    def _expect(self, function: str, body: Mapping[str, object], *, key: str) -> Mapping[str, Any]:
        return _body(self.cloud.call(function, body, key=key), function, status=_OK)

    def _function_key_file(self) -> Path:
        path = self._file(build_folder.WRAP_KEY)
        write_atomically(path, self.cloud.function_key("wrap").encode(), mode=PRIVATE)
        return path

    def _file(self, name: str) -> Path:
        return self.workspace.build_machine / name


def _body(answer: Answer, function: str, *, status: int) -> Mapping[str, Any]:
    """Return an answer's body if its status is the expected one."""
    if answer.status != status:
        raise EdbError(f"{function}: expected {status}, found {answer.status}: {dict(answer.body)}")
    return answer.body
