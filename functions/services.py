"""What the functions work with, put together once; tests put it together from simulators."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypedDict

from functions.audit import AuditLog
from functions.audit_chain import AuditChain
from functions.class_keys import ClassKeys
from functions.distribute import Distributor
from functions.policy_source import PolicySource
from functions.trust import TrustSource

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from azure.core.credentials import TokenCredential

    from functions.audit_chain import SegmentStore
    from functions.call_rates import CallRates
    from functions.policy_source import FloorStore, PolicyStore
    from functions.settings import Settings
    from shared.certificate_paths import TrustStore
    from shared.keys.store import ClassKeyStore, KeyEncryptionKey
    from shared.twin.ports import ReleaseSigner, TwinRegistry
    from shared.types import Audience


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The deployment, ready to be used.

    Args:
        audience: Its id.
        policies: The release policy in force, now and later.
        audit: Where decisions and operations are recorded.
        trust_source: Gives the roots that client and device certificates must lead to.
        entra_in_front: Whether the platform's headers about the caller mean anything.
        class_keys: The class keys.
        kek: What they rest under.
        registry: The hub's twins.
        signer: The release key.
        now: Tells the time, aware.
    """

    audience: Audience
    policies: PolicySource
    audit: AuditLog
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
        """Return what makes distribution passes, under the policy in force now.

        Raises:
            TransportError: ``policy_unavailable``; none is.
        """
        return Distributor(
            registry=self.registry,
            class_keys=self.class_keys,
            signer=self.signer,
            audience=self.audience,
            policy=self.policies.current().policy,
            audit=self.audit,
            trust=self.trust,
            now=self.now,
            renewed=lambda: self.distributor,
        )


class _VaultOptions(TypedDict):
    """What all clients of the vault share."""

    verify_challenge: bool
    rates: CallRates


def assemble(
    settings: Settings,
    *,
    store: ClassKeyStore,
    kek: KeyEncryptionKey,
    registry: TwinRegistry,
    signer: ReleaseSigner,
    policy_store: PolicyStore,
    policy_floor: FloorStore,
    audit_segments: SegmentStore,
    monotonic: Callable[[], float] = time.monotonic,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Services:
    """Put the services together from settings and adapters."""
    policies = PolicySource(
        policy_store,
        policy_floor,
        refresh_seconds=settings.policy_refresh_seconds,
        max_age_seconds=settings.policy_max_age_seconds,
        monotonic=monotonic,
    )
    policies.observe()
    return Services(
        audience=settings.audience,
        policies=policies,
        audit=AuditLog(AuditChain(audit_segments), now=now),
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
    from functions.adapters.policy_floor import VaultPolicyFloor  # noqa: PLC0415 - see above

    credential = ManagedIdentityCredential(client_id=settings.managed_identity_client_id)
    vault = _VaultOptions(verify_challenge=settings.verify_challenge, rates=settings.allowance.of_vault())
    keys = make_key_client(settings.key_hsm_url or settings.key_vault_url, credential, **vault)
    return assemble(
        settings,
        store=SecretClassKeyStore.connect(settings.key_vault_url, credential, **vault),
        kek=VaultKek(keys, settings.kek_name),
        registry=HubTwinRegistry.connect(
            settings.iot_hub_hostname, credential, rates=settings.allowance.of_hub()
        ),
        signer=VaultReleaseSigner(keys, settings.release_key_name),
        policy_store=_policy_store(settings, credential),
        policy_floor=VaultPolicyFloor.connect(settings.key_vault_url, credential, **vault),
        audit_segments=_audit_segments(settings, credential),
    )


def _policy_store(settings: Settings, credential: TokenCredential) -> PolicyStore:
    if settings.policy_blob_url is None:
        from functions.adapters.policy_file import FilePolicyStore  # noqa: PLC0415 - as in connect

        return FilePolicyStore(_present(settings.policy_file))
    from functions.adapters.policy_blob import BlobPolicyStore  # noqa: PLC0415 - as in connect

    return BlobPolicyStore.connect(settings.policy_blob_url, credential)


def _audit_segments(settings: Settings, credential: TokenCredential) -> SegmentStore:
    if settings.audit_container_url is None:
        from functions.adapters.audit_folder import FolderSegments  # noqa: PLC0415 - as in connect

        return FolderSegments(_present(settings.audit_folder))
    from functions.adapters.audit_blobs import BlobSegments  # noqa: PLC0415 - as in connect

    return BlobSegments.connect(settings.audit_container_url, credential)


def _present(path: Path | None) -> Path:
    if path is None:
        raise AssertionError("the settings hold one of the two")
    return path
