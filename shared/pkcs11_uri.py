"""PKCS#11 URIs (RFC 7512), as far as they name one private key of one token."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote, unquote_to_bytes

from shared.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Mapping

_PATH_ATTRIBUTES = frozenset({"token", "serial", "slot-id", "object", "id", "type"})
_QUERY_ATTRIBUTES = frozenset({"module-path", "pin-source"})
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pkcs11Uri:
    """Which key, in which token, through which module.

    Attributes:
        token: The token's label.
        serial: The token's serial number.
        slot_id: The slot's number.
        label: The key's label.
        key_id: The key's ``CKA_ID``.
        module: Path of the PKCS#11 library.
        pin_file: File whose first line is the user PIN.
    """

    token: str | None
    serial: str | None
    slot_id: int | None
    label: str | None
    key_id: bytes | None
    module: str | None
    pin_file: str | None

    @classmethod
    def parse(cls, text: str, *, where: str) -> Pkcs11Uri:
        """Read a URI.

        Args:
            text: The URI.
            where: What it was given as, for messages.

        Raises:
            FormatError: It is none, names no key, or holds the PIN itself; the PIN is not repeated.
        """
        if not text.startswith("pkcs11:"):
            raise _wrong(where, "expected pkcs11:token=LABEL;object=LABEL")
        path, _, query = text.removeprefix("pkcs11:").partition("?")
        given = {
            **_attributes(path, ";", _PATH_ATTRIBUTES, where=where),
            **_attributes(query, "&", _QUERY_ATTRIBUTES, where=where),
        }
        if not given.keys() & {"object", "id"}:
            raise _wrong(where, "expected pkcs11:token=LABEL;object=LABEL")
        if unquote(given.get("type", "private")) != "private":
            raise _wrong(where, "type: expected private")
        slot = given.get("slot-id")
        if slot is not None and not (slot.isascii() and slot.isdigit()):
            raise _wrong(where, "slot-id: expected a number")
        texts = {name: unquote(value) for name, value in given.items()}
        return cls(
            token=texts.get("token"),
            serial=texts.get("serial"),
            slot_id=int(slot) if slot is not None else None,
            label=texts.get("object"),
            key_id=unquote_to_bytes(given["id"]) if "id" in given else None,
            module=texts.get("module-path"),
            pin_file=texts["pin-source"].removeprefix("file:") if "pin-source" in texts else None,
        )


def _attributes(text: str, separator: str, known: frozenset[str], *, where: str) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for part in text.split(separator) if text else ():
        name, equals, value = part.partition("=")
        if name == "pin-value":
            raise FormatError(
                f"{where}: pin-value: expected no PIN on the command line, where every process can see it",
                hint="let pin-source=file:/PATH name a file that holds it",
            )
        if name not in known or not equals or name in found or _ESCAPE.search(value):
            expected = ", ".join(sorted(known))
            raise _wrong(where, f"{name[:64]!r}: expected each of {expected} at most once, with a value")
        found[name] = value
    return found


def _wrong(where: str, message: str) -> FormatError:
    return FormatError(f"{where}: {message}; see RFC 7512 for PKCS#11 URIs")
