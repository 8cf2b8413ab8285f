"""The floor under the policy's serial, in the vault: whoever can write the policy cannot lower it (ADR 0010).

Each policy that came into force leaves one version of the secret ``policy-floor``, its serial and digest in
tags. The floor is the highest of them all, so that writers who race cannot lower it, and a version can be
taken away only by who may delete the secret as a whole.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from azure.core.exceptions import ResourceNotFoundError
from azure.keyvault.secrets import SecretClient

from functions.adapters.key_vault import vault_errors
from functions.adapters.vault_calls import vault_options
from shared.errors import VerificationError
from shared.policy.floor import FLOOR_NONE, Floor

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential
    from azure.keyvault.secrets import SecretProperties

    from functions.call_rates import CallRates
    from shared.policy.document import Policy

SECRET_NAME = "policy-floor"  # noqa: S105 - a name
SERIAL_TAG, DIGEST_TAG = "cpk-policy-serial", "cpk-policy-sha256"

_SERIAL = re.compile(r"[0-9]{1,16}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class VaultPolicyFloor:
    """A :class:`functions.policy_source.FloorStore` in a vault's secrets.

    Args:
        client: Of the vault.
        name: The secret's.
    """

    def __init__(self, client: SecretClient, *, name: str = SECRET_NAME) -> None:
        self._client = client
        self._name = name

    @classmethod
    def connect(
        cls,
        vault_url: str,
        credential: TokenCredential,
        *,
        verify_challenge: bool,
        rates: CallRates | None = None,
    ) -> VaultPolicyFloor:
        """Return a floor in this vault; one serves all threads."""
        client = SecretClient(
            vault_url, credential, verify_challenge_resource=verify_challenge, **vault_options(rates)
        )
        return cls(client)

    def read(self) -> Floor:
        """Return the highest serial of all versions; see the port.

        Raises:
            VerificationError: ``policy_floor_unreadable``; a version says nothing that can be read, and what
                it said may have been the highest.
        """
        with vault_errors("reading the policy's floor"):
            try:
                listed = list(self._client.list_properties_of_secret_versions(self._name))
            except ResourceNotFoundError:
                listed = []
        seen = [_read(properties) for properties in listed]
        if not seen:
            return FLOOR_NONE
        highest = max(serial for serial, _ in seen)
        digests = frozenset(digest for serial, digest in seen if serial == highest)
        return Floor(serial=highest, digests=digests)

    def raise_to(self, policy: Policy) -> None:
        """Leave a version for this policy; see the port."""
        tags = {SERIAL_TAG: str(policy.serial), DIGEST_TAG: policy.digest.hex()}
        with vault_errors("raising the policy's floor"):
            self._client.set_secret(
                self._name, f"{policy.serial} {policy.digest.hex()}", content_type="text/plain", tags=tags
            )


def _read(properties: SecretProperties) -> tuple[int, bytes]:
    tags = properties.tags or {}
    serial, digest = tags.get(SERIAL_TAG) or "", tags.get(DIGEST_TAG) or ""
    if not _SERIAL.fullmatch(serial) or not _DIGEST.fullmatch(digest):
        raise VerificationError(
            f"version {properties.version} of the secret {properties.name} says no serial and digest",
            code="policy_floor_unreadable",
        )
    return int(serial), bytes.fromhex(digest)
