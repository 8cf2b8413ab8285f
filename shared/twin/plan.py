"""What is to be wrapped and signed for one device, and how much room it will take."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.encoding import encode_cbor
from shared.errors import FormatError
from shared.keys.wrapping import wrapped_size
from shared.release.document import SIGNATURE_BYTES, Release, ReleasedKey, assemble, encode_claims
from shared.twin.budget import section_size
from shared.twin.documents import KEYS, RELEASE, desired_patch
from shared.twin.sections import apply_patch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shared.public_keys import PublicKey
    from shared.twin.entitlement import Entitlement
    from shared.twin.held import Held
    from shared.twin.ports import Twin
    from shared.types import Audience, DeviceId, Fingerprint, KeyName


_LARGEST_FRAME = 128
"""More than the names of the sections, the version, and the names of the parts of a long text."""

_LARGEST_CLAIM = 64
"""More than any entry of a release in CBOR, without the text in it: a key's is 34 for the digest and 20."""

_FIXED_CLAIMS = 8
"""The entries of that size that every release has at most: its headers, signature, times and digests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a device's desired section is to hold.

    Args:
        device_id: Device id, or ``device/module``.
        audience: The deployment's id.
        public_key: What to wrap for; None where there are no keys to wrap.
        fingerprint: Of the device key that the release is for: :attr:`public_key`'s, or, in a release without
            keys, that of the key which the device is bound to.
        keys: The class keys; none takes away all that the device holds.
        floors: The lowest versions allowed.
        sequence: The release's.
        issued_at: Unix seconds.
        expires_at: Unix seconds.
        policy_sha256: Digest of the policy document, 32 bytes.
        is_signed: Whether a release goes with the keys; not for a device of version 1.
    """

    device_id: DeviceId
    audience: Audience
    public_key: PublicKey | None
    fingerprint: Fingerprint
    keys: Mapping[KeyName, Entitlement]
    floors: Mapping[KeyName, int]
    sequence: int
    issued_at: int
    expires_at: int
    policy_sha256: bytes
    is_signed: bool

    @property
    def recipient(self) -> PublicKey:
        """What to wrap for.

        Raises:
            FormatError: The plan has no keys to wrap.
        """
        if self.public_key is None:
            raise FormatError(f"{self.device_id}: a plan without keys has nobody to wrap for")
        return self.public_key

    def release(self, wrapped: Mapping[KeyName, bytes]) -> Release:
        """Return the release to sign.

        Args:
            wrapped: Every key of :attr:`keys`, wrapped.
        """
        return Release(
            device_id=self.device_id,
            audience=self.audience,
            issued_at=self.issued_at,
            expires_at=self.expires_at,
            sequence=self.sequence,
            fingerprint=self.fingerprint,
            keys={
                name: ReleasedKey(
                    version=key.version,
                    algorithm=key.algorithm,
                    not_after=self.issued_at + key.lease_seconds,
                    wrapped_sha256=hashlib.sha256(wrapped[name]).digest(),
                )
                for name, key in self.keys.items()
            },
            floors=dict(self.floors),
            policy_sha256=self.policy_sha256,
        )

    def desired(self, held: Held, wrapped: Mapping[KeyName, bytes], cose: bytes | None) -> dict[str, object]:
        """Return the patch of desired that carries this plan out.

        Args:
            held: What desired holds now.
            wrapped: Every key of :attr:`keys`, wrapped.
            cose: The signed release; None if the plan has none.
        """
        patch = desired_patch(wrapped=wrapped, removed=held.names - wrapped.keys(), release=cose)
        if cose is None and not held.has_release:
            del patch[RELEASE]
        return patch


def fits_for_certain(twin: Twin, plan: Plan, *, key_id: str, budget: int) -> bool:
    """Whether a plan keeps within a budget even if all that desired holds now stayed beside it.

    It is what most devices are told by, for less than :func:`planned_size` takes: nothing is encoded.

    Args:
        twin: As the hub holds it.
        plan: What is to be carried out.
        key_id: The release key's id, which stands in every release.
        budget: Bytes of desired at most.
    """
    kinds = {(key.algorithm, key.key_bytes) for key in plan.keys.values()}
    longest = max((_base64_size(wrapped_size(plan.recipient, *kind)) for kind in kinds), default=0)
    size = section_size(twin.desired) + _LARGEST_FRAME
    size += sum(map(len, plan.keys)) + longest * len(plan.keys)
    if plan.is_signed:
        texts = (plan.device_id, plan.audience, key_id, *plan.keys, *plan.floors)
        claims = sum(len(text.encode()) for text in texts)
        claims += _LARGEST_CLAIM * (_FIXED_CLAIMS + len(plan.keys) + len(plan.floors))
        size += _base64_size(claims)
    return size <= budget


def _base64_size(length: int) -> int:
    return -(-length // 3) * 4


def planned_size(twin: Twin, held: Held, plan: Plan, *, key_id: str) -> int:
    """Return the size of desired once the plan is carried out, in bytes as the hub counts them.

    Nothing is wrapped or signed for that: the lengths are known beforehand.

    Args:
        twin: As the hub holds it; what others keep in desired counts, too.
        held: What its desired holds of ours.
        plan: What is to be carried out.
        key_id: The release key's id, which stands in every release.
    """
    wrapped = {
        name: bytes(wrapped_size(plan.recipient, key.algorithm, key.key_bytes))
        for name, key in plan.keys.items()
    }
    cose = None
    if plan.is_signed:
        claims = encode_claims(plan.release(wrapped))
        cose = assemble(claims, kid=key_id, signature=bytes(SIGNATURE_BYTES))
    return section_size(apply_patch(twin.desired, plan.desired(held, wrapped, cose)))


def basis_of(plan: Plan, wrapped: Mapping[KeyName, bytes]) -> str:
    """Return a digest of what the keys of a device of version 1 were made from: 64 hex digits.

    Such a device has no release to compare with, so this stands in its tag instead.

    Args:
        plan: What it is to hold.
        wrapped: What its desired holds.
    """
    keys = {name: [key.version, key.algorithm.value] for name, key in plan.keys.items()}
    digests = {name: hashlib.sha256(data).digest() for name, data in wrapped.items()}
    basis = encode_cbor([KEYS, plan.fingerprint, plan.policy_sha256, keys, digests])
    return hashlib.sha256(basis).hexdigest()
