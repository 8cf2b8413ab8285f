"""Read a JSON object's values by name and type, with a JSON pointer (RFC 6901) in every complaint."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from shared.errors import FormatError

MAX_TEXT = 1024
"""Longest descriptive text in a manifest, in characters."""

MAX_IDENTIFIER = 256
"""Longest identifier in a manifest, in characters."""

U32_MAX = 2**32 - 1

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SHOWN = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """One JSON object of the manifest.

    Attributes:
        values: The object.
        pointer: Its JSON pointer; empty for the document itself.
        stream_count: How many streams the frame has, for stream indices.
    """

    values: dict[str, object]
    pointer: str
    stream_count: int

    @classmethod
    def of(cls, value: object, *, pointer: str, stream_count: int) -> Fields:
        """Return ``value`` as an object.

        Raises:
            FormatError: It is something else.
        """
        if not isinstance(value, dict):
            raise refused(pointer, "an object", value)
        return cls(values=value, pointer=pointer, stream_count=stream_count)

    def child(self, name: str) -> Fields:
        """Return the object under ``name``."""
        return Fields.of(self.value(name), pointer=self.at(name), stream_count=self.stream_count)

    def at(self, name: str) -> str:
        """Return the pointer of the member ``name``."""
        return f"{self.pointer}/{name.replace('~', '~0').replace('/', '~1')}"

    def value(self, name: str) -> object:
        """Return the member ``name``.

        Raises:
            FormatError: There is none.
        """
        if name not in self.values:
            raise FormatError(f"manifest {self.at(name)}: expected a value, found no such field")
        return self.values[name]

    def integer(self, name: str, *, low: int = 0, high: int = U32_MAX) -> int:
        """Return the integer under ``name``; a boolean, a float and a string are none."""
        return checked_integer(self.value(name), pointer=self.at(name), low=low, high=high)

    def one_of(self, name: str, allowed: tuple[int, ...]) -> int:
        """Return the integer under ``name``, which is one of ``allowed``."""
        value = self.value(name)
        if type(value) is not int or value not in allowed:
            raise refused(self.at(name), " or ".join(map(str, allowed)), value)
        return value

    def stream(self, name: str) -> int:
        """Return the stream index under ``name``."""
        return stream_index(self.value(name), pointer=self.at(name), stream_count=self.stream_count)

    def text(self, name: str) -> str:
        """Return descriptive text: at most 1024 characters, no NUL."""
        value = self.value(name)
        if not isinstance(value, str) or len(value) > MAX_TEXT or "\0" in value:
            raise refused(self.at(name), f"text of at most {MAX_TEXT} characters without NUL", value)
        return value

    def identifier(self, name: str) -> str:
        """Return an identifier: 1 to 256 characters, none of them a control character."""
        value = self.value(name)
        if not isinstance(value, str) or not 0 < len(value) <= MAX_IDENTIFIER or _CONTROL.search(value):
            raise refused(self.at(name), f"1 to {MAX_IDENTIFIER} characters, none a control character", value)
        return value


def checked_integer(value: object, *, pointer: str, low: int, high: int) -> int:
    """Return ``value`` if it is an integer from ``low`` to ``high``.

    Raises:
        FormatError: It is not.
    """
    if type(value) is not int or not low <= value <= high:
        raise refused(pointer, f"an integer from {low} to {high}", value)
    return value


def stream_index(value: object, *, pointer: str, stream_count: int) -> int:
    """Return ``value`` if it names one of the frame's streams.

    Raises:
        FormatError: It does not.
    """
    if type(value) is not int or not 0 <= value < stream_count:
        raise refused(pointer, f"a stream index from 0 to {stream_count - 1}", value)
    return value


def refused(pointer: str, expected: str, found: object) -> FormatError:
    """Return the error for a value that the format does not want; an empty ``pointer`` is the document."""
    return FormatError(f"manifest {pointer or 'document'}: expected {expected}, found {_shown(found)}")


def _shown(value: object) -> str:
    """Return a short picture of an untrusted JSON value that is safe to print."""
    if isinstance(value, str):
        return ascii(value) if len(value) <= _SHOWN else f"{value[:_SHOWN]!a}… of {len(value)} characters"
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "an array"
    shown = json.dumps(value)
    return shown if len(shown) <= _SHOWN else f"a number of {len(shown)} digits"
