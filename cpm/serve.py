"""The composition root of ``cpm serve``: every part is made here, once, and handed to those that need it."""

from __future__ import annotations

import contextlib
import logging
import signal
from typing import TYPE_CHECKING

from cpm.clock import ProvenClock
from cpm.custody.choice import open_custody
from cpm.listener import listen, unlisten
from cpm.sealed_store import SealedStore
from cpm.server import Server
from cpm.service import Service
from cpm.state_file import LockedFolder, StateFile
from shared.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cpm.custody.port import Custody
    from cpm.settings import ServeSettings

PACKAGES_FOLDER = "packages"

log = logging.getLogger("cpm")


def serve(settings: ServeSettings) -> None:
    """Serve until SIGTERM or SIGINT; print one line beginning with ``ready`` when clients may connect.

    The process must have been hardened before.

    Raises:
        EdbError: It cannot start; the state is as it was.
    """
    with (
        LockedFolder.open(settings.state) as folder,
        contextlib.closing(
            open_custody(settings.custody, folder.path, key_type=settings.key_type)
        ) as custody,
    ):
        service = _assemble(settings, folder, custody)
        listener = listen(settings.socket)
        server = Server(listener=listener, service=service, allowed_uids=settings.allowed_uids)
        try:
            with contextlib.closing(server), _stopped_by_signals(server):
                print(f"ready {settings.socket}", flush=True)  # noqa: T201 - whoever started us waits for it
                log.info(
                    "ready",
                    extra={
                        "device_id": settings.device_id,
                        "sandbox": settings.pins.workloads.sandbox.choice.value,
                    },
                )
                server.serve()
        finally:
            unlisten(listener, settings.socket)
    log.info("stopped")


@contextlib.contextmanager
def _stopped_by_signals(server: Server) -> Iterator[None]:
    """Let the interpreter itself wake the server: a handler in Python may have to wait for the next event."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: None)
    signal.set_wakeup_fd(server.wake_fd, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(-1)


def _assemble(settings: ServeSettings, folder: LockedFolder, custody: Custody) -> Service:
    state_file = StateFile.open(
        folder.path, custody, audience=settings.audience, device_id=settings.device_id
    )
    return Service(
        state_file=state_file,
        store=SealedStore(folder.path / PACKAGES_FOLDER, quota=settings.quota),
        custody=custody,
        pins=settings.pins,
        clock=ProvenClock(),
        program_version=VERSION,
    )
