"""What a storage account refuses with, in the words of the ports."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from azure.core.exceptions import AzureError, HttpResponseError

from functions import telemetry
from shared.errors import TransportError

if TYPE_CHECKING:
    from collections.abc import Iterator

CONNECT_SECONDS, READ_SECONDS, RETRIES = 5, 20, 3
"""Bounds of one call of a blob: a key release waits for it."""


@contextmanager
def blob_errors(what: str) -> Iterator[None]:
    """Translate the SDK's errors, and tell of the call.

    Args:
        what: What is being done, for the message.

    Raises:
        TransportError: ``storage_unavailable``; everything that is not handled inside.
    """
    with telemetry.call("storage", what):
        try:
            yield
        except HttpResponseError as error:
            raise TransportError(
                f"{what}: the storage account answered {error.status_code}", code="storage_unavailable"
            ) from error
        except AzureError as error:
            raise TransportError(f"{what}: {type(error).__name__}", code="storage_unavailable") from error
