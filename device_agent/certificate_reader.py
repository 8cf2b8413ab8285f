"""Has certificates read by :mod:`device_agent.certificate_program`, a process that ends when it has answered.

It gets little environment, limited time and output; what it reads may be anybody's.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from device_agent.bounded_command import run_command
from device_agent.certificate import DeviceCertificate
from shared.encoding import decode_base64, encode_base64
from shared.errors import FormatError, TransportError, VerificationError

READING_SECONDS = 60.0
"""Longest that reading one chain may take, on a slow device that has much else to do."""

_MAX_ANSWER_BYTES = 256 * 1024
_PYTHONS_OWN = ("PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE")
"""Variables that the interpreter may need to find the agent."""

_BYTES = frozenset({"der", "pem", "leaf_spki"})


def read_certificate(
    data: bytes, *, where: str, roots: str | None = None, at: float = 0.0
) -> DeviceCertificate:
    """Read a chain, leaf first, and validate its path if there are roots.

    Args:
        data: PEM or DER.
        where: What is being read, for messages.
        roots: PEM of the roots that the path must end in; None validates nothing.
        at: The time to validate it for, Unix seconds.

    Raises:
        FormatError: It is none, or too long for a twin.
        VerificationError: Its path does not end in one of ``roots``.
        TransportError: It could not be read now.
    """
    asked = {"chain": encode_base64(data), "where": where, "roots": roots, "at": at}
    done = run_command(
        # -P: nothing is imported from the current folder.
        (sys.executable, "-P", "-m", "device_agent.certificate_program"),
        stdin=json.dumps(asked).encode(),
        seconds=READING_SECONDS,
        limit=_MAX_ANSWER_BYTES,
        environment={name: os.environ[name] for name in _PYTHONS_OWN if name in os.environ},
    )
    if done.status != 0:
        raise TransportError(f"{where}: reading it ended with status {done.status}")
    answer = json.loads(done.stdout)
    if (error := answer.get("error")) is not None:
        kind = VerificationError if error["refused"] else FormatError
        raise kind(error["message"], code=error["code"])
    fields: dict[str, Any] = {
        name: decode_base64(value, where=name) if name in _BYTES else value for name, value in answer.items()
    }
    return DeviceCertificate(**fields)
