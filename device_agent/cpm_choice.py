"""The client of the CPM that the settings describe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from device_agent.cpm_client import SocketCpmClient

if TYPE_CHECKING:
    from device_agent.cpm_client import CpmClient
    from device_agent.settings import Settings


def cpm_for(settings: Settings) -> CpmClient:
    """Return a client; the CPM need not be there."""
    tool = settings.reference_tool
    if tool is None:
        return SocketCpmClient(settings.cpm_socket)
    # What it needs to judge releases is loaded for those that have such a CPM.
    from device_agent.reference_cpm import Pins, ReferenceCpm  # noqa: PLC0415

    pins = Pins(device_id=settings.device_id, audience=tool.audience, release_keys=tool.release_keys)
    return ReferenceCpm(tool.path, pins=pins, folder=settings.state_dir)
