"""The reference Confidential Package Manager: a process of its own and the sole holder of the device key.

It takes signed key releases and sealed packages over a Unix socket, and runs what it installed. Nothing
outside it ever sees a class key, or a clear payload that the device's owner did not allow to be streamed.
"""
