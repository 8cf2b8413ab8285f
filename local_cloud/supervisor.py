"""Child processes: started, watched, started again when they die, ended with their parent.

A child says on its standard output when it is ready, and on which port: ``ready https=PORT`` or ``ready
url=https://ADDRESS:PORT``. Its standard error goes to its log. Its standard input is a pipe from here, and
the child ends when that closes, so that none outlives this process, however it ends.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from local_cloud.files import PRIVATE, write_atomically
from shared.errors import StorageError, TransportError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

READY_SECONDS = 120.0
"""How long a child may take until it is ready; a busy machine is slow."""

STOP_SECONDS = 8.0
"""How long a child may take to end by itself."""

FIRST_DELAY, LONGEST_DELAY = 0.1, 5.0
"""Seconds before a child that died is started again: the first time, and at most."""

STEADY_SECONDS = 10.0
"""A child that ran so long starts again without further delay."""

_READY = re.compile(r"ready (?:https=|url=https://[0-9.]+:)([0-9]{1,5})")
_log = logging.getLogger("local_cloud")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSettings:
    """What a child is.

    Attributes:
        name: For logs and files.
        command: Returns its command line for a port; 0 asks for any free one.
        environment: Returns all of its environment.
        log: File that its standard error is appended to.
        pid_file: File that holds its process id while it runs.
    """

    name: str
    command: Callable[[int], Sequence[str]]
    environment: Callable[[], Mapping[str, str]]
    log: Path
    pid_file: Path


class Child:
    """One child process.

    Args:
        settings: What it is.
        port: The port it had before, or 0.
    """

    def __init__(self, settings: ChildSettings, port: int) -> None:
        self._settings = settings
        self._process: asyncio.subprocess.Process | None = None
        self._drain: asyncio.Task[None] | None = None
        self.port = port

    async def start(self) -> int:
        """Start it and wait until it is ready.

        Returns:
            The port it listens on; after a restart the same one.

        Raises:
            TransportError: It ended instead, or took too long; the message holds what it said.
            StorageError: Its log cannot be written.
        """
        offset = self._open_log()
        command = self._settings.command(self.port)
        log = os.open(self._settings.log, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=dict(self._settings.environment()),
                start_new_session=True,  # a terminal's Ctrl-C is for the parent, which ends it in order
            )
        finally:
            os.close(log)
        write_atomically(self._settings.pid_file, b"%d\n" % self._process.pid)
        try:
            line = await asyncio.wait_for(self._line(), READY_SECONDS)
        except TimeoutError:
            line = ""
        ready = _READY.fullmatch(line.strip())
        if ready is None:
            await self.stop()
            raise TransportError(
                f"{self._settings.name} did not start: {self._last_words(offset)}",
                hint=f"its log: {self._settings.log}",
            )
        self.port = int(ready[1])
        self._drain = asyncio.create_task(self._drained())
        return self.port

    async def watch(self) -> None:
        """Start it again whenever it dies, until cancelled."""
        delay = FIRST_DELAY
        while True:
            started = time.monotonic()
            if self._process is not None:
                status = await self._process.wait()
                _log.warning("child_ended", extra={"child": self._settings.name, "status": status})
            if time.monotonic() - started > STEADY_SECONDS:
                delay = FIRST_DELAY
            await asyncio.sleep(delay)
            delay = min(2 * delay, LONGEST_DELAY)
            try:
                await self.start()
            except (TransportError, StorageError, OSError) as error:
                _log.error("child_not_restarted", extra={"child": self._settings.name, "reason": str(error)})
            else:
                _log.info("child_restarted", extra={"child": self._settings.name, "port": self.port})

    async def stop(self) -> None:
        """End it, by force if it does not end by itself."""
        process = self._process
        if process is None:
            return
        if process.returncode is None and process.stdin is not None:
            process.stdin.close()
            try:
                await asyncio.wait_for(process.wait(), STOP_SECONDS)
            except TimeoutError:
                process.kill()
                await process.wait()
        if self._drain is not None:
            self._drain.cancel()
        self._process = None
        self._settings.pid_file.unlink(missing_ok=True)

    async def _line(self) -> str:
        assert self._process is not None  # noqa: S101 - called by start() alone
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        return (await self._process.stdout.readline()).decode(errors="replace")

    async def _drained(self) -> None:
        """Read on, so that a child that prints is never stopped by a full pipe."""
        while await self._line():
            pass

    def _open_log(self) -> int:
        """Make the log if it is not there, and return its length."""
        try:
            handle = os.open(self._settings.log, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
            try:
                return os.fstat(handle).st_size
            finally:
                os.close(handle)
        except OSError as error:
            raise StorageError(f"cannot write {self._settings.log}: {error.strerror}") from error

    def _last_words(self, offset: int) -> str:
        """Return the error that the child wrote to its log since ``offset``."""
        with self._settings.log.open("rb") as log:
            log.seek(offset)
            lines = log.read().decode(errors="replace").splitlines()
        said = [line.partition("error: ")[2] for line in lines if "error: " in line and line[0] != "{"]
        if said:
            return said[-1]
        return lines[-1] if lines else "it said nothing"
