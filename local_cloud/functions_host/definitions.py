"""What a function is to the host: its name and its bindings, as ``function.json`` would have them.

Settings in ``%NAME%`` are resolved here, by the host, as the platform does it: the worker sees them verbatim.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from shared.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Mapping

RETURN = "$return"
"""Name of the binding that takes a function's return value."""

_SETTING = re.compile(r"%([^%]+)%")


class TriggerType(enum.Enum):
    """What can start a function here."""

    HTTP = "httpTrigger"
    TIMER = "timerTrigger"
    QUEUE = "queueTrigger"
    EVENT_HUB = "eventHubTrigger"
    EVENT_GRID = "eventGridTrigger"


class OutputType(enum.Enum):
    """Where a function's output can go here."""

    HTTP = "http"
    QUEUE = "queue"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """What starts a function.

    Attributes:
        argument: Name of the parameter that takes it.
        type: Which kind.
        members: The binding's JSON members.
    """

    argument: str
    type: TriggerType
    members: Mapping[str, object]

    def text(self, member: str, default: str = "") -> str:
        """Return a textual member, or the default."""
        value = self.members.get(member)
        return value if isinstance(value, str) else default


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Where one output of a function goes.

    Attributes:
        argument: Name of the ``func.Out`` parameter, or :data:`RETURN`.
        type: Which kind.
        queue: For a queue, its name as the decorator gave it.
    """

    argument: str
    type: OutputType
    queue: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionDefinition:
    """A function of the app."""

    name: str
    trigger: Trigger
    outputs: tuple[Output, ...]

    def returns(self) -> Output | None:
        """Return where the return value goes, if anywhere."""
        return next((output for output in self.outputs if output.argument == RETURN), None)


_RESOLVED_MEMBERS = ("schedule", "queueName", "eventHubName")


def resolved(function: FunctionDefinition, environment: Mapping[str, str]) -> FunctionDefinition:
    """Return the function with the settings in its bindings resolved.

    Raises:
        FormatError: A setting is not there.
    """
    where = f"function {function.name}"
    members = dict(function.trigger.members)
    for member in _RESOLVED_MEMBERS:
        if isinstance(text := members.get(member), str):
            members[member] = resolve_settings(text, environment, where=where)
    outputs = tuple(
        replace(output, queue=resolve_settings(output.queue, environment, where=where))
        for output in function.outputs
    )
    return replace(function, trigger=replace(function.trigger, members=members), outputs=outputs)


def resolve_settings(text: str, environment: Mapping[str, str], *, where: str) -> str:
    """Return ``text`` with each ``%NAME%`` replaced by that setting.

    Raises:
        FormatError: A setting is not there.
    """

    def setting(match: re.Match[str]) -> str:
        value = environment.get(match[1])
        if value is None:
            raise FormatError(f"{where}: the setting {match[1]} in {text!r} is not set")
        return value

    return _SETTING.sub(setting, text)
