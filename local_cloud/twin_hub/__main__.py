"""Starts a twin hub as a process: ``python -m local_cloud.twin_hub --state DIR …``."""

from __future__ import annotations

import asyncio
import sys

from local_cloud.twin_hub.server import serve
from local_cloud.twin_hub.settings import parse_settings
from shared import logs
from shared.errors import EdbError


def main() -> int:
    """Serve until told to end.

    Returns:
        0 after an orderly end, 1 if the hub could not start; argparse itself ends with 2.
    """
    try:
        settings = parse_settings(sys.argv[1:])
        logs.configure(settings.log_level)
        asyncio.run(serve(settings, ready=_say_ready))
    except EdbError as error:
        _complain(error)
        return 1
    return 0


def _say_ready(https_port: int) -> None:
    sys.stdout.write(f"ready https={https_port}\n")
    sys.stdout.flush()


def _complain(error: EdbError) -> None:
    sys.stderr.write(f"twin-hub: error: {error}\n")
    if error.hint is not None:
        sys.stderr.write(f"hint: {error.hint}\n")


if __name__ == "__main__":
    sys.exit(main())
