"""Read a JSON document place by place, so that every fault names its JSON pointer (RFC 6901)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from shared.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")
_SHOWN_CHARACTERS = 64


@dataclass(frozen=True, slots=True)
class Pointer:
    """A place in a document.

    Args:
        where: The document's name, for the message.
        path: The JSON pointer; empty at the root.
    """

    where: str
    path: str = ""

    @property
    def place(self) -> str:
        """The place, as messages name it."""
        return f"{self.where}: at {self.path or 'the root'}"

    def down(self, step: str | int) -> Pointer:
        """Return the place of a member or an entry of the value here."""
        return Pointer(self.where, f"{self.path}/{str(step).replace('~', '~0').replace('/', '~1')}")

    def fault(self, message: str) -> FormatError:
        """Return the error for a fault here, to be raised."""
        return FormatError(f"{self.place}: {message}")

    def members(
        self, value: object, *, required: tuple[str, ...], optional: tuple[str, ...] = ()
    ) -> dict[str, object]:
        """Return an object that has all required members and no unknown one.

        Raises:
            FormatError: It is anything else.
        """
        if not isinstance(value, dict):
            raise self.fault(f"expected an object, found {type(value).__name__}")
        for name in value:
            if name not in required and name not in optional:
                unknown = self.down(name[:_SHOWN_CHARACTERS])
                raise unknown.fault(f"unknown field; expected {', '.join(required + optional)}")
        for name in required:
            if name not in value:
                raise self.fault(f"the field {name} is missing")
        return value

    def each(
        self, value: object, read: Callable[[object, Pointer], _T], *, least: int, most: int
    ) -> tuple[_T, ...]:
        """Return what ``read`` makes of each entry of an array of ``least`` to ``most`` entries.

        Raises:
            FormatError: It is no such array, or ``read`` refuses an entry.
        """
        if not isinstance(value, list):
            raise self.fault(f"expected an array, found {type(value).__name__}")
        if not least <= len(value) <= most:
            raise self.fault(f"expected {least} to {most} entries, found {len(value)}")
        return tuple(read(entry, self.down(number)) for number, entry in enumerate(value))

    def each_once(self, value: object, read: Callable[[object, Pointer], _T], *, most: int) -> tuple[_T, ...]:
        """Return what ``read`` makes of each entry of an array that is not empty and repeats nothing.

        Raises:
            FormatError: As for :meth:`each`, or an entry stands there twice.
        """
        entries = self.each(value, read, least=1, most=most)
        seen = set()
        for number, entry in enumerate(entries):
            if entry in seen:
                raise self.down(number).fault("stands here for the second time")
            seen.add(entry)
        return entries
