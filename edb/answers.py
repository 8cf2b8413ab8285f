"""What the key service answers, as far as the command needs it: read once, then trusted.

Fields that are not known are ignored: a newer service may tell more. With ``--json`` the service's own
document is passed on whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from shared.errors import FormatError
from shared.rollout import Rollout, RolloutState

_T = TypeVar("_T")


class Fields:
    """The members of one JSON object in an answer.

    Args:
        value: What should be an object.
        where: What it is, for the message.

    Raises:
        FormatError: It is none.
    """

    def __init__(self, value: object, *, where: str) -> None:
        if not isinstance(value, Mapping):
            raise FormatError(f"{where}: expected an object, found {type(value).__name__}")
        self._values = value
        self._where = where

    def need(self, name: str, kind: type[_T]) -> _T:
        """Return a member of a type.

        Raises:
            FormatError: It is missing, or of another type.
        """
        value = self.get(name, kind)
        if value is None:
            raise FormatError(f"{self._where}: the field {name} is missing")
        return value

    def get(self, name: str, kind: type[_T]) -> _T | None:
        """Return a member of a type, or None if it is missing or null.

        Raises:
            FormatError: It is of another type.
        """
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise FormatError(
                f"{self._where}: {name}: expected {kind.__name__}, found {type(value).__name__}"
            )
        return value

    def each(self, name: str) -> list[Fields]:
        """Return the objects of an array; none if it is missing."""
        return [Fields(entry, where=f"{self._where}: {name}") for entry in self.get(name, list) or []]

    def below(self, name: str) -> Fields | None:
        """Return the members of an object, or None if it is missing or null."""
        value = self.get(name, dict)
        return None if value is None else Fields(value, where=f"{self._where}: {name}")

    def numbers(self, name: str) -> dict[str, int]:
        """Return an object of numbers; empty if it is missing."""
        found = self.below(name)
        return {} if found is None else {member: found.need(member, int) for member in found.names()}

    def names(self) -> list[str]:
        """Return the members' names."""
        return [str(name) for name in self._values]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyVersion:
    """One version of a class key; ``state`` is the service's word for it."""

    version: int
    state: str | None
    created_at: str | None
    expires_at: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedVersion:
    """A version of a class key that goes or went to the fleet in stages, and how far it is."""

    version: int
    rollout: Rollout

    @classmethod
    def read(cls, fields: Fields) -> StagedVersion:
        """Read the member ``rollout`` of a class key.

        Raises:
            FormatError: It is none.
        """
        stages = fields.need("stages", list)
        if any(type(stage) is not int for stage in stages):
            raise FormatError("answer: rollout: stages: expected integers, found something else")
        rollout = Rollout(
            stages=tuple(stages),
            stage=fields.need("stage", int),
            pause_on_errors=fields.need("pause_on_errors", int),
            acknowledged=fields.need("acknowledged", int),
            is_aborted=fields.need("state", str) == RolloutState.ABORTED.value,
        )
        return cls(version=fields.need("version", int), rollout=rollout)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassKey:
    """A class key.

    Attributes:
        name: Its name.
        version: The newest one.
        floor: Lowest version that is not revoked; above ``version`` if all are.
        algorithm: What it is for.
        strength: In bits, as told.
        versions: As far as told.
        rollout: How the newest version goes to the fleet; None if to all at once.
    """

    name: str
    version: int
    floor: int
    algorithm: str
    strength: str
    versions: tuple[KeyVersion, ...]
    rollout: StagedVersion | None = None

    @classmethod
    def read(cls, value: object) -> ClassKey:
        """Read one entry of ``GET /api/keys``, or ``GET /api/keys/{name}``.

        Raises:
            FormatError: It is none.
        """
        fields = Fields(value, where="answer: key")
        rollout = fields.below("rollout")
        return cls(
            name=fields.need("key_name", str),
            version=fields.need("version", int),
            floor=fields.need("floor", int),
            algorithm=fields.need("algorithm", str),
            strength=str(fields.need("strength", object)),
            versions=tuple(
                KeyVersion(
                    version=each.need("version", int),
                    state=each.get("state", str),
                    created_at=each.get("created_at", str),
                    expires_at=each.get("expires_at", str),
                )
                for each in fields.each("versions")
            ),
            rollout=None if rollout is None else StagedVersion.read(rollout),
        )

    @property
    def current(self) -> int | None:
        """The version that all devices are given: the newest active one that is not staged; None for none."""
        if not self.versions:
            return self.version if self.version >= self.floor else None
        active = {each.version for each in self.versions if each.state == "active"}
        if self.rollout is not None and self.rollout.rollout.state is RolloutState.STAGED:
            active.discard(self.rollout.version)
        return max(active, default=None)

    @property
    def state(self) -> str:
        """``live``; ``revoked`` if every version is; ``unusable`` if none is active for other reasons."""
        if self.current is not None:
            return "live"
        return "revoked" if self.version < self.floor else "unusable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """The release that stands in a device's twin: for which device key, versions and floors by class key."""

    sequence: int
    fingerprint: str | None
    issued_at: str | None
    expires_at: str | None
    keys: Mapping[str, int]
    floors: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedKey:
    """What a device says of one class key."""

    version: int
    state: str
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """What a device reports: the last release that it applied, and its keys."""

    sequence: int
    keys: Mapping[str, ReportedKey]


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device; None where nothing was decided, released or reported."""

    device_id: str
    status: str | None
    state: str | None
    reason: str | None
    at: str | None
    stale: bool
    released: Released | None
    reported: Reported | None
    reported_key: str | None

    @classmethod
    def read(cls, value: object) -> Device:
        """Read one entry of ``GET /api/devices``, or ``GET /api/devices/{id}``.

        Raises:
            FormatError: It is none.
        """
        fields = Fields(value, where="answer: device")
        released, reported = fields.below("released"), fields.below("reported")
        return cls(
            device_id=fields.need("device_id", str),
            status=fields.get("status", str),
            state=fields.get("state", str),
            reason=fields.get("reason", str),
            at=fields.get("at", str),
            stale=fields.get("stale", bool) or False,
            released=None if released is None else _released(released),
            reported=None if reported is None else _reported(reported),
            reported_key=fields.get("reported_key", str),
        )


def _released(fields: Fields) -> Released:
    return Released(
        sequence=fields.need("sequence", int),
        fingerprint=fields.get("fingerprint", str),
        issued_at=fields.get("issued_at", str),
        expires_at=fields.get("expires_at", str),
        keys=fields.numbers("keys"),
        floors=fields.numbers("floors"),
    )


def _reported(fields: Fields) -> Reported:
    keys = fields.below("keys")
    reports = {} if keys is None else {name: keys.below(name) for name in keys.names()}
    return Reported(
        sequence=fields.need("sequence", int),
        keys={
            name: ReportedKey(
                version=each.need("version", int),
                state=each.need("state", str),
                error=each.get("error", str),
            )
            for name, each in reports.items()
            if each is not None
        },
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A device that holds a class key or was given it; None where nothing is told.

    Attributes:
        device_id: Device id, or ``device/module``.
        bucket: Where it stands in every rollout.
        given_at: When the class key was last written into its twin; None if it is not there.
        staged: The version that a rollout gave it.
        version: The one that it reports.
        state: What became of that.
        error: Why it was refused.
        outcome: What was decided about the device.
    """

    device_id: str
    bucket: int | None
    given_at: str | None
    staged: int | None
    version: int | None
    state: str | None
    error: str | None
    outcome: str | None

    @classmethod
    def read(cls, value: object) -> Holder:
        """Read one entry of ``GET /api/keys/{name}/holders``.

        Raises:
            FormatError: It is none.
        """
        fields = Fields(value, where="answer: holder")
        return cls(
            device_id=fields.need("device_id", str),
            bucket=fields.get("bucket", int),
            given_at=fields.get("given_at", str),
            staged=fields.get("staged", int),
            version=fields.get("version", int),
            state=fields.get("state", str),
            error=fields.get("error", str),
            outcome=fields.get("outcome", str),
        )
