"""How blobs are called: bounds, retries, and a storage account's refusals in the words of the ports."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from azure.core.exceptions import AzureError, HttpResponseError

from functions import telemetry
from shared.errors import TransportError

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOB_CLIENT: Final[dict[str, Any]] = {
    "connection_timeout": 5,
    "read_timeout": 20,
    "retry_total": 3,
    "initial_backoff": 0.5,
    "increment_base": 1.5,
    "random_jitter_range": 0.5,
}
"""Options of every client: a key release waits for its calls, and the SDK's own back-off begins at 15 s."""


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
