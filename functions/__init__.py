"""The function app: class keys are provisioned, wrapped for build machines and distributed to devices.

``app`` puts it together; one module a contract speaks to the Functions host; ``class_keys`` and
``distribute`` do the work behind ports; ``adapters`` alone know the SDKs.
"""
