"""Shares of a fleet on the command line and on the screen: percent, down to hundredths of one."""

from __future__ import annotations

import argparse
import re

from shared.errors import FormatError
from shared.rollout import WHOLE, Rollout

_PERCENT = re.compile(r"(0|[1-9][0-9]{0,2})(?:\.([0-9]{1,2}))?%", re.ASCII)
_POINTS = 100


def read_share(text: str) -> int:
    """Return a share in basis points.

    Raises:
        FormatError: It is not 0% to 100% in steps of 0.01.

    Example:
        >>> read_share("0.25%"), read_share("100%")
        (25, 10000)
    """
    match = _PERCENT.fullmatch(text)
    points = -1 if match is None else int(match[1]) * _POINTS + int((match[2] or "").ljust(2, "0"))
    if not 0 <= points <= WHOLE:
        raise FormatError(f"expected 0% to 100% in steps of 0.01, found {text[:32]!r}")
    return points


def share(text: str) -> int:
    """Read a share on the command line."""
    try:
        return read_share(text)
    except FormatError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def shares(text: str) -> tuple[int, ...]:
    """Read shares on the command line, with commas between them."""
    return tuple(share(each) for each in text.split(","))


def percent(points: int) -> str:
    """Return a share in basis points as percent.

    Example:
        >>> percent(25), percent(150), percent(10000)
        ('0.25%', '1.5%', '100%')
    """
    whole, rest = divmod(points, _POINTS)
    return f"{whole}.{rest:02}".rstrip("0").rstrip(".") + "%"


def stages_text(rollout: Rollout) -> str:
    """Return the stages of a rollout, with the word that says how far it is."""
    stages = ", ".join(percent(stage) for stage in rollout.stages)
    at = min(rollout.stage, len(rollout.stages) - 1) + 1
    return f"{rollout.state.value}: stage {at} of {len(rollout.stages)} ({stages})"
