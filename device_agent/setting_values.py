"""Where settings come from: a TOML file, and environment variables that go before it. All as text, unchecked.

An unknown name is a problem, in the file or behind the prefix. No problem's text shows a value.
"""

from __future__ import annotations

import json
import logging
import stat
import tomllib
from typing import TYPE_CHECKING

from shared.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, MutableMapping
    from pathlib import Path

PREFIX = "DEVICE_AGENT_"
"""What the names of the agent's environment variables begin with."""

_MAX_CONFIG_BYTES = 64 * 1024

_log = logging.getLogger("device_agent")


def read_values(
    config: Path | None,
    environment: MutableMapping[str, str],
    *,
    names: Collection[str],
    secrets: Collection[str],
    problems: list[str],
) -> dict[str, str]:
    """Return every setting that is given, as text; an array of the file becomes one of JSON.

    Args:
        config: The TOML file, if there is one.
        environment: The process's environment; the secrets are taken out of it.
        names: Every setting that there is.
        secrets: Those whose values are secret.
        problems: What is wrong is added here.
    """
    values = _file_values(config, names, secrets, problems)
    for variable in [name for name in environment if name.startswith(PREFIX)]:
        name = variable.removeprefix(PREFIX).lower()
        if name in names:
            values[name] = environment[variable]
        else:
            problems.append(f"{variable}: no such setting")
    for name in secrets:
        environment.pop(f"{PREFIX}{name.upper()}", None)
    return values


def _file_values(
    config: Path | None, names: Collection[str], secrets: Collection[str], problems: list[str]
) -> dict[str, str]:
    if config is None:
        return {}
    try:
        document = tomllib.loads(read_text(config, limit=_MAX_CONFIG_BYTES))
    except FormatError as error:
        problems.append(str(error))
        return {}
    except tomllib.TOMLDecodeError:
        # Its message may quote the line, and the line may hold the connection string.
        problems.append(f"{config}: not TOML")
        return {}
    problems += [f"{config}: {name[:64]}: no such setting" for name in document if name not in names]
    values = _texts({name: value for name, value in document.items() if name in names}, config, problems)
    if values.keys() & set(secrets):
        warn_if_shared(config)
    return values


def _texts(found: Mapping[str, object], config: Path, problems: list[str]) -> dict[str, str]:
    values = {}
    for name, value in found.items():
        if isinstance(value, str):
            values[name] = value
        elif isinstance(value, int | float) and not isinstance(value, bool):
            values[name] = str(value)
        elif isinstance(value, list) and all(isinstance(part, str) for part in value):
            values[name] = json.dumps(value)
        else:
            problems.append(f"{config}: {name}: expected text, found {type(value).__name__}")
    return values


def read_text(path: Path, *, limit: int) -> str:
    """Return a file's text.

    Raises:
        FormatError: It cannot be read, is longer than ``limit`` bytes, or is no UTF-8.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > limit:
        raise FormatError(f"{path}: expected at most {limit} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: expected UTF-8 text") from error


def warn_if_shared(path: Path) -> None:
    """Log a warning if others than the owner can read a secret's file."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        _log.warning("secret_readable_by_others", extra={"file": str(path), "mode": f"{mode:04o}"})
