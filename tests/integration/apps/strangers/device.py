"""A device's program, written against ``azure-iot-device`` and nothing else.

It reports the number in its desired properties and answers the direct method ``add``; ``stop`` ends it.

Usage: device.py CA_FILE CONNECTION_STRING
       device.py CA_FILE HOST DEVICE_ID CERTIFICATE_FILE KEY_FILE
"""

import sys
import threading
from pathlib import Path

from azure.iot.device import X509, IoTHubDeviceClient, MethodResponse

RENEWED_EARLY = 120
"""Seconds before its end that the SDK renews a shared access signature."""


def client_from(ca_file, *identity):
    options = {"server_verification_cert": Path(ca_file).read_text(), "connection_retry_interval": 1}
    if len(identity) == 1:
        options["sastoken_ttl"] = RENEWED_EARLY + 3
        return IoTHubDeviceClient.create_from_connection_string(identity[0], **options)
    host, device_id, certificate, key = identity
    return IoTHubDeviceClient.create_from_x509_certificate(X509(certificate, key), host, device_id, **options)


def main():
    client = client_from(*sys.argv[1:])
    stopped = threading.Event()

    def report(desired):
        if "number" in desired:
            client.patch_twin_reported_properties({"number": desired["number"]})

    def answer(request):
        known = {"add": lambda: sum(request.payload), "stop": lambda: None}
        call = known.get(request.name)
        response = (200, call()) if call else (404, None)
        client.send_method_response(MethodResponse(request.request_id, *response))
        if request.name == "stop":
            stopped.set()

    client.on_twin_desired_properties_patch_received = report
    client.on_method_request_received = answer
    client.connect()
    report(client.get_twin()["desired"])
    stopped.wait()
    client.shutdown()


main()
