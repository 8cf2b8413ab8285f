"""The operator's command ``edb``: talks to the function app's HTTP API and to nothing else."""

from shared.version import VERSION

__all__ = ["VERSION"]
