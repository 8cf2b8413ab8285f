"""The function app's SDKs: Key Vault and IoT Hub, behind the ports of the core."""
