"""What a twin already holds of ours: the wrapped keys and release in desired, the outcome in the tags."""

from __future__ import annotations

import enum
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.errors import FormatError, VerificationError
from shared.release.verifying import verify_signature
from shared.twin.documents import KEYS, OUTCOME_TAG, RELEASE, parse_desired

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.hazmat.primitives.asymmetric import ec

    from shared.release.document import Release
    from shared.twin.ports import Twin
    from shared.types import KeyName


REBIND = "rebind"
"""In the outcome tag: the fingerprint of the device key that an operator binds the device to next."""


ROLLOUT = "rollout"
"""In the outcome tag: by class key, the staged version that the device was given."""


class OutcomeState(enum.Enum):
    """How reconciling ended for a device."""

    RELEASED = "released"
    DENIED = "denied"
    OVER_BUDGET = "over_budget"
    QUARANTINED = "quarantined"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the tag tells about a device, apart from when it came to be so.

    Args:
        state: How it ended.
        reason: Stable code, if denied or quarantined.
        retries: How often the present keys were wrapped again because the device could not unwrap them.
        basis: For a device of version 1, whose twin holds no release: hex digest of what its keys were made
            from.
    """

    state: OutcomeState
    reason: str | None = None
    retries: int = 0
    basis: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What desired holds of ours.

    Args:
        names: Every name under the wrapped keys, whether or not it is a key's.
        wrapped: The wrapped keys, by name; empty if desired does not parse.
        release: The release, if one of the release keys signed it.
        has_release: Whether anything stands where the release belongs.
        has_keys: Whether anything stands where the wrapped keys belong.
        is_intact: Desired parses, the signature holds, and the wrapped keys are the signed ones.
    """

    names: frozenset[str]
    wrapped: Mapping[KeyName, bytes]
    release: Release | None
    has_release: bool
    has_keys: bool
    is_intact: bool

    @property
    def is_empty(self) -> bool:
        """Whether nothing of ours stands in desired."""
        return not self.has_release and not self.has_keys

    @property
    def sequence(self) -> int:
        """Sequence of the release, 0 if there is none that is ours."""
        return 0 if self.release is None else self.release.sequence


def read_held(twin: Twin, release_keys: Sequence[ec.EllipticCurvePublicKey]) -> Held:
    """Read what desired holds; never raises, for what does not parse is to be overwritten, not feared.

    Args:
        twin: As the hub holds it.
        release_keys: Whose releases still hold.
    """
    section = twin.desired.get(KEYS)
    names = frozenset(section) if isinstance(section, Mapping) else frozenset()
    wrapped: Mapping[KeyName, bytes] = {}
    release, intact = None, False
    try:
        desired = parse_desired(twin.desired)
        wrapped = desired.wrapped
        if desired.release is not None:
            release = verify_signature(desired.release, release_keys, where=f"/{RELEASE}/cose")
            intact = _holds(release, wrapped)
    except (FormatError, VerificationError):
        intact = False
    return Held(
        names=names,
        wrapped=wrapped,
        release=release,
        has_release=RELEASE in twin.desired,
        has_keys=bool(names) or (section is not None and not isinstance(section, Mapping)),
        is_intact=intact,
    )


def read_rebinding(tags: Mapping[str, object]) -> str | None:
    """Return the fingerprint, in hex, of the key that an operator has bound the device to anew, if any."""
    tag = tags.get(OUTCOME_TAG)
    fingerprint = tag.get(REBIND) if isinstance(tag, Mapping) else None
    return fingerprint if isinstance(fingerprint, str) else None


def read_rollouts(tags: Mapping[str, object]) -> object:
    """Return what the outcome tag tells of staged versions, unchecked; None if it tells nothing."""
    tag = tags.get(OUTCOME_TAG)
    return tag.get(ROLLOUT) if isinstance(tag, Mapping) else None


def read_outcome(tags: Mapping[str, object]) -> Outcome | None:
    """Read the outcome tag; None if there is none, or one that we would not have written."""
    tag = tags.get(OUTCOME_TAG)
    if not isinstance(tag, Mapping):
        return None
    reason, retries, basis = tag.get("reason"), tag.get("retries", 0), tag.get("basis")
    try:
        state = OutcomeState(tag.get("state"))
    except ValueError:
        return None
    if type(retries) is not int or not isinstance(reason, str | None) or not isinstance(basis, str | None):
        return None
    return Outcome(state=state, reason=reason, retries=retries, basis=basis)


def _holds(release: Release, wrapped: Mapping[KeyName, bytes]) -> bool:
    return release.keys.keys() == wrapped.keys() and all(
        hmac.compare_digest(hashlib.sha256(wrapped[name]).digest(), key.wrapped_sha256)
        for name, key in release.keys.items()
    )
