"""What the functions work with, put together once; tests put it together from simulators."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from functions.class_keys import ClassKeys
from functions.distribute import Distributor
from functions.trust import TrustSource

if TYPE_CHECKING:
    from collections.abc import Callable

    from functions.settings import Settings
    from shared.certificates import TrustStore
    from shared.keys.store import ClassKeyStore, KeyEncryptionKey
    from shared.policy.document import Policy
    from shared.twin.ports import ReleaseSigner, TwinRegistry
    from shared.types import Audience


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The deployment, ready to be used.

    Args:
        audience: Its id.
        policy: The release policy.
        trust_source: Gives the roots that client and device certificates must lead to.
        entra_in_front: Whether the platform's headers about the caller mean anything.
        class_keys: The class keys.
        kek: What they rest under.
        registry: The hub's twins.
        signer: The release key.
        now: Tells the time, aware.
    """

    audience: Audience
    policy: Policy
    trust_source: TrustSource
    entra_in_front: bool
    class_keys: ClassKeys
    kek: KeyEncryptionKey
    registry: TwinRegistry
    signer: ReleaseSigner
    now: Callable[[], datetime]

    @property
    def trust(self) -> TrustStore:
        """Return the roots, with the revocation lists as they are now."""
        return self.trust_source.current()

    @property
    def distributor(self) -> Distributor:
        """Return what makes distribution passes."""
        return Distributor(
            registry=self.registry,
            class_keys=self.class_keys,
            signer=self.signer,
            audience=self.audience,
            policy=self.policy,
            trust=self.trust,
            now=self.now,
        )


def assemble(
    settings: Settings,
    *,
    store: ClassKeyStore,
    kek: KeyEncryptionKey,
    registry: TwinRegistry,
    signer: ReleaseSigner,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Services:
    """Put the services together from settings and adapters."""
    return Services(
        audience=settings.audience,
        policy=settings.policy,
        trust_source=TrustSource(settings.trust, settings.crl_file),
        entra_in_front=settings.entra_in_front,
        class_keys=ClassKeys(store, kek, lifetime=settings.class_key_lifetime, now=now),
        kek=kek,
        registry=registry,
        signer=signer,
        now=now,
    )


def connect(settings: Settings) -> Services:
    """Put the services together with the real vault and hub, under the app's managed identity.

    The SDKs are imported here: importing them takes longer than starting the app otherwise does.
    """
    from azure.identity import ManagedIdentityCredential  # noqa: PLC0415 - see above

    from functions.adapters.iot_hub import HubTwinRegistry  # noqa: PLC0415 - see above
    from functions.adapters.key_vault import (  # noqa: PLC0415 - see above
        VaultKek,
        VaultReleaseSigner,
        make_key_client,
    )
    from functions.adapters.key_vault_secrets import SecretClassKeyStore  # noqa: PLC0415 - see above

    credential = ManagedIdentityCredential(client_id=settings.managed_identity_client_id)
    verify = settings.verify_challenge
    keys = make_key_client(
        settings.key_hsm_url or settings.key_vault_url, credential, verify_challenge=verify
    )
    return assemble(
        settings,
        store=SecretClassKeyStore.connect(settings.key_vault_url, credential, verify_challenge=verify),
        kek=VaultKek(keys, settings.kek_name),
        registry=HubTwinRegistry.connect(settings.iot_hub_hostname, credential),
        signer=VaultReleaseSigner(keys, settings.release_key_name),
    )
