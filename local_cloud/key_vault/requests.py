"""A request to the vault, parsed: its name, version, paging and the members of its JSON body.

Each reader returns a value of the right type or refuses with 400 ``BadParameter`` that names the member.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from local_cloud.key_vault.errors import bad_parameter
from local_cloud.key_vault.store import Attributes, Change

if TYPE_CHECKING:
    from collections.abc import Mapping

PAGE_SIZE = 25
"""Most items on a page, as in Azure."""

_NAME = re.compile(r"[0-9A-Za-z-]{1,127}")
_VERSION = re.compile(r"[0-9a-f]{32}")
_BASE64URL = re.compile(r"[A-Za-z0-9_-]*")
_MAX_TAGS, _MAX_TAG_NAME, _MAX_TAG_VALUE = 15, 512, 256
_MAX_TIME = 253402300799  # the end of the year 9999


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultRequest:
    """One call.

    Attributes:
        path: Parts of the path by name: ``name``, ``version``, ``operation``.
        query: The query's members.
        body: The JSON body's members; empty if there is none.
    """

    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, object] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """The object's name, checked."""
        name = self.path.get("name", "")
        if not _NAME.fullmatch(name):
            raise bad_parameter(f"The request URI contains an invalid name: {name[:127]}")
        return name

    @property
    def version(self) -> str:
        """The version, or an empty string where none is named."""
        version = self.path.get("version", "")
        if version and not _VERSION.fullmatch(version):
            raise bad_parameter(f"The request URI contains an invalid version: {version[:64]}")
        return version

    @property
    def page_size(self) -> int:
        """Items on a page: ``maxresults``, between 1 and 25."""
        text = self.query.get("maxresults", str(PAGE_SIZE))
        if not (text.isascii() and text.isdigit() and 1 <= int(text[:4]) <= PAGE_SIZE):
            raise bad_parameter(f"maxresults must be between 1 and {PAGE_SIZE}")
        return int(text)

    @property
    def after(self) -> str:
        """Where the page begins, from a ``nextLink``; empty for the first one."""
        return self.query.get("$skiptoken", "")

    def text(self, member: str) -> str:
        """Return a text that must be there."""
        value = self.body.get(member)
        if not isinstance(value, str):
            raise bad_parameter(f"Property {member} is required and must be a string")
        return value

    def optional_text(self, member: str) -> str | None:
        """Return a text, or ``None`` where there is none."""
        return None if self.body.get(member) is None else self.text(member)

    def optional_number(self, member: str) -> int | None:
        """Return an integer, or ``None`` where there is none."""
        return _number(self.body, member)

    def octets(self, member: str) -> bytes:
        """Return bytes written in base64url without padding."""
        text = self.text(member)
        try:
            if not _BASE64URL.fullmatch(text):
                raise bad_parameter(f"Property {member} is not base64url")
            return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        except binascii.Error as error:
            raise bad_parameter(f"Property {member} is not base64url") from error

    def texts(self, member: str) -> list[str] | None:
        """Return a list of texts, or ``None`` where there is none."""
        value = self.body.get(member)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise bad_parameter(f"Property {member} must be an array of strings")
        return value

    def tags(self) -> dict[str, str] | None:
        """Return the tags, or ``None`` where there are none."""
        value = self.body.get("tags")
        if value is None:
            return None
        if not isinstance(value, dict) or len(value) > _MAX_TAGS:
            raise bad_parameter(f"Property tags must be an object of at most {_MAX_TAGS} members")
        for name, text in value.items():
            if not isinstance(text, str) or len(text) > _MAX_TAG_VALUE or len(name) > _MAX_TAG_NAME:
                raise bad_parameter(
                    f"A tag has at most {_MAX_TAG_VALUE} characters, its name at most {_MAX_TAG_NAME}"
                )
        return value

    def attributes(self) -> Attributes:
        """Return the attributes of a new version."""
        change = self.change()
        return Attributes(
            enabled=change.enabled is not False, not_before=change.not_before, expires=change.expires
        )

    def change(self, *, detail: Mapping[str, object] | None = None) -> Change:
        """Return what an update sets, with the ``detail`` that the caller read."""
        members = self.body.get("attributes")
        if members is None:
            members = {}
        if not isinstance(members, dict):
            raise bad_parameter("Property attributes must be an object")
        enabled = members.get("enabled")
        if enabled is not None and not isinstance(enabled, bool):
            raise bad_parameter("Property attributes.enabled must be a boolean")
        not_before, expires = _number(members, "nbf"), _number(members, "exp")
        if not_before is not None and expires is not None and expires <= not_before:
            raise bad_parameter("Property attributes.exp must be after attributes.nbf")
        return Change(
            enabled=enabled, not_before=not_before, expires=expires, tags=self.tags(), detail=detail
        )


def _number(members: Mapping[str, object], member: str) -> int | None:
    value = members.get(member)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_TIME:
        raise bad_parameter(f"Property {member} must be an integer between 0 and {_MAX_TIME}")
    return value
