"""The device agent: keeps a device's twin and its Confidential Package Manager in step.

It reports the device key and certificate, hands signed key releases to the CPM, and reports what came of
them. It carries wrapped keys and never opens one.
"""
