"""The audit chain: records of decisions and operations, each bound to all before it.

:mod:`shared.audit.chain` links, writes, reads and verifies; where the records rest is not its matter.
"""
