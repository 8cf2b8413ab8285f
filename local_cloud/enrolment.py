"""What an operator does once for a device, a build machine or a class key of the running local cloud.

Enrolling goes through the running hub with the unmodified service SDK. Doing it again changes nothing but
the tags that are named and issues a new certificate; the device keeps its keys.
"""

from __future__ import annotations

import base64
import re
import secrets
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
from azure.iot.hub import IoTHubRegistryManager
from azure.iot.hub.models import Twin
from cryptography.hazmat.primitives import serialization
from msrest.exceptions import ClientException, HttpOperationError

from local_cloud.build_folder import BUILD_CERTIFICATE, WRAP_KEY, make_build_folder
from local_cloud.certificates import Authority, certificate_pem, issue_build, issue_device
from local_cloud.files import PRIVATE, write_atomically
from shared.errors import Conflict, FormatError, StorageError, TransportError
from shared.types import parse_device_id

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from local_cloud.state import StateFolder

CERTIFICATE_DAYS = 397
"""Life of a device's or build machine's certificate."""

_KEY_BYTES = 32
_HTTP_SECONDS = 30.0
_NOT_FOUND = 404
_MAX_PUBLIC_KEY = 64 * 1024
_TAG = re.compile(r"([A-Za-z0-9_-]{1,128})=(.{0,512})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolment:
    """What is to be enrolled.

    Attributes:
        device_id: A device's id, without a module.
        tags: Twin tags to set.
        public_key: DER SubjectPublicKeyInfo to certify, if any.
    """

    device_id: str
    tags: Mapping[str, str] = field(default_factory=dict)
    public_key: bytes | None = None


def enrol(state: StateFolder, enrolment: Enrolment) -> dict[str, str]:
    """Create or keep a device in the hub, set its tags, certify its key.

    Returns:
        ``device_id``, ``connection_string`` and, with a public key, ``certificate``: PEM. The connection
        string of a device that was registered for certificates ends in ``x509=true``, as Azure writes it.

    Raises:
        NotFound: The cloud does not run.
        FormatError: The id or the key is not acceptable; nothing was changed.
        TransportError: The hub could not be reached or refused.
    """
    device_id = parse_device_id(enrolment.device_id, where="device id")
    if "/" in device_id:
        raise FormatError(f"device id: expected a device without a module, found {device_id!r}")
    hub: Any = state.cloud()["hub"]
    certificate = _device_certificate(state, enrolment)
    try:
        proof = _ensure_device(_registry(hub), device_id, enrolment.tags)
    except HttpOperationError as error:
        raise TransportError(f"the twin hub refused: {error}") from error
    except (ClientException, OSError) as error:
        raise TransportError(
            f"the twin hub at {hub['host']} cannot be reached: {error}",
            hint=f"start it with: local-cloud up --state {state.path}",
        ) from error
    connection = f"HostName={hub['host']};DeviceId={device_id};{proof}"
    return {"device_id": device_id, "connection_string": connection} | certificate


def certify_build(state: StateFolder, name: str, public_key: bytes) -> dict[str, str]:
    """Certify a build machine's key.

    Returns:
        ``name`` and ``certificate``: PEM.

    Raises:
        StorageError: There is no fleet CA in the state folder.
        FormatError: The name or the key is not acceptable.
    """
    certificate = issue_build(_fleet_ca(state), name, public_key, days=CERTIFICATE_DAYS)
    return {"name": name, "certificate": certificate_pem(certificate).decode("ascii")}


def equip_build_machine(state: StateFolder, name: str, folder: Path) -> dict[str, str]:
    """Make the folder of a build machine: keys, certificates, and the function key of WrapKey.

    Returns:
        ``name``, ``certificate`` and ``folder``.

    Raises:
        NotFound: The cloud does not run.
        Conflict: The folder has keys already.
        FormatError: As for :func:`certify_build`.
    """
    functions: Any = state.cloud()["functions"]
    certified = certify_build(state, name, make_build_folder(folder))
    write_atomically(folder / BUILD_CERTIFICATE, certified["certificate"].encode())
    write_atomically(folder / WRAP_KEY, functions["keys"]["wrap"].encode(), mode=PRIVATE)
    return certified | {"folder": str(folder)}


def make_folder(folder: Path) -> None:
    """Make a folder for :func:`write_enrolment`, if it is not there.

    Raises:
        StorageError: The disk refused.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make {folder}: {error.strerror}") from error


def write_enrolment(folder: Path, enrolled: Mapping[str, str]) -> None:
    """Write a device's connection string, and its certificate if there is one, as its agent reads them.

    Raises:
        StorageError: The disk refused.
    """
    write_atomically(folder / "connection-string", enrolled["connection_string"].encode(), mode=PRIVATE)
    if "certificate" in enrolled:
        write_atomically(folder / "certificate.pem", enrolled["certificate"].encode())


def provision(state: StateFolder, key_name: str) -> dict[str, Any]:
    """Have a class key made, with ``POST /api/ProvisionKey``; return the function app's answer.

    Raises:
        NotFound: The cloud does not run.
        Conflict: The function app refused; the code and message are its own.
        TransportError: It cannot be reached.
    """
    cloud: Any = state.cloud()
    trust = ssl.create_default_context(cafile=cloud["hub"]["ca_file"])
    try:
        response = httpx.post(
            f"{cloud['functions']['url']}/api/ProvisionKey",
            json={"key_name": key_name},
            headers={"x-functions-key": cloud["functions"]["keys"]["provision"]},
            verify=trust,
            timeout=_HTTP_SECONDS,
        )
        answer: dict[str, Any] = response.json()
    except (httpx.HTTPError, ValueError) as error:
        raise TransportError(f"the function app cannot be reached: {error}") from error
    if not response.is_success:
        raise Conflict(f"{key_name}: {answer.get('detail')}", code=answer.get("code"))
    return answer


def parse_tags(texts: Sequence[str]) -> dict[str, str]:
    """Read ``key=value`` texts.

    Raises:
        FormatError: One is none, or a key stands twice.
    """
    tags: dict[str, str] = {}
    for text in texts:
        match = _TAG.fullmatch(text)
        if match is None:
            raise FormatError(
                f"tag: expected KEY=VALUE with a key of letters, digits, _ and -, found {text!r:.80}"
            )
        if match[1] in tags:
            raise FormatError(f"tag: {match[1]} is given twice")
        tags[match[1]] = match[2]
    return tags


def read_public_key(path: Path) -> bytes:
    """Read a public key, PEM or DER SubjectPublicKeyInfo.

    Returns:
        DER SubjectPublicKeyInfo; which kinds are accepted is for the issuer to say.

    Raises:
        StorageError: The file cannot be read.
        FormatError: It holds no public key.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_PUBLIC_KEY)
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    if not data.lstrip().startswith(b"-----BEGIN"):
        return data
    try:
        key = serialization.load_pem_public_key(data)
    except ValueError as error:
        raise FormatError(f"{path}: expected a PEM or DER public key (SubjectPublicKeyInfo)") from error
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _device_certificate(state: StateFolder, enrolment: Enrolment) -> dict[str, str]:
    if enrolment.public_key is None:
        return {}
    authority = _fleet_ca(state)
    issued = issue_device(authority, enrolment.device_id, enrolment.public_key, days=CERTIFICATE_DAYS)
    return {"certificate": certificate_pem(issued).decode("ascii")}


def _fleet_ca(state: StateFolder) -> Authority:
    return Authority.load(state.file("fleet-ca.pem"), state.file("fleet-ca.key"))


def _registry(hub: Mapping[str, str]) -> IoTHubRegistryManager:
    registry = IoTHubRegistryManager.from_connection_string(hub["service_connection_string"])
    registry.protocol.config.connection.verify = hub["ca_file"]
    return registry


def _ensure_device(registry: IoTHubRegistryManager, device_id: str, tags: Mapping[str, str]) -> str:
    """Make the device if it is not there, set its tags, and return how it proves itself.

    Returns:
        The last member of its connection string: the primary key, or ``x509=true`` for a device that was
        registered for certificates.
    """
    try:
        device = registry.get_device(device_id)
    except HttpOperationError as error:
        if error.response.status_code != _NOT_FOUND:
            raise
        keys = [base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode("ascii") for _ in range(2)]
        device = registry.create_device_with_sas(device_id, *keys, "enabled")
    if tags:
        registry.update_twin(device_id, Twin(tags=dict(tags)), "*")
    shared = device.authentication.symmetric_key
    return f"SharedAccessKey={shared.primary_key}" if shared and shared.primary_key else "x509=true"
