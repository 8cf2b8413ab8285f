"""The link that the settings describe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from device_agent.adapters.iot_hub_device import IotHubDevice
from device_agent.sign_in import ConnectionString, Direct, EdgeModule

if TYPE_CHECKING:
    from device_agent.settings import Settings

ASSIGNMENT_FILE = "assignment.json"


def link_for(settings: Settings, *, remember: bool = True) -> IotHubDevice:
    """Return an unconnected link that signs in as the settings say.

    Args:
        settings: The agent's.
        remember: Whether the hub that provisioning names is kept for the next time.
    """
    way, ca_pem = settings.sign_in, settings.ca_pem
    match way:
        case ConnectionString():
            return IotHubDevice.from_connection_string(way.text, device_id=way.device_id, ca_pem=ca_pem)
        case EdgeModule():
            return IotHubDevice.from_edge_environment(device_id=way.device_id)
        case Direct():
            return IotHubDevice.from_client_certificate(
                way.credential, host=way.host, device_id=way.device_id, ca_pem=ca_pem
            )
        case _:
            file = settings.state_dir / ASSIGNMENT_FILE if remember else None
            return IotHubDevice.from_provisioning(way, assignment_file=file, ca_pem=ca_pem)
