"""JSON of rollouts: how a new version of a class key goes to the fleet in stages, and who holds which."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shared.errors import FormatError
from shared.rollout import MAX_STAGES, WHOLE, Rollout, RolloutState
from shared.types import MAX_KEY_VERSION
from shared.wire import values
from shared.wire.objects import list_of, object_of, read_object, wire
from shared.wire.request_fields import Fields
from shared.wire.values import Value, one_of

if TYPE_CHECKING:
    from shared.types import DeviceId, KeyName

DEFAULT_PAGE = 100
"""Entries of a page where the caller asks for no size."""

ADVANCE, FINISH, ABORT = "advance", "finish", "abort"
REPORT_STATES = ("installed", "error")

_SHARE_SCHEMA: dict[str, object] = {"type": "integer", "minimum": 1, "maximum": WHOLE}
_LIMIT_SCHEMA: dict[str, object] = {**_SHARE_SCHEMA, "minimum": 0}


def _stage(value: object, where: str) -> int:
    if type(value) is not int or not 0 <= value <= MAX_STAGES:
        raise FormatError(f"{where}: expected a stage, an integer from 0 to {MAX_STAGES}")
    return value


def _version(value: object, where: str) -> int:
    text = str(value)
    if not re.fullmatch(r"[0-9]{1,10}", text, re.ASCII) or not 1 <= int(text) <= MAX_KEY_VERSION:
        raise FormatError(f"{where}: expected a version, 1 to {MAX_KEY_VERSION}, found {text[:32]!r}")
    return int(text)


def _rollout(value: object, where: str) -> Rollout:
    if not isinstance(value, Mapping):
        raise FormatError(f"{where}: expected an object, found {type(value).__name__}")
    stages = value.get("stages")
    if not isinstance(stages, list) or any(type(stage) is not int for stage in stages):
        raise FormatError(f"{where}/stages: expected basis points, integers that rise to {WHOLE}")
    limits = {name: value[name] for name in ("pause_on_errors", "acknowledged") if name in value}
    for name, limit in limits.items():
        if type(limit) is not int:
            raise FormatError(f"{where}/{name}: expected basis points, an integer to {WHOLE}")
    try:
        return Rollout(stages=tuple(stages), **limits)
    except FormatError as error:
        raise FormatError(f"{where}: {error}") from error


STAGE = Value(schema={"type": "integer", "minimum": 0, "maximum": MAX_STAGES}, read=_stage)
VERSION_TEXT = Value(schema=values.VERSION.schema, read=_version)
"""A version as the text of a query's parameter."""

ROLLOUT = Value(
    schema={
        "type": "object",
        "properties": {
            "stages": {
                "type": "array",
                "items": _SHARE_SCHEMA,
                "minItems": 1,
                "maxItems": MAX_STAGES,
                "description": "The share of devices that each stage reaches, in basis points (hundredths of "
                "a percent); rises, and the last one is 10000.",
                "examples": [[100, 1000, WHOLE]],
            },
            "pause_on_errors": {
                **_LIMIT_SCHEMA,
                "description": "The share of a stage's devices that may fail before no further stage should "
                "begin; 0 by default.",
            },
            "acknowledged": {
                **_SHARE_SCHEMA,
                "description": "The share of a stage's devices that did not fail which should have "
                "acknowledged before the next stage begins; 10000 by default.",
            },
        },
        "required": ["stages"],
    },
    read=_rollout,
)
"""How a version is to go to the fleet, as a request says it."""

