"""Releases: the signed statement of which class keys, in which versions, a device may hold.

:mod:`shared.release.document` writes and parses them, :mod:`shared.release.verifying` decides whether a
device may believe one.
"""
