"""The two keys that a deployment needs in its vault, made once, as an operator would make them.

The KEK wraps class keys at rest; the release key signs key releases. Both are made through the unmodified
SDK; in Azure the infrastructure templates make them.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from azure.core.credentials import AccessToken
from azure.core.exceptions import AzureError, ResourceNotFoundError
from azure.keyvault.keys import KeyClient, KeyOperation
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from local_cloud import tokens
from shared.errors import TransportError

if TYPE_CHECKING:
    from pathlib import Path

    from azure.keyvault.keys import KeyVaultKey

KEK_NAME = "class-key-kek"
"""RSA-HSM key that class keys rest under."""

RELEASE_KEY_NAME = "release-signing"
"""EC-HSM P-256 key that signs releases."""

_KEK_BITS = 3072
_TOKEN_SECONDS = 300


class _Operator:
    """The operator's credential."""

    def __init__(self, identity_key: bytes) -> None:
        self._identity_key = identity_key

    def get_token(self, *_scopes: str, **_options: object) -> AccessToken:
        token = tokens.mint(
            self._identity_key, audience=tokens.VAULT_AUDIENCE, subject="operator", lifetime=_TOKEN_SECONDS
        )
        return AccessToken(token, int(time.time()) + _TOKEN_SECONDS)


def ensure_vault_keys(vault_url: str, *, identity_key: bytes, ca_file: Path) -> list[str]:
    """Make the KEK and the release key if they are not there.

    Args:
        vault_url: The vault.
        identity_key: PEM of the key that signs access tokens.
        ca_file: Root that the vault is trusted by.

    Returns:
        The public halves of all versions of the release key, PEM, oldest first.

    Raises:
        TransportError: The vault could not be asked, or refused.
    """
    try:
        with KeyClient(
            vault_url,
            _Operator(identity_key),
            connection_verify=str(ca_file),
            verify_challenge_resource=False,  # the local vault's name lies not under the resource's
        ) as client:
            if not _exists(client, KEK_NAME):
                client.create_rsa_key(
                    KEK_NAME,
                    size=_KEK_BITS,
                    hardware_protected=True,
                    key_operations=[KeyOperation.wrap_key, KeyOperation.unwrap_key],
                )
            if not _exists(client, RELEASE_KEY_NAME):
                client.create_ec_key(
                    RELEASE_KEY_NAME,
                    curve="P-256",
                    hardware_protected=True,
                    key_operations=[KeyOperation.sign],
                )
            versions = client.list_properties_of_key_versions(RELEASE_KEY_NAME)
            return [_public_pem(client.get_key(RELEASE_KEY_NAME, item.version)) for item in versions]
    except AzureError as error:
        raise TransportError(f"the key vault at {vault_url}: {error.message}") from error


def _exists(client: KeyClient, name: str) -> bool:
    try:
        client.get_key(name)
    except ResourceNotFoundError:
        return False
    return True


def _public_pem(key: KeyVaultKey) -> str:
    jwk: Any = key.key  # the SDK sets its members without declaring them
    x, y = (int.from_bytes(part, "big") for part in (jwk.x, jwk.y))
    public_key = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    return public_key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode("ascii")
