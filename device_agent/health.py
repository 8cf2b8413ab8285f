"""How the agent is doing: what it counts, and the one word that says what somebody has to look at.

The word is decided by a table, first rule first, from facts; so the same facts always give the same word, and
what matters most hides what follows from it. Nothing here holds a key, a token or a patch.
"""

from __future__ import annotations

import enum
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from device_agent.device_clock import utc_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.types import DeviceId

MAX_TEXT = 200
"""Characters of an error's message that are kept."""


class HealthState(enum.Enum):
    """What somebody has to look at, if anything."""

    CPM_AWAY = "cpm_away"
    CLOCK_WRONG = "clock_wrong"
    HUB_REFUSES = "hub_refuses"
    DUPLICATE_IDENTITY = "duplicate_identity"
    HUB_AWAY = "hub_away"
    RELEASE_REFUSED = "release_refused"
    CERTIFICATE_WRONG = "certificate_wrong"
    CATCHING_UP = "catching_up"
    IN_STEP = "in_step"


@dataclass(frozen=True, slots=True, kw_only=True)
class LastError:
    """The last thing that went wrong.

    Args:
        code: Stable.
        text: For people; may quote what a hub or a CPM said.
        at: Unix seconds, by the device's clock.
    """

    code: str
    text: str
    at: float


@dataclass(slots=True, kw_only=True)
class Tally:
    """What happened since the agent started; written by it alone.

    Args:
        clock: Unix seconds.
    """

    clock: Callable[[], float]
    connections: int = 0
    connect_failures: int = 0
    disconnections: int = 0
    twin_reads: int = 0
    reports: int = 0
    releases_applied: int = 0
    releases_refused: int = 0
    cpm_losses: int = 0
    renewals: int = 0
    renewal_failures: int = 0
    last_report: float | None = None
    last_release: float | None = None
    last_error: LastError | None = None

    def failed(self, code: str, text: str) -> None:
        """Note an error."""
        self.last_error = LastError(code=code, text=text[:MAX_TEXT], at=self.clock())


COUNTS = (
    "connections",
    "connect_failures",
    "disconnections",
    "twin_reads",
    "reports",
    "releases_applied",
    "releases_refused",
    "cpm_losses",
    "renewals",
    "renewal_failures",
)
"""The counters of a :class:`Tally`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How the agent is doing at one moment.

    Args:
        device_id: Who.
        at: Unix seconds, by the device's clock.
        started: Likewise.
        hub_connected: The connection stands.
        hub_refuses: The hub refused the device itself when it was asked last.
        hub_dropped_us: It is dropped again and again, as when another client has the same identity.
        cpm_known: The CPM answers.
        cpm_judges: It judges releases itself; False with the reference CPM.
        fingerprint: Of the device key; None before the CPM first answered.
        sequence: Of the last release that the CPM applied.
        errors: Class keys that the CPM did not take.
        certificate_not_after: Unix seconds; None without a certificate.
        certificate_matches: Whether it is for the device key and valid; None without one.
        clock_plausible: The device's clock can be right.
        in_step: The twin says what it should, and desired keys were dealt with.
        counts: By name of :data:`COUNTS`.
        last_report: Unix seconds of the last report that the hub took.
        last_release: Unix seconds of the last release that the CPM took.
        last_error: The last thing that went wrong, over or not.
    """

    device_id: DeviceId
    at: float
    started: float
    hub_connected: bool
    hub_refuses: bool
    hub_dropped_us: bool
    cpm_known: bool
    cpm_judges: bool
    fingerprint: bytes | None
    sequence: int
    errors: int
    certificate_not_after: float | None
    certificate_matches: bool | None
    clock_plausible: bool
    in_step: bool
    counts: dict[str, int] = field(default_factory=dict)
    last_report: float | None = None
    last_release: float | None = None
    last_error: LastError | None = None

    @property
    def state(self) -> HealthState:
        """The first rule of :data:`RULES` that holds."""
        return next(state for state, holds in RULES if holds(self))


RULES: tuple[tuple[HealthState, Callable[[Health], bool]], ...] = (
    (HealthState.CPM_AWAY, lambda now: not now.cpm_known),
    (HealthState.CLOCK_WRONG, lambda now: not now.hub_connected and not now.clock_plausible),
    (HealthState.HUB_REFUSES, lambda now: not now.hub_connected and now.hub_refuses),
    (HealthState.DUPLICATE_IDENTITY, lambda now: now.hub_dropped_us),
    (HealthState.HUB_AWAY, lambda now: not now.hub_connected),
    (HealthState.RELEASE_REFUSED, lambda now: now.errors > 0),
    (HealthState.CERTIFICATE_WRONG, lambda now: now.certificate_matches is False),
    (HealthState.CATCHING_UP, lambda now: not now.in_step),
    (HealthState.IN_STEP, lambda _now: True),
)


def health_document(health: Health) -> dict[str, object]:
    """Return the content of the health file."""
    error = health.last_error
    return {
        "v": 1,
        "state": health.state.value,
        "at": utc_text(health.at),
        "started": utc_text(health.started),
        "device_id": health.device_id,
        "hub": {"connected": health.hub_connected},
        "cpm": {
            "known": health.cpm_known,
            "judges_releases": health.cpm_judges,
            "fingerprint": None if health.fingerprint is None else health.fingerprint.hex(),
            "sequence": health.sequence,
            "refused_keys": health.errors,
        },
        "certificate": {
            "not_after": _time(health.certificate_not_after),
            "matches": health.certificate_matches,
        },
        "clock_plausible": health.clock_plausible,
        "last_report": _time(health.last_report),
        "last_release": _time(health.last_release),
        "last_error": None if error is None else {**asdict(error), "at": utc_text(error.at)},
        "counts": health.counts,
    }


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else utc_text(seconds)
