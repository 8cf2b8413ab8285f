"""An argument parser that fails as everything else does, and tells what it has declared."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

from shared.command_line.output import UsageError


class Parser(argparse.ArgumentParser):
    """Says what is wrong the way every other error is said, and what it has declared."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and raise the error."""
        self.print_usage(sys.stderr)
        raise UsageError(message)

    def declared(self) -> list[argparse.Action]:
        """Return every argument and option, in the order of their declaration."""
        return list(self._actions)

    def declared_groups(self) -> list[tuple[str, list[argparse.Action]]]:
        """Return the titles of the groups that hold anything, each with its arguments and options."""
        return [
            (group.title or "", list(group._group_actions))  # noqa: SLF001 - argparse offers no other way
            for group in self._action_groups
            if group._group_actions  # noqa: SLF001 - as above
        ]
