"""Requests that may come twice: the same ``Idempotency-Key`` does the work once, and answers the same.

A caller whose connection broke does not know whether its key was made. It sends the request again under the
same key, and nothing more is done. What a request made says so itself: the digests of the key and of what was
asked for stand with the version in the vault, so that another instance, after a restart, knows as well.

The key counts among the requests for one class key: with another class key's name it is another request.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.errors import Conflict, FormatError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

HEADER = "Idempotency-Key"

MAX_KEY = 128
"""Characters of the header's value at most."""

_KEY = re.compile(rf"[\x21-\x7e]{{1,{MAX_KEY}}}")


class ReusedError(Conflict):
    """The same key came with another request."""

    default_code = "idempotency_key_reused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A version, and whether it was an earlier request that made it."""

    version: int
    is_repeated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeatable:
    """What a request is recognized by.

    Args:
        key: Digest of its ``Idempotency-Key``.
        asked: Digest of what it asks for.
    """

    key: str
    asked: str

    @classmethod
    def of(cls, headers: Mapping[str, str], operation: str, **asked: object) -> Repeatable | None:
        """Return what a request is recognized by; None if it bears no key.

        Args:
            headers: The request's.
            operation: What is to be done.
            asked: With what, as read: two spellings of one request are one request.

        Raises:
            FormatError: ``idempotency_key_invalid``.
        """
        key = headers.get(HEADER)
        if key is None:
            return None
        if not _KEY.fullmatch(key):
            raise FormatError(
                f"{HEADER}: expected 1 to {MAX_KEY} visible ASCII characters", code="idempotency_key_invalid"
            )
        text = json.dumps([operation, asked], sort_keys=True)
        return cls(key=_digest(key), asked=_digest(text))

    @property
    def note(self) -> str:
        """What is noted with the version that the request makes."""
        return f"{self.key}.{self.asked}"

    def find(self, notes: Mapping[int, str]) -> Made | None:
        """Return what an earlier request with the same key made, if there was one.

        Raises:
            ReusedError: There was one, and it asked for something else.
        """
        for version, note in notes.items():
            if note == self.note:
                return Made(version=version, is_repeated=True)
            if note.startswith(f"{self.key}."):
                raise ReusedError(
                    f"{HEADER}: it made version {version} of this class key by another request",
                    hint="choose a new one for each request",
                )
        return None


def once(
    repeatable: Repeatable | None, notes: Callable[[], Mapping[int, str]], make: Callable[[], int]
) -> Made:
    """Make a version, unless an earlier request with the same key has made it.

    Args:
        repeatable: What the request is recognized by; None makes it in any case.
        notes: Asks for what is noted with the class key's versions.
        make: Makes the version, with the note, and returns it.

    Raises:
        ReusedError: The key came with another request.
    """
    if repeatable is None:
        return Made(version=make(), is_repeated=False)
    found = repeatable.find(notes())
    if found is not None:
        return found
    try:
        return Made(version=make(), is_repeated=False)
    except Conflict:
        # The same request may be under way twice at once: one of the two has made it in the meantime.
        found = repeatable.find(notes())
        if found is None:
            raise
        return found


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode("ascii")
