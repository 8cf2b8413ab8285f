"""Devices of a running hub, enrolled and signed in by SDKs that know nothing of this project."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from azure.iot.device import IoTHubDeviceClient, IoTHubModuleClient
from azure.iot.hub import IoTHubRegistryManager
from azure.iot.hub.models import Twin

if TYPE_CHECKING:
    from collections.abc import Mapping

KEY = "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s="


class HubDevices:
    """The devices and modules of a hub.

    Args:
        service_connection_string: Of the hub's service endpoint.
        device_host: Where devices connect.
        ca_file: PEM of what TLS is trusted by.
    """

    def __init__(self, service_connection_string: str, *, device_host: str, ca_file: str) -> None:
        self.service = IoTHubRegistryManager.from_connection_string(service_connection_string)
        self.service.protocol.config.connection.verify = ca_file
        self._host, self._trusted = device_host, Path(ca_file).read_text(encoding="ascii")

    def enrol(self, device_id: str, *, tags: Mapping[str, object] | None = None, status: str = "enabled"):
        device, _, module = device_id.partition("/")
        if module:
            self.service.create_module_with_sas(device, module, "test", KEY, KEY)
            if tags:
                self.service.update_module_twin(device, module, Twin(tags=tags), "*")
        else:
            self.service.create_device_with_sas(device, KEY, KEY, status)
            if tags:
                self.service.update_twin(device, Twin(tags=tags), "*")

    def delete(self, device_id: str) -> None:
        self.service.delete_device(device_id)

    def set_status(self, device_id: str, status: str) -> None:
        etag = self.service.get_device(device_id).etag
        self.service.update_device_with_sas(device_id, etag, KEY, KEY, status)

    def report(self, device_id: str, patch: Mapping[str, object]) -> None:
        """Sign in with the connection string, and report."""
        device, _, module = device_id.partition("/")
        connection = f"HostName={self._host};DeviceId={device};SharedAccessKey={KEY}"
        if module:
            connection += f";ModuleId={module}"
        kind = IoTHubModuleClient if module else IoTHubDeviceClient
        client = kind.create_from_connection_string(connection, server_verification_cert=self._trusted)
        client.connect()
        client.patch_twin_reported_properties(patch)
        client.shutdown()

    def twin(self, device_id: str) -> Twin:
        device, _, module = device_id.partition("/")
        return self.service.get_module_twin(device, module) if module else self.service.get_twin(device)