_SHARES: Value[tuple[int, ...]] = Value(schema={"type": "array", "items": _SHARE_SCHEMA}, write=list)
_SHARE: Value[int] = Value(schema=_LIMIT_SCHEMA)


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutDescription:
    """How far a version of a class key is on its way to the fleet."""

    version: int = field(metadata=wire(values.VERSION, "The version."))
    state: str = field(
        metadata=wire(
            one_of(*(state.value for state in RolloutState)),
            "Whether it is under way (staged), there for all (finished), or given up (aborted).",
        )
    )
    stage: int = field(metadata=wire(STAGE, "Which stage it is in, from 0; behind the last one if finished."))
    share: int = field(metadata=wire(_SHARE, "The share of devices that get the version now."))
    stages: tuple[int, ...] = field(metadata=wire(_SHARES, "The share that each stage reaches."))
    pause_on_errors: int = field(metadata=wire(_SHARE, "The share of a stage that may fail."))
    acknowledged: int = field(metadata=wire(_SHARE, "The share of a stage that is waited for."))

    @classmethod
    def of(cls, version: int, rollout: Rollout) -> RolloutDescription:
        """Return what is told of a version's rollout."""
        return cls(
            version=version,
            state=rollout.state.value,
            stage=rollout.stage,
            share=rollout.share,
            stages=rollout.stages,
            pause_on_errors=rollout.pause_on_errors,
            acknowledged=rollout.acknowledged,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeRolloutRequest:
    """``POST /api/ChangeRollout``: take a rollout further, or end it."""

    key_name: KeyName = field(metadata=wire(values.KEY_NAME, "The class key."))
    version: int = field(metadata=wire(values.VERSION, "The version that is rolled out."))
    stage: int = field(metadata=wire(STAGE, "The stage that the caller has found it in."))
    action: str = field(
        metadata=wire(
            one_of(ADVANCE, FINISH, ABORT),
            "One stage further (advance), behind the last stage at once (finish), or given up (abort).",
        )
    )

    @classmethod
    def parse(cls, body: bytes) -> ChangeRolloutRequest:
        """Read the body.

        Raises:
            FormatError: As for :meth:`shared.wire.http.ProvisionRequest.parse`.
        """
        return read_object(cls, Fields(body))


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeRolloutAnswer:
    """200 of ChangeRollout."""

    key_name: KeyName = field(metadata=wire(values.KEY_NAME, "The class key."))
    rollout: RolloutDescription = field(
        metadata=wire(object_of(RolloutDescription), "The rollout as it is from now on.")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldersQuery:
    """Query of ``GET /api/keys/{key_name}/holders``."""

    page_size: int = field(
        default=DEFAULT_PAGE,
        metadata=wire(values.PAGE_SIZE, f"Devices of a page; {DEFAULT_PAGE} by default."),
    )
    token: str | None = field(
        default=None, metadata=wire(values.PAGE_TOKEN, "The next_token of the page before.")
    )
    version: int | None = field(
        default=None,
        metadata=wire(
            VERSION_TEXT, "Only devices that report this version, or were given it as a staged one."
        ),
    )
    state: str | None = field(
        default=None, metadata=wire(one_of(*REPORT_STATES), "Only devices that report this of the class key.")
    )

    @classmethod
    def parse(cls, parameters: Mapping[str, str]) -> HoldersQuery:
        """Read the query.

        Raises:
            FormatError: :class:`shared.wire.request_fields.InvalidRequestError` with every fault.
        """
        return read_object(cls, Fields.of_query(parameters))


@dataclass(frozen=True, slots=True, kw_only=True)
class HolderDescription:
    """A device that holds a class key, or was given it."""

    device_id: DeviceId = field(metadata=wire(values.TEXT, "Device id, or device/module."))
    bucket: int = field(
        metadata=wire(
            Value(schema={"type": "integer", "minimum": 0, "maximum": WHOLE - 1}),
            "Where it stands in every rollout: a share above this number reaches it.",
        )
    )
    given_at: str | None = field(
        metadata=wire(
            values.nullable(values.TEXT), "When the class key was last written into its twin, if it is there."
        )
    )
    staged: int | None = field(
        metadata=wire(values.nullable(values.VERSION), "The version that a rollout gave it, if one did.")
    )
    version: int | None = field(
        metadata=wire(values.nullable(values.COUNT), "The version that it reports; the newest one it holds.")
    )
    state: str | None = field(
        metadata=wire(values.nullable(values.TEXT), "What became of that version, as it reports.")
    )
    error: str | None = field(metadata=wire(values.nullable(values.TEXT), "Why it was refused."))
    outcome: str | None = field(
        metadata=wire(values.nullable(values.TEXT), "What was decided about the device, as its tag tells.")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HolderPage:
    """200 of ``GET /api/keys/{key_name}/holders``."""

    holders: tuple[HolderDescription, ...] = field(
        metadata=wire(list_of(HolderDescription), "Devices and modules.")
    )
    next_token: str | None = field(
        default=None, metadata=wire(values.PAGE_TOKEN, "Asks for the next page; missing on the last one.")
    )
