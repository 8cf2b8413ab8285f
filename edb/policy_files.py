"""A policy file, read as the function app reads it, and what it is warned about."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edb.output import MESSAGES
from shared.errors import FormatError
from shared.policy.document import MAX_POLICY_BYTES, load_policy

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from shared.policy.document import Policy
    from shared.policy.linting import Finding


def read_limited(path: Path, *, most: int) -> bytes:
    """Return a file's bytes.

    Raises:
        FormatError: It holds more than ``most``.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise FormatError(f"{path}: expected at most {most} bytes, found more")
    return data


def read_policy(path: Path) -> tuple[Policy, bytes]:
    """Return a policy and its bytes.

    Raises:
        FormatError: It is none; the message holds the JSON pointer of the fault.
        OSError: It cannot be read.
    """
    data = read_limited(path, most=MAX_POLICY_BYTES)
    return load_policy(data, where=str(path)), data


def warn_of(findings: Sequence[Finding], path: Path) -> None:
    """Write every finding to standard error."""
    for finding in findings:
        MESSAGES.warn(f"{path}: at {finding.pointer}: {finding.code}: {finding.message}")


def findings_document(findings: Sequence[Finding]) -> list[dict[str, str]]:
    """Return the findings for machines."""
    return [
        {"pointer": finding.pointer, "code": finding.code, "message": finding.message} for finding in findings
    ]
