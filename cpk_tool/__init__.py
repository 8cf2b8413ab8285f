"""The ``cpk-tool`` command: build, inspect, verify and install packages, carry class keys to a CPM."""

from shared.version import VERSION

__all__ = ["VERSION"]
