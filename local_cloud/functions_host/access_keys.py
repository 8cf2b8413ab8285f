"""Function keys: who may call which function.

The keys file names each key, its value and the functions that it opens::

    {"provision": {"key": "…", "functions": ["ProvisionKey"]}, "admin": {"key": "…", "functions": "*"}}

A key for ``"*"`` is the master key: it opens every function and the host's own administration. A caller
sends a key in the header ``x-functions-key`` or as the query's ``code``; the header wins.
"""

from __future__ import annotations

import enum
import hmac
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shared import strict_json
from shared.errors import FormatError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

MIN_KEY_LENGTH = 32
"""Characters that a key has at least."""


class AuthLevel(enum.Enum):
    """What a function asks of its caller."""

    ANONYMOUS = "ANONYMOUS"
    FUNCTION = "FUNCTION"
    ADMIN = "ADMIN"


@dataclass(frozen=True, slots=True, kw_only=True)
class _AccessKey:
    value: bytes = field(repr=False)
    functions: frozenset[str] | None  # None is every function


class AccessKeys:
    """The keys of a function app.

    Args:
        keys: Values with the functions they open; ``None`` for all.
    """

    def __init__(self, keys: Iterable[tuple[str, frozenset[str] | None]]) -> None:
        self._keys = [_AccessKey(value=value.encode(), functions=functions) for value, functions in keys]

    def permits(self, level: AuthLevel, function: str, presented: str | None) -> bool:
        """Tell whether a caller who presents this key may call the function."""
        if level is AuthLevel.ANONYMOUS:
            return True
        if presented is None:
            return False
        given, permitted = presented.encode(), False
        for key in self._keys:  # always all of them, in constant time
            same = hmac.compare_digest(key.value, given)
            opens = key.functions is None or (level is AuthLevel.FUNCTION and function in key.functions)
            permitted |= same and opens
        return permitted

    def permits_administration(self, presented: str | None) -> bool:
        """Tell whether the key is the master key."""
        return self.permits(AuthLevel.ADMIN, "", presented)


def load_access_keys(path: Path) -> AccessKeys:
    """Read the keys file.

    Raises:
        StorageError: It cannot be read.
        FormatError: It is not what it should be; no key is repeated in the message.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    document = strict_json.loads(data, where=str(path))
    if not isinstance(document, dict):
        raise FormatError(f"{path}: expected an object of keys, found {type(document).__name__}")
    return AccessKeys([_entry(path, name, entry) for name, entry in document.items()])


def _entry(path: Path, name: str, entry: object) -> tuple[str, frozenset[str] | None]:
    if not isinstance(entry, dict) or set(entry) != {"key", "functions"}:
        raise FormatError(f"{path}: /{name}: expected the members key and functions")
    key, functions = entry["key"], entry["functions"]
    if not isinstance(key, str) or len(key) < MIN_KEY_LENGTH:
        raise FormatError(f"{path}: /{name}/key: expected a string of at least {MIN_KEY_LENGTH} characters")
    if functions == "*":
        return key, None
    if not isinstance(functions, list) or not all(isinstance(function, str) for function in functions):
        raise FormatError(f'{path}: /{name}/functions: expected "*" or a list of function names')
    return key, frozenset(functions)
