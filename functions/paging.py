"""What reading page by page has in common: the token that is sent back, and text that may be anybody's."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from shared.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def token_of_query(token: str | None) -> Iterator[None]:
    """Tell of a page that the hub refuses that its token is the reason, if there is one.

    Raises:
        FormatError: ``token_invalid``.
    """
    try:
        yield
    except FormatError as error:
        if token is None:
            raise
        raise FormatError("token: not one that a page of this query told", code="token_invalid") from error


def text_of(value: object) -> str | None:
    """Return a member of a tag or report if it is text; whoever may write the twin wrote it."""
    return value if isinstance(value, str) else None
