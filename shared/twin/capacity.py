"""What a fleet asks of its hub and vault: how many keys fit, how long a distribution takes, what it costs.

The limits are those that the services publish for their tiers. A distribution takes each device through one
read of its twin, one signature, and one write of tags and desired; its acknowledgement is one write of the
device's own. A full pass lists the fleet in pages.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Final

from shared.release.document import SIGNATURE_BYTES, Release, ReleasedKey, assemble, encode_claims
from shared.twin.budget import DESIRED_BUDGET, section_size
from shared.twin.documents import desired_patch
from shared.types import Audience, DeviceId, Fingerprint, KeyName, WrapAlgorithm

ROWS_PER_PAGE: Final = 1000
"""Rows of one query page, the hub's most."""

METER_BYTES: Final = 4096
"""Bytes of a twin operation that count as one message in the paid tiers."""

SHARE_PERCENT: Final = 50
"""How much of the hub's limits the function app takes unless told. What devices do to their twins counts by
the same limits: each release that is written is acknowledged, which is one write of the device's own."""

REPORT_BYTES: Final = 2600
"""What a device reports besides its keys: a public key, a chain of three, its status."""

ACKNOWLEDGEMENT_BYTES: Final = 110
"""What a device reports anew of each key that it took."""

_DAY: Final = 86_400
_DIGEST_BYTES = 32


class HubTier(enum.Enum):
    """A tier of the hub; ``F1`` is the free one, of one unit."""

    F1 = "F1"
    S1 = "S1"
    S2 = "S2"
    S3 = "S3"


@dataclass(frozen=True, slots=True, kw_only=True)
class HubLimits:
    """What a hub allows a back end.

    Args:
        reads: Twin reads a second.
        updates: Twin updates a second.
        queries: Query pages a second.
        messages: Metered messages a day.
        meter_bytes: Bytes of a twin operation that count as one message.
    """

    reads: float
    updates: float
    queries: float
    messages: int
    meter_bytes: int = METER_BYTES

    def share(self, percent: int) -> HubLimits:
        """Return so much of the rates: devices and other back ends use the hub, too. A day stays a day."""
        return replace(
            self,
            reads=self.reads * percent / 100,
            updates=self.updates * percent / 100,
            queries=self.queries * percent / 100,
        )


def limits_of(tier: HubTier, units: int) -> HubLimits:
    """Return the limits of a hub with so many units of a tier (Azure, "IoT Hub quotas and throttling")."""
    match tier:
        case HubTier.F1:
            return HubLimits(reads=100, updates=50, queries=20 / 60, messages=8000, meter_bytes=512)
        case HubTier.S1:
            return HubLimits(reads=100, updates=50, queries=20 * units / 60, messages=400_000 * units)
        case HubTier.S2:
            return HubLimits(
                reads=max(100, 10 * units),
                updates=max(50, 5 * units),
                queries=20 * units / 60,
                messages=6_000_000 * units,
            )
        case HubTier.S3:
            return HubLimits(
                reads=500 * units,
                updates=250 * units,
                queries=1000 * units / 60,
                messages=300_000_000 * units,
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultLimits:
    """What a vault allows, each a second: it counts 10 seconds at a time.

    Args:
        reads: Reads and listings of secrets and keys.
        writes: Writes of secrets.
        unwraps: Private operations of an RSA-3072 key in its HSM.
        signatures: Of an EC P-256 key in its HSM.
    """

    reads: float
    writes: float
    unwraps: float
    signatures: float

    def share(self, percent: int) -> VaultLimits:
        """Return so much of them."""
        return VaultLimits(
            reads=self.reads * percent / 100,
            writes=self.writes * percent / 100,
            unwraps=self.unwraps * percent / 100,
            signatures=self.signatures * percent / 100,
        )


VAULT_LIMITS: Final = VaultLimits(reads=400, writes=30, unwraps=50, signatures=200)
"""Those of one vault and region (Azure, "Key Vault service limits")."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """What one distribution or pass takes.

    Args:
        seconds: At least, by each limit.
        messages: Metered by the hub.
    """

    seconds: dict[str, float]
    messages: int

    @property
    def binding(self) -> str:
        """The limit that binds."""
        return max(self.seconds, key=lambda limit: self.seconds[limit])

    @property
    def duration(self) -> float:
        """Seconds at least."""
        return max(self.seconds.values())


def distribution(*, devices: int, keys: int, wrapped_bytes: int, limits: HubLimits) -> Effort:
    """Return what it takes to give every device a new release: first, after a rotation or a revocation.

    Args:
        devices: In the fleet.
        keys: Class keys of each.
        wrapped_bytes: Length of one wrapped key.
        limits: The hub's.
    """
    desired = desired_bytes(keys, wrapped_bytes)
    read = _metered(REPORT_BYTES + desired + keys * ACKNOWLEDGEMENT_BYTES, limits)
    write = _metered(desired, limits)
    acknowledge = _metered(keys * ACKNOWLEDGEMENT_BYTES, limits)
    listing = listing_pass(devices=devices, limits=limits)
    return Effort(
        seconds={
            "twin reads": devices / limits.reads,
            "twin updates": devices / limits.updates,
            "signatures of the vault": devices / VAULT_LIMITS.signatures,
            "query pages": listing.seconds["query pages"],
            "messages a day": _days(devices * (read + write + acknowledge) + listing.messages, limits),
        },
        messages=devices * (read + write + acknowledge) + listing.messages,
    )


def listing_pass(*, devices: int, limits: HubLimits) -> Effort:
    """Return what a full pass takes while nothing changes."""
    pages = -(-devices // ROWS_PER_PAGE)
    return Effort(seconds={"query pages": pages / limits.queries}, messages=0)


def desired_bytes(keys: int, wrapped_bytes: int, *, name_characters: int = 20) -> int:
    """Return the size of desired with so many keys, as the hub counts it.

    Args:
        keys: How many.
        wrapped_bytes: Length of one wrapped key.
        name_characters: Length of each key's name.
    """
    names = [KeyName(f"{number:0{name_characters}}") for number in range(keys)]
    release = Release(
        device_id=DeviceId("d" * 20),
        audience=Audience("fleet-a"),
        issued_at=1_790_000_000,
        expires_at=1_792_592_000,
        sequence=1_790_000_000_000,
        fingerprint=Fingerprint(bytes(_DIGEST_BYTES)),
        keys={
            name: ReleasedKey(
                version=100,
                algorithm=WrapAlgorithm.RSA_OAEP_256,
                not_after=1_792_592_000,
                wrapped_sha256=bytes(_DIGEST_BYTES),
            )
            for name in names
        },
        floors={},
        policy_sha256=bytes(_DIGEST_BYTES),
    )
    cose = assemble(encode_claims(release), kid="k" * 90, signature=bytes(SIGNATURE_BYTES))
    wrapped = {name: bytes(wrapped_bytes) for name in names}
    return section_size(desired_patch(wrapped=wrapped, removed=(), release=cose))


def keys_that_fit(wrapped_bytes: int, *, budget: int = DESIRED_BUDGET) -> int:
    """Return how many keys, each wrapped in so many bytes, fit into a budget of desired."""
    keys = 0
    while desired_bytes(keys + 1, wrapped_bytes) <= budget:
        keys += 1
    return keys


def _metered(size: int, limits: HubLimits) -> int:
    return max(1, -(-size // limits.meter_bytes))


def _days(messages: int, limits: HubLimits) -> float:
    """Return the seconds that a day's quota makes of it; what fits into one day waits for none."""
    return max(0, -(-messages // limits.messages) - 1) * float(_DAY)
