"""How many calls this instance makes of the hub and of the vault: one token bucket for each kind of call.

Instances know nothing of each other, so each is given its part of what the services allow
(:mod:`shared.twin.capacity`), and waits before a call rather than after a refusal. Who is refused all the
same (429) holds back all threads of the instance for as long as the service asks.
"""

from __future__ import annotations

import enum
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from functions import deadline, telemetry
from functions.token_bucket import TokenBucket
from shared.twin.capacity import SHARE_PERCENT, VAULT_LIMITS, HubTier, limits_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from shared.twin.capacity import HubLimits, VaultLimits

MAX_PAUSE_SECONDS = 60.0
"""Longest that one refusal holds everybody back, whatever the service asks."""

UNTOLD_PAUSE_SECONDS = 1.0
"""How long a refusal that tells no time holds everybody back; who was refused backs off by itself."""

QUERYING_INSTANCES = 2
"""Instances that query at once: a pass is one message, and besides it the fleet is listed over HTTP."""

QUERY_BURST = 2
"""Queries at once: a listing begins with devices and modules. Tiers allow a few a minute."""


class HubCall(enum.Enum):
    """What the hub counts, each by itself."""

    READ = "twin_read"
    UPDATE = "twin_update"
    QUERY = "query"


class VaultCall(enum.Enum):
    """What the vault counts, each by itself."""

    READ = "read"
    WRITE = "write"
    UNWRAP = "unwrap"
    SIGN = "sign"


_CALLS: Mapping[str, Iterable[HubCall | VaultCall]] = {"hub": HubCall, "vault": VaultCall}


class CallRates:
    """The buckets of one service.

    Args:
        peer: ``hub`` or ``vault``.
        rates: Calls a second by kind; a kind that is not there is not limited, only paused.
        bursts: Calls at once by kind; a second's worth unless told.
        clock: Seconds that never go back.
        sleep: Waits that many seconds.
    """

    def __init__(
        self,
        peer: str,
        rates: Mapping[HubCall | VaultCall, float] | None = None,
        *,
        bursts: Mapping[HubCall | VaultCall, int] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._peer = peer
        self._buckets: dict[HubCall | VaultCall, TokenBucket] = {
            call: TokenBucket(
                f"{peer}, {call.value}",
                rate=rate,
                burst=(bursts or {}).get(call, max(1, math.floor(rate)) if math.isfinite(rate) else 1),
                clock=clock,
                sleep=sleep,
            )
            for call in _CALLS[peer]
            for rate in [(rates or {}).get(call, math.inf)]
        }

    def take(self, call: HubCall | VaultCall) -> None:
        """Wait until a call may go, at most as long as the function may still take.

        Raises:
            BusyError: It may not go in time.
        """
        waited = self._buckets[call].take(within=deadline.remaining())
        if waited > 0:
            telemetry.take(telemetry.RATE_WAIT, waited, peer=self._peer, call=call.value)

    def refused(self, call: HubCall | VaultCall, retry_after: float | None) -> None:
        """Hold all such calls back: the service had enough of them.

        Args:
            call: What was refused.
            retry_after: Seconds that the service asked to wait, if it did.
        """
        telemetry.add(telemetry.THROTTLED, peer=self._peer, call=call.value)
        seconds = UNTOLD_PAUSE_SECONDS if retry_after is None else min(retry_after, MAX_PAUSE_SECONDS)
        self._buckets[call].pause(seconds)


def seconds_asked(headers: Mapping[str, str]) -> float | None:
    """Return what ``Retry-After`` asks for; None if it is not there, or no number of seconds."""
    text = headers.get("Retry-After") or ""
    return float(text) if text.isascii() and text.isdecimal() else None


def hub_rates(
    limits: HubLimits,
    *,
    instances: int,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> CallRates:
    """Return the part of the hub's limits that one of so many instances takes."""
    return CallRates(
        "hub",
        {
            HubCall.READ: limits.reads / instances,
            HubCall.UPDATE: limits.updates / instances,
            HubCall.QUERY: limits.queries / min(instances, QUERYING_INSTANCES),
        },
        bursts={HubCall.QUERY: QUERY_BURST},
        clock=clock,
        sleep=sleep,
    )


def vault_rates(
    limits: VaultLimits,
    *,
    instances: int,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> CallRates:
    """Return the part of the vault's limits that one of so many instances takes."""
    return CallRates(
        "vault",
        {
            VaultCall.READ: limits.reads / instances,
            VaultCall.WRITE: limits.writes / instances,
            VaultCall.UNWRAP: limits.unwraps / instances,
            VaultCall.SIGN: limits.signatures / instances,
        },
        clock=clock,
        sleep=sleep,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What the settings say of it.

    Args:
        hub_tier: The hub's; None for no limit of our own.
        hub_units: The hub's.
        hub_share_percent: How much of the hub's limits is for this app.
        vault_share_percent: How much of the vault's is; None for no limit of our own.
        instances: Processes that share both.
    """

    hub_tier: HubTier | None = None
    hub_units: int = 1
    hub_share_percent: int = SHARE_PERCENT
    vault_share_percent: int | None = None
    instances: int = 1

    def of_hub(self) -> CallRates:
        """Return this instance's rates of the hub."""
        if self.hub_tier is None:
            return CallRates("hub")
        limits = limits_of(self.hub_tier, self.hub_units).share(self.hub_share_percent)
        return hub_rates(limits, instances=self.instances)

    def of_vault(self) -> CallRates:
        """Return this instance's rates of the vault."""
        if self.vault_share_percent is None:
            return CallRates("vault")
        return vault_rates(VAULT_LIMITS.share(self.vault_share_percent), instances=self.instances)
