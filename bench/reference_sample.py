"""The distribution of the Azure sample that this project grew from, ported to be measured beside ours."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.serialization import load_der_public_key

from shared.encoding import encode_base64

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fleet_world import StoreRegistry

    from shared.types import DeviceId


class ReferenceSample:
    """The Azure sample's algorithm, ported: each pass wraps every secret for every device, and writes.

    It reads every twin whole, checks neither certificate nor policy, wraps with RSA PKCS #1 v1.5, which gives
    other bytes each time, and patches the twin. (Its hub and vault are the same as ours.)
    """

    def __init__(self, registry: StoreRegistry, secrets: Mapping[str, bytes]) -> None:
        self._registry = registry
        self._secrets = secrets

    def run(self, devices: Sequence[DeviceId]) -> None:
        for device_id in devices:
            twin = self._registry.read(device_id)
            reported = twin.reported["device_public_key"]
            key: Any = load_der_public_key(base64.b64decode(str(reported)))
            wrapped = {
                name: encode_base64(key.encrypt(secret, padding.PKCS1v15()))
                for name, secret in self._secrets.items()
            }
            patch = {"properties": {"desired": {"confidential_package_keys": wrapped}}}
            self._registry.patch(device_id, patch, etag=twin.etag)
