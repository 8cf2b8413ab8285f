"""The port to the device's twin: what the agent needs from a hub, whichever SDK speaks to it.

A link is used from one thread. What the hub says unasked arrives as events, which an adapter only hands to
the ``notify`` function that it was given; it does no work of its own on them.

Example:
    >>> link.connect(inbox.put)
    >>> link.get_twin().desired.version
    7
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from device_agent.twin_bounds import check_bounds
from shared.errors import FormatError

if TYPE_CHECKING:
    from shared.types import DeviceId

UNAUTHORIZED = "hub_unauthorized"
"""Code of the error when the hub refuses the device itself: a wrong key, or a device that is disabled."""

REFUSED = "hub_refused"
"""Code of the error when the hub takes no such document; sending it again cannot help."""

_VERSION = "$version"


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredPatch:
    """The hub pushed a change of the desired properties.

    Args:
        document: The merge patch as it came, unparsed.
    """

    document: object


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkChanged:
    """The connection was lost, or something happened that makes what is known about the twin doubtful."""


Event = DesiredPatch | LinkChanged
Notify = Callable[[Event], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One section of a twin, or a patch of one.

    Args:
        version: The hub's ``$version`` of the section after this.
        properties: Everything else, without the hub's own ``$`` entries at the top.
    """

    version: int
    properties: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Twin:
    """A device's or module's whole twin, as the device sees it.

    Args:
        desired: Written by the cloud.
        reported: Written by the device.
    """

    desired: Section
    reported: Section


class TwinLink(Protocol):
    """A device's connection to its hub. All calls are ended by a deadline; none waits for good."""

    @property
    def device_id(self) -> DeviceId:
        """The device's id, or ``device/module``."""

    @property
    def connected(self) -> bool:
        """Whether the connection stands, without a break, since the last :meth:`connect`."""

    def connect(self, notify: Notify) -> None:
        """Connect and subscribe; desired patches from now on reach ``notify``, from any thread.

        Repeat: drops the connection that there was.

        Raises:
            TransportError: The hub cannot be reached, or :data:`UNAUTHORIZED`.
        """

    def get_twin(self) -> Twin:
        """Read the whole twin.

        Raises:
            TransportError: The connection broke or the hub did not answer.
            FormatError: The hub answered something that is no twin.
        """

    def patch_reported(self, patch: Mapping[str, object]) -> None:
        """Merge ``patch`` into the reported properties; never queued.

        Raises:
            TransportError: It may or may not have arrived.
            FormatError: :data:`REFUSED`; the hub took nothing of it.
        """

    def disconnect(self) -> None:
        """Drop the connection without waiting for the hub; repeated or unconnected, nothing happens."""


def parse_section(document: object, *, where: str) -> Section:
    """Read a twin's section, or a patch of one.

    Raises:
        FormatError: Not an object with an integer ``$version``, or larger than a section may be.
    """
    check_bounds(document, where=where)
    if not isinstance(document, dict):
        raise FormatError(f"{where}: expected an object, found {type(document).__name__}")
    version = document.get(_VERSION)
    if not isinstance(version, int) or isinstance(version, bool) or version < 0:
        raise FormatError(f"{where}/{_VERSION}: expected a whole number, found {type(version).__name__}")
    return Section(
        version=version,
        properties={name: value for name, value in document.items() if not name.startswith("$")},
    )


def parse_twin(document: object) -> Twin:
    """Read a whole twin.

    Raises:
        FormatError: Not an object with the sections ``desired`` and ``reported``.
    """
    if not isinstance(document, dict):
        raise FormatError(f"twin: expected an object, found {type(document).__name__}")
    return Twin(
        desired=parse_section(document.get("desired"), where="twin/desired"),
        reported=parse_section(document.get("reported"), where="twin/reported"),
    )
