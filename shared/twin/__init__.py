"""Twin documents, their size budget, and the pure decision what a device's twin should hold.

Specification: ``docs/spec/key-sharing-protocol.md``, sections 4 and 5.
"""
