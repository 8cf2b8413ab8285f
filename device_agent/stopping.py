"""Ending at a signal, at once, wherever the agent is.

A handler in Python runs in the main thread, between two of its steps. The kernel may give the signal to
another thread, or to the main thread just before it goes to sleep in a call; the handler then waits until
that call ends by itself: a whole poll, or a hub's silence. So the interpreter also writes to a pipe, and a
thread that reads from it interrupts the main thread until the handler has run.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)
AGAIN_SECONDS = 0.05
"""How long the main thread may take to notice; it is interrupted again then."""


class Stopped(BaseException):
    """Raised by a signal in the main thread: all that the agent does survives being broken off."""


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Within the context, which the main thread enters, the first of :data:`SIGNALS` raises :class:`Stopped`.

    Further ones are ignored, for good.
    """
    main = threading.get_ident()
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(writing, False)
    noticed = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> NoReturn:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        noticed.set()
        raise Stopped

    def interrupt() -> None:
        numbers = os.read(reading, 1)
        while numbers and not noticed.wait(AGAIN_SECONDS):
            signal.pthread_kill(main, numbers[0])

    for number in SIGNALS:
        signal.signal(number, stop)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    watcher = threading.Thread(target=interrupt, name="signals", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(-1)
        os.close(writing)  # which ends the watcher, if nothing else did
        watcher.join()
        os.close(reading)
