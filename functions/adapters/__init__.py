"""The function app's SDKs and its disk, behind the ports of the core and of its own."""
