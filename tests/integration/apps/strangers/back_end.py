"""A back end's program, written against ``azure-iot-hub`` and nothing else but ``cloud.json``.

Usage: back_end.py CLOUD_JSON register | add | stop | count | remove
       back_end.py CLOUD_JSON ask NUMBER

``register`` prints the connection string of a device with keys and the id of one with a certificate; ``ask``
ends when both have reported the number.
"""

import json
import os
import sys
import time
from pathlib import Path

from azure.iot.hub import IoTHubRegistryManager
from azure.iot.hub.models import CloudToDeviceMethod, QuerySpecification, Twin, TwinProperties

KEYED, CERTIFIED = "with-keys", "with-certificate"
PATIENCE_SECONDS = 120


def register(registry, host):
    device = registry.create_device_with_sas(KEYED, None, None, "enabled")
    registry.create_device_with_certificate_authority(CERTIFIED, "enabled")
    for device_id in (KEYED, CERTIFIED):
        registry.update_twin(device_id, Twin(tags={"owner": "stranger"}), registry.get_twin(device_id).etag)
    key = device.authentication.symmetric_key.primary_key
    return {
        "keyed": f"HostName={host};DeviceId={KEYED};SharedAccessKey={key}",
        "certified": CERTIFIED,
    }


def ask(registry, number):
    for device_id in (KEYED, CERTIFIED):
        registry.update_twin(device_id, Twin(properties=TwinProperties(desired={"number": number})))
    query = "SELECT * FROM devices WHERE tags.owner = 'stranger' AND properties.reported.number = "
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        found, page = [], None
        while page is None or page.continuation_token:
            token = page.continuation_token if page else None
            page = registry.query_iot_hub(QuerySpecification(query=query + str(number)), token, 1)
            found += [twin.device_id for twin in page.items]
        if found == sorted((KEYED, CERTIFIED)):
            return found
        if time.monotonic() > deadline:
            sys.exit(f"only {found} reported {number}")
        time.sleep(0.1)


def call(registry, name, payload):
    method = CloudToDeviceMethod(
        method_name=name, payload=payload, response_timeout_in_seconds=60, connect_timeout_in_seconds=60
    )
    return [registry.invoke_device_method(device_id, method).payload for device_id in (KEYED, CERTIFIED)]


def count(registry):
    page = registry.query_iot_hub(QuerySpecification(query="SELECT COUNT() AS n FROM devices"))
    return [row.additional_properties for row in page.items]


def remove(registry):
    for device_id in (KEYED, CERTIFIED):
        registry.delete_device(device_id, registry.get_device(device_id).etag)
    return [device.device_id for device in registry.get_devices()]


def main():
    cloud = json.loads(Path(sys.argv[1]).read_text())
    os.environ["REQUESTS_CA_BUNDLE"] = cloud["hub"]["ca_file"]
    registry = IoTHubRegistryManager.from_connection_string(cloud["hub"]["service_connection_string"])
    actions = {
        "register": lambda: register(registry, cloud["hub"]["host"]),
        "ask": lambda: ask(registry, int(sys.argv[3])),
        "add": lambda: call(registry, "add", [3, 4]),
        "stop": lambda: call(registry, "stop", None),
        "count": lambda: count(registry),
        "remove": lambda: remove(registry),
    }
    sys.stdout.write(json.dumps(actions[sys.argv[2]]()))


main()
