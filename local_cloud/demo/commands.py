"""Run the project's own commands, as a person at a shell would."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from local_cloud.demo.waiting import LIMIT_SECONDS, RETRY_SECONDS, until
from shared.errors import EdbError, TransportError

if TYPE_CHECKING:
    from collections.abc import Mapping

REFUSED = 3
"""Exit status of a command that refuses: verification failed, or policy says no."""

_SHOWN_LINES = 6
"""Of a failed command's error output, in a message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Commands:
    """The commands that stand beside this interpreter.

    Attributes:
        folder: Where they stand.
        environment: What they see.
    """

    folder: Path
    environment: Mapping[str, str]

    @classmethod
    def beside_interpreter(cls, environment: Mapping[str, str]) -> Commands:
        """Use the folder that holds the running interpreter, such as a virtual environment's ``bin``."""
        return cls(folder=Path(sys.executable).parent, environment=environment)

    def path(self, name: str) -> str:
        """Return a command's path."""
        return str(self.folder / name)

    def ask(self, name: str, *arguments: str, stdin: str = "") -> str:
        """Run a command until it succeeds, and return its output.

        A command that fails is tried again while there is time: the process that it talks to may be starting
        again. One that refuses, or is used wrongly, is not.

        Args:
            name: The command.
            arguments: Its arguments.
            stdin: Its input.

        Raises:
            EdbError: It refused, or failed until the time was over; the message holds what it said.
        """

        def attempt() -> str:
            done = self.run(name, *arguments, stdin=stdin)
            if done.returncode == 0:
                return done.stdout
            message = f"{name} {arguments[0]}: exit {done.returncode}: {_said(done)}"
            if done.returncode == 1 or done.returncode < 0:
                raise TransportError(message)
            raise EdbError(message, code="command_failed")

        return until(attempt, what=f"{name} {arguments[0]}", pause=RETRY_SECONDS)

    def ask_json(self, name: str, *arguments: str) -> dict[str, object]:
        """Run a command as :meth:`ask` does, and return the JSON object that it prints."""
        printed = self.ask(name, *arguments)
        try:
            value = json.loads(printed)
        except ValueError as error:
            raise EdbError(f"{name} {arguments[0]}: expected JSON, found {printed[:80]!r}") from error
        if not isinstance(value, dict):
            raise EdbError(f"{name} {arguments[0]}: expected a JSON object, found {type(value).__name__}")
        return value

    def refusal(self, name: str, *arguments: str) -> str:
        """Run a command that must refuse, and return the reason that it gives.

        Raises:
            EdbError: It did not refuse: that is what the demonstration must never see.
        """

        def attempt() -> str:
            done = self.run(name, *arguments)
            if done.returncode == REFUSED:
                return _said(done)
            message = (
                f"{name} {arguments[0]}: expected exit {REFUSED}, found {done.returncode}: {_said(done)}"
            )
            if done.returncode == 0:
                raise EdbError(message, code="not_refused")
            raise TransportError(message)

        return until(attempt, what=f"{name} {arguments[0]}", pause=RETRY_SECONDS)

    def run(self, name: str, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command once, whatever its exit status.

        Raises:
            EdbError: It cannot be started, or does not end.
        """
        try:
            return subprocess.run(  # noqa: S603 - the project's own commands, by their full path
                [self.path(name), *arguments],
                input=stdin,
                capture_output=True,
                text=True,
                env=self.environment,
                timeout=LIMIT_SECONDS,
                check=False,
            )
        except OSError as error:
            raise EdbError(f"cannot start {self.path(name)}: {error.strerror}") from error
        except subprocess.TimeoutExpired as error:
            raise EdbError(f"{name} {arguments[0]}: did not end within {LIMIT_SECONDS:.0f} s") from error


def _said(done: subprocess.CompletedProcess[str]) -> str:
    """Return the end of what a command said on its error output, on one line."""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return " | ".join(lines[-_SHOWN_LINES:]) or "nothing on its error output"
