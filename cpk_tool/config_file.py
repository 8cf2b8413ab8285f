"""``cpk.toml``: a command's options in a file, for pipelines.

Each name is a long option without its dashes, ``package-version = "1.2.0"``. Relative paths count from the
file's own folder. What is dangerous, secret or about the terminal stays on the command line::

    application-id = "my_app"
    package-version = "1.2.0"
    in-file = "dist/app.pyz"
    sign-key = "https://my-vault.vault.azure.net/keys/packages"
    cert = "packages.pem"
"""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cpk_tool.key_files import read_small
from cpk_tool.options import location
from shared.errors import FormatError, SettingsError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

COMMAND_LINE_ONLY = frozenset({"help", "config", "json", "deterministic-for-tests"})
"""Options that a file may not set, beside those that are called insecure or take a file descriptor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a file says.

    Attributes:
        values: By the option's attribute name, converted as the command line would be.
        problems: What is wrong with the rest, one line each.
    """

    values: Mapping[str, object]
    problems: tuple[str, ...]


def read_config(path: Path, options: Sequence[argparse.Action]) -> Config:
    """Read a file of options.

    Args:
        path: The TOML file.
        options: The command's arguments; those with a long name can be set.

    Raises:
        SettingsError: It is no TOML.
        FormatError: It is too large.
        OSError: It cannot be read.
    """
    try:
        document = tomllib.loads(read_small(path).decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError([f"{path}: expected TOML: {error}"]) from error
    known = {name: option for option in options if (name := _long_name(option)) is not None}
    values: dict[str, object] = {}
    problems = []
    for name, value in document.items():
        try:
            option = _known(known, name)
            values[option.dest] = _convert(option, value, path.parent)
        except FormatError as error:
            problems.append(f"{path}: {error}")
    return Config(values=values, problems=tuple(problems))


def settable(option: argparse.Action) -> bool:
    """Return whether a file may set the option."""
    name = _long_name(option)
    return not (
        name is None or name in COMMAND_LINE_ONLY or name.startswith("insecure-") or name.endswith("-fd")
    )


def _long_name(option: argparse.Action) -> str | None:
    names = [name[2:] for name in option.option_strings if name.startswith("--")]
    return names[0] if names else None


def _known(known: Mapping[str, argparse.Action], name: str) -> argparse.Action:
    if name not in known:
        close = difflib.get_close_matches(name, [key for key, option in known.items() if settable(option)], 1)
        hint = f"; {close[0]!r} is one" if close else ""
        raise FormatError(f"{name!r}: no option of this command has this name{hint}")
    if not settable(known[name]):
        raise FormatError(f"{name}: expected on the command line only")
    return known[name]


def _convert(option: argparse.Action, value: object, folder: Path) -> object:
    """Return the value as the command line would have it."""
    name = _long_name(option)
    if option.nargs == 0:
        return _checked(name, value, bool, "true or false")
    if option.type is int:
        return _checked(name, value, int, "a whole number")
    text = str(_checked(name, value, str, "text"))
    if option.choices is not None and text not in option.choices:
        raise FormatError(f"{name}: expected one of {', '.join(option.choices)}, found {text!r}")
    if option.type is Path:
        return folder / text
    return location(text, folder=folder) if _is_location(option) else text


def _is_location(option: argparse.Action) -> bool:
    return option.type is location


def _checked(name: str | None, value: object, kind: type, expected: str) -> object:
    if type(value) is not kind:
        raise FormatError(f"{name}: expected {expected}, found {type(value).__name__}")
    return value
