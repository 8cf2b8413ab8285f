"""Structured logs: one JSON object a line, on standard error.

Operations log an event name and plain fields: ``log.info("release_applied", extra={"device_id": …})``. Never
keys, tokens, arguments, environments or bodies.
"""

from __future__ import annotations

import logging
import sys

from pythonjsonlogger.json import JsonFormatter


def configure(level: str = "INFO") -> None:
    """Send the root logger's records to standard error as JSON lines.

    Each line holds ``time`` (RFC 3339, UTC), ``level``, ``logger``, ``event`` and the record's own fields.
    Call it once, from a deployable's ``main``.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter(
            "%(levelname)s %(name)s %(message)s",
            rename_fields={"levelname": "level", "name": "logger", "message": "event", "timestamp": "time"},
            timestamp=True,
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # The SDKs log requests, topics and tokens below WARNING.
    for noisy in ("azure", "paho", "urllib3", "httpx", "msal", "msrest", "uamqp"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
