"""The function app itself, that kills its own process before or after the nth write of a twin, as planned.

The file ``crashes`` of its state says when, a line for each life of the process: ``before 3``, ``after 6``.
It is deaf to twin events, so that what a page was to do is done by that page or not at all.
"""

import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

from functions import distribute_key
from functions.app import build_app
from functions.services import connect

plan = Path(os.environ["EDB_AUDIT_FOLDER"]).parent / "crashes"


class CrashingRegistry:
    """The hub's twins."""

    def __init__(self, registry):
        self._registry = registry
        self._lock = threading.Lock()
        self._writes = 0

    def __getattr__(self, name):
        return getattr(self._registry, name)

    def patch(self, device_id, patch, *, etag):
        """Write, and crash if it is time."""
        with self._lock:
            due, *_ = [*plan.read_text().splitlines(), ""]
            if due == f"before {self._writes + 1}":
                die()
            self._registry.patch(device_id, patch, etag=etag)
            self._writes += 1  # one that lost against another's is none
            if due == f"after {self._writes}":
                die()


def die():
    """End at once, as by ``kill -9``, and not at this moment again."""
    _, *later = plan.read_text().splitlines()
    following = plan.with_suffix(".next")
    following.write_text("".join(f"{line}\n" for line in later))
    following.replace(plan)  # whoever waits for the last one never sees half of it
    os.kill(os.getpid(), signal.SIGKILL)


def connect_services(settings):
    """Put the services together, over a registry that crashes."""
    services = connect(settings)
    return replace(services, registry=CrashingRegistry(services.registry))


distribute_key.changed_devices = lambda _events: []
app = build_app(os.environ, connect_services=connect_services)
