"""The ``cpk-tool`` command: build, inspect, verify and install packages, carry class keys to a CPM."""

VERSION = "0.1.0"
"""The project's version; here as a literal because reading package metadata takes longer than starting."""
