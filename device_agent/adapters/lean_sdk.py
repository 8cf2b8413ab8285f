"""Import ``azure-iot-device`` without the HTTP stack that it pulls in and the agent almost never uses.

The SDK uses ``requests`` for file uploads, of which the agent makes none, and for the workload API of IoT
Edge, which only a module of Edge calls. It is imported on its first use instead, by
:class:`importlib.util.LazyLoader`; and since the SDK makes an upload transport, TLS context and all, for
every client, it is given one that refuses. Its MQTT client looks for a proxy with the standard library's HTTP
client; that look is left out where no variable names one. What all this saves is measured by
``bench/footprint.py``; that the SDK still works so is what every integration test of the agent shows.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from types import ModuleType

LAZY = frozenset({"requests", "urllib.request", "azure.iot.device.iothub.edge_hsm"})
"""Modules that wait for their first use; whatever they import waits with them."""


class _LazyFinder:
    """Finds the modules of :data:`LAZY` as the interpreter would, and puts off running them."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a spec whose loader waits; None for all other modules."""
        if name not in LAZY:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        spec.loader = LazyLoader(spec.loader)
        return spec


@contextmanager
def lean_imports() -> Iterator[None]:
    """Within the context, modules of :data:`LAZY` that are imported for the first time wait for their use."""
    sys.meta_path.insert(0, _LazyFinder)
    try:
        yield
    finally:
        sys.meta_path.remove(_LazyFinder)


def is_proxy_named(variables: Iterable[str]) -> bool:
    """Say whether paho has a proxy to look for, among the names of environment variables."""
    return any(name.lower() == "mqtt_proxy" for name in variables)


class NoUploads:
    """Stands where the SDK keeps its transport for file uploads; the options are the transport's."""

    def __init__(self, **_options: object) -> None:
        """Take the options and do nothing with them."""

    def request(self, *_arguments: object, **_options: object) -> NoReturn:
        """Refuse.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("the agent uploads no files")
