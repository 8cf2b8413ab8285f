"""An embedded emulator of Azure IoT Hub's twins, for one machine.

Devices speak MQTT 3.1.1 over TLS as ``azure-iot-device`` does, back ends speak HTTPS as ``azure-iot-hub``
does. Identities, twins, sessions and twin-change events survive a kill at any moment.
"""
