"""Where the key service is and how it is reached: command line, environment, settings file, in this order.

The settings file, ``~/.config/edb.toml``, holds no secret, only where one is. Relative paths count from its
folder::

    url = "https://keys.example"
    function-key-file = "function.key"
    ca-file = "roots.pem"
    entra = "api://key-service/.default"

Instead, ``cloud`` names a local cloud's ``cloud.json``, which tells address, key and roots.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from edb.secret_files import read_secret
from shared import strict_json
from shared.command_line.output import UsageError
from shared.errors import EdbError, FormatError, SettingsError
from shared.types import Secret

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

MAX_FILE = 64 << 10
"""Largest settings file, cloud description or function key that is read, in bytes."""

_NAMES = ("url", "cloud", "ca-file", "function-key-file", "entra")
_PATHS = frozenset({"cloud", "ca-file", "function-key-file"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """How the key service is reached.

    Attributes:
        url: ``https://HOST[:PORT]``, without ``/api``.
        ca_file: PEM roots for TLS; None for ``SSL_CERT_FILE`` or the system's.
        function_key: Sent as ``x-functions-key`` if there is one.
        scope: What an Entra token is asked for, or None where none is sent.
    """

    url: str
    ca_file: Path | None
    function_key: Secret | None = field(repr=False)
    scope: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """What one source tells; None where it says nothing."""

    url: str | None = None
    ca_file: Path | None = None
    function_key: Secret | None = None
    scope: str | None = None


def connection_from(options: argparse.Namespace, environment: Mapping[str, str]) -> Connection:
    """Return the connection that command line, environment and settings file come to.

    Raises:
        UsageError: No address is given, or one that is not https.
        SettingsError: The settings file is wrong; with every problem.
        EdbError: A file that is named cannot be used.
        OSError: It cannot be read.
    """
    layers = [
        _layer(
            url=options.url,
            cloud=options.cloud,
            ca_file=options.ca_file,
            function_key_file=options.function_key_file,
            scope=options.entra,
        )
    ]
    # A key goes only where it was said to go: a cloud's or a file's own is not for another address.
    addressed = layers[0].url is not None
    layers.append(
        _layer(
            url=environment.get("EDB_URL"),
            cloud=None if addressed else _path(environment.get("EDB_CLOUD")),
            ca_file=_path(environment.get("EDB_CA_FILE")),
            function_key=environment.get("EDB_FUNCTION_KEY"),
        )
    )
    if options.settings is not None or not any(layer.url for layer in layers):
        layers.append(_settings_file(options.settings, environment))
    url = next((layer.url for layer in layers if layer.url), None)
    if url is None:
        raise UsageError(
            "expected the key service's address, found none",
            hint="give --url, $EDB_URL, --cloud cloud.json, or url in ~/.config/edb.toml",
        )
    return Connection(
        url=_checked_url(url),
        ca_file=next((layer.ca_file for layer in layers if layer.ca_file), None),
        function_key=next((layer.function_key for layer in layers if layer.function_key is not None), None),
        scope=next((layer.scope for layer in layers if layer.scope), None),
    )


def settings_path(environment: Mapping[str, str]) -> Path:
    """Return where the settings file is if nothing else is said (XDG Base Directory Specification)."""
    base = environment.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "edb.toml"


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def _layer(
    *,
    url: str | None = None,
    cloud: Path | None = None,
    ca_file: Path | None = None,
    function_key_file: Path | None = None,
    function_key: str | None = None,
    scope: str | None = None,
) -> _Layer:
    """Return what a source says; where it names a cloud, what the cloud's description says for the rest."""
    described = _describe_cloud(cloud) if cloud is not None else _Layer()
    key: Secret | None = None
    if function_key_file is not None:
        key = _checked_key(read_secret(function_key_file, most=MAX_FILE), where=str(function_key_file))
    elif function_key:
        key = _checked_key(function_key.encode("utf-8", "surrogateescape"), where="$EDB_FUNCTION_KEY")
    return _Layer(
        url=url or described.url,
        ca_file=ca_file or described.ca_file,
        function_key=key if key is not None else described.function_key,
        scope=scope,
    )


def _checked_key(data: bytes, *, where: str) -> Secret:
    key = data.strip()
    if not key or not all(0x21 <= byte <= 0x7E for byte in key):  # noqa: PLR2004 - printable ASCII
        raise FormatError(f"{where}: expected a function key of printable ASCII characters, found others")
    return Secret(key)


def _checked_url(text: str) -> str:
    """Return an address without ``/api`` and without a slash at its end."""
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError as error:
        raise UsageError("url: expected https://HOST[:PORT], found something else") from error
    if parts.scheme != "https" or not parts.hostname or parts.username is not None:
        raise UsageError("url: expected https://HOST[:PORT] without a user name, found something else")
    if parts.query or parts.fragment:
        raise UsageError(
            "url: expected no query, found one",
            hint="a function key belongs into a file or $EDB_FUNCTION_KEY, where other users cannot see it",
        )
    path = parts.path.rstrip("/").removesuffix("/api")
    return f"https://{parts.netloc}{path}"


def _describe_cloud(path: Path) -> _Layer:
    """Read a local cloud's description: its address, its key for everything, its roots.

    Raises:
        FormatError: It is none.
        NotFound: The local cloud does not run: the file is there only while it does.
    """
    try:
        data = read_secret(path, most=MAX_FILE)
    except FileNotFoundError as error:
        raise EdbError(
            f"{path}: no such file: the local cloud does not run",
            code="not_found",
            hint="local-cloud up",
        ) from error
    document = strict_json.loads(data, where=str(path))
    return _Layer(
        url=_text_at(document, ("functions", "url"), path),
        ca_file=Path(_text_at(document, ("hub", "ca_file"), path)),
        function_key=_checked_key(
            _text_at(document, ("functions", "keys", "admin"), path).encode(), where=str(path)
        ),
    )


def _text_at(document: object, steps: tuple[str, ...], path: Path) -> str:
    value = document
    for step in steps:
        value = value.get(step) if isinstance(value, dict) else None
    if not isinstance(value, str):
        raise FormatError(f"{path}: at /{'/'.join(steps)}: expected text, as a local cloud's cloud.json has")
    return value


def _settings_file(named: Path | None, environment: Mapping[str, str]) -> _Layer:
    path = named if named is not None else settings_path(environment)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except (FileNotFoundError, NotADirectoryError):
        if named is not None:
            raise
        return _Layer()
    if len(data) > MAX_FILE:
        raise FormatError(f"{path}: expected at most {MAX_FILE} bytes, found more")
    try:
        document = tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError([f"{path}: expected TOML: {error}"]) from error
    problems = [problem for name, value in document.items() if (problem := _problem(name, value))]
    if problems:
        raise SettingsError([f"{path}: {problem}" for problem in problems])
    paths = {
        name: path.parent / Path(value).expanduser() for name, value in document.items() if name in _PATHS
    }
    return _layer(
        url=document.get("url"),
        cloud=paths.get("cloud"),
        ca_file=paths.get("ca-file"),
        function_key_file=paths.get("function-key-file"),
        scope=document.get("entra"),
    )


def _problem(name: str, value: object) -> str | None:
    if name not in _NAMES:
        return f"{name!r}: unknown; expected {', '.join(_NAMES)}"
    return None if isinstance(value, str) and value else f"{name}: expected text"
